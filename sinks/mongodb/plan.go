package mongodb

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/usertable"
)

// plan is what the sink writes where: a [Config], understood.
type plan struct {
	key string // path of the Clerk ID
	// fields are written with every change, inserts when a document is
	// inserted and never after.
	fields, inserts []field
	deletion        usertable.Deletion
	// deletedAt is the path of the time of the deletion; "" if documents are
	// deleted. A change takes it away, for who comes back is not deleted.
	deletedAt  string
	references []reference
	mapped     bool // FIELDS was given: the collection is the application's
}

// field is a path, which is the column's name, and what is written there.
type field struct {
	usertable.Column
	placeholder string // for users without an e-mail address
	list        bool   // of entries that we name ourselves, see lists
}

// reference is a path of another collection that may refer to a user.
type reference struct {
	collection, path string
	refers           string // path of the users document whose value it holds
}

// Mapping returns what a person has mapped, and by which variable.
func (c Config) Mapping() (variable string, list []mapping.Assignment) {
	list, _ = mapping.ParseAssignments(c.Fields) // Validate tells what is wrong with it
	return "FIELDS", list
}

// newPlan returns the plan of c, or what is wrong with its paths.
func newPlan(c Config) (plan, error) {
	p := plan{key: c.KeyField, deletion: c.Deletion, mapped: strings.TrimSpace(c.Fields) != ""}
	var problems []error
	read := func(variable, text string) []mapping.Assignment {
		list, err := mapping.ParseAssignments(text)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s cannot be read: %w", variable, err))
		}
		return list
	}
	fields, inserts := read("FIELDS", c.Fields), read("INSERT_FIELDS", c.InsertFields)
	if !p.mapped {
		for _, f := range mapping.Fields() {
			fields = append(fields, mapping.Assignment{Target: paths[f.Name], Expression: mapping.Must(f.Name)})
		}
	}
	for _, a := range fields {
		p.fields = append(p.fields, c.field(a))
	}
	for _, a := range inserts {
		p.inserts = append(p.inserts, c.field(a))
	}
	if c.Deletion != usertable.DeletionHard {
		p.deletedAt = c.DeletedAtField
	}
	for _, text := range c.References {
		r, err := readReference(text, c.KeyField)
		problems = append(problems, err)
		p.references = append(p.references, r)
	}
	return p, errors.Join(append(problems, p.checkPaths())...)
}

func (c Config) field(a mapping.Assignment) field {
	f := field{Column: usertable.Column{Name: a.Target, Expression: a.Expression}}
	for name := range lists {
		f.list = f.list || a.Expression.Of(name)
	}
	if f.Email() {
		f.placeholder = c.PlaceholderEmail
	}
	return f
}

func readReference(text, key string) (reference, error) {
	other, refers, given := strings.Cut(text, "=")
	collection, path, _ := strings.Cut(strings.TrimSpace(other), ".")
	r := reference{collection: collection, path: path, refers: strings.TrimSpace(refers)}
	if !given {
		r.refers = key
	}
	if collection == "" || checkPath(r.path) != nil || checkPath(r.refers) != nil {
		return r, fmt.Errorf("REFERENCES has %q: write collection.path, or collection.path=path of the users document", text)
	}
	return r, nil
}

// checkPaths returns an error for each path that cannot be written, or that
// another one lies in.
func (p plan) checkPaths() error {
	type named struct{ variable, path string }
	all := []named{{"KEY_FIELD", p.key}, {"the version of a single server", rankPath}}
	if p.deletedAt != "" {
		all = append(all, named{"DELETED_AT_FIELD", p.deletedAt})
	}
	for _, f := range p.fields {
		all = append(all, named{"FIELDS", f.Name})
	}
	for _, f := range p.inserts {
		all = append(all, named{"INSERT_FIELDS", f.Name})
	}
	var problems []error
	for i, n := range all {
		if err := checkPath(n.path); err != nil {
			problems = append(problems, fmt.Errorf("%s has the path %q: %w", n.variable, n.path, err))
		}
		if n.path == "_id" && n.variable != "KEY_FIELD" && n.variable != "INSERT_FIELDS" {
			problems = append(problems, fmt.Errorf("%s has the path _id, which MongoDB never changes: put it into INSERT_FIELDS", n.variable))
		}
		for _, m := range all[:i] {
			if within(n.path, m.path) || within(m.path, n.path) {
				problems = append(problems, fmt.Errorf("%s has the path %q, which meets %q of %s: give a path one meaning", n.variable, n.path, m.path, m.variable))
			}
		}
	}
	return errors.Join(problems...)
}

func within(path, other string) bool { return path == other || strings.HasPrefix(path, other+".") }

func checkPath(path string) error {
	for _, key := range strings.Split(path, ".") {
		if key == "" || key[0] == '$' || strings.ContainsRune(key, 0) {
			return errors.New("name keys with dots between, none empty and none with a dollar before it, as profile.firstName")
		}
	}
	return nil
}

// value returns what the field holds for a user, nil if nothing. Its errors
// quote nothing.
func (f field) value(clerkID string, u *schemas.User) (any, error) {
	if kind := f.Kind(); kind == mapping.JSON || kind == mapping.Part {
		text := f.Expression.JSON(clerkID, u)
		if text == "" {
			return nil, nil
		}
		value, err := fromJSON(text, f.list)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		return jsonNull(value), nil
	}
	value := f.Expression.Value(clerkID, u)
	if value == nil && f.placeholder != "" {
		return strings.ReplaceAll(f.placeholder, "{id}", clerkID), nil
	}
	return native(value), nil
}

// jsonNull tells a null that JSON has from nothing.
func jsonNull(value any) any {
	if value == nil {
		return bson.Null{}
	}
	return value
}

func native(value any) any {
	if moment, ok := value.(time.Time); ok {
		return bson.NewDateTimeFromTime(moment)
	}
	return value
}

// anonymous returns what the field holds for an erased user whose document
// stays, nil if nothing.
func (f field) anonymous(clerkID string, deletedAt time.Time) (any, error) {
	value := f.Anonymous(clerkID, deletedAt)
	if text, ok := value.(string); ok && f.Kind() == mapping.JSON {
		return fromJSON(text, f.list)
	}
	return native(value), nil
}

// content returns the values of fields for the user of r, nil for what the
// user does not have, or why they cannot be written.
func content(fields []field, r sinks.Record) (bson.D, error) {
	values := make(bson.D, len(fields))
	for i, f := range fields {
		value, err := f.value(r.ClerkID, &r.Change.User)
		if err == nil && value == nil && f.Required {
			err = f.missing()
		}
		if err != nil {
			return nil, sinks.Permanent(sinks.ReasonInvalidRecord, err)
		}
		values[i] = bson.E{Key: f.Name, Value: value}
	}
	return values, nil
}

// missing names the path and what to set, and quotes nothing.
func (f field) missing() error {
	advice := "give it another value in FIELDS, as " + f.Name + " = " + f.Expression.String() + " ?? '...'"
	if f.Email() {
		advice = "set PLACEHOLDER_EMAIL"
	}
	return fmt.Errorf("path %s must be there, by its unique index or the schema, and the user has no %s: %s", f.Name, f.Expression, advice)
}

// update returns the update that writes values, nil for paths to take away.
func update(values bson.D) bson.D {
	var set, unset bson.D
	for _, e := range values {
		if e.Value == nil {
			unset = append(unset, bson.E{Key: e.Key, Value: ""})
		} else {
			set = append(set, e)
		}
	}
	var both bson.D
	if len(set) > 0 {
		both = append(both, bson.E{Key: "$set", Value: set})
	}
	if len(unset) > 0 {
		both = append(both, bson.E{Key: "$unset", Value: unset})
	}
	return both
}

// present returns values without those that are nil.
func present(values bson.D) bson.D {
	return slices.DeleteFunc(slices.Clone(values), func(e bson.E) bool { return e.Value == nil })
}

// document returns values, by path, as a document.
func document(values bson.D) bson.D {
	var whole bson.D
	for _, e := range present(values) {
		whole = put(whole, e.Key, e.Value)
	}
	return whole
}

// put sets the value at a path; no path lies within another.
func put(in bson.D, path string, value any) bson.D {
	key, rest, nested := strings.Cut(path, ".")
	if !nested {
		return append(in, bson.E{Key: key, Value: value})
	}
	for i, e := range in {
		if e.Key == key {
			inner, _ := e.Value.(bson.D)
			in[i].Value = put(inner, rest, value)
			return in
		}
	}
	return append(in, bson.E{Key: key, Value: put(nil, rest, value)})
}

// email returns the path of the primary e-mail address, "" if there is none,
// and created that of the time of the sign-up.
func (p plan) email() string   { return p.pathOf("email") }
func (p plan) created() string { return p.pathOf("created_at") }

func (p plan) pathOf(name string) string {
	for _, f := range p.fields {
		if f.Expression.Of(name) {
			return f.Name
		}
	}
	return ""
}
