package postgres

import (
	"slices"
	"strconv"
	"strings"

	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/usertable"
)

// statements are the texts of the pipeline, of the settling of unique keys, and
// of the readers.
type statements struct {
	begin, settings, advance, replace, commit string
	// Of the erasures: what keeps the row, and what deletes it. "" if the
	// policy has no use for it.
	keep, remove string
	// Of auto: what keeps others from referring to the erased from now on, and
	// what refuses, by codeChanged, where a foreign key has come or gone since
	// the catalogue was read.
	hold, unchanged string
	// Of the settling: what makes sure that there are guards, what locks them,
	// what advances them to what was decided, what writes without looking at
	// them.
	reserve, guards, move, write string
	keys, confirm, superseded    string
}

// names are the schema, and the qualified and quoted names of the tables.
type names struct{ schema, users, versions string }

// layout is the users table as it is written: a plan, and what the catalogue
// says of it.
type layout struct {
	names
	plan             usertable.Plan
	table            table
	columns, inserts []target
	references       []usertable.Reference
	key, arbiter     string // quoted; the clause of ON CONFLICT
	deletedAt        string // quoted name of the column, "" for none
}

func newLayout(n names, plan usertable.Plan, t table) layout {
	plan = plan.Clone()
	plan.Require(func(column string) bool {
		a, _ := t.column(column)
		return a.NotNull && (a.Default == "" || slices.ContainsFunc(t.keys, func(k uniqueKey) bool { return slices.Contains(t.members(k), a.Number) }))
	})
	l := layout{names: n, plan: plan, table: t, key: usertable.Quote(plan.Key)}
	for _, c := range plan.Columns {
		a, _ := t.column(c.Name)
		l.columns = append(l.columns, newTarget(c, a))
	}
	for _, c := range plan.Inserts {
		a, _ := t.column(c.Name)
		l.inserts = append(l.inserts, newTarget(c, a))
	}
	l.arbiter, _ = t.arbiter(plan.Key)
	if plan.DeletedAt != "" {
		l.deletedAt = usertable.Quote(plan.DeletedAt)
	}
	if plan.Deletion == usertable.DeletionAuto {
		l.references = slices.Concat(plan.References, t.foreignKeys)
	}
	return l
}

// statements returns the texts for l.
func (l layout) statements() statements {
	all := slices.Concat(l.columns, l.inserts)
	insert := "INSERT INTO " + l.users + " (" + l.key + list(all, func(t target) string { return ", " + t.name() }) + ")\n" +
		"SELECT i." + l.key + list(all, func(t target) string { return ", " + t.written("i."+t.name()) }) + "\nFROM " + l.given(all)
	replace := "\nON CONFLICT " + l.arbiter + " DO UPDATE SET " + strings.TrimPrefix(list(l.columns, func(t target) string { return ", " + t.name() + " = excluded." + t.name() }), ", ")
	live := ""
	if l.deletedAt != "" {
		replace += ", " + l.deletedAt + " = NULL"
		live = " AND " + l.deletedAt + " IS NULL"
	}
	s := statements{
		begin: "BEGIN ISOLATION LEVEL READ COMMITTED",
		settings: "SELECT set_config('statement_timeout', $1, true), " +
			"CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END",
		advance: "INSERT INTO " + l.versions + " AS held (id, epoch, version, deleted)\n" +
			"SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::boolean[])" + usertable.AdvanceClause + "\nRETURNING held.id",
		replace: insert + " JOIN " + l.versions + " AS v ON v.id = i." + l.key + " AND v.xmin = pg_current_xact_id()::xid" + replace,
		commit:  "COMMIT",
		reserve: "INSERT INTO " + l.versions + " (id, epoch, version, deleted)\nSELECT id, 0, 0, false FROM unnest($1::text[]) AS i (id) ON CONFLICT (id) DO NOTHING",
		guards:  "SELECT id, epoch, version, deleted FROM " + l.versions + " WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE",
		move: "UPDATE " + l.versions + " AS v SET epoch = i.epoch, version = i.version, deleted = i.deleted\n" +
			"FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::boolean[]) AS i (id, epoch, version, deleted) WHERE v.id = i.id",
		write:      insert + replace,
		superseded: "SELECT id, epoch, version, deleted FROM " + l.versions + " WHERE id = ANY($1::text[])",
		// Bytewise order, whatever the collation of the database.
		keys: "SELECT " + l.key + "::text FROM " + l.users + " WHERE " + l.key + ` COLLATE "C" > $1` + live + " ORDER BY " + l.key + ` COLLATE "C" LIMIT $2`,
	}
	l.erasures(&s)
	return s
}

// erasures adds what the policy of deletion takes. The erased, $1, have guards
// that say so, unless a live user ranks higher.
func (l layout) erasures(s *statements) {
	erased := "\nWHERE v.id = ANY($1::text[]) AND v.deleted AND u." + l.key + " = v.id"
	policy := l.plan.Deletion
	if policy == usertable.DeletionAuto {
		s.hold = "SELECT FROM " + l.users + " AS u, " + l.versions + " AS v" + erased + "\nORDER BY v.id FOR UPDATE OF u"
		// No constant: or it would be computed beforehand.
		s.unchanged = "SELECT 1 / CASE WHEN (" + referrersQuery + ") = " + literal(l.table.referrers) + " THEN 1 ELSE 0 END\n" +
			"FROM (SELECT " + strconv.FormatUint(uint64(l.table.OID), 10) + "::oid) AS t (oid)"
	}
	if policy == usertable.DeletionAuto && len(l.references) == 0 {
		policy = usertable.DeletionHard
	}
	if l.plan.Deletion == usertable.DeletionHard {
		s.confirm = "SELECT false FROM " + l.users + " WHERE " + l.key + " = ANY($1::text[])"
	}
	s.remove = "DELETE FROM " + l.users + " AS u USING " + l.versions + " AS v" + erased
	if policy == usertable.DeletionAuto {
		s.remove += " AND u.xmin <> pg_current_xact_id()::xid" // which keep has left
	}
	s.remove += "\nRETURNING v.id"
	if l.deletedAt == "" {
		return
	}
	deletion := target{attribute: l.deletion()}
	given := "unnest($1::text[], $2::timestamptz[]) AS i (" + l.key + ", " + l.deletedAt + ")"
	at, _ := deletion.convertTime("i." + l.deletedAt)
	sets := l.deletedAt + " = coalesce(u." + l.deletedAt + ", " + at + ")"
	same := ""
	if l.plan.Deletion != usertable.DeletionSoft {
		given = l.given(append([]target{{Column: usertable.Column{Name: l.plan.DeletedAt, Expression: mapping.Must("created_at")}}}, l.columns...))
		for _, t := range l.columns {
			value := t.erased("i."+t.name(), l.deletedMoment("u."))
			sets += ", " + t.name() + " = " + value
			same += " AND " + l.same(t, value)
		}
	}
	s.confirm = "SELECT u." + l.deletedAt + " IS NOT NULL" + same + " FROM " + l.users + " AS u JOIN " + given + " ON u." + l.key + " = i." + l.key
	s.keep = "UPDATE " + l.users + " AS u SET " + sets + "\nFROM " + given + " JOIN " + l.versions + " AS v ON v.id = i." + l.key + " AND v.deleted"
	switch policy {
	case usertable.DeletionAuto:
		s.keep += "\nJOIN " + l.users + " AS o ON o." + l.key + " = v.id CROSS JOIN LATERAL (SELECT " + l.referring("o") + ") AS r (names)\n" +
			"WHERE u." + l.key + " = v.id AND r.names <> '{}'\nRETURNING v.id, r.names"
	case usertable.DeletionHard: // auto without anything that refers
		s.keep = ""
	default:
		s.remove = ""
		s.keep += "\nWHERE u." + l.key + " = v.id\nRETURNING v.id, '{}'::text[]"
	}
}

// given returns the arrays of a statement as rows i: the key, then columns.
func (l layout) given(columns []target) string {
	text, names := "unnest($1::text[]", l.key
	for n, t := range columns {
		text += ", $" + strconv.Itoa(n+2) + "::" + arrayTypes[t.Kind()]
		names += ", " + t.name()
	}
	return text + ") AS i (" + names + ")"
}

// deletion returns the column of the time of the deletion.
func (l layout) deletion() attribute {
	a, _ := l.table.column(l.plan.DeletedAt)
	return a
}

// deletedMoment returns the time of the deletion that a row has.
func (l layout) deletedMoment(prefix string) string {
	if l.deletion().Type == "timestamp without time zone" {
		return "(" + prefix + l.deletedAt + " AT TIME ZONE 'UTC')"
	}
	return prefix + l.deletedAt
}

// same returns whether a column holds a value. json has no equality.
func (l layout) same(t target, value string) string {
	column := "u." + t.name()
	if t.Type == "json" {
		column, value = column+"::jsonb", "("+value+")::jsonb"
	}
	return column + " IS NOT DISTINCT FROM " + value
}

// referring returns the names of the tables that refer to a row of the users
// table, as an array.
func (l layout) referring(row string) string {
	cases := make([]string, len(l.references))
	for i, r := range l.references {
		cases[i] = "CASE WHEN " + l.refers(r, row) + " THEN " + literal(r.Name()) + " END"
	}
	return "array_remove(ARRAY[" + strings.Join(cases, ", ") + "]::text[], NULL)"
}

// refers returns whether a row of another table refers to a row of the users
// table. That a row refers to itself does not count.
func (l layout) refers(r usertable.Reference, row string) string {
	schema := l.schema
	if len(r.Table) > 1 {
		schema = r.Table[len(r.Table)-2]
	}
	table := usertable.Quote(schema) + "." + usertable.Quote(r.Name())
	condition := "EXISTS (SELECT FROM " + table + " AS f WHERE "
	for i := range r.Columns {
		condition += "f." + usertable.Quote(r.Columns[i]) + " = " + row + "." + usertable.Quote(r.Refers[i]) + " AND "
	}
	if table == l.users {
		return condition + "f." + l.key + " IS DISTINCT FROM " + row + "." + l.key + ")"
	}
	return strings.TrimSuffix(condition, " AND ") + ")"
}

func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// list joins the texts of targets.
func list(targets []target, text func(target) string) string {
	var joined strings.Builder
	for _, t := range targets {
		joined.WriteString(text(t))
	}
	return joined.String()
}
