package mysql_test

import (
	"strings"
	"testing"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mysql"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
)

// TestApply_Refused shows how the server's refusals are classified, and that
// none of them quotes the user or costs the connection.
func TestApply_Refused(t *testing.T) {
	t.Parallel()
	const canary = "canary-4b1f7e"
	user := sinktest.Change("user_1", 1)
	user.Change.User.FirstName = new(canary)
	other := sinktest.Change("user_2", 1)
	ancient := sinktest.Change("user_1", 1)
	ancient.Change.User.CreatedAt = new(int64(1) << 60)
	for _, test := range []struct {
		name, ddl string
		batch     []sinks.Record
		class     sinks.Class
		reason    sinks.Reason
		want      string // in the error
	}{
		{"a check", "ALTER TABLE clerk_users ADD CHECK (first_name NOT LIKE 'canary%')", []sinks.Record{user, other}, sinks.ClassPermanent, sinks.ReasonInvalidRecord, "the check "},
		{"too long", "ALTER TABLE clerk_users MODIFY first_name varchar(12)", []sinks.Record{user}, sinks.ClassPermanent, sinks.ReasonTooLarge, "column first_name"},
		{"an id too long", "", []sinks.Record{sinktest.Change(strings.Repeat("x", 256), 1)}, sinks.ClassPermanent, sinks.ReasonTooLarge, ""},
		{"a wrong type", "ALTER TABLE clerk_users MODIFY first_name int", []sinks.Record{user}, sinks.ClassPermanent, sinks.ReasonInvalidRecord, "column first_name"},
		{"another character set", "ALTER TABLE clerk_users MODIFY first_name varchar(50) CHARACTER SET latin1", []sinks.Record{func() sinks.Record {
			wide := sinktest.Change("user_1", 1)
			wide.Change.User.FirstName = new(canary + "\U0001F984")
			return wide
		}()}, sinks.ClassPermanent, sinks.ReasonInvalidRecord, "column first_name does not take the value, which has characters that its character set has not"},
		{"out of range", "ALTER TABLE clerk_users MODIFY lockout_expires_in_seconds tinyint", []sinks.Record{func() sinks.Record {
			r := sinktest.Change("user_1", 1)
			r.Change.User.LockoutExpiresInSeconds = new(int64(1000))
			return r
		}()}, sinks.ClassPermanent, sinks.ReasonInvalidRecord, "column lockout_expires_in_seconds"},
		{"a time after the last year", "", []sinks.Record{ancient}, sinks.ClassPermanent, sinks.ReasonInvalidRecord, "column created_at"},
		{"a trigger", "CREATE TRIGGER refuse_users BEFORE INSERT ON clerk_users FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '" + canary + "'", []sinks.Record{user}, sinks.ClassPermanent, sinks.ReasonInvalidRecord, "(refuse_users)"},
		{
			"a trigger that speaks as the server does", "CREATE TRIGGER refuse_users BEFORE INSERT ON clerk_users FOR EACH ROW SIGNAL SQLSTATE '22001' SET MYSQL_ERRNO = 1406, MESSAGE_TEXT = 'for column `" + canary + "` at row 1'",
			[]sinks.Record{user}, sinks.ClassPermanent, sinks.ReasonTooLarge, "",
		},
		{"a unique key that cannot be settled", computedKey, []sinks.Record{other, user}, sinks.ClassPermanent, sinks.ReasonConflict, ""},
		{"a unique key that cannot be settled, alone", computedKey, []sinks.Record{other}, sinks.ClassRetry, sinks.ReasonConflict, ""},
		{"a foreign key", "CREATE TABLE orders (owner varchar(255) COLLATE utf8mb4_bin, FOREIGN KEY (owner) REFERENCES clerk_users (id)) ENGINE InnoDB CHARACTER SET utf8mb4 SELECT 'user_0' AS owner", []sinks.Record{sinktest.Erase("user_0", 2)}, sinks.ClassRetry, sinks.ReasonConflict, ""},
		{"a column that must have a value", "ALTER TABLE clerk_users ADD COLUMN plan int NOT NULL", []sinks.Record{user}, sinks.ClassFatal, sinks.ReasonMisconfigured, ""},
		{"a table taken away", "DROP TABLE clerk_users", []sinks.Record{user}, sinks.ClassFatal, sinks.ReasonMisconfigured, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			cfg := s.config()
			cfg.MaxConnections = 1
			sink := open(t, cfg)
			first := sinktest.Change("user_0", 1)
			first.Change.User.FirstName = nil
			sinktest.MustApply(t, sink, first)
			if test.ddl != "" {
				s.exec(t, test.ddl)
			}
			before := s.connections(t)
			err := sink.Apply(t.Context(), test.batch)
			sinktest.ExpectClass(t, "Apply", err, test.class, test.reason)
			if err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("the error quotes the user")
			}
			if err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("Apply: got %v, want a word about %q", err, test.want)
			}
			if after := s.connections(t); after != before {
				t.Errorf("the connection was thrown away")
			}
		})
	}
}

// computedKey is a unique key whose values come from columns of ours by a way
// that is not followed: a column that is computed from a computed one.
const computedKey = "ALTER TABLE clerk_users ADD once varchar(50) AS (left(image_url, 50)) STORED, ADD twice varchar(50) AS (once) STORED UNIQUE"

// connections names the sink's connections.
func (s server) connections(t testing.TB) string {
	t.Helper()
	return s.text(t, "SELECT coalesce(group_concat(id ORDER BY id), '') FROM information_schema.processlist WHERE db = database()")
}

// TestApply_LockedOut shows that a lock that another keeps costs a retry.
func TestApply_LockedOut(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.config()
	cfg.LockTimeout = time.Second
	sink := open(t, cfg)
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	rival, err := s.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rival.Exec("UPDATE clerk_connect_versions SET deleted = TRUE"); err != nil {
		t.Fatal(err)
	}
	sinktest.ExpectClass(t, "Apply", sink.Apply(t.Context(), []sinks.Record{sinktest.Change("user_1", 2)}), sinks.ClassRetry, sinks.ReasonConflict)
	if err := rival.Rollback(); err != nil {
		t.Fatal(err)
	}
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 2))
}

// TestApply_Splits shows that a batch that is longer than a statement may be is
// written in several, and that one user who is too long is refused.
func TestApply_Splits(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sink := open(t, s.config())
	var packet int
	if err := s.db.QueryRow("SELECT @@max_allowed_packet").Scan(&packet); err != nil {
		t.Fatal(err)
	}
	long := func(id string, size int) sinks.Record {
		r := sinktest.Change(id, 1)
		r.Change.User.LastName = new(strings.Repeat("'", size)) // each takes two bytes
		return r
	}
	size := packet / 5
	sinktest.MustApply(t, sink, long("user_1", size), long("user_2", size), sinktest.Change("user_3", 1), long("user_4", size), sinktest.Change("user_5", 1))
	if got := s.text(t, "SELECT count(*) FROM clerk_users WHERE length(last_name) = ?", size); got != "3" {
		t.Errorf("long users: got %s, want 3", got)
	}
	// The server would hang up, which is an outage to whoever is still writing.
	before := s.connections(t)
	batch := []sinks.Record{sinktest.Change("user_6", 1), long("user_7", packet/2)}
	sinktest.ExpectClass(t, "Apply of a user who is too long", sink.Apply(t.Context(), batch), sinks.ClassPermanent, sinks.ReasonTooLarge)
	if after := s.connections(t); after != before {
		t.Errorf("the connection was thrown away")
	}
	sinktest.MustApply(t, sink, batch[0])
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	err := mysql.Config{Config: usertable.Config{Table: "a\x00"}, DSN: "mysql://u:s3cret@h:port/", MaxConnections: -1, LockTimeout: time.Millisecond}.Validate()
	for _, variable := range []string{"DSN", "TABLE", "MAX_CONNECTIONS", "LOCK_TIMEOUT"} {
		if err == nil || !strings.Contains(err.Error(), variable) {
			t.Errorf("Validate: got %v, want a word about %s", err, variable)
		}
	}
	if err != nil && strings.Contains(err.Error(), "s3cret") {
		t.Error("Validate quotes the password")
	}
	for dsn, want := range map[string]string{
		"":                              "DSN is empty",
		"mysql://u:s3cret@h":            "DSN names no database",
		"mysql://u:s3cret@h/d?tls=none": "DSN is no connection string",
		"s3cret":                        "DSN is no connection string",
		"mysql://u:s3cret@[::1]/d?tls=true&collation=x": "",
		"u:s3cret@tcp(h:3306)/d":                        "",
		"u:s3cret@unix(/run/mysqld.sock)/d":             "",
	} {
		err := mysql.Config{DSN: dsn}.Validate()
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("Validate with DSN %q: got %v, want a word about %q", dsn, err, want)
		}
	}
}
