package usertable

import (
	"errors"
	"slices"
	"strings"
)

// DefaultTable is the name of the users table unless configured.
const DefaultTable = "clerk_users"

// VersionsTable returns the name of the side table that belongs to a users
// table: clerk_connect_versions for the default one, with the table's name
// behind it for another, because two users tables must not share one.
func VersionsTable(table string) string {
	if table == DefaultTable {
		return "clerk_connect_versions"
	}
	return "clerk_connect_versions_" + table
}

// maxNameBytes is PostgreSQL's limit of an identifier (NAMEDATALEN - 1), which
// it enforces by cutting silently.
const maxNameBytes = 63

// AdvanceClause ends the statement that advances the side table: it follows
// "INSERT INTO <side table> AS held (id, epoch, version, deleted) VALUES ...".
// The statement affects a row exactly if the guard moved. It is
// [sinks.Guard.Advance] as SQL; epoch and version given must be
// [sinks.Record.Rank].
const AdvanceClause = `
ON CONFLICT (id) DO UPDATE SET
  epoch = CASE WHEN (excluded.epoch, excluded.version) > (held.epoch, held.version) THEN excluded.epoch ELSE held.epoch END,
  version = CASE WHEN (excluded.epoch, excluded.version) > (held.epoch, held.version) THEN excluded.version ELSE held.version END,
  deleted = excluded.deleted
WHERE (excluded.epoch, excluded.version) > (held.epoch, held.version)
  OR excluded.deleted AND (held.deleted OR (excluded.epoch, excluded.version) = (held.epoch, held.version))`

// CheckTable returns an error if name cannot be the name of a users table and,
// with what is put before it, of its side table.
func CheckTable(name string) error {
	if len(VersionsTable(name)) > maxNameBytes {
		return errors.New("it is longer than 40 bytes")
	}
	return CheckName(name)
}

// CheckName returns an error if name cannot be a name in a database.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("it is empty")
	case len(name) > maxNameBytes:
		return errors.New("it is longer than 63 bytes")
	case strings.ContainsRune(name, 0):
		return errors.New("it holds U+0000")
	}
	return nil
}

// Quote returns name as an identifier of standard SQL.
func Quote(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// Names returns the quoted names of columns, comma-separated, each behind
// prefix.
func Names(columns []Column, prefix string) string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = prefix + Quote(c.Name)
	}
	return strings.Join(names, ", ")
}

// ReplaceClause ends the statement that writes users: it follows "INSERT INTO
// <users table> (id, ...) ...".
func ReplaceClause(columns []Column) string {
	sets := make([]string, len(columns))
	for i, c := range columns {
		sets[i] = Quote(c.Name) + " = excluded." + Quote(c.Name)
	}
	return "\nON CONFLICT (id) DO UPDATE SET " + strings.Join(sets, ", ")
}

// CreateTable returns the statement that creates the users table under its
// quoted name, if it is not there; types names the type of each kind. The
// table has no unique key but id: two users may hold the same e-mail address
// for a while.
func CreateTable(table string, columns []Column, types map[Kind]string) string {
	var ddl strings.Builder
	ddl.WriteString("CREATE TABLE IF NOT EXISTS " + table + " (\n  id " + types[Text] + " NOT NULL PRIMARY KEY")
	for _, c := range columns {
		ddl.WriteString(",\n  " + Quote(c.Name) + " " + types[c.Kind])
	}
	ddl.WriteString("\n)")
	return ddl.String()
}

// Missing returns the names of columns, and of the key, that are not in have.
func Missing(columns []Column, have []string) []string {
	missing := []string{KeyColumn}
	for _, c := range columns {
		missing = append(missing, c.Name)
	}
	return slices.DeleteFunc(missing, func(name string) bool { return slices.Contains(have, name) })
}
