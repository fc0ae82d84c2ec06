package postgres_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/postgres"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// bouncer is a schema that is written through PgBouncer in transaction mode.
func bouncer(t testing.TB) (s server, address string) {
	t.Helper()
	dsn := sinktest.Server(t, "TEST_PGBOUNCER_DSN")
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		t.Fatal("TEST_PGBOUNCER_DSN is no connection string")
	}
	s = newServer(t)
	s.dsn, s.address = dsn, net.JoinHostPort(cfg.ConnConfig.Host, fmt.Sprint(cfg.ConnConfig.Port))
	return s, s.address
}

func TestPgBouncer(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{New: func(t testing.TB) sinktest.Destination {
		s, address := bouncer(t)
		proxy := sinktest.NewProxy(t, address)
		cfg := s.config()
		cfg.DSN = s.through(proxy.Address, "")
		open(t, cfg)
		s.exec(t, "ALTER TABLE %.clerk_users ADD CHECK (locale <> 'poison')")
		return sinktest.Destination{
			Sink: func(t testing.TB) sinks.Sink { return newSink(t, cfg) }, Read: s.read, Dump: s.dump,
			Break:  func(testing.TB) func() { return proxy.Cut() },
			Poison: func(u *schemas.User) { u.Locale = new("poison") },
		}
	}})
}

func TestPgBouncer_Application(t *testing.T) {
	t.Parallel()
	usertabletest.Run(t, usertabletest.Bed{New: func(t testing.TB, emailRequired bool) usertabletest.Application {
		s, _ := bouncer(t)
		s.createArticle(t, emailRequired)
		return s.application()
	}})
}

// TestPgBouncer_Names shows that it is the mode that was found out which makes
// it work: statements that are prepared by name meet connections that know
// others, or none.
func TestPgBouncer_Names(t *testing.T) {
	t.Parallel()
	s, address := bouncer(t)
	apply := func(option string) error {
		cfg := s.config()
		cfg.DSN = s.through(address, option)
		var all []*postgres.Sink
		for range 3 { // connections of their own, which change places
			sink := newSink(t, cfg)
			t.Cleanup(func() { sink.Close() })
			if err := sink.Open(t.Context()); err != nil {
				return err
			}
			all = append(all, sink)
		}
		for i := range 30 {
			if err := all[i%len(all)].Apply(t.Context(), []sinks.Record{sinktest.Change("user_1", int64(i)+1), sinktest.Erase("user_2", 1)}); err != nil {
				return err
			}
		}
		return nil
	}
	if err := apply(""); err != nil {
		t.Errorf("by what was found: %v", err)
	}
	if err := apply("default_query_exec_mode=cache_statement"); err == nil || !strings.Contains(err.Error(), "SQLSTATE") {
		t.Skipf("this PgBouncer keeps prepared statements: %v", err)
	}
}

// TestPgBouncer_Settings shows that the settings of a transaction end with it,
// for the connection is another's next.
func TestPgBouncer_Settings(t *testing.T) {
	t.Parallel()
	s, address := bouncer(t)
	cfg := s.config()
	cfg.DSN = s.through(address, "")
	cfg.Deletion = usertable.DeletionAuto
	sink := open(t, cfg)
	for i := range int64(5) {
		sinktest.MustApply(t, sink, sinktest.Change("user_1", i+1))
	}
	pool, err := pgxpool.New(t.Context(), s.through(address, "default_query_exec_mode=simple_protocol"))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for range 5 {
		var timeout, path string
		if err := pool.QueryRow(t.Context(), "SELECT current_setting('statement_timeout'), current_setting('search_path')").Scan(&timeout, &path); err != nil || timeout != "0" || strings.HasPrefix(path, "pg_catalog") {
			t.Errorf("another client: got %s, %s, %v, want what the server has", timeout, path, err)
		}
	}
}
