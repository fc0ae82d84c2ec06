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

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/mysql"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
)

func TestSink(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{New: newDestination})
}

// newDestination is a database behind a proxy, whose users table refuses the
// locale "poison" with an error that quotes the user.
func newDestination(t testing.TB) sinktest.Destination {
	s := newServer(t)
	proxy := sinktest.NewProxy(t, s.address.Host)
	cfg := s.config()
	open(t, cfg)
	cfg.DSN = s.dsn(func(u *url.URL) { u.Host = proxy.Address })
	s.exec(t, `CREATE TRIGGER refuse BEFORE INSERT ON clerk_users FOR EACH ROW
		IF NEW.locale = 'poison' THEN
			SET @message = concat('cannot take ', NEW.first_name);
			SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = @message;
		END IF`)
	return sinktest.Destination{
		Sink:   func(t testing.TB) sinks.Sink { return newSink(t, cfg) },
		Read:   s.read,
		Dump:   s.dump,
		Break:  func(testing.TB) func() { return proxy.Cut() },
		Poison: func(u *schemas.User) { u.Locale = new("poison") },
	}
}

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
	return mysql.Config{DSN: s.dsn(func(*url.URL) {}), CreateTable: true, MaxConnections: 2}
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

// dump returns every value of both tables.
func (s server) dump(t testing.TB) []byte {
	t.Helper()
	var dump bytes.Buffer
	for _, table := range []string{"clerk_users", "clerk_connect_versions"} {
		s.each(t, "SELECT * FROM "+table, func(values []any) { fmt.Fprintf(&dump, "%s\n", values) })
	}
	return dump.Bytes()
}

func (s server) each(t testing.TB, query string, row func(values []any), args ...any) {
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
		row(values)
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
}

// read reads rows as the suite wants them.
func (s server) read(t testing.TB, ids ...string) map[string]sinktest.Row {
	t.Helper()
	columns, names := usertable.Columns(), "id"
	for _, c := range columns {
		names += ", " + c.Name
	}
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	rows := map[string]sinktest.Row{}
	s.each(t, "SELECT "+names+" FROM clerk_users WHERE id IN (''"+strings.Repeat(", ?", len(ids))+")", func(values []any) {
		row := sinktest.Row{}
		for i, c := range columns {
			if value := values[1+i]; value != nil {
				row[field(c)] = fromColumn(t, c.Kind, value)
			}
		}
		rows[string(values[0].([]byte))] = row
	}, args...)
	return rows
}

// field is the name in user.avsc of what a column holds.
func field(c usertable.Column) string {
	if c.Name == "email" {
		return "primary_email_address"
	}
	return c.Name
}

func fromColumn(t testing.TB, kind usertable.Kind, value any) any {
	t.Helper()
	if text, ok := value.([]byte); ok {
		value = string(text)
	}
	switch kind {
	case usertable.Bool:
		return value == int64(1)
	case usertable.Time:
		moment, err := time.Parse("2006-01-02 15:04:05.000", value.(string))
		if err != nil {
			t.Fatal(err)
		}
		return moment.UnixMilli()
	}
	return value
}

func newSink(t testing.TB, cfg mysql.Config) *mysql.Sink {
	t.Helper()
	sink, err := mysql.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return sink
}

// open returns an open sink, closed at the end of t.
func open(t testing.TB, cfg mysql.Config) *mysql.Sink {
	t.Helper()
	sink := newSink(t, cfg)
	if err := sink.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	return sink
}
