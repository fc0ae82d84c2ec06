package mysql_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// TestUnique_Forms has addresses swap in every form of unique key that one can
// be in, and a third user claim one that the key holds for equal.
func TestUnique_Forms(t *testing.T) {
	t.Parallel()
	const a, b = "anna@example.com", "bert@example.com"
	for _, test := range []struct {
		name, columns, keys string
		insert              string
		equal               string // to a, by the key
	}{
		{name: "one column, letters folded", columns: "email VARCHAR(255) NOT NULL", keys: "UNIQUE (email)", equal: "ANNA@example.com"},
		{name: "accents folded", columns: "email VARCHAR(255) COLLATE utf8mb4_unicode_ci", keys: "UNIQUE (email)", equal: "änna@example.com"},
		{name: "spaces at the end", columns: "email VARCHAR(255) COLLATE utf8mb4_bin", keys: "UNIQUE (email)", equal: "anna@example.com "},
		{name: "another character set", columns: "email VARCHAR(255) CHARACTER SET latin1", keys: "UNIQUE (email)", equal: "Anna@example.com"},
		{name: "bytes", columns: "email VARBINARY(255)", keys: "UNIQUE (email)", equal: a},
		{name: "the beginning", columns: "email TEXT", keys: "UNIQUE (email(100))", equal: "Anna@example.com"},
		{name: "with a constant of ours", columns: "email VARCHAR(200), tenant VARCHAR(20) NOT NULL DEFAULT 'x'", keys: "UNIQUE (tenant, email)", insert: "tenant = 'acme'", equal: "Anna@example.com"},
		{name: "with a column of the application's", columns: "email VARCHAR(200), tenant INT NOT NULL DEFAULT 7", keys: "UNIQUE (email, tenant)", equal: "Anna@example.com"},
		{name: "with names that statements use", columns: "email VARCHAR(200), n INT NOT NULL DEFAULT 7, p0 INT NOT NULL DEFAULT 1", keys: "UNIQUE (n, email, p0)", equal: "Anna@example.com"},
		{name: "with one that is null", columns: "email VARCHAR(200), tenant INT DEFAULT 7", keys: "UNIQUE (email, tenant)", equal: "Anna@example.com"},
		{name: "computed", columns: "email VARCHAR(200) COLLATE utf8mb4_bin, folded VARCHAR(200) COLLATE utf8mb4_bin AS (lower(email)) STORED", keys: "UNIQUE (folded)", equal: "ANNA@example.com"},
		{name: "computed from more", columns: "email VARCHAR(200), state VARCHAR(9) NOT NULL DEFAULT 'active', live VARCHAR(200) AS (IF(state = 'active' AND deleted_at IS NULL, email, NULL)) VIRTUAL", keys: "UNIQUE (live)", equal: "Anna@example.com"},
		{name: "two keys", columns: "email VARCHAR(200) NOT NULL, upper_email VARCHAR(200) AS (upper(email)) STORED", keys: "UNIQUE (email), UNIQUE (upper_email)", equal: "Anna@example.com"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, policy := range []usertable.Deletion{usertable.DeletionHard, usertable.DeletionSoft} {
				s := newServer(t)
				s.exec(t, "CREATE TABLE users (id INT AUTO_INCREMENT PRIMARY KEY, clerk_id VARCHAR(255) UNIQUE, deleted_at DATETIME(3), "+test.columns+", "+test.keys+") DEFAULT CHARSET utf8mb4")
				cfg := s.with(usertable.Config{Table: "users", KeyColumn: "clerk_id", Columns: "email = email", InsertColumns: test.insert, Deletion: policy, CreateTable: true})
				sink := open(t, cfg)
				person := usertabletest.Person
				sinktest.MustApply(t, sink, person("user_1", 1, a), person("user_2", 2, b))
				for round, together := range []bool{true, false} { // there and back
					version := int64(10 * (round + 1))
					first, second := b, a
					if round == 1 {
						first, second = a, b
					}
					usertabletest.Deliver(t, sink, []sinks.Record{person("user_1", version, first), person("user_2", version+1, second)}, together)
					if got := s.text(t, "SELECT group_concat(clerk_id, ' ', trim(email) ORDER BY clerk_id) FROM users"); got != "user_1 "+first+",user_2 "+second {
						t.Errorf("a swap: got %s", got)
					}
				}
				err := sink.Apply(t.Context(), []sinks.Record{person("user_3", 5, test.equal), person("user_4", 5, "dora@example.com")})
				if got := sinks.Classify(usertabletest.Failure(err, 0)); got.HeldBy != "user_1" || got.Class != sinks.ClassRetry || usertabletest.Failure(err, 1) != nil {
					t.Errorf("an older claim: got %v, want only user_3 to wait, for user_1", err)
				}
				sinktest.MustApply(t, sink, person("user_3", 30, test.equal))
				if got := s.text(t, "SELECT group_concat(clerk_id, ' ', email ORDER BY clerk_id SEPARATOR ';') FROM users WHERE clerk_id = 'user_3'"); got != "user_3 "+test.equal {
					t.Errorf("a newer claim: got %q", got)
				}
				err = sink.Apply(t.Context(), []sinks.Record{person("user_5", 41, a), person("user_6", 40, test.equal)})
				if got := sinks.Classify(usertabletest.Failure(err, 1)); got.HeldBy != "user_5" || usertabletest.Failure(err, 0) != nil {
					t.Errorf("two in one batch: got %v, want the older to wait for user_5", err)
				}
				sinktest.MustApply(t, sink, sinktest.Erase("user_5", 42), sinktest.Erase("user_6", 42), usertabletest.Erasure("user_3", 31, 5, false))
				sinktest.MustApply(t, sink, person("user_1", 50, a))
				if got := s.text(t, "SELECT email FROM users WHERE clerk_id = 'user_1'"); got != a {
					t.Errorf("after the holder's erasure: got %q", got)
				}
			}
		})
	}
}

// TestUnique_Apart shows that the rest of a key keeps users apart who share an
// address, as the tenant of an application's.
func TestUnique_Apart(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, "CREATE TABLE users (clerk_id VARCHAR(255) PRIMARY KEY, email VARCHAR(200) NOT NULL, tenant INT NOT NULL DEFAULT 1, UNIQUE (email, tenant)) DEFAULT CHARSET utf8mb4")
	sink := open(t, s.with(usertable.Config{Table: "users", KeyColumn: "clerk_id", Columns: "email = email", CreateTable: true}))
	person := usertabletest.Person
	s.exec(t, "INSERT INTO users VALUES ('user_1', 'a@example.com', 2)")
	sinktest.MustApply(t, sink, person("user_1", 1, "a@example.com"), person("user_2", 2, "a@example.com"))
	// user_3 contends with user_2 alone, and a settling leaves user_1 be.
	sinktest.MustApply(t, sink, person("user_3", 3, "a@example.com"))
	if got := s.text(t, "SELECT group_concat(clerk_id, ' ', email ORDER BY clerk_id) FROM users"); got != "user_1 a@example.com,user_2 pending-user_2@email.invalid,user_3 a@example.com" {
		t.Errorf("addresses: got %s", got)
	}
	// A swap among users of another tenant than the column's default.
	s.exec(t, "INSERT INTO users VALUES ('user_4', 'd@example.com', 2)")
	usertabletest.Deliver(t, sink, []sinks.Record{person("user_4", 4, "a@example.com"), person("user_1", 5, "d@example.com")}, false)
	if got := s.text(t, "SELECT group_concat(clerk_id, ' ', email, ' ', tenant ORDER BY clerk_id) FROM users WHERE email NOT LIKE 'pending%'"); got != "user_1 d@example.com 2,user_3 a@example.com 1,user_4 a@example.com 2" {
		t.Errorf("after a swap: got %s", got)
	}
}

// TestUnique_Concurrent has two processes write the two halves of swaps at the
// same time, and repeat what is refused.
func TestUnique_Concurrent(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, articleTable)
	instances := []sinks.Sink{open(t, s.with(articleSettings())), open(t, s.with(articleSettings()))}
	email := func(user, round, half int) string { return fmt.Sprintf("u%d-%d@example.com", user, (round+half)%2) }
	for round := range 12 {
		var wait sync.WaitGroup
		for half, sink := range instances {
			var batch []sinks.Record
			for user := range 20 {
				batch = append(batch, usertabletest.Person(fmt.Sprintf("user_%02d_%d", user, half), int64(2*round+half+1), email(user, round, half)))
			}
			wait.Go(func() { usertabletest.Deliver(inBackground{t}, sink, batch, true) })
		}
		wait.Wait()
		for half := range instances {
			for user := range 20 {
				if got := s.text(t, "SELECT email FROM users WHERE clerk_id = ?", fmt.Sprintf("user_%02d_%d", user, half)); got != email(user, round, half) {
					t.Errorf("round %d, user %d, half %d: got %s, want %s", round, user, half, got, email(user, round, half))
				}
			}
		}
	}
}

// TestUnique_HolderMoves has the guard of who holds an address move while another
// takes it: that one waits for the guard, and then for its user, whose claim is newer now.
func TestUnique_HolderMoves(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, articleTable)
	sink := open(t, s.with(articleSettings()))
	sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@example.com"))
	rival, err := s.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rival.Exec("UPDATE clerk_connect_versions_users SET version = 9 WHERE id = 'user_1'"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- sink.Apply(context.Background(), []sinks.Record{usertabletest.Person("user_2", 5, "a@example.com")})
	}()
	waiting := 0
	for deadline := time.Now().Add(2 * time.Minute); waiting == 0 && time.Now().Before(deadline); {
		if err := rival.QueryRow("SELECT count(*) FROM information_schema.processlist WHERE db = database() AND info LIKE 'SELECT id, epoch, version, deleted%user\\_1%'").Scan(&waiting); err != nil {
			t.Fatal(err)
		}
		if len(done) > 0 {
			t.Fatalf("Apply did not wait for the guard of the holder: %v", <-done)
		}
	}
	if err := rival.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := sinks.Classify(usertabletest.Failure(<-done, 0)); got.HeldBy != "user_1" {
		t.Errorf("Apply: got %+v, want to wait for user_1", got)
	}
}

// inBackground is a test as another goroutine may use it.
type inBackground struct{ *testing.T }

func (b inBackground) Fatalf(format string, args ...any) { b.Errorf(format, args...) }
func (b inBackground) Context() context.Context          { return context.Background() }

// TestKey_Collation has the Clerk ID in columns that hold ids for equal that
// differ: no user is ever taken for another.
func TestKey_Collation(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"VARCHAR(255)", "VARCHAR(64) CHARACTER SET latin1", "CHAR(40) CHARACTER SET ascii", "VARCHAR(255) COLLATE utf8mb4_unicode_ci", "VARBINARY(64)"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.exec(t, strings.Replace(articleTable, "clerk_id VARCHAR(255)", "clerk_id "+kind, 1))
			cfg := s.with(articleSettings())
			cfg.Deletion = usertable.DeletionHard
			sink := open(t, cfg)
			person := usertabletest.Person
			sinktest.MustApply(t, sink, person("user_A", 1, "a@example.com"), person("user_C", 1, "c@example.com"))
			sinktest.MustApply(t, sink, person("user_A", 2, "aa@example.com"))
			binary := strings.Contains(kind, "BINARY")
			err := sink.Apply(t.Context(), []sinks.Record{person("user_a", 3, "b@example.com")})
			if got := sinks.Classify(err); (err == nil) != binary || !binary && (got.Class != sinks.ClassRetry || got.Reason != sinks.ReasonConflict) {
				t.Errorf("Apply of user_a: got %v", err)
			}
			erase := usertabletest.Erasure("user_c", 1, 5, false)
			sinktest.MustApply(t, sink, erase)
			if got := s.text(t, "SELECT group_concat(trim(clerk_id), ' ', email ORDER BY id) FROM users WHERE clerk_id <> 'user_a' OR binary clerk_id = 'user_A'"); got != "user_A aa@example.com,user_C c@example.com" || erase.Result().Outcome != "NOT_PRESENT" {
				t.Errorf("rows: got %s, %+v", got, erase.Result())
			}
			if gone, err := sink.Confirm(t.Context(), "user_c", nil); err != nil || !gone {
				t.Errorf("Confirm: got %v, %v", gone, err)
			}
			sinktest.MustApply(t, sink, person("user_B", 1, "bb@example.com"), person("user_bb", 1, "bbb@example.com"))
			if keys, err := sink.Keys(t.Context(), "user_B", 2); err != nil || keys[0] != "user_C" || !strings.HasPrefix(keys[1], map[bool]string{true: "user_a", false: "user_bb"}[binary]) {
				t.Errorf("Keys: got %v, %v", keys, err)
			}
		})
	}
}

// TestUnique_NoRoom has a key on a column that is too short for what stands in
// it while a user waits: whoever comes later waits, and no record is refused
// for good.
func TestUnique_NoRoom(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, "CREATE TABLE users (id varchar(64) PRIMARY KEY, email varchar(20) NOT NULL UNIQUE)")
	cfg := s.config()
	cfg.Table, cfg.Columns = "users", "email = email"
	sink := open(t, cfg)
	sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@example.com"))
	late := usertabletest.Person("user_2", 2, "a@example.com")
	sinktest.ExpectClass(t, "Apply", sink.Apply(t.Context(), []sinks.Record{late}), sinks.ClassRetry, sinks.ReasonConflict)
	sinktest.MustApply(t, sink, usertabletest.Person("user_1", 3, "b@example.com"))
	sinktest.MustApply(t, sink, late)
}
