package mysql

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

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

const (
	dialTimeout   = 10 * time.Second
	answerTimeout = 30 * time.Second // beyond what a statement may wait for locks
)

// Sink writes users to a table of MySQL or MariaDB. Safe for concurrent use.
type Sink struct {
	cfg  Config
	plan usertable.Plan

	mu sync.Mutex
	db *database // nil: not open
}

// database is an open connection, and what was found there.
type database struct {
	pool       *sql.DB
	plan       usertable.Plan
	users      table
	references []reference // of the configuration
	statements statements
	packet     int // bytes of the longest statement that the server takes
}

// New returns a sink for cfg, or what is wrong with cfg. It does no I/O. A
// setting that is zero has its default, but for CreateTable.
func New(cfg Config) (*Sink, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	plan, err := usertable.NewPlan(cfg.Config)
	return &Sink{cfg: cfg, plan: plan}, err
}

// Capabilities implements [sinks.Sink].
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{Kind: "mysql", MaxBatch: maxBatch, MaxInFlight: s.cfg.MaxConnections}
}

// Open implements [sinks.Sink]. It creates the tables if it may, names all that
// is wrong with those that are there, and prepares Apply's statements, which
// finds missing rights before they cost a retry.
func (s *Sink) Open(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil {
		return nil
	}
	db, err := s.connect()
	if err != nil {
		return err
	}
	if s.cfg.CreateTable {
		err = db.create(ctx, false)
	}
	if err == nil {
		err = db.ready(ctx)
	}
	if err != nil {
		return errors.Join(err, db.pool.Close())
	}
	s.db = db
	return nil
}

// connect returns a pool, which has no connection yet.
func (s *Sink) connect() (*database, error) {
	wrong := sinks.Fatal(sinks.ReasonMisconfigured, errors.New("DSN is no connection string"))
	cfg, err := s.cfg.connection()
	if err != nil {
		return nil, wrong
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, wrong
	}
	pool := sql.OpenDB(connector)
	pool.SetMaxOpenConns(s.cfg.MaxConnections)
	pool.SetMaxIdleConns(s.cfg.MaxConnections)
	pool.SetConnMaxIdleTime(s.cfg.LockTimeout / 2) // before the server hangs up
	return &database{pool: pool, plan: s.plan.Clone()}, nil
}

// ready reads what is there, and makes the statements for it.
func (d *database) ready(ctx context.Context) error {
	if err := d.pool.QueryRowContext(ctx, "SELECT @@max_allowed_packet").Scan(&d.packet); err != nil {
		return classify("connect", 0, err)
	}
	if err := d.inspect(ctx); err != nil {
		return err
	}
	d.statements = newStatements(d.plan, d.users)
	samples := d.statements.samples(d.plan.Deletion)
	anonymous := d.plan.Deletion == usertable.DeletionAnonymize
	if d.plan.Deletion == usertable.DeletionAuto {
		keys, err := foreignKeys(ctx, d.pool, d.plan.Table)
		if err != nil {
			return classify("read the foreign keys", 0, err)
		}
		for _, r := range append(keys, d.references...) {
			anonymous = true
			samples = append(samples, d.referring(r).text(1))
		}
	}
	if anonymous {
		if err := d.checkAnonymous(); err != nil {
			return err
		}
	}
	for _, text := range samples {
		prepared, err := d.pool.PrepareContext(ctx, text)
		if err == nil {
			err = prepared.Close()
		}
		if err != nil {
			return classify("prepare", 0, err)
		}
	}
	return nil
}

// refresh reads again what is there, and returns db with that.
func (s *Sink) refresh(ctx context.Context, db *database) (*database, error) {
	fresh := &database{pool: db.pool, plan: s.plan.Clone()}
	if err := fresh.ready(ctx); err != nil {
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
	db := s.db
	s.db = nil
	if db == nil {
		return nil
	}
	if err := db.pool.Close(); err != nil {
		return classify("close", 0, err)
	}
	return nil
}

// opened returns the database, or an error if the sink is not open.
func (s *Sink) opened() (*database, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil, errNotOpen
	}
	return s.db, nil
}

// read returns the first column of a query's rows.
func (d *database) read(ctx context.Context, operation, query string, args ...any) ([]string, error) {
	rows, err := d.pool.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, classify(operation, 0, err)
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var item string
		if err := rows.Scan(&item); err != nil {
			return nil, classify(operation, 0, err)
		}
		list = append(list, item)
	}
	if err := rows.Err(); err != nil {
		return nil, classify(operation, 0, err)
	}
	return list, nil
}
