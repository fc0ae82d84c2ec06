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
	"clerkconnect/sinks/usertable"
)

const (
	ownKey    = "id VARCHAR(64) COLLATE utf8mb4_bin PRIMARY KEY"
	sideTable = "CREATE TABLE clerk_connect_versions (" + ownKey + ", epoch INT NOT NULL, version BIGINT NOT NULL, deleted BOOLEAN NOT NULL)"
)

// ownTable is a users table as an application would create it.
func ownTable(more string) string {
	types := map[usertable.Kind]string{
		usertable.Text: "varchar(200)", usertable.JSON: "json", usertable.Bool: "bool", usertable.Integer: "int", usertable.Time: "timestamp(3) NULL",
	}
	ddl := "CREATE TABLE clerk_users (plan varchar(20) NOT NULL DEFAULT 'free', " + ownKey
	for _, c := range usertable.Columns() {
		ddl += ", " + c.Name + " " + types[c.Kind]
	}
	return ddl + more + ") ENGINE InnoDB CHARACTER SET utf8mb4"
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, ddl string
		leave     bool   // do not create
		want      string // in the error, "": none
	}{
		{name: "creates the tables"},
		{name: "nothing there", leave: true, want: "is not there"},
		{name: "a table of the application's", ddl: ownTable("")},
		{name: "no side table", ddl: ownTable(""), leave: true, want: "clerk_connect_versions is not there"},
		{name: "columns missing", ddl: strings.Replace(ownTable(""), ", email varchar(200), primary_email_address_id varchar(200)", "", 1), want: "lacks columns: email, primary_email_address_id"},
		{name: "no transactions", ddl: strings.Replace(ownTable(""), "InnoDB", "MyISAM", 1), want: "is not of the engine InnoDB"},
		{name: "id is no key", ddl: strings.Replace(ownTable(""), "PRIMARY KEY", "", 1), want: "as its primary key"},
		{name: "id is another key", ddl: strings.Replace(ownTable(""), "PRIMARY KEY", "UNIQUE, pk int PRIMARY KEY", 1), want: "as its primary key"},
		{name: "a key of two columns", ddl: strings.Replace(ownTable(", PRIMARY KEY (id, plan)"), "PRIMARY KEY", "", 1), want: "as its primary key"},
		{name: "half of id is the key", ddl: strings.Replace(ownTable(", PRIMARY KEY (id(8))"), "PRIMARY KEY", "", 1), want: "as its primary key"},
		{name: "ids that ignore case", ddl: strings.Replace(ownTable(""), "utf8mb4_bin", "utf8mb4_general_ci", 1), want: "byte for byte"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			if test.ddl != "" {
				s.exec(t, test.ddl)
			}
			cfg := s.config()
			cfg.CreateTable = !test.leave
			sink := newSink(t, cfg)
			defer sink.Close()
			err := sink.Open(t.Context())
			if test.want == "" {
				if err != nil {
					t.Fatalf("Open: %v", err)
				}
				sinktest.MustApply(t, sink, sinktest.Change("user_1", 1), sinktest.Erase("user_2", 1))
				return
			}
			sinktest.ExpectClass(t, "Open", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
			if err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("Open: got %v, want a word about %q", err, test.want)
			}
		})
	}
}

func TestOpen_Refused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	user := s.name
	s.exec(t, "CREATE USER "+user+" IDENTIFIED BY 's3cret'")
	t.Cleanup(func() { s.exec(t, "DROP USER "+user) })
	as := func(password string) string {
		return s.dsn(func(u *url.URL) { u.User = url.UserPassword(user, password) })
	}
	expect := func(what, dsn string, class sinks.Class, reason sinks.Reason) {
		t.Helper()
		cfg := s.config()
		cfg.DSN = dsn
		sink := newSink(t, cfg)
		defer sink.Close()
		err := sink.Open(t.Context())
		sinktest.ExpectClass(t, what, err, class, reason)
		if err != nil && (strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), user)) {
			t.Errorf("%s: the error quotes the user or the password", what)
		}
	}
	expect("wrong password", as("s3cretwrong"), sinks.ClassFatal, sinks.ReasonUnauthorized)
	expect("no such database", s.dsn(func(u *url.URL) { u.Path = "/none_" + s.name }), sinks.ClassFatal, sinks.ReasonMisconfigured)
	expect("nobody listens", "mysql://x:s3cret@127.0.0.1:1/x", sinks.ClassRetry, sinks.ReasonUnavailable)
	s.each(t, "SHOW VARIABLES WHERE Variable_name = 'have_ssl' AND Value <> 'YES'", func([]any) {
		expect("no TLS", s.dsn(func(u *url.URL) { u.RawQuery = "tls=true" }), sinks.ClassFatal, sinks.ReasonMisconfigured)
	})
	expect("no right to the database", as("s3cret"), sinks.ClassFatal, sinks.ReasonUnauthorized)

	s.exec(t, ownTable(""))
	s.exec(t, sideTable)
	s.exec(t, "GRANT SELECT, INSERT, UPDATE ON "+s.name+".* TO "+user)
	expect("no right to delete", as("s3cret"), sinks.ClassFatal, sinks.ReasonUnauthorized)
	s.exec(t, "GRANT DELETE ON "+s.name+".clerk_users TO "+user)
	cfg := s.config() // which would create, but neither may nor must
	cfg.DSN = as("s3cret")
	sinktest.MustApply(t, open(t, cfg), sinktest.Change("user_1", 1), sinktest.Erase("user_2", 1))
}

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
	s.exec(t, "CREATE TRIGGER touched BEFORE INSERT ON clerk_users FOR EACH ROW IF NEW.id = 'user_1' THEN SIGNAL SQLSTATE '45000'; END IF")
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 2), sinktest.Change("user_2", 1))
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
}

// TestUniqueEmail shows that a unique key of the application's never makes one
// user's row another's, whether the holder of the address is in the batch or
// not, and that it ends when the holder lets go of it.
func TestUniqueEmail(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, strings.Replace(ownTable(", UNIQUE (email)"), ownKey, "age int NULL UNIQUE, "+ownKey, 1))
	sink := open(t, s.config())
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	second, free := sinktest.Change("user_2", 1), sinktest.Change("user_2", 1)
	free.Change.User.PrimaryEmailAddress = new("other@example.com")
	sinktest.ExpectClass(t, "the second holder", sink.Apply(t.Context(), []sinks.Record{second}), sinks.ClassRetry, sinks.ReasonConflict)
	sinktest.ExpectClass(t, "a batch with the second holder", sink.Apply(t.Context(), []sinks.Record{second, sinktest.Erase("user_3", 1)}), sinks.ClassPermanent, sinks.ReasonConflict)
	sinktest.MustApply(t, sink, free)
	moved := sinktest.Change("user_2", 2)
	sinktest.ExpectClass(t, "a second holder who is there", sink.Apply(t.Context(), []sinks.Record{moved}), sinks.ClassRetry, sinks.ReasonConflict)
	if got := s.text(t, "SELECT group_concat(id, ' ', email ORDER BY id) FROM clerk_users"); got != "user_1 primary_email_address-1,user_2 other@example.com" {
		t.Errorf("addresses: got %s", got)
	}
	// Deleted and signed up again, in one batch: the new user sorts first.
	sinktest.MustApply(t, sink, sinktest.Erase("user_1", 2), sinktest.Change("user_0", 1))
	if got := s.text(t, "SELECT group_concat(id ORDER BY id) FROM clerk_users"); got != "user_0,user_2" {
		t.Errorf("users: got %s, want user_0,user_2", got)
	}
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
	for deadline := time.Now().Add(10 * time.Second); waiting == 0 && time.Now().Before(deadline); {
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
	s.exec(t, "CREATE TRIGGER slow BEFORE INSERT ON clerk_users FOR EACH ROW SET @slept = sleep(IF(NEW.locale = 'slow', 2, 0))")
	late := sinktest.Change("user_1", 2)
	late.Change.User.Locale = new("slow")
	done := make(chan error, 1)
	go func() { done <- zombie.Apply(context.Background(), []sinks.Record{late}) }()
	for deadline := time.Now().Add(10 * time.Second); ; {
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
	if took := time.Since(start); took > 10*time.Second {
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
