package mysql_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// TestReferences has every kind of reference to a user keep the row, and the
// absence of one let it go.
func TestReferences(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, ddl, insert string
		references        []string
		reason            string
	}{
		{name: "a foreign key to another column", ddl: "CREATE TABLE orders (u VARCHAR(255), FOREIGN KEY (u) REFERENCES users (clerk_id)) DEFAULT CHARSET utf8mb4", insert: "INSERT INTO orders VALUES ('user_1')", reason: "rows of orders refer to it"},
		{name: "one that cascades", ddl: "CREATE TABLE orders (u INT, FOREIGN KEY (u) REFERENCES users (id) ON DELETE CASCADE)", insert: "INSERT INTO orders VALUES (1)", reason: "rows of orders refer to it"},
		{name: "one that sets null", ddl: "CREATE TABLE orders (u INT, FOREIGN KEY (u) REFERENCES users (id) ON DELETE SET NULL)", insert: "INSERT INTO orders VALUES (1)", reason: "rows of orders refer to it"},
		{name: "several columns", ddl: "ALTER TABLE users ADD UNIQUE KEY (id, clerk_id); CREATE TABLE orders (u INT, c VARCHAR(255), FOREIGN KEY (u, c) REFERENCES users (id, clerk_id)) DEFAULT CHARSET utf8mb4", insert: "INSERT INTO orders VALUES (1, 'user_1')", reason: "rows of orders refer to it"},
		{name: "the table itself", ddl: "ALTER TABLE users ADD manager INT, ADD FOREIGN KEY (manager) REFERENCES users (id)", insert: "UPDATE users SET manager = 1 WHERE id = 2", reason: "rows of users refer to it"},
		{name: "a row of the table's without a Clerk ID", ddl: "ALTER TABLE users MODIFY clerk_id VARCHAR(255) NULL, ADD manager INT, ADD FOREIGN KEY (manager) REFERENCES users (id)", insert: "INSERT INTO users (email, manager) VALUES ('x@example.com', 1)", reason: "rows of users refer to it"},
		{name: "its own row", ddl: "ALTER TABLE users ADD manager INT, ADD FOREIGN KEY (manager) REFERENCES users (id)", insert: "UPDATE users SET manager = id", reason: "rows of users refer to it"}, // InnoDB does not delete such a row
		{name: "its own row, by a setting", ddl: "ALTER TABLE users ADD manager INT", insert: "UPDATE users SET manager = id", references: []string{"users.manager=id"}},
		{name: "the table itself, by a setting", ddl: "ALTER TABLE users ADD manager INT", insert: "UPDATE users SET manager = 1", references: []string{"users.manager=id"}, reason: "rows of users refer to it"},
		{name: "another schema", ddl: "CREATE TABLE {other}.orders (u INT, FOREIGN KEY (u) REFERENCES {own}.users (id))", insert: "INSERT INTO {other}.orders VALUES (1)", reason: "rows of orders refer to it"},
		{name: "a setting, of the Clerk ID in another collation", ddl: "CREATE TABLE posts (by_user VARCHAR(64) CHARACTER SET latin1 PRIMARY KEY)", insert: "INSERT INTO posts VALUES ('user_1')", references: []string{"posts.by_user"}, reason: "rows of posts refer to it"},
		{name: "a setting, of another column", ddl: "CREATE TABLE posts (author BIGINT)", insert: "INSERT INTO posts VALUES (1)", references: []string{"posts.author=id"}, reason: "rows of posts refer to it"},
		{name: "a setting, in another schema", ddl: "CREATE TABLE {other}.posts (author BIGINT)", insert: "INSERT INTO {other}.posts VALUES (1)", references: []string{"{other}.posts.author=id"}, reason: "rows of posts refer to it"},
		{name: "two tables", ddl: "CREATE TABLE orders (u INT, FOREIGN KEY (u) REFERENCES users (id)); CREATE TABLE bills (u INT, v INT, FOREIGN KEY (u) REFERENCES users (id), FOREIGN KEY (v) REFERENCES users (id))", insert: "INSERT INTO orders VALUES (1); INSERT INTO bills VALUES (1, 1)", reason: "rows of bills, orders refer to it"},
		{name: "of others only", ddl: "CREATE TABLE orders (u INT, FOREIGN KEY (u) REFERENCES users (id))", insert: "INSERT INTO orders VALUES (2)"},
		{name: "none", ddl: "CREATE TABLE orders (u INT, FOREIGN KEY (u) REFERENCES users (id))"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s, other := newServer(t), newServer(t)
			run := func(script string) {
				t.Helper()
				for _, statement := range strings.Split(script, "; ") {
					if statement != "" {
						s.exec(t, strings.NewReplacer("{other}", other.name, "{own}", s.name).Replace(statement))
					}
				}
			}
			t.Cleanup(func() { run("DROP TABLE IF EXISTS {other}.orders") }) // before the database of what it refers to
			s.exec(t, articleTable)
			run(test.ddl)
			cfg := s.with(articleSettings())
			for _, r := range test.references {
				cfg.References = append(cfg.References, strings.ReplaceAll(r, "{other}", other.name))
			}
			sink := open(t, cfg)
			sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@example.com"))
			sinktest.MustApply(t, sink, usertabletest.Person("user_2", 1, "b@example.com"))
			run(test.insert)
			for range 2 {
				first, second := usertabletest.Erasure("user_1", 2, 1700000000005, false), usertabletest.Erasure("user_9", 2, 1700000000005, false)
				sinktest.MustApply(t, sink, first, second)
				want, rows := schemas.OutcomeAnonymized, "1"
				if test.reason == "" {
					want, rows = schemas.OutcomeDeleted, "0"
				}
				if got := first.Result(); got.Outcome != want && got.Outcome != schemas.OutcomeNotPresent || got.Reason != test.reason || second.Result().Outcome != schemas.OutcomeNotPresent {
					t.Errorf("got %+v and %+v, want %s, %q", got, second.Result(), want, test.reason)
				}
				if got := s.text(t, "SELECT count(*) FROM users WHERE clerk_id = 'user_1'"); got != rows {
					t.Errorf("rows: got %s, want %s", got, rows)
				}
			}
		})
	}
}

// TestReferences_AddedLater has a migration add a foreign key while the sink is
// open.
func TestReferences_AddedLater(t *testing.T) {
	t.Parallel()
	for _, elsewhere := range []bool{false, true} {
		t.Run(fmt.Sprintf("elsewhere=%t", elsewhere), func(t *testing.T) {
			t.Parallel()
			s, other := newServer(t), newServer(t)
			orders := "orders"
			if elsewhere {
				orders = other.name + ".orders"
			}
			s.exec(t, articleTable)
			sink := open(t, s.with(articleSettings()))
			sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@example.com"))
			s.exec(t, "CREATE TABLE "+orders+" (u INT, FOREIGN KEY (u) REFERENCES "+s.name+".users (id) ON DELETE CASCADE)")
			t.Cleanup(func() { s.exec(t, "DROP TABLE "+orders) }) // before the database of what it refers to
			s.exec(t, "INSERT INTO "+orders+" VALUES (1)")
			erase := usertabletest.Erasure("user_1", 2, 1700000000005, false)
			sinktest.MustApply(t, sink, erase)
			if got := s.text(t, "SELECT count(*) FROM "+orders); got != "1" || erase.Result().Outcome != schemas.OutcomeAnonymized {
				t.Errorf("got %s orders, %+v, want the order to stay", got, erase.Result())
			}
		})
	}
}

// TestApply_TableChanges has a migration take something away while the sink
// runs: what is missing is named, and where it only was changed, the sink goes on.
func TestApply_TableChanges(t *testing.T) {
	t.Parallel()
	for ddl, want := range map[string]string{
		"ALTER TABLE users DROP first_name":                       "lacks columns: first_name",
		"DROP TABLE users":                                        "table users is not there",
		"DROP TABLE clerk_connect_versions_users":                 "table clerk_connect_versions_users is not there",
		"ALTER TABLE users MODIFY first_name LONGTEXT, ADD n INT": "",
	} {
		t.Run(ddl, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.exec(t, articleTable)
			sink := open(t, s.with(articleSettings()))
			sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@example.com"))
			s.exec(t, ddl)
			err := usertabletest.Failure(sink.Apply(t.Context(), []sinks.Record{usertabletest.Person("user_1", 2, "a@example.com")}), 0)
			if want == "" {
				if err != nil {
					t.Errorf("Apply: %v", err)
				}
				return
			}
			sinktest.ExpectClass(t, "Apply", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("Apply: got %v, want %q", err, want)
			}
		})
	}
}

// TestReferences_JustInserted has an order come in beside the erasure: the
// erasure waits for it, and sees it.
func TestReferences_JustInserted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, articleTable)
	s.exec(t, "CREATE TABLE orders (u INT, FOREIGN KEY (u) REFERENCES users (id) ON DELETE CASCADE)")
	sink := open(t, s.with(articleSettings()))
	sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@example.com"))
	rival, err := s.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rival.Exec("INSERT INTO orders VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	erase, done := usertabletest.Erasure("user_1", 2, 1700000000005, false), make(chan error, 1)
	go func() { done <- sink.Apply(context.Background(), []sinks.Record{erase}) }()
	waiting := 0
	for deadline := time.Now().Add(2 * time.Minute); waiting == 0 && time.Now().Before(deadline); {
		if err := rival.QueryRow("SELECT count(*) FROM information_schema.processlist WHERE db = database() AND info LIKE '%users%FOR UPDATE'").Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	if err := rival.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatalf("Apply: %v", err)
	}
	if got := s.text(t, "SELECT count(*) FROM orders"); waiting == 0 || got != "1" || erase.Result().Outcome != schemas.OutcomeAnonymized {
		t.Errorf("waited %d, got %s orders, %+v, want the order to stay", waiting, got, erase.Result())
	}
}

// TestHard_ForeignKeys shows what hard does to rows that refer to the user: what
// their foreign key says, and a word about what to do where it says no.
func TestHard_ForeignKeys(t *testing.T) {
	t.Parallel()
	for action, want := range map[string]string{"": "1", "ON DELETE RESTRICT": "1", "ON DELETE CASCADE": "0", "ON DELETE SET NULL": "1"} {
		s := newServer(t)
		s.exec(t, articleTable)
		s.exec(t, "CREATE TABLE orders (u INT, FOREIGN KEY (u) REFERENCES users (id) "+action+")")
		cfg := s.with(articleSettings())
		cfg.Deletion = usertable.DeletionHard
		sink := open(t, cfg)
		sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@example.com"), usertabletest.Person("user_2", 1, "b@example.com"))
		s.exec(t, "INSERT INTO orders SELECT id FROM users WHERE clerk_id = 'user_1'")
		err := sink.Apply(t.Context(), []sinks.Record{usertabletest.Erasure("user_1", 2, 1700000000005, false)})
		if refused := action == "" || action == "ON DELETE RESTRICT"; refused {
			sinktest.ExpectClass(t, action, err, sinks.ClassRetry, sinks.ReasonConflict)
			if err == nil || !strings.Contains(err.Error(), "DELETION") {
				t.Errorf("%s: got %v, want a word about DELETION", action, err)
			}
		} else if err != nil {
			t.Errorf("%s: Apply: %v", action, err)
		}
		if got := s.text(t, "SELECT count(*) FROM orders"); got != want {
			t.Errorf("%s: got %s orders, want %s", action, got, want)
		}
	}
}

// TestDeletion_KeepsTime shows that a time of deletion that is there stays, the
// application's own too, whatever the column keeps of it.
func TestDeletion_KeepsTime(t *testing.T) {
	t.Parallel()
	for _, policy := range []usertable.Deletion{usertable.DeletionSoft, usertable.DeletionAnonymize} {
		for kind, want := range map[string]string{"DATETIME": "2023-11-14 22:13:20", "TIMESTAMP(3) NULL": "2023-11-14 22:13:20.123", "DATETIME(6)": "2023-11-14 22:13:20.123000", "DATE": "2023-11-14"} {
			s := newServer(t)
			s.exec(t, strings.Replace(articleTable, "deleted_at TIMESTAMP NULL", "since DATETIME(3) NOT NULL, deleted_at "+kind, 1))
			cfg := s.with(articleSettings())
			cfg.Columns += ", since = created_at"
			cfg.Deletion = policy
			sink := open(t, cfg)
			sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@example.com"))
			for _, at := range []int64{1700000000123, 1800000000000} {
				sinktest.MustApply(t, sink, usertabletest.Erasure("user_1", 2, at, false))
				if got := s.text(t, "SELECT deleted_at FROM users"); got != want {
					t.Errorf("%s, %s: got %s, want %s", policy, kind, got, want)
				}
				if gone, err := sink.Confirm(t.Context(), "user_1", nil); err != nil || !gone {
					t.Errorf("%s, %s: Confirm: got %v, %v", policy, kind, gone, err)
				}
			}
		}
	}
}

// TestConfirm_Types has an erased user in columns of every type, and shows that
// Confirm takes what the server made of the values for what was written, and
// nothing else.
func TestConfirm_Types(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, `CREATE TABLE users (clerk_id VARCHAR(255) PRIMARY KEY, deleted_at DATETIME(3), a TEXT NOT NULL, b JSON NOT NULL, c TINYINT(1) NOT NULL,
		d DECIMAL(10,2) NOT NULL, e TIMESTAMP NOT NULL, f ENUM('member', 'none') NOT NULL, g BIT(1) NOT NULL, h VARBINARY(99) NOT NULL, i DATE NOT NULL,
		j VARCHAR(30) NOT NULL DEFAULT 'de', k JSON, l DATETIME(3), m VARCHAR(50) UNIQUE, n JSON NOT NULL, o JSON, p JSON) DEFAULT CHARSET utf8mb4`)
	sink := open(t, s.with(usertable.Config{
		Table: "users", KeyColumn: "clerk_id", Deletion: usertable.DeletionAnonymize, CreateTable: true,
		Columns: `a = username, b = public_metadata, c = banned, d = 3, e = created_at, f = 'member', g = locked, h = external_id, i = created_at,
			j = locale, k = private_metadata, l = last_sign_in_at, m = username, n = public_metadata.z, o = public_metadata.a.plan, p = public_metadata.a.plan ?? 'none'`,
	}))
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	if got := s.text(t, "SELECT concat_ws(' ', n, o, p) FROM users"); got != `[1,2.50,null,true] "p1" "p1"` {
		t.Errorf("parts of the metadata as JSON: got %s", got)
	}
	sinktest.MustApply(t, sink, usertabletest.Erasure("user_1", 2, 1700000000123, false))
	if got := s.text(t, "SELECT concat_ws(' ', n, coalesce(o, 'null'), p) FROM users"); got != `{} null "none"` {
		t.Errorf("parts of the metadata of an erased user: got %s", got)
	}
	confirm := func(when string, want bool) {
		t.Helper()
		if gone, err := sink.Confirm(t.Context(), "user_1", nil); err != nil || gone != want {
			t.Errorf("Confirm of %s: got %v, %v, want %v; %s", when, gone, err, want, s.people(t, "SELECT clerk_id, users.* FROM users"))
		}
	}
	confirm("what was written", true)
	for column, value := range map[string]string{
		"a": "'ada'", "b": `'{"a":1}'`, "c": "1", "d": "4", "e": "'2001-01-01'", "f": "'none'", "g": "1", "h": "'17'", "i": "'2001-01-01'", "j": "'fr'",
		"k": "'{}'", "l": "'2001-01-01'", "m": "'ada'", "n": "'[1]'", "o": "'1'", "p": "'\"p1\"'", "deleted_at": "NULL",
	} {
		s.exec(t, "UPDATE users SET "+column+" = "+value)
		confirm(column+" = "+value, false)
		sinktest.MustApply(t, sink, usertabletest.Erasure("user_1", 2, 1700000000123, false))
		confirm("what was written again after "+column, true)
	}
	s.exec(t, "ALTER TABLE users MODIFY e TIMESTAMP NULL")
	s.exec(t, "UPDATE users SET e = NULL")
	confirm("a time that is no more", false)
}

// TestApply_Killed cuts the connection after the guards have advanced and
// before the commit, and applies the batch again.
func TestApply_Killed(t *testing.T) {
	t.Parallel()
	for _, policy := range usertable.Deletions() {
		for _, step := range []string{"UPDATE ON clerk_connect_versions_users", "UPDATE ON users", "DELETE ON users", "INSERT ON users"} {
			t.Run(fmt.Sprintf("%s,%s", policy, step), func(t *testing.T) {
				t.Parallel()
				s := newServer(t)
				s.exec(t, articleTable)
				s.exec(t, "CREATE TABLE stop (really INT)")
				cfg := s.with(articleSettings())
				cfg.Deletion = policy
				sink := open(t, cfg)
				person := usertabletest.Person
				sinktest.MustApply(t, sink, person("user_1", 1, "a@example.com"), person("user_2", 1, "b@example.com"))
				s.exec(t, "CREATE TRIGGER stop AFTER "+step+" FOR EACH ROW SET @slept = (SELECT sleep(60) FROM stop)")
				before := s.dump(t)
				s.exec(t, "INSERT INTO stop VALUES (1)")
				done := make(chan error, 1)
				batch := func() []sinks.Record {
					return []sinks.Record{usertabletest.Erasure("user_1", 2, 1700000000005, false), person("user_2", 2, "bb@example.com"), person("user_3", 1, "a@example.com")}
				}
				go func() { done <- sink.Apply(context.Background(), batch()) }()
				if !s.kill(t, done) {
					return // the policy does nothing of the kind
				}
				if err := <-done; sinks.Classify(err).Class != sinks.ClassRetry || err == nil {
					t.Fatalf("Apply: got %v, want an error to retry", err)
				}
				s.exec(t, "DELETE FROM stop")
				if got := s.dump(t); string(got) != string(before) {
					t.Errorf("after the crash: got %s, want %s", got, before)
				}
				usertabletest.Deliver(t, sink, batch(), true)
				if got := s.text(t, "SELECT group_concat(clerk_id, ' ', email ORDER BY clerk_id) FROM users WHERE deleted_at IS NULL"); got != "user_2 bb@example.com,user_3 a@example.com" {
					t.Errorf("after it was applied again: got %s", got)
				}
				if gone, err := sink.Confirm(t.Context(), "user_1", nil); err != nil || !gone {
					t.Errorf("Confirm: got %v, %v", gone, err)
				}
			})
		}
	}
}

// kill ends the connection that sleeps in a trigger, or reports false if the
// call is done without.
func (s server) kill(t *testing.T, done chan error) bool {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
		if id := s.text(t, "SELECT coalesce(max(id), '') FROM information_schema.processlist WHERE db = database() AND state = 'User sleep'"); id != "" {
			s.exec(t, "KILL "+id)
			return true
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("Apply: %v", err)
			}
			return false
		default:
		}
	}
	t.Fatal("the call neither slept nor ended")
	return false
}
