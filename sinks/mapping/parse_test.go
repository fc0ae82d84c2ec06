package mapping

import (
	"strings"
	"testing"
)

// TestParseAssignments_SaysWhatToWrite: a mapping is written by hand, in an
// environment variable.
func TestParseAssignments_SaysWhatToWrite(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"email email":                        `character 7: after the target "email" there is no =`,
		"email = ":                           "an expression is missing",
		"email = email; name = full_name":    "character 14: a comma is missing",
		`name = full_name ?? "Unknown"`:      "character 21: text stands between ' and '",
		"email = emial":                      `character 9: there is no field "emial": use one of id, full_name`,
		"name = full_name ?? 'Unknown":       "character 21: ",
		"email = email, name = , id = uuid":  "character 23: an expression is missing",
		"plan = public_metadata.plan ?? 1.x": "character 3",
	} {
		if _, err := ParseAssignments(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}
