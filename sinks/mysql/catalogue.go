package mysql

import (
	"context"
	"database/sql"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"clerkconnect/sinks/mapping"
)

// queryer is a pool or a transaction.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// table is what the catalogue says of a table. Its zero value is of one that
// is not there, or that the user may not see.
type table struct {
	engine  string
	view    bool
	columns []column
	unique  []uniqueKey
}

// column is one of a table's columns.
type column struct {
	name             string
	kind             string // its type without length, as varchar; json is longtext in MariaDB
	json             bool   // in both
	charset, collate string // "": no text
	length           int    // characters of a text; 0: no text
	nullable         bool
	preset           bool   // has a default that can be written by name
	filled           bool   // has a value where it is not named
	computed         bool   // by the server, from other columns
	expression       string // of a computed one
}

// uniqueKey is a unique index, of one column or several.
type uniqueKey struct {
	name  string
	parts []keyPart
}

// keyPart is a column, the first characters of one, or (in MySQL alone) an
// expression.
type keyPart struct {
	column, expression string
	prefix             int // 0: the whole column
}

// column returns the column of a name, which MySQL compares without regard to
// case.
func (t table) column(name string) (column, bool) {
	i := slices.IndexFunc(t.columns, func(c column) bool { return strings.EqualFold(c.name, name) })
	if i < 0 {
		return column{}, false
	}
	return t.columns[i], true
}

// text reports whether the column holds characters.
func (c column) text() bool { return c.charset != "" }

// holds reports whether a text has room in the column, as all else has.
func (c column) holds(value any) bool {
	text, isText := value.(string)
	return !isText || !c.text() || c.length == 0 || utf8.RuneCountInString(text) <= c.length
}

// as returns an expression that gives a text the column's own character set and
// collation, without which an index on the column could not be used.
func (c column) as(expression string) string {
	if !c.text() {
		return expression
	}
	return "CONVERT(" + expression + " USING " + c.charset + ") COLLATE " + c.collate
}

// takes reports whether the column can hold values of that kind. A text may be
// a number: an external_id is often the number of an older system.
func (c column) takes(kind mapping.Kind) bool {
	texts := []string{"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"}
	numbers := []string{"tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "float", "double", "bit", "year"}
	others := []string{"enum", "set", "uuid", "inet4", "inet6"}
	moments := []string{"datetime", "timestamp", "date"}
	if c.json {
		return kind != mapping.Text && kind != mapping.Time
	}
	switch kind {
	case mapping.Text:
		return slices.Contains(slices.Concat(texts, numbers, others), c.kind)
	case mapping.JSON:
		return slices.Contains(texts, c.kind)
	case mapping.Bool:
		return slices.Contains(numbers, c.kind)
	case mapping.Integer:
		return slices.Contains(slices.Concat(texts, numbers), c.kind)
	case mapping.Time:
		return slices.Contains(moments, c.kind)
	default:
		return slices.Contains(slices.Concat(texts, numbers, others, moments), c.kind)
	}
}

// readTable asks the catalogue. schema "" is the connection's own.
func readTable(ctx context.Context, db queryer, schema, name string) (t table, err error) {
	where := " WHERE table_schema = coalesce(nullif(?, ''), database()) AND table_name = ?"
	err = each(ctx, db, "SELECT * FROM information_schema.tables"+where, func(row map[string]string) {
		t.engine, t.view = row["engine"], row["table_type"] == "VIEW"
	}, schema, name)
	if err != nil {
		return table{}, err
	}
	err = each(ctx, db, "SELECT * FROM information_schema.columns"+where+" ORDER BY ordinal_position", func(row map[string]string) {
		extra := strings.ToLower(row["extra"])
		c := column{
			name: row["column_name"], kind: strings.ToLower(row["data_type"]), charset: row["character_set_name"], collate: row["collation_name"],
			nullable: row["is_nullable"] == "YES", expression: row["generation_expression"],
		}
		c.json = c.kind == "json"
		c.length, _ = strconv.Atoi(row["character_maximum_length"])
		c.computed = c.expression != ""
		preset, has := row["column_default"]
		c.preset = (has || c.nullable) && !strings.Contains(extra, "default_generated") && !strings.Contains(preset, "(") // no operation, as MySQL and MariaDB show one
		// An enum has its first value.
		c.filled = c.nullable || has || c.computed || c.kind == "enum" || strings.Contains(extra, "auto_increment")
		t.columns = append(t.columns, c)
	}, schema, name)
	if err != nil {
		return table{}, err
	}
	// MariaDB's JSON is a text and a check, and its catalogue alone names the
	// table of a check.
	err = each(ctx, db, "SELECT * FROM information_schema.check_constraints WHERE constraint_schema = coalesce(nullif(?, ''), database()) AND check_clause LIKE 'json_valid(%)'", func(row map[string]string) {
		for i := range t.columns {
			if row["table_name"] == name && row["check_clause"] == "json_valid("+quote(t.columns[i].name)+")" {
				t.columns[i].json = true
			}
		}
	}, schema)
	if err != nil {
		return table{}, err
	}
	// All columns, because expression is one of MySQL's alone.
	err = each(ctx, db, "SELECT * FROM information_schema.statistics"+where+" AND non_unique = 0 ORDER BY index_name, seq_in_index", func(row map[string]string) {
		if last := len(t.unique) - 1; last < 0 || t.unique[last].name != row["index_name"] {
			t.unique = append(t.unique, uniqueKey{name: row["index_name"]})
		}
		part := keyPart{column: row["column_name"], expression: row["expression"]}
		part.prefix, _ = strconv.Atoi(row["sub_part"])
		last := len(t.unique) - 1
		t.unique[last].parts = append(t.unique[last].parts, part)
	}, schema, name)
	return t, err
}

// uniqueColumn reports whether a column is unique by itself.
func (t table) uniqueColumn(name string) bool {
	return slices.ContainsFunc(t.unique, func(k uniqueKey) bool { return k.is(name) })
}

// is reports whether the key is a whole column, and nothing else.
func (k uniqueKey) is(name string) bool {
	return len(k.parts) == 1 && strings.EqualFold(k.parts[0].column, name) && k.parts[0].prefix == 0
}

// primary reports whether a column is the primary key by itself.
func (t table) primary(name string) bool {
	return slices.ContainsFunc(t.unique, func(k uniqueKey) bool { return k.name == "PRIMARY" && k.is(name) })
}

// reference is columns of another table that refer to columns of the users
// table, by a foreign key or by configuration.
type reference struct {
	schema, table string // schema "": the connection's own
	columns       []column
	refers        []string
	configured    bool
}

// foreignKeys returns the foreign keys that refer to a table, from every schema.
func foreignKeys(ctx context.Context, db queryer, name string) (list []reference, err error) {
	constraint := ""
	err = each(ctx, db, "SELECT k.*, table_schema = database() AS own FROM information_schema.key_column_usage AS k"+
		" WHERE referenced_table_schema = database() AND referenced_table_name = ? ORDER BY table_schema, table_name, constraint_name, ordinal_position", func(row map[string]string) {
		if id := row["table_schema"] + "\x00" + row["table_name"] + "\x00" + row["constraint_name"]; id != constraint {
			constraint = id
			r := reference{table: row["table_name"]}
			if row["own"] != "1" {
				r.schema = row["table_schema"]
			}
			list = append(list, r)
		}
		last := &list[len(list)-1]
		last.columns = append(last.columns, column{name: row["column_name"]}) // of the same type and collation: the server sees to that
		last.refers = append(last.refers, row["referenced_column_name"])
	}, name)
	return list, err
}

// each calls row with each row of a query: its values by the lower-case names
// of the columns, without those that are null.
func each(ctx context.Context, db queryer, query string, row func(map[string]string), args ...any) error {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return err
	}
	values, targets := make([]sql.NullString, len(names)), make([]any, len(names))
	for i := range values {
		targets[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return err
		}
		named := make(map[string]string, len(names))
		for i, name := range names {
			if values[i].Valid {
				named[strings.ToLower(name)] = values[i].String
			}
		}
		row(named)
	}
	return rows.Err()
}
