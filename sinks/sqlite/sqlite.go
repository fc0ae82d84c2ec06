package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

var (
	_ sinks.Sink        = (*Sink)(nil)
	_ sinks.Lister      = (*Sink)(nil)
	_ sinks.Confirmer   = (*Sink)(nil)
	_ sinks.Initializer = (*Sink)(nil)
)

// Sink writes users to a table of an SQLite file. Safe for concurrent use
// between Open and Close.
type Sink struct {
	cfg             Config
	plan            usertable.Plan // Open says what is required
	users, versions string         // quoted names
	// between, for tests, is called after everything is written and before the
	// commit.
	between func()

	db         *sql.DB // nil: not open
	statements statements
	catalogue  catalogue // as of its version; whoever has the one connection may use it
}

// New returns a sink for cfg, or what is wrong with cfg. It does no I/O. A
// setting that is zero has its default, but for CreateTable and BusyTimeout.
func New(cfg Config) (*Sink, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	plan, err := usertable.NewPlan(cfg.Config)
	if err != nil {
		return nil, err
	}
	return &Sink{
		cfg: cfg, plan: plan, users: usertable.Quote(plan.Table), versions: usertable.Quote(plan.Versions), between: func() {},
	}, nil
}

// Capabilities implements [sinks.Sink]. SQLite has one writer at a time. A
// larger batch than 500 is hardly faster (see the benchmark) and keeps other
// writers waiting.
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{Kind: "sqlite", MaxBatch: 500, MaxInFlight: 1}
}

// Open implements [sinks.Sink]. It creates what may be created and is not
// there, names all that is wrong with what is, and prepares every statement.
func (s *Sink) Open(ctx context.Context) error {
	if s.db != nil {
		return nil
	}
	db, err := s.connect()
	if err != nil {
		return err
	}
	if err := s.prepare(ctx, db); err != nil {
		return errors.Join(err, closeDB(db))
	}
	s.db = db
	return nil
}

// connect opens the file, and creates it if it is not there.
func (s *Sink) connect() (*sql.DB, error) {
	fresh, err := createFile(s.cfg.Path)
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", s.dsn(fresh))
	if err != nil {
		return nil, classify("open", err)
	}
	// One connection: SQLite would make a second writer wait all the same.
	db.SetMaxOpenConns(1)
	return db, nil
}

// createFile makes the file before SQLite does, because SQLite would let
// everybody read it. Its write-ahead log inherits the mode. fresh tells that
// there is nothing in it.
func createFile(path string) (fresh bool, err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	switch {
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		return false, sinks.Fatal(sinks.ReasonUnauthorized, err)
	case errors.Is(err, os.ErrNotExist):
		return false, sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("%w: the folder must exist", err))
	case err != nil:
		return false, sinks.RetryAfter(sinks.ReasonUnavailable, 0, err)
	}
	info, err := file.Stat()
	if err == nil {
		fresh = info.Size() == 0
	}
	return fresh, file.Close()
}

// dsn leaves the journal mode of a file that is there as the application has
// chosen it: it is kept in the file.
func (s *Sink) dsn(fresh bool) string {
	path, err := filepath.Abs(s.cfg.Path)
	if err != nil {
		path = s.cfg.Path
	}
	pragmas := []string{
		fmt.Sprintf("busy_timeout(%d)", s.cfg.BusyTimeout.Milliseconds()),
		"synchronous(FULL)", "secure_delete(ON)", "foreign_keys(ON)",
	}
	if fresh {
		pragmas = append(pragmas, "journal_mode(WAL)")
	}
	query := url.Values{"_txlock": {"immediate"}, "_pragma": pragmas}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}).String()
}

// prepare creates the tables, checks them, and prepares the statements.
func (s *Sink) prepare(ctx context.Context, db *sql.DB) error {
	if s.cfg.CreateTable {
		if err := s.create(ctx, db); err != nil {
			return err
		}
	}
	table, err := readTable(ctx, db, s.plan.Table)
	if err != nil {
		return classify("read the table's columns", err)
	}
	if err := s.check(ctx, db, table); err != nil {
		return err
	}
	s.plan.Require(table.required)
	if s.statements, err = s.prepareStatements(ctx, db, table); err != nil {
		return classify("prepare", err)
	}
	return nil
}

// Close implements [sinks.Sink].
func (s *Sink) Close() error {
	if s.db == nil {
		return nil
	}
	err := closeDB(s.db) // closes the statements too
	s.db, s.catalogue = nil, catalogue{}
	return err
}

func closeDB(db *sql.DB) error {
	if err := db.Close(); err != nil {
		return classify("close", err)
	}
	return nil
}

// Keys implements [sinks.Lister]. Users whose row an erasure has left are not
// listed.
func (s *Sink) Keys(ctx context.Context, after string, limit int) ([]string, error) {
	if s.db == nil {
		return nil, errNotOpen
	}
	rows, err := s.statements.keys.QueryContext(ctx, after, limit)
	if err != nil {
		return nil, classify("list keys", err)
	}
	keys, err := scan(rows, func(key *string) []any { return []any{key} })
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
	args := []any{clerkID}
	if s.plan.Deletion == usertable.DeletionAnonymize || s.plan.Deletion == usertable.DeletionAuto {
		args = append(args, s.anonymous(clerkID)...)
	}
	var left int
	if err := s.statements.left.QueryRowContext(ctx, args...).Scan(&left); err != nil {
		return false, classify("confirm an erasure", err)
	}
	if left == 0 {
		return true, nil
	}
	return false, s.kept(ctx, clerkID)
}

// kept returns why the row of a user who was erased is not as it was left, if
// that can be told.
func (s *Sink) kept(ctx context.Context, clerkID string) error {
	erased, err := query(ctx, s.db, "SELECT 1 FROM "+s.versions+" WHERE id = ? AND deleted", func(one *int) []any { return []any{one} }, clerkID)
	if err != nil {
		return classify("look at the guard", err)
	}
	if len(erased) == 0 {
		return nil
	}
	triggers, err := s.triggers(ctx, s.db)
	if err != nil {
		return classify("read the triggers", err)
	}
	return usertable.Kept(s.plan.Table, triggers)
}

// triggers names the triggers of the users table.
func (s *Sink) triggers(ctx context.Context, q querier) ([]string, error) {
	return query(ctx, q, "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE ORDER BY name",
		func(name *string) []any { return []any{name} }, s.plan.Table)
}

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// query returns a query's rows; into says where the columns of one go.
func query[T any](ctx context.Context, q querier, text string, into func(*T) []any, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	return scan(rows, into)
}

func scan[T any](rows *sql.Rows, into func(*T) []any) ([]T, error) {
	defer rows.Close()
	var list []T
	for rows.Next() {
		var item T
		if err := rows.Scan(into(&item)...); err != nil {
			return nil, err
		}
		list = append(list, item)
	}
	return list, rows.Err()
}

// value is v as the table takes it.
func (s *Sink) value(v any) any {
	if t, ok := v.(time.Time); ok {
		return s.cfg.TimeFormat.value(t)
	}
	return v
}
