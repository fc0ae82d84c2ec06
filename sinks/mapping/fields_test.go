package mapping

import (
	"encoding/json"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"clerkconnect/schemas"
)

// TestFields_CoverUser shows that each field of schemas.User has exactly one
// entry, of a kind that fits, and that a field that is nil is null.
func TestFields_CoverUser(t *testing.T) {
	t.Parallel()
	all := Fields()
	for _, c := range all {
		if c.Value(&schemas.User{}) != nil {
			t.Errorf("field %s of an empty user: want null", c.Name)
		}
	}
	fields := reflect.TypeFor[schemas.User]()
	if len(all) != fields.NumField() {
		t.Errorf("got %d entries, want one for each of %d fields", len(all), fields.NumField())
	}
	for i := range fields.NumField() {
		var u schemas.User
		field := reflect.ValueOf(&u).Elem().Field(i)
		field.Set(reflect.New(field.Type().Elem()))
		if field.Elem().Kind() == reflect.String {
			field.Elem().SetString(`{}`)
		}
		want := fields.Field(i).Tag.Get("avro")
		if want == "primary_email_address" {
			want = "email"
		}
		var got []string
		for _, c := range all {
			if value := c.Value(&u); value != nil {
				got = append(got, c.Name)
				checkKind(t, c, value)
			}
		}
		if !slices.Equal(got, []string{want}) {
			t.Errorf("field %s: got %q, want %q", fields.Field(i).Name, got, want)
		}
	}
}

func checkKind(t *testing.T, c Field, value any) {
	t.Helper()
	ok := false
	switch c.Kind {
	case Text:
		_, ok = value.(string)
	case JSON:
		text, isText := value.(string)
		ok = isText && json.Valid([]byte(text))
	case Bool:
		_, ok = value.(bool)
	case Integer:
		_, ok = value.(int64)
	case Time:
		moment, isTime := value.(time.Time)
		ok = isTime && moment.Location() == time.UTC
	}
	if !ok || c.Kind == Time != strings.HasSuffix(c.Name, "_at") {
		t.Errorf("field %s of kind %d: got a %T", c.Name, c.Kind, value)
	}
}

func TestCleanText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "", "ada": "ada", "a\x00b\x00": "a\uFFFDb\uFFFD", "a\xffb": "a\uFFFDb", "\U0001F984": "\U0001F984",
	} {
		if got := CleanText(in); got != want {
			t.Errorf("CleanText(%q): got %q, want %q", in, got, want)
		}
	}
}

func TestCleanJSON(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"a":1.50e3}`:                      `{"a":1.50e3}`,
		`"\u0000"`:                          `"\ufffd"`,
		`"\\u0000"`:                         `"\\u0000"`,  // a backslash, then text
		`"\\\u0000"`:                        `"\\\ufffd"`, // a backslash, then the escape
		`"\\\\u0000\n\u0000"`:               `"\\\\u0000\n\ufffd"`,
		`{"\u0000":"\u0001"}`:               `{"\ufffd":"\u0001"}`,
		`"\ud83e\udd84"`:                    `"\ud83e\udd84"`, // a whole pair
		`"\uD83E"`:                          `"\ufffd"`,
		`"\udd84\ud83e"`:                    `"\ufffd\ufffd"`, // the wrong way round
		`"\ud83e\ud83e\udd84"`:              `"\ufffd\ud83e\udd84"`,
		`"\ud83e\\udd84"`:                   `"\ufffd\\udd84"`,
		"\"\xff\"":                          "\"\uFFFD\"",
		`"` + strings.Repeat(`\n`, 3) + `"`: `"\n\n\n"`,
	} {
		if got := CleanJSON(in); got != want {
			t.Errorf("CleanJSON(%s): got %s, want %s", in, got, want)
		}
	}
}

// FuzzCleanJSON: what was valid stays valid and means the same but for what is
// replaced, nothing is left that PostgreSQL refuses, and cleaning twice is
// cleaning once.
func FuzzCleanJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,"\u0000\\u0000"]}`, `"\ud83e\udd84\ud83e"`, `"\\"`, `""`, "\"\xff\\ud800\xff\""} {
		f.Add(seed)
	}
	unwanted := regexp.MustCompile(`^(?:[^\\]|\\[^u]|\\u[^0d]|\\u0[^0]|\\u00[^0]|\\u000[^0])*\\u0000`)
	f.Fuzz(func(t *testing.T, in string) {
		if !json.Valid([]byte(in)) {
			t.Skip()
		}
		out := CleanJSON(in)
		if !json.Valid([]byte(out)) {
			t.Fatalf("CleanJSON(%q) is not JSON: %q", in, out)
		}
		if CleanJSON(out) != out {
			t.Fatalf("CleanJSON(%q) is not clean: %q", in, out)
		}
		if unwanted.MatchString(out) {
			t.Fatalf("CleanJSON(%q) keeps U+0000: %q", in, out)
		}
		// Go's decoder replaces halves of pairs in the same way.
		var before, after any
		if json.Unmarshal([]byte(in), &before) == nil && !strings.Contains(in, `\u0000`) && utf8.ValidString(in) {
			if err := json.Unmarshal([]byte(out), &after); err != nil || !reflect.DeepEqual(before, after) {
				t.Fatalf("CleanJSON(%q) means something else: %q", in, out)
			}
		}
	})
}
