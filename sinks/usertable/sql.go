package usertable

import (
	"errors"
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

// SampleID is as long as Clerk's IDs are: user_ and a KSUID of 27.
var SampleID = "user_" + strings.Repeat("0", 27)

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

// QuoteAll returns names quoted, comma-separated, each behind prefix.
func QuoteAll(names []string, prefix string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = prefix + Quote(name)
	}
	return strings.Join(quoted, ", ")
}
