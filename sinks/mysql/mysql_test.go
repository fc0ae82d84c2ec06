package mysql_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/mysql"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
)

// server is a database of the test's own, of whatever character set the server
// gives to a database.
type server struct {
	address *url.URL
	name    string
	db      *sql.DB // round the sink
}

func newServer(t testing.TB) server {
	t.Helper()
	address, err := url.Parse(sinktest.Server(t, "TEST_MYSQL_DSN"))
	if err != nil || address.Scheme != "mysql" {
		t.Fatal("TEST_MYSQL_DSN is no URL of the form mysql://user:password@host:port/database")
	}
	s := server{address: address, name: "test_" + strings.ToLower(rand.Text()[:12])}
	s.db = s.connect(t, strings.TrimPrefix(address.Path, "/"))
	s.exec(t, "CREATE DATABASE "+s.name)
	s.db.Close()
	s.db = s.connect(t, s.name)
	t.Cleanup(func() { s.exec(t, "DROP DATABASE "+s.name) })
	return s
}

// connect opens one connection round the sink.
func (s server) connect(t testing.TB, database string) *sql.DB {
	t.Helper()
	cfg := driver.NewConfig()
	cfg.Net, cfg.Addr, cfg.DBName, cfg.User = "tcp", s.address.Host, database, s.address.User.Username()
	cfg.Passwd, _ = s.address.User.Password()
	cfg.Params = map[string]string{"time_zone": "'+00:00'"}
	cfg.InterpolateParams = true
	connector, err := driver.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

// dsn returns the connection string of the test's database, changed.
func (s server) dsn(change func(u *url.URL)) string {
	u := *s.address
	u.Path = "/" + s.name
	change(&u)
	return u.String()
}

func (s server) config() mysql.Config {
	return mysql.Config{Config: usertable.Config{CreateTable: true}, DSN: s.dsn(func(*url.URL) {}), MaxConnections: 2}
}

func (s server) exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	if _, err := s.db.ExecContext(context.Background(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

// text returns the one value of a query.
func (s server) text(t testing.TB, query string, args ...any) (text string) {
	t.Helper()
	if err := s.db.QueryRowContext(context.Background(), query, args...).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

// dump returns every value of every table of the database.
func (s server) dump(t testing.TB) []byte {
	t.Helper()
	var tables []string
	s.each(t, "SELECT table_name FROM information_schema.tables WHERE table_schema = database() AND table_type = 'BASE TABLE'", func(values []any) {
		tables = append(tables, string(values[0].([]byte)))
	})
	var dump bytes.Buffer
	for _, table := range tables {
		s.each(t, "SELECT * FROM `"+table+"`", func(values []any) { fmt.Fprintf(&dump, "%s: %s\n", table, values) })
	}
	return dump.Bytes()
}

func (s server) each(t testing.TB, query string, row func(values []any), args ...any) {
	t.Helper()
	s.named(t, query, func(_ []string, values []any) { row(values) }, args...)
}

// named calls row with the names and the values of each row.
func (s server) named(t testing.TB, query string, row func(names []string, values []any), args ...any) {
	t.Helper()
	found, err := s.db.QueryContext(context.Background(), query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	columns, err := found.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for found.Next() {
		values, targets := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			targets[i] = &values[i]
		}
		if err := found.Scan(targets...); err != nil {
			t.Fatal(err)
		}
		row(columns, values)
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
}

func fromColumn(t testing.TB, kind mapping.Kind, value any) any {
	t.Helper()
	if text, ok := value.([]byte); ok {
		value = string(text)
	}
	switch kind {
	case mapping.Bool:
		return value == int64(1)
	case mapping.Time:
		moment, err := time.Parse("2006-01-02 15:04:05.000", value.(string))
		if err != nil {
			t.Fatal(err)
		}
		return moment.UnixMilli()
	}
	return value
}

func newSink(t testing.TB, cfg mysql.Config) *mysql.Sink { return sinktest.New(t, mysql.New, cfg) }

// open returns an open sink, closed at the end of t.
func open(t testing.TB, cfg mysql.Config) *mysql.Sink { return sinktest.Open(t, mysql.New, cfg) }
