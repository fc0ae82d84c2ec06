package mysql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/usertable"
)

// inspect reads the catalogue and returns all that a person must mend.
func (d *database) inspect(ctx context.Context) error {
	users, err := readTable(ctx, d.pool, "", d.plan.Table)
	if err != nil {
		return classify("read the catalogue", 0, err)
	}
	versions, err := readTable(ctx, d.pool, "", d.plan.Versions)
	if err != nil {
		return classify("read the catalogue", 0, err)
	}
	d.users = users
	problems := append(d.checkUsers(), d.checkVersions(versions)...)
	referring, err := d.findReferences(ctx)
	if err != nil {
		return err
	}
	if problems = append(problems, referring...); len(problems) > 0 {
		return sinks.Fatal(sinks.ReasonMisconfigured, errors.New(strings.Join(problems, "; ")))
	}
	d.plan.Require(users.required())
	return nil
}

// required tells which columns must be given a value.
func (t table) required() func(string) bool {
	unique := map[string]bool{}
	for _, k := range t.unique {
		for _, name := range t.dependsOn(k) {
			unique[strings.ToLower(name)] = true
		}
	}
	return func(name string) bool {
		c, _ := t.column(name)
		return !c.nullable && (!c.preset || unique[strings.ToLower(name)])
	}
}

// checkTable returns what is wrong with a table as such.
func checkTable(t table, name, advice string) []string {
	switch {
	case len(t.columns) == 0:
		return []string{fmt.Sprintf("table %s is not there, or this user has no right to it: %s", name, advice)}
	case t.view:
		return []string{fmt.Sprintf("table %s is a view: name the table that it is of", name)}
	case !strings.EqualFold(t.engine, "InnoDB"):
		return []string{fmt.Sprintf("table %s is not of the engine InnoDB: without transactions, deleted users could come back", name)}
	}
	return nil
}

func (d *database) checkUsers() []string {
	t, p := d.users, d.plan
	advice := "create it, by sink init for one, or set CREATE_TABLE=true"
	if p.Mapped {
		advice = "name the application's table in TABLE, or grant the right to it"
	}
	if database, table, dotted := strings.Cut(p.Table, "."); dotted {
		advice = fmt.Sprintf("for table %s of database %s name that database in DSN and set TABLE=%s", table, database, table)
	}
	problems := checkTable(t, p.Table, advice)
	if len(t.columns) == 0 || t.view {
		return problems
	}
	missing := slices.DeleteFunc(p.Names(), func(name string) bool { _, ok := t.column(name); return ok })
	if len(missing) > 0 {
		problems = append(problems, fmt.Sprintf("table %s lacks columns: %s", p.Table, strings.Join(missing, ", ")))
	}
	problems = append(problems, d.checkKey()...)
	problems = append(problems, d.checkTypes()...)
	for _, c := range t.columns {
		if c.filled || slices.ContainsFunc(p.Names(), func(name string) bool { return strings.EqualFold(c.name, name) }) {
			continue
		}
		problems = append(problems, fmt.Sprintf("column %s of table %s takes no null, has no default, and nobody fills it: give it a value in INSERT_COLUMNS, as %s = '...', or a default", c.name, p.Table, c.name))
	}
	return problems
}

// checkKey returns what is wrong with the column of the Clerk ID.
func (d *database) checkKey() (problems []string) {
	c, ok := d.users.column(d.plan.Key)
	if !ok {
		return nil // it is among the missing
	}
	if !c.takes(mapping.Text) || c.takes(mapping.Bool) || c.kind == "enum" || c.kind == "set" || c.length > 0 && c.length < len(usertable.SampleID) {
		problems = append(problems, fmt.Sprintf("column %s of table %s is %s and cannot hold a Clerk ID: make it VARCHAR(255)", c.name, d.plan.Table, c.described()))
	}
	if !d.users.uniqueColumn(d.plan.Key) {
		problems = append(problems, fmt.Sprintf("column %s of table %s is not unique by itself: ALTER TABLE %s ADD UNIQUE KEY (%s)", c.name, d.plan.Table, quote(d.plan.Table), quote(c.name)))
	}
	return problems
}

// checkTypes returns which columns cannot hold what they are given.
func (d *database) checkTypes() (problems []string) {
	for _, list := range [][]usertable.Column{d.plan.Columns, d.plan.Inserts} {
		for _, given := range list {
			c, ok := d.users.column(given.Name)
			switch {
			case !ok:
			case c.computed:
				problems = append(problems, fmt.Sprintf("column %s of table %s is computed by the server: take it out of COLUMNS", c.name, d.plan.Table))
			case !c.takes(given.Kind()):
				problems = append(problems, fmt.Sprintf("column %s of table %s is %s and cannot hold %s", c.name, d.plan.Table, c.described(), given.Expression))
			}
		}
	}
	c, ok := d.users.column(d.plan.DeletedAt)
	switch {
	case d.plan.DeletedAt == "" || !ok:
	case !c.takes(mapping.Time) || c.computed:
		problems = append(problems, fmt.Sprintf("column %s of table %s is %s and cannot hold a time: make it DATETIME(3), or name another in DELETED_AT_COLUMN", c.name, d.plan.Table, c.described()))
	case !c.nullable:
		problems = append(problems, fmt.Sprintf("column %s of table %s takes no null, which it has while a user is not deleted: make it nullable, or name another in DELETED_AT_COLUMN", c.name, d.plan.Table))
	}
	return problems
}

// checkAnonymous returns which columns, an enum for one, are too short for what
// is left of an erased user.
func (d *database) checkAnonymous() error {
	var problems []string
	for _, given := range d.plan.Columns {
		if c, _ := d.users.column(given.Name); !c.holds(d.neutral(given, usertable.SampleID, time.Time{})) {
			problems = append(problems, fmt.Sprintf("column %s of table %s is %s, too short for what is left of an erased user: make it VARCHAR(255), or give it a last alternative, as %s = %s ?? '...'",
				c.name, d.plan.Table, c.described(), c.name, given.Expression))
		}
	}
	if len(problems) > 0 {
		return sinks.Fatal(sinks.ReasonMisconfigured, errors.New(strings.Join(problems, "; ")))
	}
	return nil
}

func (c column) described() string {
	if c.json {
		return "JSON"
	}
	if c.length > 0 {
		return fmt.Sprintf("%s(%d)", c.kind, c.length)
	}
	return c.kind
}

// checkVersions returns what is wrong with the side table.
func (d *database) checkVersions(t table) []string {
	name := d.plan.Versions
	problems := checkTable(t, name, "create it, by sink init for one, or set CREATE_TABLE=true")
	if len(t.columns) == 0 {
		return problems
	}
	for _, column := range []string{"id", "epoch", "version", "deleted"} {
		if _, ok := t.column(column); !ok {
			problems = append(problems, fmt.Sprintf("table %s lacks the column %s", name, column))
		}
	}
	// ON DUPLICATE KEY is for that key, and for no other.
	if len(t.unique) != 1 || !t.uniqueColumn("id") || t.unique[0].name != "PRIMARY" {
		problems = append(problems, fmt.Sprintf("table %s needs id, and nothing else, as its primary key, and no other unique key", name))
	}
	if id, ok := t.column("id"); ok && id.text() && !strings.HasSuffix(id.collate, "_bin") {
		problems = append(problems, fmt.Sprintf("table %s has ids that do not compare byte for byte: declare id with COLLATE utf8mb4_bin", name))
	}
	return problems
}

// findReferences notes what may refer to a user beside foreign keys, and returns
// what is wrong with it.
func (d *database) findReferences(ctx context.Context) (problems []string, err error) {
	if d.plan.Deletion != usertable.DeletionAuto {
		return nil, nil
	}
	d.references = nil
	for _, given := range d.plan.References {
		r := reference{table: given.Name(), refers: given.Refers, configured: true}
		if len(given.Table) > 1 {
			r.schema = given.Table[len(given.Table)-2]
		}
		t, err := readTable(ctx, d.pool, r.schema, r.table)
		if err != nil {
			return nil, classify("read the catalogue", 0, err)
		}
		for _, name := range given.Columns {
			c, ok := t.column(name)
			if !ok {
				problems = append(problems, fmt.Sprintf("REFERENCES has %q: there is no such table or column, or this user has no right to it", given.Setting))
			}
			r.columns = append(r.columns, c)
		}
		for _, name := range given.Refers {
			if _, ok := d.users.column(name); !ok {
				problems = append(problems, fmt.Sprintf("REFERENCES has %q: table %s has no column %s", given.Setting, d.plan.Table, name))
			}
		}
		d.references = append(d.references, r)
	}
	return problems, nil
}
