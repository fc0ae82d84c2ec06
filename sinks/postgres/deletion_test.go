package postgres_test

import (
	"strings"
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// TestSink_Policies runs the suite with every policy that keeps rows, on the
// default table.
func TestSink_Policies(t *testing.T) {
	for policy, outcome := range map[usertable.Deletion]schemas.Outcome{
		usertable.DeletionSoft: schemas.OutcomeSoftDeleted, usertable.DeletionAnonymize: schemas.OutcomeAnonymized, usertable.DeletionAuto: schemas.OutcomeDeleted,
	} {
		t.Run(string(policy), func(t *testing.T) {
			sinktest.Run(t, sinktest.Harness{Erased: outcome, New: func(t testing.TB) sinktest.Destination {
				return newDestination(t, "", policy)
			}})
		})
	}
}

// TestAuto_ForeignKeys has auto find every form of a reference by itself.
func TestAuto_ForeignKeys(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, ddl, row, reason string
	}{
		{"to the key", "CREATE TABLE %.orders (owner text REFERENCES %.accounts)", "INSERT INTO %.orders VALUES ('user_1')", "rows of orders refer to it"},
		{"to two columns", "ALTER TABLE %.accounts ADD UNIQUE (tenant, username); CREATE TABLE %.orders (o text, t int, FOREIGN KEY (t, o) REFERENCES %.accounts (tenant, username))", "INSERT INTO %.orders VALUES ('user_1', 1)", "rows of orders refer to it"},
		{"from the table itself", "ALTER TABLE %.accounts ADD boss varchar(64) REFERENCES %.accounts", "UPDATE %.accounts SET boss = 'user_1' WHERE clerk_id = 'user_2'", "rows of accounts refer to it"},
		{"to oneself", "ALTER TABLE %.accounts ADD boss varchar(64) REFERENCES %.accounts", "UPDATE %.accounts SET boss = 'user_1' WHERE clerk_id = 'user_1'", ""},
		{"that would cascade", "CREATE TABLE %.orders (owner text REFERENCES %.accounts ON DELETE CASCADE)", "INSERT INTO %.orders VALUES ('user_1')", "rows of orders refer to it"},
		{"from two tables", "CREATE TABLE %.orders (owner text REFERENCES %.accounts); CREATE TABLE %.bills (owner text REFERENCES %.accounts)", "INSERT INTO %.orders VALUES ('user_1'); INSERT INTO %.bills VALUES ('user_1')", "rows of bills, orders refer to it"},
		{"from another schema", "CREATE SCHEMA %_b; CREATE TABLE %_b.orders (owner text REFERENCES %.accounts)", "INSERT INTO %_b.orders VALUES ('user_1')", "rows of orders refer to it"},
		{"of another user", "CREATE TABLE %.orders (owner text REFERENCES %.accounts)", "INSERT INTO %.orders VALUES ('user_2')", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			t.Cleanup(func() { s.exec(t, "DROP SCHEMA IF EXISTS %_b CASCADE") })
			cfg := s.accounts(t, test.ddl, usertable.DeletionAuto)
			sink := open(t, cfg)
			sinktest.MustApply(t, sink, account("user_1", 1, "a@example.com"), account("user_2", 1, "b@example.com"))
			s.exec(t, test.row)
			erase := usertabletest.Erasure("user_1", 2, 5, false)
			err := usertabletest.Failure(sink.Apply(t.Context(), []sinks.Record{erase}), 0)
			if test.name == "to two columns" {
				// The key that the order refers to holds what is to be erased.
				sinktest.ExpectClass(t, "Apply", err, sinks.ClassRetry, sinks.ReasonConflict)
				return
			}
			if err != nil {
				t.Fatalf("Apply: %v", err)
			}
			want := schemas.OutcomeDeleted
			if test.reason != "" {
				want = schemas.OutcomeAnonymized
			}
			if got := erase.Result(); got.Outcome != want || got.Reason != test.reason {
				t.Errorf("got %+v, want %s, %q", got, want, test.reason)
			}
			if gone, err := sink.Confirm(t.Context(), "user_1", nil); err != nil || !gone {
				t.Errorf("Confirm: got %v, %v", gone, err)
			}
		})
	}
}

// TestAuto_NewForeignKey has the application refer to users since the sink was
// opened, by keys that would refuse and by such that would cascade without a word.
func TestAuto_NewForeignKey(t *testing.T) {
	t.Parallel()
	for _, had := range []string{"", "CREATE TABLE %.bills (owner text REFERENCES %.accounts)"} {
		for _, action := range []string{"NO ACTION", "CASCADE", "SET NULL"} {
			t.Run(had+action, func(t *testing.T) {
				t.Parallel()
				s := newServer(t)
				sink := open(t, s.accounts(t, had, usertable.DeletionAuto))
				sinktest.MustApply(t, sink, account("user_1", 1, "a@example.com"), account("user_2", 1, "b@example.com"))
				s.exec(t, "CREATE TABLE %.orders (owner text REFERENCES %.accounts ON DELETE "+action+"); INSERT INTO %.orders VALUES ('user_1')")
				kept, gone := usertabletest.Erasure("user_1", 2, 5, false), usertabletest.Erasure("user_2", 2, 5, false)
				sinktest.MustApply(t, sink, kept, gone)
				if kept.Result().Reason != "rows of orders refer to it" || gone.Result().Outcome != schemas.OutcomeDeleted {
					t.Errorf("got %+v, %+v", kept.Result(), gone.Result())
				}
				if got := s.text(t, "SELECT count(owner)::text FROM %.orders"); got != "1" {
					t.Errorf("orders with an owner: got %s, want 1", got)
				}
			})
		}
	}
}

// TestAuto_ForeignKeyGone has tables that referred to users change or go since
// the sink was opened.
func TestAuto_ForeignKeyGone(t *testing.T) {
	t.Parallel()
	for _, change := range []string{"DROP TABLE %.orders", "ALTER TABLE %.orders DROP owner", "ALTER TABLE %.orders RENAME owner TO buyer", "ALTER TABLE %.orders RENAME TO purchases"} {
		t.Run(change, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			sink := open(t, s.accounts(t, "CREATE TABLE %.orders (owner text REFERENCES %.accounts ON DELETE CASCADE)", usertable.DeletionAuto))
			sinktest.MustApply(t, sink, account("user_1", 1, "a@example.com"), account("user_2", 1, "b@example.com"))
			s.exec(t, "INSERT INTO %.orders VALUES ('user_1'); "+change)
			refers, other := usertabletest.Erasure("user_1", 2, 5, false), usertabletest.Erasure("user_2", 2, 5, false)
			sinktest.MustApply(t, sink, refers, other)
			want := schemas.OutcomeDeleted
			if strings.Contains(change, "RENAME") {
				want = schemas.OutcomeAnonymized
			}
			if refers.Result().Outcome != want || other.Result().Outcome != schemas.OutcomeDeleted {
				t.Errorf("got %+v, %+v, want %s and deleted", refers.Result(), other.Result(), want)
			}
		})
	}
}

// TestAuto_Partition has a foreign key refer to one partition of the users
// table.
func TestAuto_Partition(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, `CREATE TABLE %.users (clerk_id varchar(64) PRIMARY KEY, email text, deleted_at timestamptz) PARTITION BY HASH (clerk_id);
		CREATE TABLE %.users_all PARTITION OF %.users FOR VALUES WITH (MODULUS 1, REMAINDER 0);
		CREATE TABLE %.orders (owner text REFERENCES %.users_all ON DELETE CASCADE)`)
	cfg := s.config()
	cfg.Config = usertable.Config{Table: "users", KeyColumn: "clerk_id", Columns: "email = email", Deletion: usertable.DeletionAuto, CreateTable: true}
	sink := open(t, cfg)
	sinktest.MustApply(t, sink, account("user_1", 1, "a@example.com"))
	s.exec(t, "INSERT INTO %.orders VALUES ('user_1')")
	erase := usertabletest.Erasure("user_1", 2, 5, false)
	sinktest.MustApply(t, sink, erase)
	if got := s.text(t, "SELECT count(*)::text FROM %.orders"); got != "1" || erase.Result().Outcome != schemas.OutcomeAnonymized {
		t.Errorf("got %s orders, %+v, want 1 and anonymized", got, erase.Result())
	}
}

// TestAuto_LateOrder has an order come in while its user is erased, before the
// commit of either: it counts, also where the foreign key would cascade.
func TestAuto_LateOrder(t *testing.T) {
	t.Parallel()
	for _, action := range []string{"NO ACTION", "CASCADE", "SET NULL"} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			sink := open(t, s.accounts(t, "CREATE TABLE %.orders (owner text REFERENCES %.accounts ON DELETE "+action+")", usertable.DeletionAuto))
			sinktest.MustApply(t, sink, account("user_1", 1, "a@example.com"))
			order := s.begin(t)
			if _, err := order.Exec(t.Context(), s.in("INSERT INTO %.orders VALUES ('user_1')")); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			erase := usertabletest.Erasure("user_1", 2, 5, false)
			go func() { done <- sink.Apply(t.Context(), []sinks.Record{erase}) }()
			s.awaitLock(t)
			if err := order.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil || erase.Result().Outcome != schemas.OutcomeAnonymized {
				t.Errorf("Apply: got %v, %+v, want an anonymous row at the first try", err, erase.Result())
			}
			if got := s.text(t, "SELECT count(owner)::text FROM %.orders"); got != "1" {
				t.Errorf("orders with an owner: got %s, want 1", got)
			}
		})
	}
}

// TestHard_ForeignKeys shows what the actions of foreign keys come to.
func TestHard_ForeignKeys(t *testing.T) {
	t.Parallel()
	for action, left := range map[string]string{"CASCADE": "0", "SET NULL": "1", "RESTRICT": "", "NO ACTION": ""} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			sink := open(t, s.accounts(t, "CREATE TABLE %.orders (owner text REFERENCES %.accounts ON DELETE "+action+")", usertable.DeletionHard))
			sinktest.MustApply(t, sink, account("user_1", 1, "a@example.com"))
			s.exec(t, "INSERT INTO %.orders VALUES ('user_1')")
			err := sink.Apply(t.Context(), []sinks.Record{sinktest.Erase("user_1", 2)})
			if left == "" {
				sinktest.ExpectClass(t, "Apply", err, sinks.ClassRetry, sinks.ReasonConflict)
				if err == nil || !strings.Contains(err.Error(), "rows of orders refer") || !strings.Contains(err.Error(), "DELETION=auto") {
					t.Errorf("Apply: got %v, want a word about orders and DELETION", err)
				}
				return
			}
			if got := s.text(t, "SELECT count(*)::text FROM %.orders"); err != nil || got != left {
				t.Errorf("orders: got %s, %v, want %s", got, err, left)
			}
		})
	}
}

// TestConfirm_Types shows that what is left of an erased user is read back as
// such from columns of every type.
func TestConfirm_Types(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, `CREATE TYPE %.mood AS ENUM ('fine', 'bad');
		CREATE TABLE %.users (id text PRIMARY KEY, mood %.mood NOT NULL, sure boolean NOT NULL, n int NOT NULL, raw json NOT NULL, made timestamp(3) NOT NULL,
			name text NOT NULL DEFAULT '', made_too timestamptz NOT NULL DEFAULT now(), tags text[] NOT NULL, "key" uuid, gone timestamp(3))`)
	cfg := s.config()
	cfg.Config = usertable.Config{
		Table: "users", CreateTable: true, Deletion: usertable.DeletionAnonymize, DeletedAtColumn: "gone",
		Columns: `mood = public_metadata.mood ?? 'fine', sure = banned, n = lockout_expires_in_seconds, raw = public_metadata, made = created_at, name = username,
			made_too = updated_at, tags = public_metadata.tags, key = uuid`,
	}
	sink := open(t, cfg)
	r := usertabletest.Person("user_1", 1, "a@example.com")
	r.Change.User.PublicMetadata, r.Change.User.Banned = new(`{"mood":"bad","tags":["x"]}`), new(true)
	sinktest.MustApply(t, sink, r)
	for range 2 {
		sinktest.MustApply(t, sink, usertabletest.Erasure("user_1", 2, 1700438400123, false))
		if gone, err := sink.Confirm(t.Context(), "user_1", nil); err != nil || !gone {
			t.Errorf("Confirm: got %v, %v: %v", gone, err, s.rows(t, "users", "id"))
		}
	}
	row := s.rows(t, "users", "id")["user_1"]
	if row["mood"] != "fine" || row["sure"] != "false" || row["n"] != "0" || row["raw"] != "map[]" || row["made"] != "1700438400123" || row["name"] != "" || row["tags"] != "[]" || row["made_too"] != "1700438400123" {
		t.Errorf("anonymous: got %v", row)
	}
}

// newDestination is a schema behind a proxy, whose users table refuses the
// locale "poison" with an error that quotes the whole row.
func newDestination(t testing.TB, option string, policy usertable.Deletion) sinktest.Destination {
	s := newServer(t)
	proxy := sinktest.NewProxy(t, s.address)
	cfg := s.config()
	cfg.DSN = s.through(proxy.Address, option)
	cfg.Deletion = policy
	open(t, cfg)
	s.exec(t, "ALTER TABLE %.clerk_users ADD CHECK (locale <> 'poison')")
	if policy != usertable.DeletionHard {
		s.where = " AND deleted_at IS NULL"
	}
	return sinktest.Destination{
		Sink:   func(t testing.TB) sinks.Sink { return newSink(t, cfg) },
		Read:   s.read,
		Dump:   s.dump,
		Break:  func(testing.TB) func() { return proxy.Cut() },
		Poison: func(u *schemas.User) { u.Locale = new("poison") },
	}
}
