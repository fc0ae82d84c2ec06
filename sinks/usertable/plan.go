package usertable

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
)

// Plan is what a sink writes where: a [Config], understood.
type Plan struct {
	Table    string // the users table
	Versions string // its side table
	Key      string // column of the Clerk ID
	// Columns are written with every change. Inserts are written when a row is
	// inserted, and never after.
	Columns, Inserts []Column
	Deletion         Deletion
	// DeletedAt is the column with the time of the deletion; "" if rows are
	// deleted. A change sets it to null, for who comes back is not deleted.
	DeletedAt  string
	References []Reference
	// Mapped tells that COLUMNS was given: the table is the application's, and
	// is never created or altered.
	Mapped      bool
	UniqueEmail bool // of a table that is created
}

// Column is one column of the users table.
type Column struct {
	Name       string
	Expression mapping.Expression
	// Required tells that the column must be given a value: it takes no null,
	// and it has no default or must be unique. Where a column takes no null and
	// has a default, a sink writes the default for a user without a value. A
	// sink that has looked at its table sets it.
	Required    bool
	placeholder string // for users without an e-mail address
}

// NewPlan returns the plan of c, or what Validate says.
func NewPlan(c Config) (Plan, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return Plan{}, err
	}
	columns, _ := mapping.ParseAssignments(c.Columns) // Validate has read them
	inserts, _ := mapping.ParseAssignments(c.InsertColumns)
	references, _ := c.references()
	p := Plan{
		Table: c.Table, Versions: VersionsTable(c.Table), Key: c.KeyColumn, Deletion: c.Deletion,
		References: references, Mapped: len(columns) > 0, UniqueEmail: c.UniqueEmail,
	}
	if !p.Mapped {
		for _, f := range mapping.Fields() {
			columns = append(columns, mapping.Assignment{Target: f.Name, Expression: mapping.Must(f.Name)})
		}
	}
	if c.Deletion != DeletionHard {
		p.DeletedAt = c.DeletedAtColumn
	}
	p.Columns, p.Inserts = c.plan(columns), c.plan(inserts)
	return p, nil
}

func (c Config) plan(list []mapping.Assignment) []Column {
	columns := make([]Column, len(list))
	for i, a := range list {
		columns[i] = Column{Name: a.Target, Expression: a.Expression}
		if columns[i].Email() {
			columns[i].placeholder = c.PlaceholderEmail
		}
	}
	return columns
}

// Kind returns what the column's values are.
func (c Column) Kind() mapping.Kind { return c.Expression.Kind() }

// Email reports whether the column holds the primary e-mail address.
func (c Column) Email() bool { return c.Expression.Of("email") }

// Value returns the column's value for a user: nil, or what Kind says.
func (c Column) Value(clerkID string, u *schemas.User) any {
	value := c.Expression.Value(clerkID, u)
	if value == nil && c.placeholder != "" {
		return strings.ReplaceAll(c.placeholder, "{id}", clerkID)
	}
	return value
}

// Vacant returns what the column holds while the user's own value is still
// held by another user: null, or where the column takes none, a text that no
// other user has. It is for columns of text.
func (c Column) Vacant(clerkID string) any {
	switch {
	case !c.Required:
		return nil
	case c.Email():
		return "pending-" + clerkID + "@email.invalid" // RFC 2606: no mail ever goes there
	}
	return "pending-" + clerkID
}

// Anonymous returns the column's value for an erased user whose row stays:
// what the expression makes of a user who is called Deleted User, has the
// e-mail address deleted-<id>@anonymized.local and nothing else. Where that
// is null and the column takes none, it is a neutral value, unique if a text.
func (c Column) Anonymous(clerkID string, deletedAt time.Time) any {
	first, last, email := "Deleted", "User", "deleted-"+clerkID+"@anonymized.local"
	value := c.Expression.Value(clerkID, &schemas.User{FirstName: &first, LastName: &last, PrimaryEmailAddress: &email})
	if value != nil || !c.Required {
		return value
	}
	switch c.Kind() {
	case mapping.JSON:
		return "{}"
	case mapping.Bool:
		return false
	case mapping.Integer:
		return int64(0)
	case mapping.Time:
		return deletedAt
	default:
		return "deleted-" + clerkID
	}
}

// Check returns an error if the row of a change has no value for a column that
// takes no null. It names the column and what to set, and quotes nothing.
func (p Plan) Check(r sinks.Record) error {
	for _, list := range [][]Column{p.Columns, p.Inserts} {
		for _, c := range list {
			if !c.Required || c.Value(r.ClerkID, &r.Change.User) != nil {
				continue
			}
			advice := "give it another value in COLUMNS, as " + c.Name + " = " + c.Expression.String() + " ?? '...'"
			if c.Email() {
				advice = "set PLACEHOLDER_EMAIL"
			}
			return sinks.Permanent(sinks.ReasonInvalidRecord, fmt.Errorf("column %s takes no null, and the user has no %s: %s", c.Name, c.Expression, advice))
		}
	}
	return nil
}

// Require notes which columns must be given a value, see [Column.Required]. It
// changes p's own columns: a sink that may be opened twice gives it a copy.
func (p *Plan) Require(required func(column string) bool) {
	for _, list := range [][]Column{p.Columns, p.Inserts} {
		for i := range list {
			list[i].Required = required(list[i].Name)
		}
	}
}

// ColumnOf returns the column whose first alternative is the field of that name,
// "" if there is none.
func (p Plan) ColumnOf(field string) string {
	for _, c := range p.Columns {
		if c.Expression.Of(field) {
			return c.Name
		}
	}
	return ""
}

// Clone returns p with columns of its own, for Require.
func (p Plan) Clone() Plan {
	p.Columns, p.Inserts = slices.Clone(p.Columns), slices.Clone(p.Inserts)
	return p
}

// Updated returns the names of the columns that are written to rows that are
// there.
func (p Plan) Updated() []string {
	var names []string
	for _, c := range p.Columns {
		names = append(names, c.Name)
	}
	if p.DeletedAt != "" {
		names = append(names, p.DeletedAt)
	}
	return names
}

// Names returns the names of every column that is written, the key first.
func (p Plan) Names() []string {
	names := []string{p.Key}
	for _, c := range p.Columns {
		names = append(names, c.Name)
	}
	for _, c := range p.Inserts {
		names = append(names, c.Name)
	}
	if p.DeletedAt != "" {
		names = append(names, p.DeletedAt)
	}
	return names
}
