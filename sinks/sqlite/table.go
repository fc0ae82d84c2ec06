package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/usertable"
)

// table is the users table as the catalogue has it.
type table struct {
	kind    string // table, view, ...; "": it is not there
	strict  bool
	bare    bool // WITHOUT ROWID
	columns []column
	unique  []uniqueKey
}

// column is one of its columns.
type column struct {
	name, declared string
	notNull        bool
	preset         sql.NullString // the default, an SQL expression
	primary        int            // place in the primary key, from 1; 0: not part of it
	generated      bool
}

func readTable(ctx context.Context, q querier, name string) (t table, err error) {
	type kind struct {
		kind         string
		strict, bare bool
	}
	kinds, err := query(ctx, q, "SELECT type, strict, wr FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE",
		func(k *kind) []any { return []any{&k.kind, &k.strict, &k.bare} }, name)
	if err != nil || len(kinds) == 0 {
		return table{}, err
	}
	t.kind, t.strict, t.bare = kinds[0].kind, kinds[0].strict, kinds[0].bare
	t.columns, err = query(ctx, q, `SELECT name, type, "notnull", dflt_value, pk, hidden >= 2 FROM pragma_table_xinfo(?)`,
		func(c *column) []any {
			return []any{&c.name, &c.declared, &c.notNull, &c.preset, &c.primary, &c.generated}
		}, name)
	if err != nil {
		return table{}, err
	}
	t.unique, err = readUnique(ctx, q, name)
	return t, err
}

// column returns the column of that name, which SQLite compares without case.
func (t table) column(name string) (column, bool) {
	at := slices.IndexFunc(t.columns, func(c column) bool { return strings.EqualFold(c.name, name) })
	if at < 0 {
		return column{}, false
	}
	return t.columns[at], true
}

// rowID reports whether c is the row's number, which fills itself.
func (t table) rowID(c column) bool {
	others := slices.ContainsFunc(t.columns, func(c column) bool { return c.primary > 1 })
	return c.primary == 1 && !others && !t.bare && strings.EqualFold(c.declared, "INTEGER")
}

// isUnique reports whether a column is part of a unique key.
func (t table) isUnique(name string) bool {
	return slices.ContainsFunc(t.unique, func(u uniqueKey) bool { return u.of(name) })
}

// required reports whether a column must be given a value.
func (t table) required(name string) bool {
	c, _ := t.column(name)
	return c.notNull && (!c.preset.Valid || t.isUnique(name))
}

// check returns what a person must mend before the first record, all of it.
func (s *Sink) check(ctx context.Context, q querier, t table) error {
	problems := s.problems(t)
	side, err := readTable(ctx, q, s.plan.Versions)
	if err != nil {
		return classify("read the side table", err)
	}
	if side.kind == "" {
		problems = append(problems, fmt.Errorf("table %s is not there: run sink init, or set CREATE_TABLE=true", s.plan.Versions))
	}
	for _, r := range s.plan.References {
		_, err := s.refers(ctx, q, r, "")
		if err == nil {
			continue
		}
		if err = classify("look at references", err); sinks.Classify(err).Reason != sinks.ReasonMisconfigured {
			return err
		}
		problems = append(problems, fmt.Errorf("REFERENCES has %q: there is no such table or column", r.Setting))
	}
	if len(problems) > 0 {
		return sinks.Fatal(sinks.ReasonMisconfigured, errors.Join(problems...))
	}
	return nil
}

// problems returns what is wrong with the users table.
func (s *Sink) problems(t table) (problems []error) {
	misfit := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("table %s "+format, append([]any{s.plan.Table}, args...)...))
	}
	switch t.kind {
	case "":
		misfit("is not there: name the one that is in TABLE, or create it, by sink init for one of our own")
		return problems
	case "table":
	default:
		misfit("is a %s: name a table", t.kind)
		return problems
	}
	var missing []string
	for _, name := range s.plan.Names() {
		c, ok := t.column(name)
		switch {
		case !ok:
			missing = append(missing, name)
		case c.generated:
			misfit("makes its column %s itself: take it out of COLUMNS", name)
		}
	}
	if len(missing) > 0 {
		misfit("lacks columns: %s", strings.Join(missing, ", "))
	}
	if key, ok := t.column(s.plan.Key); ok && t.rowID(key) {
		misfit("has whole numbers only in %s: name the column of the Clerk ID in KEY_COLUMN", key.name)
	} else if ok && !slices.ContainsFunc(t.unique, func(u uniqueKey) bool { return u.isKey(s.plan.Key) }) {
		misfit("has no unique index that is on %[2]s alone, on all rows, and tells letters by case: CREATE UNIQUE INDEX %[3]s ON %[4]s (%[5]s)",
			key.name, usertable.Quote(s.plan.Table+"_"+key.name+"_key"), s.users, usertable.Quote(key.name))
	}
	for _, c := range t.columns {
		written := slices.ContainsFunc(s.plan.Names(), func(name string) bool { return strings.EqualFold(name, c.name) })
		if !written && !c.generated && !c.preset.Valid && !t.rowID(c) && (c.notNull || c.primary > 0) {
			misfit("has the column %s, which takes no null and has no default: fill it by INSERT_COLUMNS, as %s = uuid", c.name, c.name)
		}
	}
	if c, _ := t.column(s.plan.DeletedAt); c.notNull {
		misfit("has the column %s, which takes no null: users who are not deleted have null there", c.name)
	}
	return append(problems, s.misfits(t)...)
}

// misfits returns which columns cannot hold what they are to hold.
func (s *Sink) misfits(t table) (problems []error) {
	kinds := map[string]mapping.Kind{s.plan.DeletedAt: mapping.Time}
	for _, c := range slices.Concat(s.plan.Columns, s.plan.Inserts) {
		if !c.Expression.Constant() {
			kinds[c.Name] = c.Kind()
		}
	}
	for _, name := range s.plan.Names() {
		kind, known := kinds[name]
		c, ok := t.column(name)
		if !known || !ok || t.strict && strings.EqualFold(c.declared, "ANY") {
			continue
		}
		number := kind == mapping.Bool || kind == mapping.Integer || kind == mapping.Time && s.cfg.TimeFormat.number()
		switch holds := affinity(c.declared); {
		case kind == mapping.Text && holds != "TEXT" && holds != "BLOB":
			problems = append(problems, fmt.Errorf("column %s is declared %s, in which SQLite makes a number of a text such as 007: declare it TEXT", name, c.declared))
		case t.strict && kind != mapping.Part && !number && holds != "TEXT":
			problems = append(problems, fmt.Errorf("column %s of a STRICT table is declared %s: declare it TEXT", name, c.declared))
		case t.strict && number && (holds == "BLOB" || kind == mapping.Time && holds == "TEXT"):
			problems = append(problems, fmt.Errorf("column %s of a STRICT table is declared %s: declare it INTEGER", name, c.declared))
		}
	}
	return problems
}

// affinity is what SQLite makes of a declared type, by its own rules:
// https://www.sqlite.org/datatype3.html#determination_of_column_affinity.
func affinity(declared string) string {
	declared = strings.ToUpper(declared)
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(declared, part) })
	}
	switch {
	case has("INT"):
		return "INTEGER"
	case has("CHAR", "CLOB", "TEXT"):
		return "TEXT"
	case has("BLOB"), declared == "":
		return "BLOB"
	case has("REAL", "FLOA", "DOUB"):
		return "REAL"
	}
	return "NUMERIC"
}
