package mysql_test

import (
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mysql"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// initialised returns settings of a table of ours that refuses an address of
// two users who are not deleted, or takes it.
func (s server) initialised(policy usertable.Deletion, unique bool) mysql.Config {
	cfg := s.config()
	cfg.Deletion, cfg.UniqueEmail = policy, unique
	return cfg
}

// TestInit shows that Init may run twice and makes what the sink needs, and a
// view that counts by weeks that begin on Mondays, in UTC.
func TestInit(t *testing.T) {
	t.Parallel()
	for _, policy := range usertable.Deletions() {
		for _, unique := range []bool{true, false} {
			s := newServer(t)
			cfg := s.initialised(policy, unique)
			cfg.CreateTable = false
			sink := newSink(t, cfg)
			for range 2 {
				if err := sink.Init(t.Context()); err != nil {
					t.Fatalf("%s, unique %v: Init: %v", policy, unique, err)
				}
			}
			week := func(id, email string, created int64) sinks.Record {
				r := usertabletest.Person(id, 1, email)
				r.Change.User.CreatedAt = &created
				return r
			}
			const sunday, monday = 1700438399999, 1700438400000 // 2023-11-19 23:59:59.999 and 2023-11-20 00:00 UTC
			sinktest.MustApply(t, open(t, cfg), week("user_1", "a@example.com", sunday), week("user_2", "b@example.com", monday), week("user_3", "c@example.com", monday+1))
			if got := s.text(t, "SELECT group_concat(week, ' ', signups ORDER BY week) FROM clerk_users_signups_per_week"); got != "2023-11-13 1,2023-11-20 2" {
				t.Errorf("weeks: got %s", got)
			}
			if got := s.text(t, "SELECT created_at FROM clerk_users WHERE id = 'user_1'"); got != "2023-11-19 23:59:59.999" {
				t.Errorf("created_at: got %s, want milliseconds in UTC", got)
			}
		}
	}
}

// TestInitScript runs the script by the servers' own command.
func TestInitScript(t *testing.T) {
	t.Parallel()
	command, err := exec.LookPath("mariadb")
	if err != nil {
		if command, err = exec.LookPath("mysql"); err != nil {
			t.Skip("neither mariadb nor mysql is installed")
		}
	}
	for _, policy := range []usertable.Deletion{usertable.DeletionHard, usertable.DeletionSoft} {
		s := newServer(t)
		cfg := s.initialised(policy, true)
		cfg.CreateTable = false
		sink := newSink(t, cfg)
		password, _ := s.address.User.Password()
		run := exec.CommandContext(t.Context(), command, "--no-defaults", "--protocol=tcp", "-h", s.address.Hostname(), "-P", s.address.Port(), "-u", s.address.User.Username(), s.name)
		run.Env, run.Stdin = append(os.Environ(), "MYSQL_PWD="+password), strings.NewReader(sink.InitScript())
		if out, err := run.CombinedOutput(); err != nil {
			t.Fatalf("the script: %v: %s", err, out)
		}
		if err := sink.Init(t.Context()); err != nil {
			t.Errorf("Init after the script: %v", err)
		}
		sinktest.MustApply(t, open(t, cfg), sinktest.Change("user_1", 1))
		if got := s.text(t, "SELECT group_concat(table_name ORDER BY table_name) FROM information_schema.tables WHERE table_schema = database()"); got != "clerk_connect_versions,clerk_users,clerk_users_signups_per_week" {
			t.Errorf("tables: got %s", got)
		}
	}
}

// TestInit_Mapped shows that Init leaves an application's table alone.
func TestInit_Mapped(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, articleTable)
	before := s.definition(t, "users")
	cfg := s.with(articleSettings())
	cfg.UniqueEmail = true
	sink := newSink(t, cfg)
	if err := sink.Init(t.Context()); err != nil {
		t.Fatalf("Init: %v", err)
	}
	if got := s.definition(t, "users"); got != before {
		t.Errorf("the application's table: got %s, want %s", got, before)
	}
	if got := s.text(t, "SELECT group_concat(table_name ORDER BY table_name) FROM information_schema.tables WHERE table_schema = database()"); got != "clerk_connect_versions_users,users" {
		t.Errorf("tables: got %s", got)
	}
	if script := sink.InitScript(); !strings.Contains(script, "-- CREATE UNIQUE INDEX `users_clerk_id_key` ON `users` (`clerk_id`)") || strings.Contains(script, "\nALTER") {
		t.Errorf("the script: got\n%s", script)
	}
}

// definition returns the statement that makes a table.
func (s server) definition(t testing.TB, table string) (ddl string) {
	t.Helper()
	s.each(t, "SHOW CREATE TABLE `"+table+"`", func(values []any) { ddl = string(values[1].([]byte)) })
	return ddl
}

// TestInit_Rights shows which rights Init and Open need where the tables are
// not there: Open can do without that of the view.
func TestInit_Rights(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, "CREATE USER "+s.name+" IDENTIFIED BY 's3cret'")
	t.Cleanup(func() { s.exec(t, "DROP USER "+s.name) })
	s.exec(t, "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, INDEX, ALTER ON "+s.name+".* TO "+s.name)
	cfg := s.initialised(usertable.DeletionHard, true)
	cfg.DSN = s.dsn(func(u *url.URL) { u.User = url.UserPassword(s.name, "s3cret") })
	open(t, cfg)
	sinktest.ExpectClass(t, "Init without CREATE VIEW", newSink(t, cfg).Init(t.Context()), sinks.ClassFatal, sinks.ReasonUnauthorized)
	s.exec(t, "GRANT CREATE VIEW ON "+s.name+".* TO "+s.name)
	if err := newSink(t, cfg).Init(t.Context()); err != nil {
		t.Errorf("Init: %v", err)
	}
}

// TestInit_Shared shows that users who share an address are said to do so when
// they must not.
func TestInit_Shared(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sinktest.MustApply(t, open(t, s.config()), sinktest.Change("user_1", 1), sinktest.Change("user_2", 1))
	err := newSink(t, s.initialised(usertable.DeletionHard, true)).Init(t.Context())
	sinktest.ExpectClass(t, "Init", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
	if err == nil || !strings.Contains(err.Error(), "UNIQUE_EMAIL") {
		t.Errorf("Init: got %v, want a word about UNIQUE_EMAIL", err)
	}
}

// TestUniqueEmail has the computed column that stands in for a partial index
// let a deleted user's address be another's, tell addresses apart that most
// collations hold for equal, and settle those that move.
func TestUniqueEmail(t *testing.T) {
	t.Parallel()
	for _, policy := range usertable.Deletions() {
		s := newServer(t)
		sink := open(t, s.initialised(policy, true))
		person := usertabletest.Person
		sinktest.MustApply(t, sink, person("user_1", 1, "jose@example.com"), person("user_2", 2, "josé@example.com"), person("user_3", 3, ""), person("user_4", 4, ""))
		usertabletest.Deliver(t, sink, []sinks.Record{person("user_1", 5, "josé@example.com"), person("user_2", 6, "jose@example.com")}, true)
		if got := s.text(t, "SELECT group_concat(id, ' ', email ORDER BY id) FROM clerk_users"); got != "user_1 josé@example.com,user_2 jose@example.com" {
			t.Errorf("%s: addresses: got %s", policy, got)
		}
		sinktest.MustApply(t, sink, usertabletest.Erasure("user_1", 7, 5, false))
		sinktest.MustApply(t, sink, person("user_5", 8, "josé@example.com"))
		if got := s.text(t, "SELECT group_concat(id) FROM clerk_users WHERE email_active = 'josé@example.com'"); got != "user_5" {
			t.Errorf("%s: who has the address: got %s", policy, got)
		}
		held := s.text(t, "SELECT coalesce(group_concat(id), '') FROM clerk_users WHERE id = 'user_1' AND email = 'josé@example.com'")
		if want := map[bool]string{true: "user_1"}[policy == usertable.DeletionSoft]; held != want { // what soft keeps, it keeps
			t.Errorf("%s: the deleted user's address: got %q, want %q", policy, held, want)
		}
		err := usertabletest.Failure(sink.Apply(t.Context(), []sinks.Record{person("user_6", 7, "josé@example.com")}), 0)
		if got := sinks.Classify(err); got.HeldBy != "user_5" || got.Class != sinks.ClassRetry {
			t.Errorf("%s: an older claim: got %v, want to wait for user_5", policy, err)
		}
	}
}
