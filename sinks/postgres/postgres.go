package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

var (
	_ sinks.Sink      = (*Sink)(nil)
	_ sinks.Lister    = (*Sink)(nil)
	_ sinks.Confirmer = (*Sink)(nil)
)

// maxBatch is where rows per second stop rising on a server nearby (see the
// benchmark).
const maxBatch = 500

// Sink writes users to a table of PostgreSQL. Safe for concurrent use.
type Sink struct {
	cfg             Config
	columns         []usertable.Column
	users, versions string // qualified and quoted names
	statements      statements

	mu   sync.Mutex
	pool *pgxpool.Pool // nil: not open
}

// New returns a sink for cfg, or what is wrong with cfg. It does no I/O. A
// setting that is zero has its default, but for CreateTable.
func New(cfg Config) (*Sink, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	schema := usertable.Quote(cfg.Schema) + "."
	s := &Sink{
		cfg:      cfg,
		columns:  usertable.Columns(),
		users:    schema + usertable.Quote(cfg.Table),
		versions: schema + usertable.Quote(usertable.VersionsTable(cfg.Table)),
	}
	s.statements = newStatements(s.users, s.versions, s.columns)
	return s, nil
}

// Capabilities implements [sinks.Sink].
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{Kind: "postgres", MaxBatch: maxBatch, MaxInFlight: s.cfg.MaxConnections}
}

// Open implements [sinks.Sink]. It creates the tables if it may, names columns
// that are missing, and runs Apply's statements without a record, which finds
// wrong types, a missing unique key and missing rights before they cost a
// retry.
func (s *Sink) Open(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool != nil {
		return nil
	}
	cfg, err := pgxpool.ParseConfig(s.cfg.DSN)
	if err != nil {
		return sinks.Fatal(sinks.ReasonMisconfigured, errors.New("DSN is no connection string"))
	}
	cfg.MaxConns = int32(s.cfg.MaxConnections)
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "clerk-connect"
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return classify("connect", 0, err)
	}
	if err := s.prepareTables(ctx, pool); err != nil {
		pool.Close()
		return err
	}
	s.pool = pool
	return nil
}

func (s *Sink) prepareTables(ctx context.Context, pool *pgxpool.Pool) error {
	if s.cfg.CreateTable {
		if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return s.createTables(ctx, tx) }); err != nil {
			return classify("create tables", 0, err)
		}
	}
	names, err := tableColumns(ctx, pool, s.users)
	if err != nil {
		return classify("read the table's columns", 0, err)
	}
	if len(names) == 0 {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("there is no table %s", s.users))
	}
	if missing := usertable.Missing(s.columns, names); len(missing) > 0 {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("table %s lacks columns: %s", s.users, strings.Join(missing, ", ")))
	}
	_, err = s.write(ctx, pool, arrange(nil, s.columns))
	return err
}

// createTables creates what is not there. PostgreSQL asks for the right to
// create even where IF NOT EXISTS has nothing to do, so look first; and two
// sinks that start together would trip over each other without the lock.
func (s *Sink) createTables(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext($1))", s.users); err != nil {
		return err
	}
	for table, ddl := range map[string]string{
		s.users: usertable.CreateTable(s.users, s.columns, types),
		s.versions: "CREATE TABLE IF NOT EXISTS " + s.versions +
			" (id text NOT NULL PRIMARY KEY, epoch integer NOT NULL, version bigint NOT NULL, deleted boolean NOT NULL)",
	} {
		names, err := tableColumns(ctx, tx, table)
		if err != nil {
			return err
		}
		if len(names) > 0 {
			continue
		}
		if _, err := tx.Exec(ctx, ddl); err != nil {
			return err
		}
	}
	return nil
}

// tableColumns returns the names of a table's columns, none if it is not there.
func tableColumns(ctx context.Context, db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, table string) ([]string, error) {
	rows, err := db.Query(ctx, "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped", table)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// Close implements [sinks.Sink].
func (s *Sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool != nil {
		s.pool.Close()
		s.pool = nil
	}
	return nil
}

// opened returns the pool, or an error if the sink is not open.
func (s *Sink) opened() (*pgxpool.Pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool == nil {
		return nil, sinks.RetryAfter(sinks.ReasonUnavailable, 0, errors.New("the sink is not open"))
	}
	return s.pool, nil
}

// Keys implements [sinks.Lister].
func (s *Sink) Keys(ctx context.Context, after string, limit int) ([]string, error) {
	keys, err := s.list(ctx, s.statements.keys, after, limit)
	if err != nil {
		return nil, classify("list keys", 0, err)
	}
	return keys, nil
}

// Confirm implements [sinks.Confirmer].
func (s *Sink) Confirm(ctx context.Context, clerkID string, _ []byte) (bool, error) {
	rows, err := s.list(ctx, s.statements.confirm, clerkID)
	if err != nil {
		return false, classify("confirm an erasure", 0, err)
	}
	return len(rows) == 0, nil
}

func (s *Sink) list(ctx context.Context, statement string, args ...any) ([]string, error) {
	pool, err := s.opened()
	if err != nil {
		return nil, err
	}
	rows, err := pool.Query(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
