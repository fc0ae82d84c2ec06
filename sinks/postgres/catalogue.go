package postgres

import (
	"context"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"clerkconnect/sinks/usertable"
)

// table is the users table as the catalogue has it. Texts of the catalogue are
// read with an empty search_path, so that they mean the same in every session.
type table struct {
	OID         uint32
	Kind        string // relkind
	Hidden      bool   // row level security hides rows from us
	columns     []attribute
	keys        []uniqueKey
	foreignKeys []usertable.Reference
	referrers   string // see referrersQuery
}

// attribute is one column.
type attribute struct {
	Number    int16
	Name      string
	Type      string // without its modifier; of a domain the type below
	Category  string // typcategory: S a text, N a number, ...
	NotNull   bool
	Default   string // expression, "" for none
	Generated bool   // always, or always an identity: not for us to write
	Identity  bool   // filled by itself
	Imprecise bool   // holds for equal what has other bytes
	Modifier  int32  // of the type, -1 for none: see room
	Formula   string // of a generated column
	// Of are the columns that a generated one is made of.
	Of []int16
}

// uniqueKey is a unique index.
type uniqueKey struct {
	Name        string
	Columns     []int16 // indkey: 0 for an expression
	Depends     []int16 // every column in it, the condition included
	Expressions []string
	Operators   []string // that hold two keys for equal, with their schema
	Collations  []string // "" for none
	Condition   string   // "" for none
	Deferrable  bool
	NullsEqual  bool // NULLS NOT DISTINCT
}

const tableQuery = `
SELECT c.oid, c.relkind::text, row_security_active(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND has_schema_privilege(n.oid, 'USAGE')`

const attributesQuery = `
SELECT a.attnum, a.attname::text, format_type(CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END, -1), t.typcategory::text,
  a.attnotnull OR t.typnotnull,
  CASE a.attgenerated WHEN '' THEN coalesce(pg_get_expr(d.adbin, d.adrelid), '') ELSE '' END,
  a.attgenerated <> '' OR a.attidentity = 'a', a.attidentity <> '',
  t.typname = 'citext' OR NOT coalesce(l.collisdeterministic, true), CASE t.typtype WHEN 'd' THEN t.typtypmod ELSE a.atttypmod END,
  CASE a.attgenerated WHEN '' THEN '' ELSE coalesce(pg_get_expr(d.adbin, d.adrelid), '') END,
  ARRAY(SELECT e.refobjsubid::int2 FROM pg_depend e WHERE a.attgenerated <> '' AND e.refclassid = 'pg_class'::regclass AND e.refobjid = a.attrelid
    AND e.refobjsubid NOT IN (0, a.attnum) AND (e.classid = 'pg_attrdef'::regclass AND e.objid = d.oid
    OR e.classid = 'pg_class'::regclass AND e.objid = a.attrelid AND e.objsubid = a.attnum))
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum`

// An index of PostgreSQL 13 and 14 has no indnullsnotdistinct, hence the JSON.
const uniqueQuery = `
SELECT c.relname::text, ARRAY(SELECT unnest(i.indkey::int2[]) LIMIT i.indnkeyatts),
  ARRAY(SELECT DISTINCT e.refobjsubid::int2 FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = i.indexrelid
    AND e.refclassid = 'pg_class'::regclass AND e.refobjid = i.indrelid AND e.refobjsubid > 0
    UNION SELECT unnest(i.indkey::int2[])),
  ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, false) FROM generate_series(1, i.indnkeyatts) k),
  ARRAY(SELECT (SELECT quote_ident(n.nspname) || '.' || o.oprname FROM pg_opclass s JOIN pg_amop m ON m.amopfamily = s.opcfamily AND m.amopstrategy = 3
      AND m.amoplefttype = s.opcintype AND m.amoprighttype = s.opcintype JOIN pg_operator o ON o.oid = m.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
      WHERE s.oid = i.indclass[k - 1]) FROM generate_series(1, i.indnkeyatts) k),
  ARRAY(SELECT coalesce((SELECT quote_ident(n.nspname) || '.' || quote_ident(l.collname) FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
      WHERE l.oid = i.indcollation[k - 1] AND l.collname <> 'default'), '') FROM generate_series(1, i.indnkeyatts) k),
  coalesce(pg_get_expr(i.indpred, i.indrelid), ''), NOT i.indimmediate, coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid
ORDER BY c.relname`

const foreignKeysQuery = `
SELECT n.nspname::text, c.relname::text,
  ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u (number, place) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY u.place),
  ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u (number, place) JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number ORDER BY u.place)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND (k.confrelid = $1 OR k.confrelid IN (SELECT relid FROM pg_partition_tree($1)))
ORDER BY 1, 2, k.conname`

// referrersQuery returns which foreign keys refer to the table whose OID
// follows, those to its partitions included, as one text.
const referrersQuery = `
SELECT coalesce(string_agg(k.oid::text, ' ' ORDER BY k.oid), '') FROM pg_catalog.pg_constraint k
WHERE k.contype = 'f' AND k.conparentid = 0 AND k.confrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree(t.oid) UNION SELECT t.oid)`

// triggersQuery names the triggers of a table, those of its partitions
// included, that fire and are no foreign key's.
const triggersQuery = `
SELECT DISTINCT tgname::text FROM pg_catalog.pg_trigger
WHERE tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1) UNION SELECT $1::oid) AND NOT tgisinternal AND tgenabled <> 'D'
ORDER BY 1`

// readTable returns what the catalogue says of a table; its OID is 0 if it is
// not there, or its schema is closed to us.
func readTable(ctx context.Context, tx pgx.Tx, schema, name string) (t table, err error) {
	if _, err := tx.Exec(ctx, "SET LOCAL search_path = pg_catalog, pg_temp"); err != nil {
		return t, err
	}
	rows, err := tx.Query(ctx, tableQuery, schema, name)
	if err != nil {
		return t, err
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t table, err error) {
		return t, row.Scan(&t.OID, &t.Kind, &t.Hidden)
	})
	if err != nil || len(found) == 0 {
		return t, err
	}
	t = found[0]
	if rows, err = tx.Query(ctx, attributesQuery, t.OID); err != nil {
		return t, err
	}
	if t.columns, err = pgx.CollectRows(rows, pgx.RowToStructByPos[attribute]); err != nil {
		return t, err
	}
	if rows, err = tx.Query(ctx, uniqueQuery, t.OID); err != nil {
		return t, err
	}
	if t.keys, err = pgx.CollectRows(rows, pgx.RowToStructByPos[uniqueKey]); err != nil {
		return t, err
	}
	if rows, err = tx.Query(ctx, foreignKeysQuery, t.OID); err != nil {
		return t, err
	}
	t.foreignKeys, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r usertable.Reference, err error) {
		r.Table = make([]string, 2)
		return r, row.Scan(&r.Table[0], &r.Table[1], &r.Columns, &r.Refers)
	})
	if err != nil {
		return t, err
	}
	return t, tx.QueryRow(ctx, "SELECT ("+referrersQuery+") FROM (SELECT $1::oid) AS t (oid)", t.OID).Scan(&t.referrers)
}

// column returns the column of that name.
func (t table) column(name string) (attribute, bool) {
	i := slices.IndexFunc(t.columns, func(a attribute) bool { return a.Name == name })
	if i < 0 {
		return attribute{}, false
	}
	return t.columns[i], true
}

// constant reports whether the default is one that may be evaluated again and
// again: anything that calls a function may not.
func (a attribute) constant() bool {
	return a.Default != "" && !strings.ContainsRune(a.Default, '(') && !strings.Contains(a.Default, "CURRENT")
}

// room returns how many characters a column of text holds, 0 for any number.
func (a attribute) room() int {
	const header = 4 // bytes that the modifier counts besides
	if a.Category != "S" {
		return 0
	}
	return max(int(a.Modifier)-header, 0)
}

// holds reports whether a text has room in the column, as all else has.
func (a attribute) holds(value any) bool {
	text, isText := value.(string)
	return !isText || a.room() == 0 || utf8.RuneCountInString(text) <= a.room()
}

// arbiter returns what ON CONFLICT names as the key: the column, and the
// condition of an index that leaves out only rows without a Clerk ID. ok is
// false if there is no such index.
func (t table) arbiter(key string) (clause string, ok bool) {
	a, _ := t.column(key)
	for _, partial := range []bool{false, true} {
		for _, k := range t.keys {
			if k.Deferrable || !slices.Equal(k.Columns, []int16{a.Number}) {
				continue
			}
			if clause = "(" + usertable.Quote(key) + ")"; !partial && k.Condition == "" {
				return clause, true
			}
			if partial && strings.Trim(k.Condition, "()") == strings.Trim(k.Expressions[0], "()")+" IS NOT NULL" {
				return clause + " WHERE " + k.Condition, true
			}
		}
	}
	return "", false
}

// members returns the numbers of the columns whose values are in a key, those
// that a generated column is made of included, but not those of its condition.
func (t table) members(k uniqueKey) []int16 {
	var numbers []int16
	for _, a := range t.columns {
		in := slices.Contains(k.Columns, a.Number)
		if !in && slices.Contains(k.Columns, 0) && slices.Contains(k.Depends, a.Number) {
			in = slices.ContainsFunc(k.Expressions, func(e string) bool { return strings.Contains(e, a.Name) })
		}
		if in {
			numbers = append(append(numbers, a.Number), a.Of...)
		}
	}
	return numbers
}
