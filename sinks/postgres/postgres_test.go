package postgres_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/postgres"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
)

func TestSink(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{New: func(t testing.TB) sinktest.Destination { return newDestination(t, "", usertable.DeletionHard) }})
}

// server is a schema of the test's own.
type server struct {
	dsn, address, schema string
	pool                 *pgxpool.Pool // round the sink
	where                string        // what read shows, besides
}

func newServer(t testing.TB) server {
	t.Helper()
	s := server{dsn: sinktest.Server(t, "TEST_POSTGRES_DSN"), schema: "test_" + strings.ToLower(rand.Text()[:12])}
	cfg, err := pgxpool.ParseConfig(s.dsn)
	if err != nil {
		t.Fatal("TEST_POSTGRES_DSN is no connection string")
	}
	cfg.MaxConns = 1
	s.pool = newPool(t, cfg)
	s.address = net.JoinHostPort(cfg.ConnConfig.Host, fmt.Sprint(cfg.ConnConfig.Port))
	s.exec(t, "CREATE SCHEMA %")
	t.Cleanup(func() {
		s.exec(t, "DROP SCHEMA % CASCADE")
		s.pool.Close()
	})
	return s
}

func newPool(t testing.TB, cfg *pgxpool.Config) *pgxpool.Pool {
	t.Helper()
	cfg.ConnConfig.RuntimeParams["synchronous_commit"] = "off" // what tests make need not outlive the server
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

// through returns the connection string with another address, and an option.
func (s server) through(address, option string) string {
	host, port, _ := net.SplitHostPort(address)
	dsn, err := url.Parse(s.dsn)
	if err != nil || dsn.Host == "" { // keywords and values
		return s.dsn + " host=" + host + " port=" + port + " " + option
	}
	dsn.Host = address
	dsn.RawQuery += "&" + option
	return dsn.String()
}

// exec runs a statement in which % stands for the test's schema.
func (s server) exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	if _, err := s.pool.Exec(context.Background(), s.in(statement), args...); err != nil {
		t.Fatal(err)
	}
}

// begin begins a transaction, which has ended when t does: the pool has one
// connection, and what tidies up needs it.
func (s server) begin(t testing.TB) pgx.Tx {
	t.Helper()
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Rollback(context.Background()) })
	return tx
}

// awaitLock waits until somebody waits for a lock in the test's schema. It looks
// from a connection of its own: within a transaction the server shows its
// processes as they were at the first look.
func (s server) awaitLock(t testing.TB) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
		var waiting bool
		if err := conn.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND strpos(query, $1) > 0)", s.schema).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
		if waiting {
			return
		}
	}
	t.Fatal("nobody waits for a lock")
}

func (s server) in(statement string) string { return strings.ReplaceAll(statement, "%", s.schema) }

// text returns the one value of a query.
func (s server) text(t testing.TB, query string, args ...any) (text string) {
	t.Helper()
	if err := s.pool.QueryRow(context.Background(), s.in(query), args...).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

func (s server) config() postgres.Config {
	return postgres.Config{Config: usertable.Config{CreateTable: true}, DSN: s.through(s.address, "application_name="+s.schema), Schema: s.schema, MaxConnections: 2}
}

// dump returns every row of every table of the schema.
func (s server) dump(t testing.TB) []byte {
	t.Helper()
	tables, err := s.pool.Query(context.Background(), "SELECT tablename::text FROM pg_tables WHERE schemaname = $1", s.schema)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(tables, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range names {
		all.WriteString(s.text(t, "SELECT coalesce(string_agg(r::text, E'\n'), '') FROM %."+usertable.Quote(name)+" r"))
	}
	return []byte(all.String())
}

// read reads rows as the suite wants them.
func (s server) read(t testing.TB, ids ...string) map[string]sinktest.Row {
	t.Helper()
	columns, names := mapping.Fields(), []string{"id"}
	for _, c := range columns {
		name := c.Name
		if c.Kind == mapping.JSON {
			name += "::text"
		}
		names = append(names, name)
	}
	found, err := s.pool.Query(context.Background(), s.in("SELECT "+strings.Join(names, ", ")+" FROM %.clerk_users WHERE id = ANY($1)"+s.where), ids)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]sinktest.Row{}
	for found.Next() {
		values, err := found.Values()
		if err != nil {
			t.Fatal(err)
		}
		row := sinktest.Row{}
		for i, c := range columns {
			value := values[1+i]
			if value == nil {
				continue
			}
			if moment, ok := value.(time.Time); ok {
				value = moment.UnixMilli()
			}
			row[field(c)] = value
		}
		rows[values[0].(string)] = row
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return rows
}

// field is the name in user.avsc of what a column holds.
func field(c mapping.Field) string {
	if c.Name == "email" {
		return "primary_email_address"
	}
	return c.Name
}

func newSink(t testing.TB, cfg postgres.Config) *postgres.Sink {
	return sinktest.New(t, postgres.New, cfg)
}

// open returns an open sink, closed at the end of t.
func open(t testing.TB, cfg postgres.Config) *postgres.Sink {
	return sinktest.Open(t, postgres.New, cfg)
}
