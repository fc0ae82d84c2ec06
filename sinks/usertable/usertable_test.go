package usertable

import (
	"strings"
	"testing"
)

func TestQuote(t *testing.T) {
	t.Parallel()
	if got := Quote(`a"b`); got != `"a""b"` {
		t.Errorf("Quote: got %s", got)
	}
}

func TestVersionsTable(t *testing.T) {
	t.Parallel()
	if got := VersionsTable("clerk_users"); got != "clerk_connect_versions" {
		t.Errorf("side table of the default table: got %s", got)
	}
	if VersionsTable("a") == VersionsTable("b") {
		t.Error("two tables share one side table")
	}
}

func TestCheckTable(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{"": false, "users": true, strings.Repeat("x", 40): true, strings.Repeat("x", 41): false, "a\x00": false} {
		if err := CheckTable(name); (err == nil) != ok {
			t.Errorf("CheckTable(%q): got %v", name, err)
		}
	}
}
