package mysql_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mysql"
	"clerkconnect/sinks/sinktest"
)

// TestOwnColumns shows that what the application keeps beside our columns is
// never touched.
func TestOwnColumns(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, ownTable(""))
	sink := open(t, s.config())
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	s.exec(t, "UPDATE clerk_users SET plan = 'gold'")
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 2), sinktest.Change("user_2", 1))
	if got := s.text(t, "SELECT group_concat(plan ORDER BY id) FROM clerk_users"); got != "gold,free" {
		t.Errorf("the application's column: got %s, want gold,free", got)
	}
}

// TestTakesOver shows that a row which the application wrote first, whose guard
// is unknown, is the user's.
func TestTakesOver(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, ownTable(""))
	sink := open(t, s.config())
	s.exec(t, "INSERT INTO clerk_users (id, plan) VALUES ('user_1', 'gold'), ('user_2', 'gold')")
	erasure := sinks.Track(sinktest.Erase("user_2", 1))
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1), erasure)
	if got := s.text(t, "SELECT group_concat(plan, '/', first_name) FROM clerk_users"); got != "gold/first_name-1" {
		t.Errorf("rows: got %s, want gold/first_name-1", got)
	}
	if got := erasure.Result().Outcome; got != "DELETED" {
		t.Errorf("outcome of the erasure: got %s, want DELETED", got)
	}
}

// TestTwoTables shows that sinks of two tables in one database do not share
// what they remember.
func TestTwoTables(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sinktest.MustApply(t, open(t, s.config()), sinktest.Change("user_1", 1))
	cfg := s.config()
	cfg.Table = "other `users?\\"
	sinktest.MustApply(t, open(t, cfg), sinktest.Change("user_1", 1))
	sinktest.MustApply(t, open(t, cfg), sinktest.Erase("user_2", 1), sinktest.Change("user_1", 2))
	if got := s.text(t, "SELECT count(*) FROM `other ``users?\\` JOIN clerk_users USING (id)"); got != "1" {
		t.Errorf("rows in both tables: got %s, want 1", got)
	}
}

// TestTable_Dotted shows that a table whose name has a dot is not made, since a
// database is meant, nearly always, and that one that is there is written to.
func TestTable_Dotted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.config()
	cfg.Table = "app.users"
	const want = "for table users of database app name that database in DSN and set TABLE=users"
	for _, change := range []func(*mysql.Config){
		func(*mysql.Config) {}, func(c *mysql.Config) { c.Columns = "email = email" }, func(c *mysql.Config) { c.CreateTable = false },
	} {
		other := cfg
		change(&other)
		sink := newSink(t, other)
		for what, err := range map[string]error{"Open": sink.Open(t.Context()), "Init": sink.Init(t.Context())} {
			sinktest.ExpectClass(t, what, err, sinks.ClassFatal, sinks.ReasonMisconfigured)
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want a word about %q", what, err, want)
			}
		}
	}
	if got := s.text(t, "SELECT count(*) FROM information_schema.tables WHERE table_schema = database()"); got != "0" {
		t.Errorf("what was made: got %s, want nothing", got)
	}
	s.exec(t, "CREATE TABLE `app.users` (id VARCHAR(255) PRIMARY KEY, email VARCHAR(255))")
	cfg.Columns = "email = email"
	sinktest.MustApply(t, open(t, cfg), sinktest.Change("user_1", 1))
	if got := s.text(t, "SELECT count(*) FROM `app.users`"); got != "1" {
		t.Errorf("rows: got %s, want 1", got)
	}
}

// TestIDs_CompareBytes shows that users whose ids differ in case alone are two,
// and that keys come in the order of their bytes.
func TestIDs_CompareBytes(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sink := open(t, s.config())
	sinktest.MustApply(t, sink, sinktest.Change("user_a", 1), sinktest.Change("user_B", 1), sinktest.Change("user_A", 1), sinktest.Change("user_b", 1))
	sinktest.MustApply(t, sink, sinktest.Change("user_a", 2), sinktest.Erase("user_b", 2))
	got, err := sink.Keys(t.Context(), "", 10)
	if want := []string{"user_A", "user_B", "user_a"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("Keys: got %q, %v, want %q", got, err, want)
	}
	// A trailing space does not count in a comparison, so this id is taken.
	sinktest.ExpectClass(t, "Apply of an id with a space behind it", sink.Apply(t.Context(), []sinks.Record{sinktest.Change("user_a ", 9)}), sinks.ClassPermanent, sinks.ReasonInvalidRecord)
}

// TestReplayWritesNothing shows that only ids that moved touch the users table.
func TestReplayWritesNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sink := open(t, s.config())
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 2))
	s.exec(t, "CREATE TRIGGER touched BEFORE UPDATE ON clerk_users FOR EACH ROW IF NEW.id = 'user_1' THEN SIGNAL SQLSTATE '45000'; END IF")
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 2), sinktest.Change("user_2", 1))
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
}

// TestApply_NoDeadlock shows that two that write the same users, new ones and
// known ones, wait for each other and do not run into each other.
func TestApply_NoDeadlock(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	instances := []*mysql.Sink{open(t, s.config()), open(t, s.config())}
	for round := range int64(20) {
		var wait sync.WaitGroup
		for i, sink := range instances {
			var batch []sinks.Record
			for n := range int64(40) {
				batch = append(batch, sinktest.Change(fmt.Sprint("user_", 10*round+n), round))
			}
			if i == 1 {
				slices.Reverse(batch)
			}
			wait.Go(func() {
				if err := sink.Apply(t.Context(), batch); err != nil {
					t.Errorf("Apply: %v", err)
				}
			})
		}
		wait.Wait()
	}
}

// TestErase_WaitsForRival shows that an erasure that waited for a rival who was
// just inserting the user sees that user's row.
func TestErase_WaitsForRival(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sink := open(t, s.config())
	rival, err := s.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		"INSERT INTO clerk_connect_versions VALUES ('user_1', 1, 1, FALSE)", "INSERT INTO clerk_users (id) VALUES ('user_1')",
	} {
		if _, err := rival.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() { done <- sink.Apply(context.Background(), []sinks.Record{sinktest.Erase("user_1", 2)}) }()
	waiting := 0
	for deadline := time.Now().Add(2 * time.Minute); waiting == 0 && time.Now().Before(deadline); {
		if err := rival.QueryRow("SELECT count(*) FROM information_schema.processlist WHERE db = database() AND info LIKE 'INSERT INTO `clerk_connect_versions%'").Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	if waiting == 0 {
		t.Fatal("the erasure does not wait for the rival's lock")
	}
	if err := rival.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatalf("Apply: %v", err)
	}
	if got := s.text(t, "SELECT count(*) FROM clerk_users"); got != "0" {
		t.Errorf("rows after the erasure: got %s, want 0", got)
	}
}

// TestApply_Paused shows that a process which was paused within a transaction
// keeps the next owner waiting for LOCK_TIMEOUT and no longer, and writes
// nothing when it wakes up.
func TestApply_Paused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	proxy := sinktest.NewProxy(t, s.address.Host)
	cfg := s.config()
	cfg.LockTimeout = time.Second
	cfg.DSN = s.dsn(func(u *url.URL) { u.Host = proxy.Address })
	zombie := open(t, cfg)
	sinktest.MustApply(t, zombie, sinktest.Change("user_1", 1))
	// It sleeps as soon as it has locked the user: whatever it sends next would
	// have needed that answer.
	s.exec(t, "CREATE TRIGGER slow BEFORE UPDATE ON clerk_users FOR EACH ROW SET @slept = sleep(IF(NEW.locale = 'slow', 5, 0))")
	late := sinktest.Change("user_1", 2)
	late.Change.User.Locale = new("slow")
	done := make(chan error, 1)
	go func() { done <- zombie.Apply(context.Background(), []sinks.Record{late}) }()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		if s.text(t, "SELECT count(*) FROM information_schema.processlist WHERE db = database() AND state = 'User sleep'") != "0" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the paused process never came to the users table")
		}
	}
	restore := sync.OnceFunc(proxy.Mute())
	defer restore()
	owner := open(t, s.config())
	start := time.Now()
	sinktest.MustApply(t, owner, sinktest.Erase("user_1", 3))
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("the next owner waited for %s", took)
	}
	restore()
	if err := <-done; sinks.Classify(err).Class != sinks.ClassRetry || err == nil {
		t.Errorf("Apply of the process that woke up: got %v, want an error to retry", err)
	}
	if got := s.text(t, "SELECT count(*) FROM clerk_users"); got != "0" {
		t.Errorf("rows after the erasure: got %s, want 0", got)
	}
}

// TestSession shows which settings of the server and of the connection string
// are overruled.
func TestSession(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.config()
	cfg.LockTimeout = 7 * time.Second
	cfg.DSN = s.dsn(func(u *url.URL) {
		u.RawQuery = "sql_mode=''&time_zone='%2B05:00'&charset=latin1&autocommit=0&wait_timeout=1000&loc=Local&interpolateParams=false"
	})
	sink := open(t, cfg)
	s.exec(t, "ALTER TABLE clerk_users ADD COLUMN settings text")
	s.exec(t, `CREATE TRIGGER settings BEFORE INSERT ON clerk_users FOR EACH ROW SET NEW.settings =
		concat_ws(' ', @@time_zone, @@character_set_client, @@autocommit + 0, @@wait_timeout, @@innodb_lock_wait_timeout, @@lock_wait_timeout)`)
	r := sinktest.Change("user_1", 1)
	r.Change.User.CreatedAt = new(int64(1769851800125))
	sinktest.MustApply(t, sink, r)
	if got, want := s.text(t, "SELECT settings FROM clerk_users"), "+00:00 utf8mb4 1 7 7 7"; got != want {
		t.Errorf("settings of the session: got %s, want %s", got, want)
	}
	if got, want := s.text(t, "SELECT created_at FROM clerk_users"), "2026-01-31 09:30:00.125"; got != want {
		t.Errorf("created_at: got %s, want %s", got, want)
	}
	s.exec(t, "ALTER TABLE clerk_users MODIFY locale varchar(8)") // as long as what is there
	r = sinktest.Change("user_2", 1)
	r.Change.User.Locale = new("too long for it")
	sinktest.ExpectClass(t, "Apply of what does not fit", sink.Apply(t.Context(), []sinks.Record{r}), sinks.ClassPermanent, sinks.ReasonTooLarge)
}
