package mysql_test

import (
	"net/url"
	"strings"
	"testing"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
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
	types := map[mapping.Kind]string{
		mapping.Text: "varchar(200)", mapping.JSON: "json", mapping.Bool: "bool", mapping.Integer: "int", mapping.Time: "timestamp(3) NULL",
	}
	ddl := "CREATE TABLE clerk_users (plan varchar(20) NOT NULL DEFAULT 'free', " + ownKey
	for _, c := range mapping.Fields() {
		ddl += ", " + c.Name + " " + types[c.Kind]
	}
	return ddl + more + ") ENGINE InnoDB CHARACTER SET utf8mb4"
}

// TestOpen opens a sink on tables of an application's, and on none.
func TestOpen(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, ddl string
		change    func(*usertable.Config)
		want      []string // in the error; nil: none
	}{
		{name: "creates the tables"},
		{name: "nothing there", change: leave, want: []string{"clerk_users is not there", "clerk_connect_versions is not there", "sink init"}},
		{name: "a table of the application's", ddl: ownTable("")},
		{name: "no side table", ddl: ownTable(""), change: leave, want: []string{"clerk_connect_versions is not there"}},
		{name: "columns missing", ddl: strings.Replace(ownTable(""), ", email varchar(200), primary_email_address_id varchar(200)", "", 1), want: []string{"lacks columns: email, primary_email_address_id"}},
		{name: "no transactions", ddl: strings.Replace(ownTable(""), "InnoDB", "MyISAM", 1), want: []string{"is not of the engine InnoDB"}},
		{name: "id is no key", ddl: strings.Replace(ownTable(""), "PRIMARY KEY", "", 1), want: []string{"id of table clerk_users is not unique by itself: ALTER TABLE"}},
		{name: "id is another key", ddl: strings.Replace(ownTable(""), "PRIMARY KEY", "UNIQUE, pk int AUTO_INCREMENT PRIMARY KEY", 1)},
		{name: "a key of two columns", ddl: strings.Replace(ownTable(", PRIMARY KEY (id, plan)"), "PRIMARY KEY", "", 1), want: []string{"not unique by itself"}},
		{name: "half of id is the key", ddl: strings.Replace(ownTable(", PRIMARY KEY (id(8))"), "PRIMARY KEY", "", 1), want: []string{"not unique by itself"}},
		{name: "an id that is too short", ddl: strings.Replace(ownTable(""), "VARCHAR(64)", "VARCHAR(27)", 1), want: []string{"id of table clerk_users is varchar(27) and cannot hold a Clerk ID"}},
		{name: "an id that is a number", ddl: strings.Replace(ownTable(""), "VARCHAR(64) COLLATE utf8mb4_bin", "BIGINT", 1), want: []string{"id of table clerk_users is bigint and cannot hold a Clerk ID"}},
		{name: "ids that ignore case", ddl: strings.Replace(ownTable(""), "utf8mb4_bin", "utf8mb4_general_ci", 1)},
		{name: "a side table with ids that ignore case", ddl: strings.Replace(sideTable, "utf8mb4_bin", "utf8mb4_general_ci", 1), want: []string{"byte for byte"}},
		{name: "a side table with another key", ddl: strings.Replace(sideTable, "epoch INT", "epoch INT UNIQUE", 1), want: []string{"no other unique key"}},
		{name: "a side table of another kind", ddl: strings.Replace(sideTable, "epoch", "era", 1), want: []string{"lacks the column epoch"}},
		{
			name: "types that cannot hold it", ddl: strings.NewReplacer("has_image bool", "has_image date", "public_metadata json", "public_metadata int", "created_at timestamp(3) NULL", "created_at bigint").Replace(ownTable("")),
			want: []string{"has_image of table clerk_users is date and cannot hold has_image", "public_metadata of table clerk_users is int", "created_at of table clerk_users is bigint"},
		},
		{name: "JSON that cannot hold a text", ddl: ownTable(", name JSON"), change: func(c *usertable.Config) { c.Columns = "name = full_name" }, want: []string{"name of table clerk_users is JSON and cannot hold full_name"}},
		{name: "an external id that is a number", ddl: strings.Replace(ownTable(""), "external_id varchar(200)", "external_id bigint", 1), change: func(c *usertable.Config) {
			c.Columns = "external_id = external_id"
		}},
		{name: "a column that nobody fills", ddl: ownTable(", company varchar(20) NOT NULL, kind enum('a', 'b') NOT NULL"), want: []string{"company of table clerk_users takes no null, has no default, and nobody fills it", "INSERT_COLUMNS"}},
		{name: "one that INSERT_COLUMNS fills", ddl: ownTable(", company varchar(20) NOT NULL"), change: func(c *usertable.Config) { c.InsertColumns = "company = 'none'" }},
		{name: "a computed column", ddl: strings.Replace(ownTable(""), "locale varchar(200)", "locale varchar(200) AS (username)", 1), want: []string{"locale of table clerk_users is computed"}},
		{name: "no time of deletion", ddl: ownTable(""), change: soft, want: []string{"lacks columns: deleted_at"}},
		{name: "a time of deletion that is none", ddl: ownTable(", deleted_at bool"), change: soft, want: []string{"deleted_at of table clerk_users is tinyint and cannot hold a time"}},
		{name: "a time of deletion that must be there", ddl: ownTable(", deleted_at datetime NOT NULL"), change: soft, want: []string{"deleted_at of table clerk_users takes no null"}},
		{name: "a view", ddl: "CREATE VIEW clerk_users AS SELECT 1 AS id", want: []string{"clerk_users is a view"}},
		{name: "an address that is too short", ddl: strings.Replace(ownTable(", deleted_at datetime"), "email varchar(200)", "email varchar(50)", 1), change: func(c *usertable.Config) {
			c.Deletion = usertable.DeletionAnonymize
		}, want: []string{"email of table clerk_users is varchar(50), too short for what is left of an erased user"}},
		{name: "one that is long enough while nothing refers to users", ddl: strings.Replace(ownTable(", deleted_at datetime"), "email varchar(200)", "email varchar(50)", 1), change: func(c *usertable.Config) {
			c.Deletion = usertable.DeletionAuto
		}},
		{name: "names in capitals", ddl: strings.Replace(ownTable(""), "username", "UserName", 1)},
		{name: "a mapped table that is not there", change: func(c *usertable.Config) { c.Columns = "email = email" }, want: []string{"name the application's table in TABLE"}},
		{name: "references that are not there", ddl: ownTable(", deleted_at datetime"), change: func(c *usertable.Config) {
			c.Deletion, c.References = usertable.DeletionAuto, []string{"orders.user_id", "clerk_users.plan=pk"}
		}, want: []string{`REFERENCES has "orders.user_id"`, `"clerk_users.plan=pk": table clerk_users has no column pk`}},
		{
			name: "all of it", ddl: strings.NewReplacer("PRIMARY KEY", "", "email varchar", "mail varchar").Replace(ownTable(", company int NOT NULL")),
			change: func(c *usertable.Config) { c.CreateTable, c.Deletion = false, usertable.DeletionSoft },
			want:   []string{"lacks columns: email, deleted_at", "not unique by itself", "company", "clerk_connect_versions is not there"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			if test.ddl != "" {
				s.exec(t, test.ddl)
			}
			cfg := s.config()
			if test.change != nil {
				test.change(&cfg.Config)
			}
			expectOpen(t, cfg, test.want)
		})
	}
}

func leave(c *usertable.Config) { c.CreateTable = false }
func soft(c *usertable.Config)  { c.Deletion = usertable.DeletionSoft }

func expectOpen(t *testing.T, cfg mysql.Config, want []string) {
	t.Helper()
	sink := newSink(t, cfg)
	defer sink.Close()
	err := sink.Open(t.Context())
	if want == nil {
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		r := sinktest.Change("user_1", 1)
		r.Change.User.ExternalID = new("17")
		sinktest.MustApply(t, sink, r, sinktest.Erase("user_2", 1))
		return
	}
	sinktest.ExpectClass(t, "Open", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
	for _, word := range want {
		if err != nil && !strings.Contains(err.Error(), word) {
			t.Errorf("Open: got %v, want a word about %q", err, word)
		}
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
	expect := func(what, dsn string, class sinks.Class, reason sinks.Reason, words ...string) {
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
		for _, word := range words {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: got %v, want it to say %q", what, err, word)
			}
		}
	}
	expect("wrong password", as("s3cretwrong"), sinks.ClassFatal, sinks.ReasonUnauthorized, "password is not as the server has it")
	expect("no such database", s.dsn(func(u *url.URL) { u.Path = "/none_" + s.name }), sinks.ClassFatal, sinks.ReasonMisconfigured, "no such database")
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
