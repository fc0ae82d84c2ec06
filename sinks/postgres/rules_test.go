package postgres_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/postgres"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
)

// ownTable is a users table as an application would create it.
func ownTable(more string) string {
	types := map[mapping.Kind]string{
		mapping.Text: "varchar(200)", mapping.JSON: "json", mapping.Bool: "bool", mapping.Integer: "int", mapping.Time: "timestamp with time zone",
	}
	ddl := "CREATE TABLE %.clerk_users (plan text NOT NULL DEFAULT 'free', id varchar(64) PRIMARY KEY"
	for _, c := range mapping.Fields() {
		ddl += ", " + c.Name + " " + types[c.Kind]
	}
	return ddl + more + ")"
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, ddl string
		leave     bool   // do not create
		want      string // in the error, "": none
	}{
		{name: "creates the tables"},
		{name: "nothing there", leave: true, want: "there is no table"},
		{name: "a table of the application's", ddl: ownTable("")},
		{name: "no side table", ddl: ownTable(""), leave: true, want: "connect_versions\", or its schema"},
		{name: "columns missing", ddl: strings.Replace(ownTable(""), ", email varchar(200), primary_email_address_id varchar(200)", "", 1), want: "lacks columns: email, primary_email_address_id"},
		{name: "a wrong type", ddl: strings.Replace(ownTable(""), "banned bool", "banned date", 1), want: "has type date in column banned"},
		{name: "id is not unique", ddl: strings.Replace(ownTable(""), "PRIMARY KEY", "", 1), want: "make id unique"},
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
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("Open: got %v, want a word about %q", err, test.want)
			}
		})
	}
}

func TestOpen_Refused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	expect := func(what, dsn string, class sinks.Class, reason sinks.Reason) {
		t.Helper()
		cfg := s.config()
		cfg.DSN = dsn
		sink := newSink(t, cfg)
		defer sink.Close()
		err := sink.Open(t.Context())
		sinktest.ExpectClass(t, what, err, class, reason)
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error quotes the password", what)
		}
	}
	role := s.schema + "_role"
	s.exec(t, "CREATE ROLE "+role+" LOGIN PASSWORD 's3cret'")
	t.Cleanup(func() { s.exec(t, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	as := func(password string) string {
		return "postgres://" + role + ":" + password + "@" + s.address + "/postgres?sslmode=disable"
	}
	expect("wrong password", as("s3cretwrong"), sinks.ClassFatal, sinks.ReasonUnauthorized)
	expect("no such database", strings.Replace(as("s3cret"), "/postgres?", "/none_"+s.schema+"?", 1), sinks.ClassFatal, sinks.ReasonMisconfigured)
	expect("nobody listens", "postgres://x:s3cret@127.0.0.1:1/postgres?sslmode=disable", sinks.ClassRetry, sinks.ReasonUnavailable)
	expect("no right to the schema", as("s3cret"), sinks.ClassFatal, sinks.ReasonUnauthorized)

	s.exec(t, ownTable(""))
	s.exec(t, "CREATE TABLE %.clerk_connect_versions (id text PRIMARY KEY, epoch integer NOT NULL, version bigint NOT NULL, deleted boolean NOT NULL)")
	s.exec(t, "GRANT USAGE ON SCHEMA % TO "+role)
	s.exec(t, "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA % TO "+role)
	expect("no right to delete", as("s3cret"), sinks.ClassFatal, sinks.ReasonUnauthorized)
	s.exec(t, "GRANT DELETE ON %.clerk_users TO "+role)
	cfg := s.config() // which would create, but neither may nor must
	cfg.DSN = as("s3cret")
	sinktest.MustApply(t, open(t, cfg), sinktest.Change("user_1", 1), sinktest.Erase("user_2", 1))
}

// TestOwnColumns shows that what the application keeps beside our columns is
// never touched.
func TestOwnColumns(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, ownTable(", CHECK (plan <> '')"))
	sink := open(t, s.config())
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	s.exec(t, "UPDATE %.clerk_users SET plan = 'gold'")
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 2), sinktest.Change("user_2", 1))
	if got := s.text(t, "SELECT string_agg(plan, ',' ORDER BY id) FROM %.clerk_users"); got != "gold,free" {
		t.Errorf("the application's column: got %s, want gold,free", got)
	}
}

// TestTwoTables shows that sinks of two tables in one schema do not share what
// they remember.
func TestTwoTables(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sinktest.MustApply(t, open(t, s.config()), sinktest.Change("user_1", 1))
	cfg := s.config()
	cfg.Table = `other "users"`
	sinktest.MustApply(t, open(t, cfg), sinktest.Change("user_1", 1))
	if got := s.text(t, `SELECT count(*)::text FROM %."other ""users""" JOIN %.clerk_users USING (id)`); got != "1" {
		t.Errorf("rows in both tables: got %s, want 1", got)
	}
}

// TestTable_Dotted shows that a table whose name has a dot is not made, since a
// schema is meant, nearly always, and that one that is there is written to.
func TestTable_Dotted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.config()
	cfg.Table = "app.users"
	const want = "for table users of schema app set SCHEMA=app and TABLE=users"
	for _, change := range []func(*postgres.Config){
		func(*postgres.Config) {}, func(c *postgres.Config) { c.Columns = "email = email" }, func(c *postgres.Config) { c.CreateTable = false },
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
	if got := s.text(t, "SELECT count(*)::text FROM pg_class WHERE relnamespace = '%'::regnamespace"); got != "0" {
		t.Errorf("what was made: got %s, want nothing", got)
	}
	s.exec(t, `CREATE TABLE %."app.users" (id text PRIMARY KEY, email text)`)
	cfg.Columns = "email = email"
	sinktest.MustApply(t, open(t, cfg), sinktest.Change("user_1", 1))
	if got := s.text(t, `SELECT count(*)::text FROM %."app.users"`); got != "1" {
		t.Errorf("rows: got %s, want 1", got)
	}
}

// TestKeys_Collation shows that keys come in the order of their bytes from a
// table whose ids sort as words do.
func TestKeys_Collation(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	if s.text(t, "SELECT count(*)::text FROM pg_collation WHERE collname = 'und-x-icu'") == "0" {
		t.Skip("the server was built without ICU")
	}
	s.exec(t, strings.Replace(ownTable(""), "id varchar(64)", `id text COLLATE "und-x-icu"`, 1))
	sink := open(t, s.config())
	sinktest.MustApply(t, sink, sinktest.Change("user_a", 1), sinktest.Change("user_B", 1), sinktest.Change("user_A", 1), sinktest.Change("user_b", 1))
	sinktest.MustApply(t, sink, sinktest.Change("user_a", 2), sinktest.Erase("user_b", 2))
	var got []string
	for after := ""; len(got) < 4; after = got[len(got)-1] {
		keys, err := sink.Keys(t.Context(), after, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(keys) == 0 {
			break
		}
		got = append(got, keys...)
	}
	if want := []string{"user_A", "user_B", "user_a"}; !slices.Equal(got, want) {
		t.Errorf("Keys: got %q, want %q", got, want)
	}
}

// TestReplayWritesNothing shows that only ids that moved touch the users table.
func TestReplayWritesNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sink := open(t, s.config())
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 2))
	before := s.text(t, "SELECT xmin::text FROM %.clerk_users")
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 2), sinktest.Change("user_2", 1))
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	if after := s.text(t, "SELECT xmin::text FROM %.clerk_users WHERE id = 'user_1'"); after != before {
		t.Errorf("the row was written again")
	}
}

// TestApply_NeedsNoAnswer shows that a batch is committed although the sink
// was paused as soon as it had sent it: it holds no lock while it sleeps.
func TestApply_NeedsNoAnswer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	proxy := sinktest.NewProxy(t, s.address)
	cfg := s.config()
	cfg.DSN = s.through(proxy.Address, "")
	cfg.MaxConnections = 1
	sink := open(t, cfg)
	// The pool asks a connection that was idle for a second for a sign of life,
	// which a slow machine may bring about: hence another try.
	for try := range int64(3) {
		sinktest.MustApply(t, sink, sinktest.Change("user_1", 1+10*try))
		restore := proxy.Mute()
		done := make(chan error, 1)
		go func() { done <- sink.Apply(t.Context(), []sinks.Record{sinktest.Erase("user_1", 2+10*try)}) }()
		gone := false
		for deadline := time.Now().Add(5 * time.Second); !gone && time.Now().Before(deadline); {
			gone = s.text(t, "SELECT count(*)::text FROM %.clerk_users") == "0"
		}
		restore()
		if err := <-done; err != nil {
			t.Fatalf("Apply: %v", err)
		}
		if gone {
			return
		}
	}
	t.Error("nothing was committed before the sink had an answer")
}

// TestErase_WaitsForRival is the race that a single statement would lose: the
// erasure waits for a rival who is just inserting the user, and must then see
// the row that was not there when it began.
func TestErase_WaitsForRival(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sink := open(t, s.config())
	rival := s.begin(t)
	if _, err := rival.Exec(t.Context(), s.in("INSERT INTO %.clerk_connect_versions VALUES ('user_1', 1, 1, false)")); err != nil {
		t.Fatal(err)
	}
	if _, err := rival.Exec(t.Context(), s.in("INSERT INTO %.clerk_users (id) VALUES ('user_1')")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- sink.Apply(t.Context(), []sinks.Record{sinktest.Erase("user_1", 2)}) }()
	s.awaitLock(t)
	if err := rival.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatalf("Apply: %v", err)
	}
	if got := s.text(t, "SELECT count(*)::text FROM %.clerk_users"); got != "0" {
		t.Errorf("rows after the erasure: got %s, want 0", got)
	}
}

// TestTransactionSettings shows which settings of the server are overruled.
func TestTransactionSettings(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.config()
	cfg.StatementTimeout = 7 * time.Second
	cfg.DSN = s.through(s.address, "options=-c%20synchronous_commit%3Doff%20-c%20default_transaction_isolation%3Dserializable")
	sink := open(t, cfg)
	s.exec(t, `ALTER TABLE %.clerk_users ADD COLUMN settings text DEFAULT
		current_setting('synchronous_commit') || ', ' || current_setting('transaction_isolation') || ', ' || current_setting('statement_timeout')`)
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	if got, want := s.text(t, "SELECT settings FROM %.clerk_users"), "on, read committed, 7s"; got != want {
		t.Errorf("settings of the transaction: got %s, want %s", got, want)
	}
}

// TestApply_Refused shows how the server's refusals are classified, and that
// none of them quotes the user or costs the connection.
func TestApply_Refused(t *testing.T) {
	t.Parallel()
	const canary = "canary-4b1f7e"
	user := sinktest.Change("user_1", 1)
	user.Change.User.FirstName = new(canary)
	other := sinktest.Change("user_2", 1)
	for _, test := range []struct {
		name, ddl string
		batch     []sinks.Record
		class     sinks.Class
		reason    sinks.Reason
		want      string // in the error
	}{
		{"a check", "ALTER TABLE %.clerk_users ADD CHECK (first_name NOT LIKE 'canary%')", []sinks.Record{user, other}, sinks.ClassPermanent, sinks.ReasonInvalidRecord, "constraint clerk_users_first_name_check"},
		{"too long", "ALTER TABLE %.clerk_users ALTER COLUMN first_name TYPE varchar(12)", []sinks.Record{user}, sinks.ClassPermanent, sinks.ReasonTooLarge, ""},
		{"a null that another column refuses", "ALTER TABLE %.clerk_users ADD COLUMN slug text NOT NULL DEFAULT ''; ALTER TABLE %.clerk_users ALTER COLUMN slug DROP DEFAULT", []sinks.Record{user}, sinks.ClassPermanent, sinks.ReasonInvalidRecord, "column slug"},
		{"a trigger", `CREATE FUNCTION %.refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no %', NEW.first_name; END$$;
			CREATE TRIGGER refuse BEFORE INSERT ON %.clerk_users FOR EACH ROW EXECUTE FUNCTION %.refuse()`, []sinks.Record{user}, sinks.ClassPermanent, sinks.ReasonInvalidRecord, "(refuse)"},
		{"a unique key of the application's", "ALTER TABLE %.clerk_users ADD COLUMN slug text UNIQUE; ALTER TABLE %.clerk_users ALTER COLUMN slug SET DEFAULT 'same'", []sinks.Record{other, user}, sinks.ClassPermanent, sinks.ReasonConflict, "constraint clerk_users_slug_key"},
		{"a unique key of the application's, alone", "ALTER TABLE %.clerk_users ADD COLUMN slug text UNIQUE DEFAULT 'same'", []sinks.Record{other}, sinks.ClassRetry, sinks.ReasonConflict, "constraint clerk_users_slug_key"},
		{"a foreign key", "CREATE TABLE %.orders (owner text REFERENCES %.clerk_users); INSERT INTO %.orders VALUES ('user_0')", []sinks.Record{sinktest.Erase("user_0", 2)}, sinks.ClassRetry, sinks.ReasonConflict, "rows of orders"},
		{"a table taken away", "DROP TABLE %.clerk_users CASCADE", []sinks.Record{user}, sinks.ClassFatal, sinks.ReasonMisconfigured, "there is no table"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			cfg := s.config()
			cfg.MaxConnections = 1
			sink := open(t, cfg)
			sinktest.MustApply(t, sink, sinktest.Change("user_0", 1))
			backend := s.backends(t)
			// A percent sign stands for the schema but in these two places.
			ddl := strings.NewReplacer("canary%'", "canary%'", "'no %'", "'no %'", "%", s.schema).Replace(test.ddl)
			if _, err := s.pool.Exec(t.Context(), ddl); err != nil {
				t.Fatal(err)
			}
			err := sink.Apply(t.Context(), test.batch)
			sinktest.ExpectClass(t, "Apply", err, test.class, test.reason)
			if err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("the error quotes the user")
			}
			if err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("Apply: got %v, want a word about %q", err, test.want)
			}
			if after := s.backends(t); after != backend {
				t.Errorf("the connection was thrown away")
			}
		})
	}
}

// TestApply_TableChanges has a migration take something away while the sink
// runs: what is missing is named, and where it only was changed, the sink goes on.
func TestApply_TableChanges(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, ddl string
		class     sinks.Class
		reason    sinks.Reason
		want      []string // nil: applied
	}{
		{"a column", "ALTER TABLE %.clerk_users DROP first_name", sinks.ClassFatal, sinks.ReasonMisconfigured, []string{"lacks columns: first_name"}},
		{"the table", "DROP TABLE %.clerk_users", sinks.ClassFatal, sinks.ReasonMisconfigured, []string{"there is no table", `"clerk_users"`}},
		{"the side table", "DROP TABLE %.clerk_connect_versions", sinks.ClassFatal, sinks.ReasonMisconfigured, []string{"there is no table", `"clerk_connect_versions"`}},
		{"a type", "ALTER TABLE %.clerk_users ALTER public_metadata TYPE json, ALTER created_at TYPE timestamp(3)", 0, "", nil},
		{"a type that does not hold it", "ALTER TABLE %.clerk_users ALTER created_at TYPE boolean USING true", sinks.ClassFatal, sinks.ReasonMisconfigured, []string{"boolean in column created_at"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.exec(t, ownTable(""))
			sink := open(t, s.config())
			sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
			s.exec(t, test.ddl)
			err := sink.Apply(t.Context(), []sinks.Record{sinktest.Change("user_1", 2)})
			if test.want == nil {
				if err != nil {
					t.Errorf("Apply: %v", err)
				}
				return
			}
			sinktest.ExpectClass(t, "Apply", err, test.class, test.reason)
			for _, word := range test.want {
				if err != nil && !strings.Contains(err.Error(), word) {
					t.Errorf("Apply: got %v, want a word about %s", err, word)
				}
			}
		})
	}
}

// backends names the server's processes of connections that have written to the
// test's schema.
func (s server) backends(t testing.TB) string {
	t.Helper()
	return s.text(t, "SELECT coalesce(string_agg(pid::text, ',' ORDER BY pid), '') FROM pg_stat_activity WHERE application_name = $1", s.schema)
}

// TestApply_LockedOut shows that a lock that another keeps costs a retry.
func TestApply_LockedOut(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.config()
	cfg.StatementTimeout = 50 * time.Millisecond
	sink := open(t, cfg)
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	rival := s.begin(t)
	if _, err := rival.Exec(t.Context(), s.in("SELECT FROM %.clerk_connect_versions FOR UPDATE")); err != nil {
		t.Fatal(err)
	}
	sinktest.ExpectClass(t, "Apply", sink.Apply(t.Context(), []sinks.Record{sinktest.Change("user_1", 2)}), sinks.ClassRetry, sinks.ReasonTimeout)
	if err := rival.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 2))
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	err := postgres.Config{Config: usertable.Config{Table: "a\x00"}, DSN: "postgres://u:s3cret@h:port/", Schema: strings.Repeat("x", 64), MaxConnections: -1, StatementTimeout: -1}.Validate()
	if err == nil {
		t.Fatal("Validate: got nil, want errors")
	}
	for _, variable := range []string{"DSN", "SCHEMA", "TABLE", "MAX_CONNECTIONS", "STATEMENT_TIMEOUT"} {
		if !strings.Contains(err.Error(), variable) {
			t.Errorf("Validate: got %v, want a word about %s", err, variable)
		}
	}
	if strings.Contains(err.Error(), "s3cret") {
		t.Error("Validate quotes the password")
	}
	if err := (postgres.Config{}).Validate(); err == nil || !strings.Contains(err.Error(), "DSN is empty") {
		t.Errorf("Validate of nothing: got %v, want a word about DSN", err)
	}
}
