package postgres_test

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"clerkconnect/sinks"
	"clerkconnect/sinks/postgres"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// accounts is a table of the application's with the columns that keys are made
// of in these tests.
const accounts = `CREATE TABLE %.accounts (clerk_id varchar(64) PRIMARY KEY, email text, username text, tenant int NOT NULL DEFAULT 1,
	active boolean NOT NULL DEFAULT true, deleted_at timestamptz)`

func (s server) accounts(t testing.TB, key string, policy usertable.Deletion) postgres.Config {
	t.Helper()
	s.exec(t, accounts)
	if key != "" {
		s.exec(t, key)
	}
	cfg := s.config()
	cfg.Config = usertable.Config{Table: "accounts", KeyColumn: "clerk_id", CreateTable: true, Columns: "email = email, username = username", Deletion: policy}
	return cfg
}

func account(id string, version int64, email string) sinks.Record {
	r := usertabletest.Person(id, version, email)
	r.Change.User.Username = &id
	return r
}

// held returns who has which address.
func (s server) held(t testing.TB) map[string]string {
	t.Helper()
	held := map[string]string{}
	for id, row := range s.rows(t, "accounts", "clerk_id") {
		held[id] = row["email"]
	}
	return held
}

// TestUnique_Keys has every form of a unique key: whether a newer user takes an
// address from an older one, who has it by another case, in another tenant,
// inactive or deleted, is as the database holds it for equal.
func TestUnique_Keys(t *testing.T) {
	t.Parallel()
	const taken, shared = "", "a@example.com"
	for _, test := range []struct {
		name, key string
		email     string // of the newer user
		before    string // what happens to the older one's row first
		policy    usertable.Deletion
		older     string // address of the older user at the end
	}{
		{"plain", "ALTER TABLE %.accounts ADD UNIQUE (email)", "a@example.com", "", "", taken},
		{"plain, another case", "ALTER TABLE %.accounts ADD UNIQUE (email)", "A@example.com", "", "", shared},
		{"expression", "CREATE UNIQUE INDEX ON %.accounts (lower(email))", "A@example.com", "", "", taken},
		{"collation", "CREATE COLLATION %.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); CREATE UNIQUE INDEX ON %.accounts (email COLLATE %.ci)", "A@example.com", "", "", taken},
		{"composite, same tenant", "CREATE UNIQUE INDEX ON %.accounts (tenant, email)", "a@example.com", "", "", taken},
		{"composite, another tenant", "CREATE UNIQUE INDEX ON %.accounts (tenant, email)", "a@example.com", "UPDATE %.accounts SET tenant = 2", "", shared},
		{"two keys", "CREATE UNIQUE INDEX ON %.accounts (tenant, email); CREATE UNIQUE INDEX ON %.accounts (lower(email)); CREATE UNIQUE INDEX ON %.accounts (username)", "A@example.com", "UPDATE %.accounts SET tenant = 2", "", taken},
		{"partial, active", "CREATE UNIQUE INDEX ON %.accounts (email) WHERE active", "a@example.com", "", "", taken},
		{"partial, inactive", "CREATE UNIQUE INDEX ON %.accounts (email) WHERE active", "a@example.com", "UPDATE %.accounts SET active = false", "", shared},
		{"live rows, live", "CREATE UNIQUE INDEX ON %.accounts (email) WHERE deleted_at IS NULL", "a@example.com", "", usertable.DeletionSoft, taken},
		{"live rows, deleted", "CREATE UNIQUE INDEX ON %.accounts (email) WHERE deleted_at IS NULL", "a@example.com", "delete", usertable.DeletionSoft, shared},
		{"all rows, deleted", "CREATE UNIQUE INDEX ON %.accounts (email)", "a@example.com", "delete", usertable.DeletionSoft, taken},
		{"included column", "CREATE UNIQUE INDEX ON %.accounts (email) INCLUDE (username)", "a@example.com", "", "", taken},
		{"generated column", "ALTER TABLE %.accounts ADD handle text GENERATED ALWAYS AS (lower(email)) STORED UNIQUE", "A@example.com", "", "", taken},
		{"not before the commit", "ALTER TABLE %.accounts ADD UNIQUE (email) DEFERRABLE INITIALLY DEFERRED", "a@example.com", "", "", taken},
		{"required", "ALTER TABLE %.accounts ALTER email SET NOT NULL, ADD UNIQUE (email)", "a@example.com", "", "", "pending-user_1@email.invalid"},
		{"required, with a default", "ALTER TABLE %.accounts ALTER email SET DEFAULT '', ALTER email SET NOT NULL, ADD UNIQUE (email)", "a@example.com", "", "", "pending-user_1@email.invalid"},
		{"one null at most", "ALTER TABLE %.accounts ADD UNIQUE NULLS NOT DISTINCT (email)", "a@example.com", "", "", "pending-user_1@email.invalid"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			if strings.Contains(test.key, "NULLS NOT") && s.text(t, "SELECT current_setting('server_version_num')") < "150000" {
				t.Skip("PostgreSQL 15 has such keys")
			}
			cfg := s.accounts(t, test.key, test.policy)
			sink := open(t, cfg)
			sinktest.MustApply(t, sink, account("user_1", 1, "a@example.com"), account("user_2", 1, "b@example.com"))
			switch test.before {
			case "", "delete":
			default:
				s.exec(t, test.before+" WHERE clerk_id = 'user_1'")
			}
			if test.before == "delete" {
				sinktest.MustApply(t, sink, sinktest.Erase("user_1", 2))
			}
			// As one who is new, and as one who is there.
			sinktest.MustApply(t, sink, account("user_3", 3, test.email), account("user_4", 3, "d@example.com"))
			sinktest.MustApply(t, sink, account("user_3", 4, "c@example.com"))
			want := map[string]string{"user_1": test.older, "user_2": "b@example.com", "user_3": "c@example.com", "user_4": "d@example.com"}
			if got := s.held(t); !maps.Equal(got, want) {
				t.Errorf("taken by a new user: got %v, want %v", got, want)
			}
			// A swap in one batch.
			sinktest.MustApply(t, sink, account("user_2", 6, "c@example.com"), account("user_3", 7, "b@example.com"))
			if got := s.held(t); got["user_2"] != "c@example.com" || got["user_3"] != "b@example.com" {
				t.Errorf("swapped: got %v", got)
			}
		})
	}
}

// TestUnique_OthersColumns has a key of a column of the application's, which
// has no default, and one with a condition: only who is in the way gives way.
func TestUnique_OthersColumns(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ key, apart, together string }{
		"composite": {"ALTER TABLE %.accounts ADD org text; CREATE UNIQUE INDEX ON %.accounts (org, email)", "UPDATE %.accounts SET org = 'other'", "UPDATE %.accounts SET org = 'same'"},
		"condition": {"CREATE UNIQUE INDEX ON %.accounts (email) WHERE active", "UPDATE %.accounts SET active = false", "UPDATE %.accounts SET active = true"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			sink := open(t, s.accounts(t, test.key, ""))
			sinktest.MustApply(t, sink, account("user_1", 1, "a@example.com"))
			s.exec(t, test.apart)
			sinktest.MustApply(t, sink, account("user_2", 2, "a@example.com"), account("user_3", 3, "c@example.com"))
			s.exec(t, test.together+" WHERE clerk_id <> 'user_1'")
			sinktest.MustApply(t, sink, account("user_3", 4, "a@example.com"))
			want := map[string]string{"user_1": "a@example.com", "user_2": "", "user_3": "a@example.com"}
			if got := s.held(t); !maps.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// TestUnique_SameBatch has the two claims of one batch, of which the key holds
// the values for equal, and says who waits for whom.
func TestUnique_SameBatch(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sink := open(t, s.accounts(t, "CREATE UNIQUE INDEX ON %.accounts (lower(email))", ""))
	err := sink.Apply(t.Context(), []sinks.Record{account("user_1", 2, "A@example.com"), account("user_2", 1, "a@example.com"), account("user_3", 1, "b@example.com")})
	if got := sinks.Classify(usertabletest.Failure(err, 1)); got.HeldBy != "user_1" || usertabletest.Failure(err, 0) != nil || usertabletest.Failure(err, 2) != nil {
		t.Errorf("Apply: got %v, want only user_2 to wait, for user_1", err)
	}
	want := map[string]string{"user_1": "A@example.com", "user_2": "", "user_3": "b@example.com"}
	if got := s.held(t); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := s.text(t, "SELECT version::text FROM %.clerk_connect_versions_accounts WHERE id = 'user_2'"); got != "0" {
		t.Errorf("the guard of who waits: got version %s, want 0, nothing heard", got)
	}
}

// TestUnique_NewKey has the application add a key while the sink runs.
func TestUnique_NewKey(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sink := open(t, s.accounts(t, "", ""))
	sinktest.MustApply(t, sink, account("user_1", 1, "a@example.com"))
	s.exec(t, "CREATE UNIQUE INDEX ON %.accounts (email)")
	sinktest.MustApply(t, sink, account("user_2", 2, "a@example.com"))
	if got := s.held(t); got["user_1"] != "" || got["user_2"] != "a@example.com" {
		t.Errorf("got %v", got)
	}
}

// TestUnique_Extension has the type and its operators in a schema that is not
// on the search_path, where = would be that of text.
func TestUnique_Extension(t *testing.T) {
	t.Parallel()
	s := newServer(t).database(t)
	s.exec(t, "CREATE SCHEMA elsewhere; CREATE EXTENSION citext SCHEMA elsewhere")
	cfg := s.accounts(t, "ALTER TABLE %.accounts ALTER email TYPE elsewhere.citext; CREATE UNIQUE INDEX ON %.accounts (email)", "")
	sink := open(t, cfg)
	sinktest.MustApply(t, sink, account("user_1", 1, "A@example.com"))
	sinktest.MustApply(t, sink, account("user_2", 2, "a@example.com"))
	if got := s.held(t); got["user_1"] != "" || got["user_2"] != "a@example.com" {
		t.Errorf("got %v", got)
	}
}

// database returns the same schema in a database of the test's own.
func (s server) database(t testing.TB) server {
	t.Helper()
	name := s.schema + "_db"
	s.exec(t, "CREATE DATABASE "+name)
	other := s
	cfg := s.pool.Config()
	cfg.ConnConfig.Database = name
	address, err := url.Parse(s.dsn)
	if err != nil {
		t.Fatal("the server's connection string is no URL")
	}
	address.Path = name
	other.dsn = address.String()
	other.pool = newPool(t, cfg)
	other.exec(t, "CREATE SCHEMA %")
	t.Cleanup(func() {
		other.pool.Close()
		s.exec(t, "DROP DATABASE "+name+" WITH (FORCE)")
	})
	return other
}

// TestUnique_HolderMoves has the holder of an address move on, to another one,
// while a transaction is about to take the first from him: what he has by then
// is his.
func TestUnique_HolderMoves(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.accounts(t, "CREATE UNIQUE INDEX ON %.accounts (email)", "")
	slow, quick := open(t, cfg), open(t, cfg)
	sinktest.MustApply(t, quick, account("user_1", 1, "a@example.com"))
	slow.Looked(func() {
		slow.Looked(func() {})
		sinktest.MustApply(t, quick, account("user_1", 2, "b@example.com"))
	})
	usertabletest.Deliver(t, slow, []sinks.Record{account("user_2", 5, "a@example.com")}, false)
	want := map[string]string{"user_1": "b@example.com", "user_2": "a@example.com"}
	if got := s.held(t); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestUnique_Zombie has a process paused in the middle of settling, with the
// guards of its batch locked, while another erases one of its users: the
// erasure waits, and has the last word.
func TestUnique_Zombie(t *testing.T) {
	t.Parallel()
	for _, policy := range usertable.Deletions() {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			cfg := s.accounts(t, "CREATE UNIQUE INDEX ON %.accounts (email)", policy)
			zombie, owner := open(t, cfg), open(t, cfg)
			sinktest.MustApply(t, owner, account("user_1", 1, "a@example.com"))
			erased := make(chan error, 1)
			zombie.Between(func() {
				zombie.Between(func() {})
				go func() {
					erased <- owner.Apply(context.Background(), []sinks.Record{usertabletest.Erasure("user_2", 9, 5, false)})
				}()
				s.awaitLock(t)
			})
			sinktest.MustApply(t, zombie, account("user_2", 5, "a@example.com"))
			if err := <-erased; err != nil {
				t.Fatalf("the erasure: %v", err)
			}
			sinktest.MustApply(t, zombie, account("user_2", 6, "a@example.com")) // once more, late
			if gone, err := owner.Confirm(t.Context(), "user_2", nil); err != nil || !gone {
				t.Errorf("Confirm: got %v, %v: %v", gone, err, s.rows(t, "accounts", "clerk_id"))
			}
		})
	}
}

// TestUnique_Paused has a process sleep in the middle of settling for longer
// than a statement may take: it loses its locks, others go on, and what it does
// then is void.
func TestUnique_Paused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.accounts(t, "CREATE UNIQUE INDEX ON %.accounts (email)", "")
	owner := open(t, cfg)
	sinktest.MustApply(t, owner, account("user_1", 1, "a@example.com"))
	cfg.StatementTimeout = 200 * time.Millisecond
	zombie := open(t, cfg)
	zombie.Between(func() {
		zombie.Between(func() {})
		if err := owner.Apply(context.Background(), []sinks.Record{sinktest.Erase("user_2", 9)}); err != nil {
			t.Errorf("the erasure: %v", err)
		}
	})
	err := zombie.Apply(t.Context(), []sinks.Record{account("user_2", 5, "a@example.com")})
	if got := sinks.Classify(err); err == nil || got.Class != sinks.ClassRetry || got.Reason == sinks.ReasonUnknown {
		t.Errorf("Apply: got %v, want a retry", err)
	}
	late := account("user_2", 5, "a@example.com")
	sinktest.MustApply(t, zombie, late)
	if want := map[string]string{"user_1": "a@example.com"}; !maps.Equal(s.held(t), want) || !late.Result().Superseded {
		t.Errorf("got %v, %+v, want %v", s.held(t), late.Result(), want)
	}
}

// TestUnique_Crash has the connection break in the middle of settling: nothing
// of it stays, and the repetition does all of it.
func TestUnique_Crash(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	proxy := sinktest.NewProxy(t, s.address)
	cfg := s.accounts(t, "CREATE UNIQUE INDEX ON %.accounts (email)", "")
	direct := open(t, cfg)
	cfg.DSN = s.through(proxy.Address, "")
	sink := open(t, cfg)
	sinktest.MustApply(t, direct, account("user_1", 1, "a@example.com"), account("user_3", 1, "c@example.com"))
	batch := []sinks.Record{account("user_2", 5, "a@example.com"), sinktest.Erase("user_3", 5)}
	for name, at := range map[string]func(func()){"erased": sink.Between, "looked": sink.Looked} {
		at(func() {
			at(func() {})
			proxy.Cut()()
		})
		err := sink.Apply(t.Context(), batch)
		if got := sinks.Classify(err); err == nil || got.Class != sinks.ClassRetry || got.Reason == sinks.ReasonUnknown {
			t.Errorf("%s: got %v, want a retry", name, err)
		}
		want := map[string]string{"user_1": "a@example.com", "user_3": "c@example.com"}
		if got := s.held(t); !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	usertabletest.Deliver(t, sink, batch, true)
	want := map[string]string{"user_1": "", "user_2": "a@example.com"}
	if got := s.held(t); !maps.Equal(got, want) {
		t.Errorf("repeated: got %v, want %v", got, want)
	}
}

// TestUnique_ByIndex shows that who holds a value is found by the key's index
// and not by reading a table of millions.
func TestUnique_ByIndex(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]string{
		"plain":      "CREATE UNIQUE INDEX ON %.accounts (email)",
		"expression": "CREATE UNIQUE INDEX ON %.accounts (lower(email)) WHERE deleted_at IS NULL",
		"composite":  "CREATE UNIQUE INDEX ON %.accounts (tenant, email)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			cfg := s.accounts(t, key, usertable.DeletionSoft)
			s.exec(t, "INSERT INTO %.accounts SELECT 'old_' || n, 'old' || n || '@example.com', 'old_' || n FROM generate_series(1, 50000) n; ANALYZE %.accounts")
			sink := open(t, cfg)
			query, args := sink.Find(0, []sinks.Record{account("user_1", 1, "a@example.com")})
			rows, err := s.pool.Query(t.Context(), "EXPLAIN (FORMAT TEXT) "+query, args...)
			if err != nil {
				t.Fatal(err)
			}
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			if plan := strings.Join(lines, "\n"); strings.Contains(plan, "Seq Scan") {
				t.Errorf("the plan reads the whole table:\n%s", plan)
			}
		})
	}
}

// TestDeadlock shows that a deadlock is told as what it is.
func TestDeadlock(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sink := open(t, s.config())
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1), sinktest.Change("user_2", 1))
	rival := s.begin(t)
	lock := func(id string) error {
		_, err := rival.Exec(context.Background(), s.in("SELECT FROM %.clerk_connect_versions WHERE id = '"+id+"' FOR UPDATE"))
		return err
	}
	// The rival gives up last, because it looks for deadlocks last.
	if _, err := rival.Exec(t.Context(), "SET LOCAL deadlock_timeout = '30s'"); err != nil {
		t.Fatal(err)
	}
	if err := lock("user_2"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- sink.Apply(context.Background(), []sinks.Record{sinktest.Change("user_2", 2), sinktest.Change("user_1", 2)})
	}()
	s.awaitLock(t)
	if err := lock("user_1"); err != nil { // the sink has it: they wait for each other
		t.Fatalf("the rival: %v", err)
	}
	sinktest.ExpectClass(t, "Apply", <-done, sinks.ClassRetry, sinks.ReasonConflict)
	if err := rival.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	sinktest.MustApply(t, sink, sinktest.Change("user_2", 2), sinktest.Change("user_1", 2))
}

// TestStates has the server say of itself what it can hardly be brought to.
func TestStates(t *testing.T) {
	t.Parallel()
	for state, want := range map[string]sinks.Error{
		"40001": {Class: sinks.ClassRetry, Reason: sinks.ReasonConflict},
		"40P01": {Class: sinks.ClassRetry, Reason: sinks.ReasonConflict},
		"55P03": {Class: sinks.ClassRetry, Reason: sinks.ReasonConflict},
		"57014": {Class: sinks.ClassRetry, Reason: sinks.ReasonTimeout},
		"57P01": {Class: sinks.ClassRetry, Reason: sinks.ReasonUnavailable},
		"25006": {Class: sinks.ClassRetry, Reason: sinks.ReasonUnavailable},
		"53300": {Class: sinks.ClassRetry, Reason: sinks.ReasonUnavailable},
		"54000": {Class: sinks.ClassPermanent, Reason: sinks.ReasonTooLarge},
		"42501": {Class: sinks.ClassFatal, Reason: sinks.ReasonUnauthorized},
	} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			sink := open(t, s.config())
			s.exec(t, fmt.Sprintf("CREATE FUNCTION %%.refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'x' USING ERRCODE = '%s'; END$$;"+
				"CREATE TRIGGER refuse BEFORE INSERT ON %%.clerk_users FOR EACH ROW EXECUTE FUNCTION %%.refuse()", state))
			sinktest.ExpectClass(t, "Apply", sink.Apply(t.Context(), []sinks.Record{sinktest.Change("user_1", 1)}), want.Class, want.Reason)
		})
	}
}

// TestUnique_NoRoom has a key on a column that is too short for what stands in
// it while a user waits: whoever comes later waits, and no record is refused
// for good.
func TestUnique_NoRoom(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sink := open(t, s.accounts(t, "ALTER TABLE %.accounts ALTER email TYPE varchar(20), ALTER email SET NOT NULL, ADD UNIQUE (email)", ""))
	sinktest.MustApply(t, sink, account("user_1", 1, "a@example.com"))
	late := account("user_2", 2, "a@example.com")
	sinktest.ExpectClass(t, "Apply", sink.Apply(t.Context(), []sinks.Record{late}), sinks.ClassRetry, sinks.ReasonConflict)
	sinktest.MustApply(t, sink, account("user_1", 3, "b@example.com"))
	sinktest.MustApply(t, sink, late)
}
