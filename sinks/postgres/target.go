package postgres

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/usertable"
)

// types are those of a table that is created.
var types = map[mapping.Kind]string{
	mapping.Text: "text", mapping.Part: "text", mapping.JSON: "jsonb", mapping.Bool: "boolean", mapping.Integer: "bigint", mapping.Time: "timestamptz(3)",
}

// arrayTypes are the types in which values travel.
var arrayTypes = map[mapping.Kind]string{
	mapping.Text: "text[]", mapping.Part: "text[]", mapping.JSON: "text[]", mapping.Bool: "boolean[]", mapping.Integer: "bigint[]", mapping.Time: "timestamptz[]",
}

// target is a column that is written, and what the catalogue says of it.
type target struct {
	usertable.Column
	attribute
	// whole tells that a part of a JSON document is written as JSON.
	whole bool
}

func newTarget(c usertable.Column, a attribute) target {
	t := target{Column: c, attribute: a}
	t.whole = c.Kind() == mapping.Part && (a.Type == "json" || a.Type == "jsonb" || a.Category == "A")
	return t
}

// name returns the column's quoted name.
func (t target) name() string { return usertable.Quote(t.Column.Name) }

// convert returns expression, of the type in which the values travel, as a
// value of the column. ok is false if the column holds no such values.
func (t target) convert(expression string) (converted string, ok bool) {
	kind := t.Kind()
	if t.whole {
		kind = mapping.JSON
	}
	category, as := t.Category, "::"+t.Type
	switch kind {
	case mapping.JSON:
		switch {
		case t.Type == "json", t.Type == "jsonb":
			return expression + as, true
		case category == "A":
			return "CASE WHEN " + expression + " IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(" + expression + "::jsonb))" + as + " END", true
		}
		return expression, category == "S"
	case mapping.Bool:
		switch category {
		case "N":
			return expression + "::integer" + as, true
		case "S":
			return expression + "::text", true
		}
		return expression, category == "B"
	case mapping.Integer:
		if category == "S" {
			return expression + "::text", true
		}
		return expression, category == "N"
	case mapping.Time:
		return t.convertTime(expression)
	}
	if category == "S" { // a cast would cut what is too long, without a word
		return expression, true
	}
	return expression + as, t.Type != "json" && t.Type != "jsonb" && category != "A"
}

func (t target) convertTime(expression string) (string, bool) {
	utc := "(" + expression + " AT TIME ZONE 'UTC')"
	switch {
	case t.Type == "timestamp with time zone":
		return expression, true
	case t.Type == "timestamp without time zone":
		return utc, true
	case t.Type == "date":
		return utc + "::date", true
	case t.Category == "N":
		return "(extract(epoch FROM " + expression + ") * 1000)::bigint", true
	}
	return "to_char(" + utc + `, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`, t.Category == "S"
}

// written returns what is written of a value that a user may not have: the
// default, where the column takes no null.
func (t target) written(expression string) string {
	value, _ := t.convert(expression)
	if t.NotNull && t.Default != "" {
		return "coalesce(" + value + ", " + t.Default + ")"
	}
	return value
}

// erased returns what is written of the value of an erased user; deletedAt is
// the expression of the time that the row has of his deletion, if any.
func (t target) erased(expression, deletedAt string) string {
	switch {
	case !t.NotNull:
	case t.constant() && !t.Required:
		return t.written(expression)
	case t.Kind() == mapping.Time:
		expression = "coalesce(" + deletedAt + ", " + expression + ")"
	}
	value, _ := t.convert(expression)
	return value
}

// value returns the column's value for a user, nil for null.
func (t target) value(clerkID string, u *schemas.User) any {
	if !t.whole {
		return t.Value(clerkID, u)
	}
	if text := t.Expression.JSON(clerkID, u); text != "" {
		return text
	}
	return nil
}

// anonymous returns the column's value for an erased user, nil for null.
func (t target) anonymous(clerkID string, deletedAt time.Time) any {
	c := t.Column
	c.Required = t.NotNull && (c.Required || !t.constant())
	value := c.Anonymous(clerkID, deletedAt)
	text, isText := value.(string)
	if !t.whole || !isText {
		return value
	}
	if t.Category == "A" {
		return "[]"
	}
	quoted, _ := json.Marshal(text) // a string: this cannot fail
	return string(quoted)
}

// array returns the values of a column, one for each of records, in the type in
// which they travel.
func (t target) array(records []sinks.Record, value func(target, sinks.Record) any) any {
	switch t.Kind() {
	case mapping.Bool:
		return values[bool](t, records, value)
	case mapping.Integer:
		return values[int64](t, records, value)
	case mapping.Time:
		return values[time.Time](t, records, value)
	default:
		return values[string](t, records, value)
	}
}

func values[T any](t target, records []sinks.Record, value func(target, sinks.Record) any) []*T {
	list := make([]*T, len(records))
	for i, r := range records {
		if v, ok := value(t, r).(T); ok {
			list[i] = &v
		}
	}
	return list
}

// problems returns what a person must mend of the table, nothing if it can be
// written.
func (t table) problems(p usertable.Plan, name string) []string {
	if t.Kind != "r" && t.Kind != "p" {
		return []string{"is no table: name one, not a view of it"}
	}
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if t.Hidden {
		add("has row level security, which could hide rows from an erasure: use a role with BYPASSRLS, or the table's owner")
	}
	var missing []string
	for _, column := range p.Names() {
		if _, ok := t.column(column); !ok {
			missing = append(missing, column)
		}
	}
	if len(missing) > 0 {
		add("lacks columns: %s", strings.Join(missing, ", "))
	}
	if key, ok := t.column(p.Key); ok {
		if !key.holds(usertable.SampleID) {
			add("has no room for a Clerk ID in column %s, at %d characters: make it text", p.Key, key.room())
		}
		if key.Category != "S" || key.Imprecise {
			add("has a Clerk ID that does not compare byte for byte: make %s text or varchar, with a collation that is deterministic", p.Key)
		} else if _, unique := t.arbiter(p.Key); !unique {
			add("may hold a Clerk ID twice: make %s unique, by CREATE UNIQUE INDEX ON %s (%s)", p.Key, name, usertable.Quote(p.Key))
		}
	}
	if a, ok := t.column(p.DeletedAt); ok && !strings.HasPrefix(a.Type, "timestamp") {
		add("has no time in column %s: make it timestamptz, or name another in DELETED_AT_COLUMN", a.Name)
	}
	for _, c := range slices.Concat(p.Columns, p.Inserts) {
		if a, ok := t.column(c.Name); ok && a.Generated {
			add("fills column %s always by itself: take it out of the settings", c.Name)
		} else if _, fits := newTarget(c, a).convert(""); ok && !fits {
			add("has type %s in column %s, which does not hold %s: give it another expression", a.Type, c.Name, c.Expression)
		}
	}
	for _, a := range t.columns {
		if a.NotNull && a.Default == "" && !a.Generated && !a.Identity && !slices.Contains(p.Names(), a.Name) {
			add("needs a value in column %s when a row is inserted: give it one in INSERT_COLUMNS, as %s = '...', or a default", a.Name, a.Name)
		}
	}
	if a, ok := t.column(p.DeletedAt); ok && a.NotNull {
		add("takes no null in column %s, which users who are not deleted have there", a.Name)
	}
	return list
}
