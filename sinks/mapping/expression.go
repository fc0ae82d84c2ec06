package mapping

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"clerkconnect/schemas"
)

// Kind says what a value is; each destination names its own type for it.
type Kind int

// The kinds of values.
const (
	Text    Kind = iota // a string, clean
	JSON                // a string that is valid JSON text, clean
	Bool                // a bool
	Integer             // an int64
	Time                // a time.Time, to the millisecond, UTC
	// Part is a part of a JSON document. Its value is a string: the text of a
	// JSON string, and the JSON text of anything else.
	Part
)

// Expression is what a target is given of a user. The zero value is null. Safe
// for concurrent use.
type Expression struct {
	text  string
	terms []term
}

// term is one alternative of an expression.
type term struct {
	name     string // of a field; "" for a constant
	constant bool
	kind     Kind
	value    func(clerkID string, u *schemas.User) any
	// raw returns the JSON text of a Part, "" for null; nil for other kinds.
	raw func(u *schemas.User) string
}

// String returns the expression as it was written.
func (e Expression) String() string { return e.text }

// Kind returns what the expression's values are: the kind of its first
// alternative that is no null.
func (e Expression) Kind() Kind {
	if len(e.terms) == 0 {
		return Text
	}
	return e.terms[0].kind
}

// Constant reports whether the value is the same for every user.
func (e Expression) Constant() bool { return len(e.terms) == 0 || e.terms[0].constant }

// Of reports whether the field of that name is the expression's first
// alternative.
func (e Expression) Of(field string) bool { return len(e.terms) > 0 && e.terms[0].name == field }

// Empty reports whether no user has a value, once the fields for which leftOut
// is true are never synced.
func (e Expression) Empty(leftOut func(field string) bool) bool {
	return len(e.terms) > 0 && !slices.ContainsFunc(e.terms, func(t term) bool { return !t.empty(leftOut) })
}

func (t term) empty(leftOut func(field string) bool) bool {
	switch field, _, _ := strings.Cut(t.name, "."); field {
	case "", "id", "uuid":
		return false
	case "email":
		return leftOut("email_addresses") || leftOut("primary_email_address_id")
	case "full_name":
		return leftOut("first_name") && leftOut("last_name")
	default:
		return leftOut(field)
	}
}

// Value returns the expression's value for a user: nil, or what Kind says.
func (e Expression) Value(clerkID string, u *schemas.User) any {
	for _, t := range e.terms {
		if value := t.value(clerkID, u); value != nil {
			return value
		}
	}
	return nil
}

// JSON returns the value as JSON text, "" for null. Times are ISO 8601 with
// milliseconds.
func (e Expression) JSON(clerkID string, u *schemas.User) string {
	for _, t := range e.terms {
		if t.raw != nil {
			if text := t.raw(u); text != "" {
				return text
			}
			continue
		}
		if value := t.value(clerkID, u); value != nil {
			return render(t.kind, value)
		}
	}
	return ""
}

func render(kind Kind, value any) string {
	switch v := value.(type) {
	case string:
		if kind == JSON {
			return v
		}
		// A string: this cannot fail.
		text, _ := json.Marshal(v)
		return CleanJSON(string(text))
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	default:
		return `"` + value.(time.Time).UTC().Format("2006-01-02T15:04:05.000Z") + `"`
	}
}

// fullName joins the names that there are.
func fullName(_ string, u *schemas.User) any {
	var names []string
	for _, name := range []*string{u.FirstName, u.LastName} {
		if name != nil && strings.TrimSpace(*name) != "" {
			names = append(names, CleanText(strings.TrimSpace(*name)))
		}
	}
	if len(names) == 0 {
		return nil
	}
	return strings.Join(names, " ")
}

// part walks into the JSON text of a field. A step is a key of an object, or
// the index of an array.
func part(document func(*schemas.User) any, path []string) func(*schemas.User) string {
	return func(u *schemas.User) string {
		text, ok := document(u).(string)
		if !ok {
			return ""
		}
		node := json.RawMessage(text)
		for _, step := range path {
			node = child(node, step)
		}
		if trimmed := strings.TrimSpace(string(node)); trimmed != "null" {
			return trimmed
		}
		return ""
	}
}

// child returns a member of a JSON value, nil if there is none.
func child(node json.RawMessage, step string) json.RawMessage {
	var members map[string]json.RawMessage
	if json.Unmarshal(node, &members) == nil {
		return members[step]
	}
	var items []json.RawMessage
	index, err := strconv.Atoi(step)
	if err != nil || index < 0 || json.Unmarshal(node, &items) != nil || index >= len(items) {
		return nil
	}
	return items[index]
}

// scalar returns the JSON text of a part as a value of kind Part.
func scalar(raw string) any {
	if raw == "" {
		return nil
	}
	var text string
	if json.Unmarshal([]byte(raw), &text) == nil {
		return CleanText(text)
	}
	return raw
}
