package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

var (
	_ sinks.Sink      = (*Sink)(nil)
	_ sinks.Lister    = (*Sink)(nil)
	_ sinks.Confirmer = (*Sink)(nil)
)

// timeLayout is ISO 8601 with milliseconds, in UTC.
const timeLayout = "2006-01-02T15:04:05.000Z"

var types = map[usertable.Kind]string{
	usertable.Text: "TEXT", usertable.JSON: "TEXT", usertable.Bool: "INTEGER", usertable.Integer: "INTEGER", usertable.Time: "TEXT",
}

// Sink writes users to a table of an SQLite file. Safe for concurrent use
// between Open and Close.
type Sink struct {
	cfg             Config
	columns         []usertable.Column
	users, versions string // quoted names

	db                       *sql.DB // nil: not open
	advance, replace, remove *sql.Stmt
}

// New returns a sink for cfg, or what is wrong with cfg. It does no I/O. An
// empty cfg.Table is the default one.
func New(cfg Config) (*Sink, error) {
	if cfg.Table == "" {
		cfg.Table = usertable.DefaultTable
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Sink{
		cfg:      cfg,
		columns:  usertable.Columns(),
		users:    usertable.Quote(cfg.Table),
		versions: usertable.Quote(usertable.VersionsTable(cfg.Table)),
	}, nil
}

// Capabilities implements [sinks.Sink]. SQLite has one writer at a time. A
// larger batch than 500 is hardly faster (see the benchmark) and keeps other
// writers waiting.
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{Kind: "sqlite", MaxBatch: 500, MaxInFlight: 1}
}

// Open implements [sinks.Sink].
func (s *Sink) Open(ctx context.Context) (err error) {
	if s.db != nil {
		return nil
	}
	if err := createFile(s.cfg.Path); err != nil {
		return err
	}
	if s.db, err = sql.Open("sqlite", s.dsn()); err != nil {
		return classify("open", err)
	}
	// One connection: SQLite would make a second writer wait all the same.
	s.db.SetMaxOpenConns(1)
	if err := s.prepare(ctx); err != nil {
		return errors.Join(err, s.Close())
	}
	return nil
}

// createFile makes the file before SQLite does, because SQLite would let
// everybody read it. Its write-ahead log inherits the mode.
func createFile(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
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

func (s *Sink) dsn() string {
	path, err := filepath.Abs(s.cfg.Path)
	if err != nil {
		path = s.cfg.Path
	}
	query := url.Values{"_txlock": {"immediate"}, "_pragma": {
		fmt.Sprintf("busy_timeout(%d)", s.cfg.BusyTimeout.Milliseconds()),
		"journal_mode(WAL)", "synchronous(FULL)", "secure_delete(ON)",
	}}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}).String()
}

func (s *Sink) prepare(ctx context.Context) error {
	if s.cfg.CreateTable {
		for _, ddl := range []string{
			usertable.CreateTable(s.users, s.columns, types),
			"CREATE TABLE IF NOT EXISTS " + s.versions +
				" (id TEXT NOT NULL PRIMARY KEY, epoch INTEGER NOT NULL, version INTEGER NOT NULL, deleted INTEGER NOT NULL) WITHOUT ROWID",
		} {
			if _, err := s.db.ExecContext(ctx, ddl); err != nil {
				return classify("create table", err)
			}
		}
	}
	names, err := s.list(ctx, "SELECT name FROM pragma_table_info(?)", s.cfg.Table)
	if err != nil {
		return classify("read the table's columns", err)
	}
	if missing := usertable.Missing(s.columns, names); len(missing) > 0 {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("table %s lacks columns: %s", s.cfg.Table, strings.Join(missing, ", ")))
	}
	placeholders := strings.Repeat(", ?", len(s.columns))
	for statement, text := range map[**sql.Stmt]string{
		&s.advance: "INSERT INTO " + s.versions + " AS held (id, epoch, version, deleted) VALUES (?, ?, ?, ?)" + usertable.AdvanceClause,
		&s.replace: "INSERT INTO " + s.users + " (id, " + usertable.Names(s.columns, "") + ") VALUES (?" + placeholders + ")" +
			usertable.ReplaceClause(s.columns),
		&s.remove: "DELETE FROM " + s.users + " WHERE id = ?",
	} {
		if *statement, err = s.db.PrepareContext(ctx, text); err != nil {
			return classify("prepare", err)
		}
	}
	return nil
}

// Close implements [sinks.Sink].
func (s *Sink) Close() error {
	if s.db == nil {
		return nil
	}
	err := s.db.Close() // closes the statements too
	s.db = nil
	if err != nil {
		return classify("close", err)
	}
	return nil
}

// Apply implements [sinks.Sink]: one transaction, in which the side table
// decides, record by record, what may touch the users table.
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	if s.db == nil {
		return errNotOpen
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return classify("begin", err)
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it has nothing to do
	write := writer{
		ctx:     context.WithoutCancel(ctx), // a batch takes milliseconds; cancelling each statement would cost more than it
		columns: s.columns, args: make([]any, 1+len(s.columns)),
		advance: tx.Stmt(s.advance), replace: tx.Stmt(s.replace), remove: tx.Stmt(s.remove),
	}
	settled := make([]effect, len(batch))
	erased := false
	for i, r := range batch {
		if settled[i], err = write.record(r); err != nil {
			return classifyBatch(fmt.Sprintf("write %d records", len(batch)), len(batch), err)
		}
		erased = erased || settled[i] == removed
	}
	if err := tx.Commit(); err != nil {
		return classifyBatch("commit", len(batch), err) // deferred constraints
	}
	for i, r := range batch {
		settled[i].report(r)
	}
	if !erased {
		return nil
	}
	// Overwrites what the write-ahead log still holds of the erased.
	if _, err := s.db.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		return classify("checkpoint", err)
	}
	return nil
}

// writer is the state of one Apply.
type writer struct {
	ctx                      context.Context
	columns                  []usertable.Column
	args                     []any // of replace, reused
	advance, replace, remove *sql.Stmt
}

// effect is what became of one record.
type effect int

const (
	superseded effect = iota
	replaced
	removed
	absent // an erasure of a user who was not there
)

func (e effect) report(r sinks.Record) {
	switch e {
	case superseded:
		r.Superseded()
	case removed:
		r.Erased(schemas.OutcomeDeleted)
	case absent:
		r.Erased(schemas.OutcomeNotPresent)
	case replaced:
	}
}

func (w *writer) record(r sinks.Record) (effect, error) {
	rank := r.Rank()
	moved, err := rowsAffected(w.advance.ExecContext(w.ctx, r.ClerkID, rank.Epoch, rank.Number, r.Erase()))
	switch {
	case err != nil || moved == 0:
		return superseded, err
	case r.Erase():
		rows, err := rowsAffected(w.remove.ExecContext(w.ctx, r.ClerkID))
		if rows == 0 {
			return absent, err
		}
		return removed, err
	}
	w.args[0] = r.ClerkID
	for i, c := range w.columns {
		w.args[1+i] = value(c.Value(&r.Change.User))
	}
	_, err = w.replace.ExecContext(w.ctx, w.args...)
	return replaced, err
}

func rowsAffected(result sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// value is v as the driver and the table take it.
func value(v any) any {
	if t, ok := v.(time.Time); ok {
		return t.Format(timeLayout)
	}
	return v
}

// Keys implements [sinks.Lister].
func (s *Sink) Keys(ctx context.Context, after string, limit int) ([]string, error) {
	if s.db == nil {
		return nil, errNotOpen
	}
	keys, err := s.list(ctx, "SELECT id FROM "+s.users+" WHERE id COLLATE BINARY > ? ORDER BY id COLLATE BINARY LIMIT ?", after, limit)
	if err != nil {
		return nil, classify("list keys", err)
	}
	return keys, nil
}

// Confirm implements [sinks.Confirmer].
func (s *Sink) Confirm(ctx context.Context, clerkID string, _ []byte) (bool, error) {
	if s.db == nil {
		return false, errNotOpen
	}
	rows, err := s.list(ctx, "SELECT id FROM "+s.users+" WHERE id = ?", clerkID)
	if err != nil {
		return false, classify("confirm an erasure", err)
	}
	return len(rows) == 0, nil
}

// list returns the first column of a query's rows.
func (s *Sink) list(ctx context.Context, query string, args ...any) ([]string, error) {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var item string
		if err := rows.Scan(&item); err != nil {
			return nil, err
		}
		list = append(list, item)
	}
	return list, rows.Err()
}
