package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

var (
	_ sinks.Sink        = (*Sink)(nil)
	_ sinks.Lister      = (*Sink)(nil)
	_ sinks.Confirmer   = (*Sink)(nil)
	_ sinks.Initializer = (*Sink)(nil)
)

// maxBatch is where rows per second stop rising on a server nearby (see the
// benchmark).
const maxBatch = 500

// Sink writes users to a table of PostgreSQL. Safe for concurrent use.
type Sink struct {
	cfg   Config
	plan  usertable.Plan
	names names
	hooks *hooks

	mu sync.Mutex
	db *database // nil: not open
}

// database is an open connection pool, and what was found in the catalogue.
type database struct {
	layout
	statements
	contested []contested
	cfg       Config
	pool      *pgxpool.Pool
	hooks     *hooks
}

// hooks, for tests, are called while a transaction settles unique keys: after
// its erasures, and when it has looked for the holders of a key.
type hooks struct{ between, looked func() }

// New returns a sink for cfg, or what is wrong with cfg. It does no I/O. A
// setting that is zero has its default, but for CreateTable.
func New(cfg Config) (*Sink, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	plan, err := usertable.NewPlan(cfg.Config)
	if err != nil {
		return nil, err
	}
	s := &Sink{cfg: cfg, plan: plan, hooks: &hooks{func() {}, func() {}}}
	s.names = names{schema: cfg.Schema, users: s.qualify(cfg.Table), versions: s.qualify(plan.Versions)}
	return s, nil
}

// qualify returns the quoted name of something in the schema.
func (s *Sink) qualify(name string) string {
	return usertable.Quote(s.cfg.Schema) + "." + usertable.Quote(name)
}

// Capabilities implements [sinks.Sink].
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{Kind: "postgres", MaxBatch: maxBatch, MaxInFlight: s.cfg.MaxConnections}
}

// Open implements [sinks.Sink]. It creates the tables if it may, reads the
// catalogue for what a person must mend, and runs Apply's statements without a
// record, which finds the rest before it costs a retry.
func (s *Sink) Open(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil {
		return nil
	}
	pool, err := s.connect(ctx)
	if err != nil {
		return err
	}
	db, err := s.ready(ctx, pool)
	if err != nil {
		pool.Close()
		return err
	}
	s.db = db
	return nil
}

// connect returns a pool. If a pooler stands before the server, which shows by
// a process id that is not the server's, statements are not prepared by name:
// PgBouncer before 1.21 gives each transaction another connection of its own
// and forgets them.
func (s *Sink) connect(ctx context.Context) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(s.cfg.DSN)
	if err != nil {
		return nil, sinks.Fatal(sinks.ReasonMisconfigured, errors.New("DSN is no connection string"))
	}
	cfg.MaxConns = int32(s.cfg.MaxConnections) //nolint:gosec // Validate bounds it
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "clerk-connect"
	}
	pooled, err := behindPooler(ctx, cfg.ConnConfig)
	if err != nil {
		operation := "connect"
		if onlyTLS(cfg.ConnConfig) {
			operation = "connect by TLS, as sslmode in DSN asks" // the driver has no code for a server that has none
		}
		return nil, classify(operation, 0, err)
	}
	if pooled && !strings.Contains(s.cfg.DSN, "default_query_exec_mode") {
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, classify("connect", 0, err)
	}
	return pool, nil
}

// onlyTLS reports whether no connection may be made without TLS, which sslmode
// without a value in DSN (prefer) allows.
func onlyTLS(cfg *pgx.ConnConfig) bool {
	return cfg.TLSConfig != nil && !slices.ContainsFunc(cfg.Fallbacks, func(f *pgconn.FallbackConfig) bool { return f.TLSConfig == nil })
}

func behindPooler(ctx context.Context, cfg *pgx.ConnConfig) (pooled bool, err error) {
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return false, err
	}
	var pid uint32
	err = conn.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeSimpleProtocol).Scan(&pid)
	return pid != conn.PgConn().PID(), errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}

// ready creates what may be created and returns the database if it can be
// written to.
func (s *Sink) ready(ctx context.Context, pool *pgxpool.Pool) (*database, error) {
	if s.cfg.CreateTable {
		if err := s.create(ctx, pool, false); err != nil {
			return nil, err
		}
	}
	db, err := s.inspect(ctx, pool)
	if err != nil {
		return nil, err
	}
	if err := db.rehearse(ctx); err != nil {
		return nil, classify("rehearse a batch", 0, err)
	}
	return db, nil
}

// inspect reads the catalogue.
func (s *Sink) inspect(ctx context.Context, pool *pgxpool.Pool) (*database, error) {
	var users, versions table
	var forbidden []string
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) (err error) {
		if users, err = readTable(ctx, tx, s.cfg.Schema, s.cfg.Table); err != nil {
			return err
		}
		if versions, err = readTable(ctx, tx, s.cfg.Schema, s.plan.Versions); err != nil {
			return err
		}
		forbidden, err = s.forbidden(ctx, tx, users, versions)
		return err
	})
	if err != nil {
		return nil, classify("read the catalogue", 0, err)
	}
	var problems []string
	for _, t := range []struct {
		table
		name string
	}{{users, s.names.users}, {versions, s.names.versions}} {
		if t.OID == 0 {
			problems = append(problems, s.absent(t.name))
		}
	}
	if users.OID != 0 {
		for _, problem := range users.problems(s.plan, s.names.users) {
			problems = append(problems, "table "+s.names.users+" "+problem)
		}
	}
	if all := append(problems, forbidden...); len(all) > 0 {
		reason := sinks.ReasonMisconfigured
		if len(problems) == 0 {
			reason = sinks.ReasonUnauthorized
		}
		return nil, sinks.Fatal(reason, errors.New(strings.Join(all, "; ")))
	}
	l := newLayout(s.names, s.plan, users)
	return &database{layout: l, statements: l.statements(), contested: l.contestedKeys(), cfg: s.cfg, pool: pool, hooks: s.hooks}, nil
}

// absent says what to do about a table that is not there.
func (s *Sink) absent(name string) string {
	advice := "create it, by sink init for one, or grant USAGE on the schema"
	if schema, table, dotted := strings.Cut(s.cfg.Table, "."); dotted {
		advice = fmt.Sprintf("for table %s of schema %s set SCHEMA=%s and TABLE=%s", table, schema, schema, table)
	}
	return "there is no table " + name + ", or its schema is closed to the role: " + advice
}

// forbidden returns what the role lacks the right to.
func (s *Sink) forbidden(ctx context.Context, tx pgx.Tx, users, versions table) (problems []string, err error) {
	need := func(name string, oid uint32, right string, columns []string) {
		var may bool
		if err != nil || oid == 0 {
			return
		}
		query, args := "SELECT has_table_privilege($1::oid, $2)", []any{oid, right}
		if columns != nil {
			query = "SELECT coalesce(bool_and(has_column_privilege(attrelid, attnum, $2)), true) FROM pg_attribute WHERE attrelid = $1::oid AND attname = ANY($3::text[])"
			args = append(args, columns)
		}
		if err = tx.QueryRow(ctx, query, args...).Scan(&may); err == nil && !may {
			problems = append(problems, "the role may not "+right+" in "+name+": GRANT "+right+" ON "+name)
		}
	}
	need(s.names.users, users.OID, "SELECT", nil)
	need(s.names.users, users.OID, "INSERT", s.plan.Names())
	need(s.names.users, users.OID, "UPDATE", s.plan.Updated())
	if s.plan.Deletion == usertable.DeletionHard || s.plan.Deletion == usertable.DeletionAuto {
		need(s.names.users, users.OID, "DELETE", nil)
	}
	for _, right := range []string{"SELECT", "INSERT", "UPDATE"} {
		need(s.names.versions, versions.OID, right, nil)
	}
	return problems, err
}

// rehearse runs Apply's statements on no record.
func (d *database) rehearse(ctx context.Context) error {
	if err := d.checkReferences(ctx); err != nil {
		return err
	}
	for _, c := range d.contested {
		if _, err := d.pool.Exec(ctx, c.find, d.values(nil, nil)...); err != nil {
			return fmt.Errorf("look who holds values of %s: %w", c.name, err)
		}
	}
	if err := d.checkAnonymous(ctx); err != nil {
		return err
	}
	if _, err := d.pool.Exec(ctx, d.superseded, []string{}); err != nil {
		return err
	}
	_, err := d.pipeline(ctx, nil)
	return err
}

// checkReferences returns an error if something that may refer to users cannot
// be read.
func (d *database) checkReferences(ctx context.Context) error {
	for _, r := range d.references {
		_, err := d.pool.Exec(ctx, "SELECT FROM "+d.users+" AS u WHERE false AND "+d.refers(r, "u"))
		if err != nil {
			return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("%s.%s, which may refer to users, cannot be read: %w; grant SELECT, or mend REFERENCES",
				strings.Join(r.Table, "."), strings.Join(r.Columns, ","), classify("look", 0, err)))
		}
	}
	return nil
}

// checkAnonymous returns an error if a column cannot hold what is left of an
// erased user: an enum, for one, that must have a value.
func (d *database) checkAnonymous(ctx context.Context) error {
	if d.keep == "" || d.plan.Deletion == usertable.DeletionSoft {
		return nil
	}
	sample := sinks.Record{ClerkID: usertable.SampleID}
	for _, t := range d.columns {
		value := t.anonymous(sample.ClerkID, usertable.DeletedAt(sample))
		if !t.holds(value) {
			return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("column %s is too short for what is left of an erased user, at %d characters: make it text", t.Column.Name, t.room()))
		}
		expression, _ := t.convert("$1::" + strings.TrimSuffix(arrayTypes[t.Kind()], "[]"))
		if _, err := d.pool.Exec(ctx, "SELECT "+expression, value); err != nil {
			if marked := sinks.Classify(classify("anonymise", 1, err)); marked.Class != sinks.ClassPermanent {
				return &marked
			}
			return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("column %s, of type %s, cannot hold what is left of an erased user: give it a last alternative, as %s = %s ?? '...', or a default",
				t.Column.Name, t.Type, t.Column.Name, t.Expression))
		}
	}
	return nil
}

// refresh reads the catalogue again and returns db with what is there now.
func (s *Sink) refresh(ctx context.Context, db *database) (*database, error) {
	fresh, err := s.inspect(ctx, db.pool)
	if err == nil {
		err = fresh.checkReferences(ctx)
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == db {
		s.db = fresh
	}
	return fresh, nil
}

// Close implements [sinks.Sink].
func (s *Sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil {
		s.db.pool.Close()
		s.db = nil
	}
	return nil
}

// opened returns the database, or an error if the sink is not open.
func (s *Sink) opened() (*database, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil, sinks.RetryAfter(sinks.ReasonUnavailable, 0, errors.New("the sink is not open"))
	}
	return s.db, nil
}

// Keys implements [sinks.Lister]. Users whose row an erasure has left are not
// listed.
func (s *Sink) Keys(ctx context.Context, after string, limit int) ([]string, error) {
	db, err := s.opened()
	if err != nil {
		return nil, err
	}
	rows, err := db.pool.Query(ctx, db.keys, after, limit)
	if err != nil {
		return nil, classify("list keys", 0, err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, classify("list keys", 0, err)
	}
	return keys, nil
}

// Confirm implements [sinks.Confirmer].
func (s *Sink) Confirm(ctx context.Context, clerkID string, _ []byte) (bool, error) {
	db, err := s.opened()
	if err != nil {
		return false, err
	}
	args := []any{[]string{clerkID}}
	if db.deletedAt != "" {
		args = db.remains([]sinks.Record{{ClerkID: clerkID}})
	}
	rows, err := db.pool.Query(ctx, db.confirm, args...)
	if err != nil {
		return false, classify("confirm an erasure", 0, err)
	}
	gone, err := pgx.CollectRows(rows, pgx.RowTo[bool])
	if err != nil {
		return false, classify("confirm an erasure", 0, err)
	}
	if len(gone) == 0 || gone[0] {
		return true, nil
	}
	return false, db.kept(ctx, clerkID)
}

// kept returns why the row of a user who was erased is not as it was left, if
// that can be told.
func (d *database) kept(ctx context.Context, clerkID string) error {
	guards, err := d.heard(ctx, []string{clerkID})
	if err != nil || !guards[clerkID].Deleted {
		return err
	}
	triggers, err := d.triggers(ctx)
	if err != nil {
		return err
	}
	return usertable.Kept(d.users, triggers)
}

// triggers names the triggers of the users table that are not switched off.
func (d *database) triggers(ctx context.Context) ([]string, error) {
	rows, err := d.pool.Query(ctx, triggersQuery, d.table.OID)
	if err != nil {
		return nil, classify("read the triggers", 0, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, classify("read the triggers", 0, err)
	}
	return names, nil
}

// heard returns the guards of users, as they are now.
func (d *database) heard(ctx context.Context, ids []string) (map[string]sinks.Guard, error) {
	rows, err := d.pool.Query(ctx, d.superseded, ids)
	if err != nil {
		return nil, classify("look at the guards", 0, err)
	}
	guards, err := collectGuards(rows)
	if err != nil {
		return nil, classify("look at the guards", 0, err)
	}
	return guards, nil
}
