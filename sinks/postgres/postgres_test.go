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

	"github.com/jackc/pgx/v5/pgxpool"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/postgres"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
)

func TestSink(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{New: func(t testing.TB) sinktest.Destination { return newDestination(t, "") }})
}

// TestSink_CacheDescribe runs the suite without named prepared statements, as
// behind an old PgBouncer.
func TestSink_CacheDescribe(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{New: func(t testing.TB) sinktest.Destination {
		return newDestination(t, "default_query_exec_mode=cache_describe")
	}})
}

// newDestination is a schema behind a proxy, whose users table refuses the
// locale "poison" with an error that quotes the whole row.
func newDestination(t testing.TB, option string) sinktest.Destination {
	s := newServer(t)
	proxy := sinktest.NewProxy(t, s.address)
	cfg := s.config()
	cfg.DSN = s.through(proxy.Address, option)
	open(t, cfg)
	s.exec(t, "ALTER TABLE %.clerk_users ADD CHECK (locale <> 'poison')")
	return sinktest.Destination{
		Sink:   func(t testing.TB) sinks.Sink { return newSink(t, cfg) },
		Read:   s.read,
		Dump:   s.dump,
		Break:  func(testing.TB) func() { return proxy.Cut() },
		Poison: func(u *schemas.User) { u.Locale = new("poison") },
	}
}

// server is a schema of the test's own.
type server struct {
	dsn, address, schema string
	pool                 *pgxpool.Pool // round the sink
}

func newServer(t testing.TB) server {
	t.Helper()
	s := server{dsn: sinktest.Server(t, "TEST_POSTGRES_DSN"), schema: "test_" + strings.ToLower(rand.Text()[:12])}
	cfg, err := pgxpool.ParseConfig(s.dsn)
	if err != nil {
		t.Fatal("TEST_POSTGRES_DSN is no connection string")
	}
	cfg.MaxConns = 1
	if s.pool, err = pgxpool.NewWithConfig(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	s.address = net.JoinHostPort(cfg.ConnConfig.Host, fmt.Sprint(cfg.ConnConfig.Port))
	s.exec(t, "CREATE SCHEMA %")
	t.Cleanup(func() {
		s.exec(t, "DROP SCHEMA % CASCADE")
		s.pool.Close()
	})
	return s
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
	return postgres.Config{DSN: s.through(s.address, "application_name="+s.schema), Schema: s.schema, CreateTable: true, MaxConnections: 2}
}

func (s server) dump(t testing.TB) []byte {
	t.Helper()
	return []byte(s.text(t, "SELECT coalesce(string_agg(u::text, E'\n'), '') || (SELECT coalesce(string_agg(v::text, E'\n'), '') FROM %.clerk_connect_versions v) FROM %.clerk_users u"))
}

// read reads rows as the suite wants them.
func (s server) read(t testing.TB, ids ...string) map[string]sinktest.Row {
	t.Helper()
	columns, names := usertable.Columns(), []string{"id"}
	for _, c := range columns {
		name := c.Name
		if c.Kind == usertable.JSON {
			name += "::text"
		}
		names = append(names, name)
	}
	found, err := s.pool.Query(context.Background(), s.in("SELECT "+strings.Join(names, ", ")+" FROM %.clerk_users WHERE id = ANY($1)"), ids)
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
func field(c usertable.Column) string {
	if c.Name == "email" {
		return "primary_email_address"
	}
	return c.Name
}

func newSink(t testing.TB, cfg postgres.Config) *postgres.Sink {
	t.Helper()
	sink, err := postgres.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return sink
}

// open returns an open sink, closed at the end of t.
func open(t testing.TB, cfg postgres.Config) *postgres.Sink {
	t.Helper()
	sink := newSink(t, cfg)
	if err := sink.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	return sink
}
