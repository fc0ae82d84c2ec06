package sqlite_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	process "os/exec"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// TestReferences has auto find rows that refer to a user, by foreign keys of
// every kind and by what is configured.
func TestReferences(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, ddl, row string
		references     []string
		want           string // the reason; "": the user is deleted
	}{
		{"to the key of the row", "CREATE TABLE orders (u INTEGER REFERENCES users (id))", "INSERT INTO orders VALUES (1)", nil, "rows of orders refer to it"},
		{"to the primary key unsaid, in other letters", "CREATE TABLE Orders (u INTEGER REFERENCES USERS)", "INSERT INTO orders VALUES (1)", nil, "rows of Orders refer to it"},
		{"to the Clerk ID", "CREATE TABLE orders (u TEXT REFERENCES users (clerk_id))", "INSERT INTO orders VALUES ('user_1')", nil, "rows of orders refer to it"},
		{"that cascades", "CREATE TABLE orders (u TEXT REFERENCES users (clerk_id) ON DELETE CASCADE)", "INSERT INTO orders VALUES ('user_1')", nil, "rows of orders refer to it"},
		{"of two columns", "CREATE UNIQUE INDEX two ON users (id, tenant); CREATE TABLE orders (u INTEGER, t TEXT, FOREIGN KEY (u, t) REFERENCES users (id, tenant))", "INSERT INTO orders VALUES (1, 't')", nil, "rows of orders refer to it"},
		{"of two columns, one null", "CREATE UNIQUE INDEX two ON users (id, tenant); CREATE TABLE orders (u INTEGER, t TEXT, FOREIGN KEY (u, t) REFERENCES users (id, tenant))", "INSERT INTO orders VALUES (1, NULL)", nil, ""},
		{"of another user", "CREATE TABLE orders (u INTEGER REFERENCES users (id))", "INSERT INTO orders VALUES (2)", nil, ""},
		{"of two tables", "CREATE TABLE posts (u INTEGER REFERENCES users); CREATE TABLE orders (u INTEGER REFERENCES users (id))", "INSERT INTO orders VALUES (1); INSERT INTO posts VALUES (1)", nil, "rows of orders, posts refer to it"},
		{"by setting", "CREATE TABLE posts (author TEXT)", "INSERT INTO posts VALUES ('user_1')", []string{"posts.author"}, "rows of posts refer to it"},
		{"by setting, to another column", "CREATE TABLE posts (u INTEGER)", "INSERT INTO posts VALUES (1)", []string{"main.posts.u=id"}, "rows of posts refer to it"},
		{"to oneself", "ALTER TABLE users ADD boss INTEGER REFERENCES users (id)", "UPDATE users SET boss = 1 WHERE id = 1", nil, ""},
		{"of a colleague", "ALTER TABLE users ADD boss INTEGER REFERENCES users (id)", "UPDATE users SET boss = 1", nil, "rows of users refer to it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := newApplication(t, users("")+test.ddl)
			settings := usertabletest.Settings()
			settings.Deletion, settings.References = usertable.DeletionAuto, test.references
			sink := a.open(t, settings)
			sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@x"), usertabletest.Person("user_2", 1, "b@x"))
			exec(t, a.db, test.row)
			erase := usertabletest.Erasure("user_1", 2, 5, false)
			sinktest.MustApply(t, sink, erase)
			want := sinks.Result{Outcome: schemas.OutcomeDeleted}
			if test.want != "" {
				want = sinks.Result{Outcome: schemas.OutcomeAnonymized, Reason: test.want}
			}
			if got := erase.Result(); got.Outcome != want.Outcome || got.Reason != want.Reason {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// TestReferences_TableMadeLater has the application create a table that refers
// to users while the sink is open.
func TestReferences_TableMadeLater(t *testing.T) {
	t.Parallel()
	a := newApplication(t, users(""))
	settings := usertabletest.Settings()
	settings.Deletion = usertable.DeletionAuto
	sink := a.open(t, settings)
	sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@x"), usertabletest.Person("user_2", 1, "b@x"))
	sinktest.MustApply(t, sink, usertabletest.Erasure("user_2", 2, 5, false)) // looks for the first time
	exec(t, a.db, "CREATE TABLE orders (u INTEGER REFERENCES users); INSERT INTO orders VALUES (1)")
	erase := usertabletest.Erasure("user_1", 2, 5, false)
	sinktest.MustApply(t, sink, erase)
	if got := erase.Result(); got.Outcome != schemas.OutcomeAnonymized {
		t.Errorf("got %+v, want the user anonymous", got)
	}
}

// TestHard_ForeignKeys has plain deletion meet each action of a foreign key.
// What refuses it says which table does, and holds nobody else up.
func TestHard_ForeignKeys(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		action string
		refers string // rows of orders that are left: "" for null; "-": none
		fails  bool
	}{
		{"", "1", true},
		{"ON DELETE RESTRICT", "1", true},
		{"DEFERRABLE INITIALLY DEFERRED", "1", true},
		{"ON DELETE RESTRICT DEFERRABLE INITIALLY DEFERRED", "1", true},
		{"ON DELETE CASCADE", "-", false},
		{"ON DELETE SET NULL", "", false},
	} {
		t.Run(test.action, func(t *testing.T) {
			t.Parallel()
			a := newApplication(t, users("")+"CREATE TABLE orders (u INTEGER REFERENCES users "+test.action+"); CREATE TABLE bills (u INTEGER REFERENCES users)")
			sink := a.open(t, usertabletest.Settings())
			sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@x"), usertabletest.Person("user_2", 1, "b@x"), usertabletest.Person("user_4", 1, "d@x"))
			exec(t, a.db, "INSERT INTO orders VALUES (1); INSERT INTO bills VALUES (3)")
			err := sink.Apply(t.Context(), []sinks.Record{usertabletest.Erasure("user_1", 2, 5, false), usertabletest.Erasure("user_2", 2, 5, false), usertabletest.Person("user_3", 2, "c@x"), usertabletest.Erasure("user_4", 2, 5, false)})
			sinktest.ExpectClass(t, "the user with a bill", usertabletest.Failure(err, 3), sinks.ClassRetry, sinks.ReasonConflict)
			if !test.fails && usertabletest.Failure(err, 0) != nil || usertabletest.Failure(err, 1) != nil || usertabletest.Failure(err, 2) != nil {
				t.Errorf("Apply: got %v", err)
			}
			if test.fails {
				sinktest.ExpectClass(t, "the user who is referred to", usertabletest.Failure(err, 0), sinks.ClassRetry, sinks.ReasonConflict)
				if err == nil || !strings.Contains(err.Error(), "rows of orders refer to the user") {
					t.Errorf("Apply: got %v, want the table's name", err)
				}
			}
			if gone, err := sink.Confirm(t.Context(), "user_1", nil); err != nil || gone == test.fails {
				t.Errorf("Confirm: got %v, %v", gone, err)
			}
			got := "-"
			for _, row := range a.rows(t, "orders") {
				got = row["u"]
			}
			if got != test.refers {
				t.Errorf("orders: got %q, want %q", got, test.refers)
			}
		})
	}
}

// TestAnonymize_NoNulls has every column take no null: what is written in its
// place is neutral, the same when it is read back, and the defaults of the
// application's hold for who is not deleted.
func TestAnonymize_NoNulls(t *testing.T) {
	t.Parallel()
	a := newApplication(t, `CREATE TABLE users (clerk_id TEXT NOT NULL PRIMARY KEY, email TEXT NOT NULL, first_name TEXT NOT NULL DEFAULT ('no' || 'body'),
		username TEXT NOT NULL UNIQUE, profile TEXT NOT NULL DEFAULT '{"a":1}', banned INTEGER NOT NULL, plan TEXT NOT NULL DEFAULT 'free',
		seen TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, created TEXT NOT NULL, role TEXT NOT NULL DEFAULT 'x', deleted_at TEXT) WITHOUT ROWID`)
	settings := usertable.Config{
		Table: "users", KeyColumn: "clerk_id", CreateTable: true, Deletion: usertable.DeletionAnonymize,
		Columns: "email = email, first_name = first_name, username = username, profile = private_metadata, banned = banned, plan = public_metadata.plan, seen = last_active_at, created = created_at, role = 'member'",
	}
	sink := a.open(t, settings)
	bare := sinktest.Change("user_1", 1)
	bare.Change.User.FirstName, bare.Change.User.PrivateMetadata, bare.Change.User.PublicMetadata, bare.Change.User.LastActiveAt = nil, nil, nil, nil
	sinktest.MustApply(t, sink, bare)
	got := a.users(t)["user_1"]
	if got["first_name"] != "nobody" || got["profile"] != `{"a":1}` || got["plan"] != "free" || got["seen"] == "" || got["role"] != "member" {
		t.Errorf("a user of whom little is known: got %v, want the table's defaults", got)
	}
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 2), usertabletest.Erasure("user_2", 1, 5, false))
	sinktest.MustApply(t, sink, usertabletest.Erasure("user_1", 3, 1700000000123, false))
	want := map[string]string{
		"clerk_id": "user_1", "email": "deleted-user_1@anonymized.local", "first_name": "Deleted", "username": "deleted-user_1", "profile": "{}",
		"banned": "0", "plan": "deleted-user_1", "seen": "2023-11-14T22:13:20.123Z", "created": "2023-11-14T22:13:20.123Z", "role": "member", "deleted_at": "2023-11-14T22:13:20.123Z",
	}
	if got := a.users(t)["user_1"]; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("anonymous: got %v, want %v", got, want)
	}
	if gone, err := sink.Confirm(t.Context(), "user_1", nil); err != nil || !gone {
		t.Errorf("Confirm: got %v, %v", gone, err)
	}
	sinktest.MustApply(t, sink, usertabletest.Erasure("user_1", 3, 1700000009999, false))
	if got := a.users(t)["user_1"]; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("again: got %v, want %v", got, want)
	}
}

// TestZombie_BeforeCommit has a process paused between what it wrote and the
// commit. Whoever wants to write meanwhile waits for it, in vain at first, and
// wins in the end.
func TestZombie_BeforeCommit(t *testing.T) {
	t.Parallel()
	for _, policy := range usertable.Deletions() {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			a := newApplication(t, article.ddl)
			cfg := article.config(a, policy)
			cfg.BusyTimeout = 10 * time.Millisecond
			zombie, owner := openSink(t, cfg), openSink(t, cfg)
			sinktest.MustApply(t, owner, usertabletest.Person("user_1", 1, "a@example.com"))
			erase := usertabletest.Erasure("user_1", 3, 5, false)
			zombie.Between(func() {
				sinktest.ExpectClass(t, "the erasure while the other writes", owner.Apply(t.Context(), []sinks.Record{erase}), sinks.ClassRetry, sinks.ReasonConflict)
			})
			sinktest.MustApply(t, zombie, usertabletest.Person("user_1", 2, "late@example.com"))
			sinktest.MustApply(t, owner, erase)
			late := usertabletest.Person("user_1", 2, "late@example.com")
			sinktest.MustApply(t, zombie, late)
			if gone, err := owner.Confirm(t.Context(), "user_1", nil); err != nil || !gone || !late.Result().Superseded {
				t.Errorf("the erased user is back: %v, %v, %+v", gone, err, late.Result())
			}
			if policy != usertable.DeletionSoft && bytes.Contains(a.dump(t), []byte("late@example.com")) {
				t.Error("the late address is in the file")
			}
		})
	}
}

// TestCrash kills a process before and after the commit of a batch with a
// change and an erasure. Before, nothing of it is there; after, all; and the
// same batch again comes to the same.
func TestCrash(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"before", "after"} {
		for _, policy := range usertable.Deletions() {
			t.Run(at+","+string(policy), func(t *testing.T) {
				t.Parallel()
				a := newApplication(t, article.ddl)
				cfg := article.config(a, policy)
				sinktest.MustApply(t, openSink(t, cfg), usertabletest.Person("user_1", 1, "a@example.com"), usertabletest.Person("user_2", 1, "b@example.com"))
				child := process.Command(os.Args[0], "-test.run=^TestCrash_Child$")
				child.Env = append(os.Environ(), "CRASH_PATH="+a.path, "CRASH_AT="+at, "CRASH_POLICY="+string(policy))
				output, err := child.CombinedOutput()
				if child.ProcessState == nil || child.ProcessState.ExitCode() != -1 {
					t.Fatalf("the process did not kill itself: %v\n%s", err, output)
				}
				written := at == "after"
				expectCrashed(t, a, policy, written)
				sink := openSink(t, cfg)
				again := crashBatch()
				sinktest.MustApply(t, sink, again...)
				if again[0].Result().Superseded != written {
					t.Errorf("the change, again: got %+v", again[0].Result())
				}
				expectCrashed(t, a, policy, true)
			})
		}
	}
}

func crashBatch() []sinks.Record {
	return []sinks.Record{usertabletest.Person("user_2", 2, "new@example.com"), usertabletest.Erasure("user_1", 2, 5, false)}
}

// TestCrash_Child is the process that dies.
func TestCrash_Child(t *testing.T) {
	path := os.Getenv("CRASH_PATH")
	if path == "" {
		t.Skip("run by TestCrash")
	}
	cfg := article.config(application{path: path}, usertable.Deletion(os.Getenv("CRASH_POLICY")))
	sink := openSink(t, cfg)
	die := func() {
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Kill()
		}
		t.Fatal("still alive: ", err)
	}
	if os.Getenv("CRASH_AT") == "before" {
		sink.Between(die)
	}
	sinktest.MustApply(t, sink, crashBatch()...)
	die()
}

// expectCrashed looks whether the batch is there, whole or not at all.
func expectCrashed(t *testing.T, a application, policy usertable.Deletion, written bool) {
	t.Helper()
	all := a.users(t)
	gone := all["user_1"] == nil || all["user_1"]["deleted_at"] != ""
	if (all["user_2"]["email"] == "new@example.com") != written || gone != written {
		t.Errorf("%s: got %v, want the batch written: %v", policy, all, written)
	}
}

// TestJournal shows that the application's choice of a journal is left alone,
// and that an erasure leaves no trace with either.
func TestJournal(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"delete", "wal", "truncate"} {
		a := newApplication(t, users(""))
		var got string
		if err := a.db.QueryRow("PRAGMA journal_mode = " + mode).Scan(&got); err != nil {
			t.Fatal(err)
		}
		sink := a.open(t, usertabletest.Settings())
		sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "canary@example.com"))
		sinktest.MustApply(t, sink, usertabletest.Erasure("user_1", 2, 5, false))
		if bytes.Contains(a.dump(t), []byte("canary@example.com")) {
			t.Errorf("%s: the erased user is in the file", mode)
		}
		want := map[string]string{"wal": "wal"}[mode]
		if want == "" {
			want = "delete" // truncate is a connection's own choice
		}
		other, err := sql.Open("sqlite", a.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := other.QueryRow("PRAGMA journal_mode").Scan(&got); err != nil || got != want {
			t.Errorf("journal mode of a file with %s: got %s, %v", mode, got, err)
		}
		other.Close()
	}
}
