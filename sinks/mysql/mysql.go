package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

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

const (
	dialTimeout   = 10 * time.Second
	answerTimeout = 30 * time.Second // beyond what a statement may wait for locks
)

// keyType holds any Clerk ID and compares bytes: to most collations user_a and
// user_A are the same.
const keyType = "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY"

var types = map[usertable.Kind]string{
	usertable.Text: "LONGTEXT", usertable.JSON: "LONGTEXT COLLATE utf8mb4_bin", usertable.Bool: "BOOLEAN",
	usertable.Integer: "BIGINT", usertable.Time: "DATETIME(3)",
}

// Sink writes users to a table of MySQL or MariaDB. Safe for concurrent use.
type Sink struct {
	cfg             Config
	columns         []usertable.Column
	users, versions string // unquoted names
	statements      statements

	mu     sync.Mutex
	db     *sql.DB // nil: not open
	packet int     // bytes of the longest statement that the server takes
}

// New returns a sink for cfg, or what is wrong with cfg. It does no I/O. A
// setting that is zero has its default, but for CreateTable.
func New(cfg Config) (*Sink, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Sink{
		cfg:      cfg,
		columns:  usertable.Columns(),
		users:    cfg.Table,
		versions: usertable.VersionsTable(cfg.Table),
	}
	s.statements = newStatements(quote(s.users), quote(s.versions), s.columns)
	return s, nil
}

// Capabilities implements [sinks.Sink].
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{Kind: "mysql", MaxBatch: maxBatch, MaxInFlight: s.cfg.MaxConnections}
}

// Open implements [sinks.Sink]. It creates the tables if it may, names what is
// wrong with those that are there, and prepares Apply's statements, which
// finds missing rights before they cost a retry.
func (s *Sink) Open(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil {
		return nil
	}
	cfg, err := s.cfg.connection()
	if err != nil {
		return sinks.Fatal(sinks.ReasonMisconfigured, errors.New("DSN is no connection string"))
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return sinks.Fatal(sinks.ReasonMisconfigured, errors.New("DSN is no connection string"))
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(s.cfg.MaxConnections)
	db.SetMaxIdleConns(s.cfg.MaxConnections)
	db.SetConnMaxIdleTime(s.cfg.LockTimeout / 2) // before the server hangs up
	packet, err := s.prepareTables(ctx, db)
	if err != nil {
		return errors.Join(err, db.Close())
	}
	s.db, s.packet = db, packet
	return nil
}

// prepareTables returns the longest statement that the server takes, in bytes.
func (s *Sink) prepareTables(ctx context.Context, db *sql.DB) (packet int, err error) {
	if err := db.QueryRowContext(ctx, "SELECT @@max_allowed_packet").Scan(&packet); err != nil {
		return 0, classify("connect", 0, err)
	}
	for table, ddl := range map[string]string{
		s.users:    s.createUsers(),
		s.versions: createVersions(s.versions),
	} {
		if err := s.checkTable(ctx, db, table, ddl); err != nil {
			return 0, err
		}
	}
	names, err := list(ctx, db, "SELECT column_name FROM information_schema.columns WHERE table_schema = database() AND table_name = ?", s.users)
	if err != nil {
		return 0, classify("read the table's columns", 0, err)
	}
	if missing := usertable.Missing(s.columns, names); len(missing) > 0 {
		return 0, sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("table %s lacks columns: %s", s.users, strings.Join(missing, ", ")))
	}
	for _, text := range s.statements.samples() {
		prepared, err := db.PrepareContext(ctx, text)
		if err != nil {
			return 0, classify("prepare", 0, err)
		}
		if err := prepared.Close(); err != nil {
			return 0, classify("prepare", 0, err)
		}
	}
	return packet, nil
}

// checkTable creates a table if it is not there, and returns what keeps the
// sink from working with it. CREATE TABLE IF NOT EXISTS needs the right to
// create even where there is nothing to do, so it looks first.
func (s *Sink) checkTable(ctx context.Context, db *sql.DB, table, ddl string) error {
	misfit := func(problem string) error {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("table %s %s", table, problem))
	}
	engine := func() (engines []string, err error) {
		return list(ctx, db, "SELECT coalesce(engine, '') FROM information_schema.tables WHERE table_schema = database() AND table_name = ?", table)
	}
	engines, err := engine()
	if err == nil && len(engines) == 0 && s.cfg.CreateTable {
		if _, err := db.ExecContext(ctx, ddl); err != nil {
			return classify("create table", 0, err)
		}
		engines, err = engine()
	}
	switch {
	case err != nil:
		return classify("read the table's engine", 0, err)
	case len(engines) == 0:
		return misfit("is not there")
	case engines[0] != "InnoDB":
		return misfit("is not of the engine InnoDB: without transactions, deleted users could come back")
	}
	keys, err := list(ctx, db, "SELECT concat(column_name, coalesce(sub_part, '')) FROM information_schema.statistics WHERE table_schema = database() AND table_name = ? AND index_name = 'PRIMARY'", table)
	if err != nil {
		return classify("read the table's key", 0, err)
	}
	// Or ON DUPLICATE KEY could first meet another unique key, and write into
	// another user's row.
	if len(keys) != 1 || keys[0] != usertable.KeyColumn {
		return misfit("needs id, and nothing else, as its primary key")
	}
	binary, err := list(ctx, db, "SELECT coalesce(collation_name, 'binary') FROM information_schema.columns WHERE table_schema = database() AND table_name = ? AND column_name = 'id'", table)
	if err != nil {
		return classify("read the table's collation", 0, err)
	}
	if len(binary) != 1 || binary[0] != "binary" && !strings.HasSuffix(binary[0], "_bin") {
		return misfit("has ids that do not compare byte for byte: declare id with COLLATE utf8mb4_bin")
	}
	return nil
}

func (s *Sink) createUsers() string {
	var ddl strings.Builder
	ddl.WriteString("CREATE TABLE IF NOT EXISTS " + quote(s.users) + " (id " + keyType)
	for _, c := range s.columns {
		ddl.WriteString(",\n  " + quote(c.Name) + " " + types[c.Kind])
	}
	ddl.WriteString(") ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4")
	return ddl.String()
}

func createVersions(table string) string {
	return "CREATE TABLE IF NOT EXISTS " + quote(table) + " (id " + keyType +
		", epoch INT NOT NULL, version BIGINT NOT NULL, deleted BOOLEAN NOT NULL) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4"
}

// Close implements [sinks.Sink].
func (s *Sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil
	}
	err := s.db.Close()
	s.db = nil
	if err != nil {
		return classify("close", 0, err)
	}
	return nil
}

// opened returns the pool and the longest statement, or an error if the sink is
// not open.
func (s *Sink) opened() (*sql.DB, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil, 0, errNotOpen
	}
	return s.db, s.packet, nil
}

// Keys implements [sinks.Lister].
func (s *Sink) Keys(ctx context.Context, after string, limit int) ([]string, error) {
	return s.read(ctx, "list keys", "SELECT id FROM "+quote(s.users)+" WHERE id > ? ORDER BY id LIMIT ?", after, limit)
}

// Confirm implements [sinks.Confirmer].
func (s *Sink) Confirm(ctx context.Context, clerkID string, _ []byte) (bool, error) {
	rows, err := s.read(ctx, "confirm an erasure", "SELECT id FROM "+quote(s.users)+" WHERE id = ?", clerkID)
	return err == nil && len(rows) == 0, err
}

func (s *Sink) read(ctx context.Context, operation, query string, args ...any) ([]string, error) {
	db, _, err := s.opened()
	if err != nil {
		return nil, err
	}
	rows, err := list(ctx, db, query, args...)
	if err != nil {
		return nil, classify(operation, 0, err)
	}
	return rows, nil
}

// list returns the first column of a query's rows.
func list(ctx context.Context, db interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}, query string, args ...any) ([]string, error) {
	rows, err := db.QueryContext(ctx, query, args...)
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

// quote returns name as an identifier, whatever the sql_mode.
func quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }
