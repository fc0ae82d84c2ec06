package audit

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"slices"
	"strings"

	"clerkconnect/schemas"
)

// dialect is what the databases that speak SQL do not have in common.
type dialect struct {
	// open makes the connections, of which the pool needs at least one.
	open func(cfg Config) (*sql.DB, error)
	// prepare, if set, stands before open where tables may be created.
	prepare func(cfg Config) error
	// begin is what each transaction begins with, "" for nothing.
	begin string
	// placeholder returns that of the i-th argument, from 1.
	placeholder func(i int) string
	quote       func(name string) string
	// time returns a moment as the driver takes it.
	time func(millis int64) driver.Value
	// steps are the statements that create and protect the tables, each
	// harmless where that is done.
	steps func(n names) []string
	// protected returns "", or what the database does not refuse.
	protected func(ctx context.Context, db *sql.DB, n names) (string, error)
	// erased, if set, is run after client data were removed.
	erased string
	// lock, if set, lets two processes create tables one after the other: a
	// statement with the name of the log as its argument.
	lock     string
	classify func(operation string, err error) error
}

// names are those of the tables, as the settings have them and quoted.
type names struct {
	cfg         Config
	log, client string
}

// sqlStore is a log in a database that speaks SQL.
type sqlStore struct {
	dialect
	cfg   Config
	names names
	db    *sql.DB // nil: not connected
}

func newSQLStore(cfg Config, d dialect) *sqlStore {
	n := names{cfg: cfg, log: d.quote(cfg.Table), client: d.quote(cfg.Table + clientSuffix)}
	if cfg.Schema != "" {
		n.log, n.client = d.quote(cfg.Schema)+"."+n.log, d.quote(cfg.Schema)+"."+n.client
	}
	return &sqlStore{dialect: d, cfg: cfg, names: n}
}

func (s *sqlStore) connect(ctx context.Context, creating bool) (err error) {
	if creating && s.prepare != nil {
		if err := s.prepare(s.cfg); err != nil {
			return err
		}
	}
	if s.db, err = s.open(s.cfg); err != nil {
		return err
	}
	return s.db.PingContext(ctx)
}

func (s *sqlStore) close() error {
	if s.db == nil {
		return nil
	}
	return s.db.Close()
}

func (s *sqlStore) classify(operation string, err error) error {
	return classify(operation, err, s.dialect.classify)
}

func (s *sqlStore) create(ctx context.Context) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it has nothing to do
	if s.lock != "" {
		if _, err := tx.ExecContext(ctx, s.lock, s.names.log); err != nil {
			return err
		}
	}
	for _, step := range s.steps(s.names) {
		if _, err := tx.ExecContext(ctx, step); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func (s *sqlStore) script() string {
	return strings.Join(s.steps(s.names), ";\n\n") + ";\n"
}

// ready prepares Apply's statements, which finds missing tables, columns and
// rights, and looks for what protects the log.
func (s *sqlStore) ready(ctx context.Context) error {
	samples := []string{
		s.insertLog(1), s.insertClient(1), s.knownQuery(1), s.erasuresQuery(1), s.latestQuery(1), s.rowsQuery(), s.usersQuery(), s.forgetQuery(),
	}
	tx, err := s.db.BeginTx(ctx, nil) // one connection, also behind a pooler
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // nothing was done
	for _, text := range samples {
		prepared, err := tx.PrepareContext(ctx, text)
		if err != nil {
			return err
		}
		if err := prepared.Close(); err != nil {
			return err
		}
	}
	if err := tx.Rollback(); err != nil {
		return err
	}
	open, err := s.protected(ctx, s.db, s.names)
	if err == nil && open != "" {
		err = errUnprotected(s.names.log, open)
	}
	return err
}

func (s *sqlStore) within(ctx context.Context, work func(context.Context, session) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it has nothing to do
	if s.begin != "" {
		if _, err := tx.ExecContext(ctx, s.begin); err != nil {
			return err
		}
	}
	log := &sqlSession{sqlStore: s, tx: tx}
	if err := work(ctx, log); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if log.forgot && s.erased != "" {
		_, err = s.db.ExecContext(ctx, s.erased)
	}
	return err
}

// sqlSession is one transaction.
type sqlSession struct {
	*sqlStore
	tx     *sql.Tx
	forgot bool
}

// queryer is a pool or a transaction.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// each calls scan for each row of a query.
func each(ctx context.Context, db queryer, query string, args []any, scan func(*sql.Rows) error) error {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// manyChains bounds how many parts a statement has: SQLite takes 500.
const manyChains = 100

func (s *sqlStore) heads(ctx context.Context, chains []string) (map[string]Head, error) {
	return s.headsIn(ctx, s.db, chains)
}

func (s *sqlSession) heads(ctx context.Context, chains []string) (map[string]Head, error) {
	return s.headsIn(ctx, s.tx, chains)
}

func (s *sqlStore) headsIn(ctx context.Context, db queryer, chains []string) (map[string]Head, error) {
	heads := map[string]Head{}
	for some := range slices.Chunk(chains, manyChains) {
		parts := make([]string, len(some))
		for i := range some {
			parts[i] = fmt.Sprintf("SELECT * FROM (SELECT chain, seq, hash FROM %s WHERE chain = %s ORDER BY seq DESC LIMIT 1) AS c%d",
				s.names.log, s.placeholder(i+1), i)
		}
		err := each(ctx, db, strings.Join(parts, " UNION ALL "), anys(some), func(rows *sql.Rows) error {
			var head Head
			err := rows.Scan(&head.Chain, &head.Seq, &head.Hash)
			heads[head.Chain] = head
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return heads, nil
}

// in returns a list of n placeholders, the first of which is that of argument
// from.
func (s *sqlStore) in(from, n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = s.placeholder(from + i)
	}
	return "(" + strings.Join(list, ", ") + ")"
}

// manyKeys bounds the arguments of one statement.
const manyKeys = 500

func (s *sqlStore) knownQuery(n int) string {
	return "SELECT entry FROM " + s.names.log + " WHERE entry IN " + s.in(1, n)
}

func (s *sqlSession) known(ctx context.Context, entries []string) (map[string]bool, error) {
	known := map[string]bool{}
	for some := range slices.Chunk(entries, manyKeys) {
		err := each(ctx, s.tx, s.knownQuery(len(some)), anys(some), func(rows *sql.Rows) error {
			var entry string
			err := rows.Scan(&entry)
			known[entry] = true
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return known, nil
}

func (s *sqlStore) erasuresQuery(n int) string { return s.versionsQuery(erasures, n) }
func (s *sqlStore) latestQuery(n int) string   { return s.versionsQuery(changes, n) }

func (s *sqlStore) versionsQuery(actions []string, n int) string {
	return "SELECT clerk_id, action, epoch, max(version) FROM " + s.names.log + " WHERE clerk_id IN " + s.in(1, n) +
		" AND action IN ('" + strings.Join(actions, "', '") + "') GROUP BY clerk_id, action, epoch"
}

func (s *sqlSession) erasures(ctx context.Context, ids []string) (map[string]schemas.Version, error) {
	return s.versions(ctx, s.erasuresQuery, ids)
}

func (s *sqlSession) latest(ctx context.Context, ids []string) (map[string]schemas.Version, error) {
	return s.versions(ctx, s.latestQuery, ids)
}

func (s *sqlSession) versions(ctx context.Context, query func(n int) string, ids []string) (map[string]schemas.Version, error) {
	highest := map[string]schemas.Version{}
	for some := range slices.Chunk(ids, manyKeys) {
		err := each(ctx, s.tx, query(len(some)), anys(some), func(rows *sql.Rows) error {
			var row Row
			err := rows.Scan(&row.ClerkID, &row.Action, &row.Epoch, &row.Version)
			if before, ok := highest[row.ClerkID]; !ok || row.rank().Compare(before) > 0 {
				highest[row.ClerkID] = row.rank()
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return highest, nil
}

// manyRows is how many rows one statement inserts: 24 arguments each, of which
// SQLite takes 32,766 and PostgreSQL 65,535.
const manyRows = 100

func (s *sqlStore) insertLog(n int) string { return s.insertInto(s.names.log, columnNames(), n) }

var clientColumns = []string{"client_hash", "entry", "clerk_id", "epoch", "version", "salt", "client_ip", "user_agent"}

func (s *sqlStore) insertClient(n int) string { return s.insertInto(s.names.client, clientColumns, n) }

func (s *sqlStore) insertInto(table string, names []string, n int) string {
	tuples := make([]string, n)
	for i := range tuples {
		tuples[i] = s.in(1+i*len(names), len(names))
	}
	return "INSERT INTO " + table + " (" + strings.Join(names, ", ") + ") VALUES " + strings.Join(tuples, ", ")
}

func (s *sqlSession) insert(ctx context.Context, rows []Row, clients []*client) error {
	for some := range slices.Chunk(rows, manyRows) {
		args := make([]any, 0, len(some)*len(columns))
		for i := range some {
			for _, c := range columns {
				args = append(args, s.argument(c, &some[i]))
			}
		}
		if _, err := s.tx.ExecContext(ctx, s.insertLog(len(some)), args...); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(clients, manyRows) {
		var args []any
		for _, c := range some {
			args = append(args, c.hash, c.entry, c.clerkID, c.epoch, c.version, c.salt, c.ip, c.userAgent)
		}
		if _, err := s.tx.ExecContext(ctx, s.insertClient(len(some)), args...); err != nil {
			return err
		}
	}
	return nil
}

// argument is a column of a row as the driver takes it.
func (s *sqlStore) argument(c column, row *Row) any {
	switch v := c.field(row).(type) {
	case *int64:
		if c.kind == moment {
			return s.time(*v)
		}
		return *v
	case **int64:
		if *v != nil && c.kind == moment {
			return s.time(**v)
		}
		return *v
	case *string:
		return *v
	case **string:
		return *v
	}
	return nil // there is no other type
}

func (s *sqlStore) forgetQuery() string {
	return fmt.Sprintf("DELETE FROM %s WHERE clerk_id = %s AND (epoch < %s OR epoch = %s AND version <= %s)",
		s.names.client, s.placeholder(1), s.placeholder(2), s.placeholder(3), s.placeholder(4))
}

func (s *sqlSession) forget(ctx context.Context, erased []bound) error {
	for _, b := range erased {
		result, err := s.tx.ExecContext(ctx, s.forgetQuery(), b.clerkID, b.upTo.Epoch, b.upTo.Epoch, b.upTo.Number)
		if err != nil {
			return err
		}
		removed, err := result.RowsAffected()
		if err != nil {
			return err
		}
		s.forgot = s.forgot || removed > 0
	}
	return nil
}

func anys[T any](list []T) []any {
	args := make([]any, len(list))
	for i, v := range list {
		args[i] = v
	}
	return args
}
