package audit

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"clerkconnect/sinks"
)

func newSQLite(cfg Config) *sqlStore {
	return newSQLStore(cfg, dialect{
		open:        openSQLite,
		prepare:     createSQLiteFile,
		placeholder: func(int) string { return "?" },
		quote:       func(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` },
		time:        func(millis int64) driver.Value { return time.UnixMilli(millis).UTC().Format(momentLayout) },
		steps:       sqliteSteps,
		protected:   sqliteProtected,
		erased:      "PRAGMA wal_checkpoint(TRUNCATE)", // overwrites what the write-ahead log still holds
		classify:    classifySQLite,
	})
}

// createSQLiteFile makes the file before SQLite does, because SQLite would let
// everybody read it. Its write-ahead log inherits the mode.
func createSQLiteFile(cfg Config) error {
	file, err := os.OpenFile(cfg.path(), os.O_RDWR|os.O_CREATE, 0o600)
	switch {
	case errors.Is(err, os.ErrPermission):
		return sinks.Fatal(sinks.ReasonUnauthorized, err)
	case errors.Is(err, os.ErrNotExist):
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("%w: the folder must exist", err))
	case err != nil:
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, err)
	}
	return file.Close()
}

// openSQLite opens a file that is there.
func openSQLite(cfg Config) (*sql.DB, error) {
	path, err := filepath.Abs(cfg.path())
	if err != nil {
		path = cfg.path()
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, sinks.Fatal(sinks.ReasonMisconfigured, err)
	}
	query := url.Values{"mode": {"rw"}, "_txlock": {"immediate"}, "_pragma": {
		fmt.Sprintf("busy_timeout(%d)", cfg.Timeout.Milliseconds()),
		"journal_mode(WAL)", "synchronous(FULL)", "secure_delete(ON)", "foreign_keys(ON)",
	}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}).String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // SQLite would make a second writer wait all the same
	return db, nil
}

var sqliteTypes = map[kind]string{
	number: "INTEGER", moment: "TEXT", text: "TEXT", name: "TEXT", label: "TEXT", digest: "TEXT",
}

// sqliteSteps makes STRICT tables (SQLite 3.37): a column of numbers takes no
// text. INSERT OR REPLACE would remove a row without firing a trigger of
// deletion, hence the one of insertion.
func sqliteSteps(n names) []string {
	trigger := func(suffix, event, table, when string) string {
		return `CREATE TRIGGER IF NOT EXISTS "` + n.cfg.Table + suffix + `" BEFORE ` + event + " ON " + table + when +
			" BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
	}
	return []string{
		"CREATE TABLE IF NOT EXISTS " + n.log + " (\n" + definitions(sqliteTypes) +
			",\n  PRIMARY KEY (chain, seq),\n  UNIQUE (entry)\n) STRICT, WITHOUT ROWID",
		`CREATE INDEX IF NOT EXISTS "` + n.cfg.Table + `_user" ON ` + n.log + " (clerk_id, action, epoch, version)",
		"CREATE TABLE IF NOT EXISTS " + n.client + ` (
  client_hash TEXT NOT NULL PRIMARY KEY,
  entry TEXT NOT NULL UNIQUE REFERENCES ` + n.log + ` (entry),
  clerk_id TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  version INTEGER NOT NULL,
  salt TEXT NOT NULL,
  client_ip TEXT,
  user_agent TEXT
) STRICT, WITHOUT ROWID`,
		`CREATE INDEX IF NOT EXISTS "` + n.cfg.Table + clientSuffix + `_user" ON ` + n.client + " (clerk_id)",
		trigger("_no_update", "UPDATE", n.log, ""),
		trigger("_no_delete", "DELETE", n.log, ""),
		trigger("_no_replace", "INSERT", n.log, " WHEN EXISTS (SELECT 1 FROM "+n.log+" WHERE chain = NEW.chain AND seq = NEW.seq)"+
			" OR EXISTS (SELECT 1 FROM "+n.log+" WHERE entry = NEW.entry)"),
		trigger(clientSuffix+"_no_update", "UPDATE", n.client, ""),
		trigger(clientSuffix+"_no_replace", "INSERT", n.client, " WHEN EXISTS (SELECT 1 FROM "+n.client+" WHERE client_hash = NEW.client_hash OR entry = NEW.entry)"),
	}
}

func sqliteProtected(ctx context.Context, db *sql.DB, n names) (string, error) {
	var found int
	err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name IN (?, ?) AND name IN (?, ?, ?, ?, ?)",
		n.cfg.Table, n.cfg.Table+clientSuffix, n.cfg.Table+"_no_update", n.cfg.Table+"_no_delete", n.cfg.Table+"_no_replace",
		n.cfg.Table+clientSuffix+"_no_update", n.cfg.Table+clientSuffix+"_no_replace").Scan(&found)
	if err == nil && found < 5 {
		return fmt.Sprintf("%d of its 5 triggers are there", found), nil
	}
	return "", err
}

// classifySQLite knows the codes of https://www.sqlite.org/rescode.html.
func classifySQLite(operation string, err error) error {
	var failure *sqlite.Error
	if !errors.As(err, &failure) {
		return nil
	}
	cause := fmt.Errorf("%s: SQLite result code %d", operation, failure.Code())
	switch failure.Code() & 0xff { // the primary code
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CONSTRAINT:
		return sinks.RetryAfter(sinks.ReasonConflict, 0, cause)
	case sqlite3.SQLITE_INTERRUPT:
		return sinks.RetryAfter(sinks.ReasonTimeout, 0, cause)
	case sqlite3.SQLITE_TOOBIG:
		return sinks.Permanent(sinks.ReasonTooLarge, cause)
	case sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH:
		return sinks.Fatal(sinks.ReasonUnauthorized, cause)
	case sqlite3.SQLITE_ERROR, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return sinks.Fatal(sinks.ReasonMisconfigured, cause)
	}
	return sinks.RetryAfter(sinks.ReasonUnavailable, 0, cause)
}
