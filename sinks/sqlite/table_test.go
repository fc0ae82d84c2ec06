package sqlite_test

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/sqlite"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// TestOpen has a table of our own in each state.
func TestOpen(t *testing.T) {
	t.Parallel()
	own := "id TEXT PRIMARY KEY"
	for _, c := range mapping.Fields() {
		own += ", " + usertable.Quote(c.Name)
	}
	for _, test := range []struct {
		name, ddl string
		create    bool
		want      string // in the error; "": none
	}{
		{name: "creates the table", create: true},
		{name: "nothing there", want: "table clerk_users is not there"},
		{name: "no side table", ddl: `CREATE TABLE clerk_users (` + own + `)`, want: "table clerk_connect_versions is not there"},
		{name: "a table of the application's", ddl: `CREATE TABLE clerk_users (plan TEXT NOT NULL DEFAULT 'free', ` + own + `)`, create: true},
		{name: "a column missing", ddl: `CREATE TABLE clerk_users (` + strings.Replace(own, `, "email", `, `, `, 1) + `)`, create: true, want: "lacks columns: email"},
		{name: "no unique id", ddl: `CREATE TABLE clerk_users (` + strings.Replace(own, "PRIMARY KEY", "", 1) + `)`, create: true, want: "no unique index that is on id alone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "users.db")
			if test.ddl != "" {
				db, err := sql.Open("sqlite", path)
				if err != nil {
					t.Fatal(err)
				}
				exec(t, db, test.ddl)
				db.Close()
			}
			expectOpen(t, sqlite.Config{Config: usertable.Config{CreateTable: test.create}, Path: path}, test.want)
		})
	}
}

// expectOpen opens a sink, which must fail for good with a text, or work.
func expectOpen(t *testing.T, cfg sqlite.Config, want string) {
	t.Helper()
	sink := newSink(t, cfg)
	defer close(t, sink)
	err := sink.Open(t.Context())
	switch {
	case want == "" && err != nil:
		t.Errorf("Open: %v", err)
	case want == "":
		sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@x"))
		sinktest.MustApply(t, sink, usertabletest.Person("user_1", 2, "b@x"), usertabletest.Erasure("user_2", 2, 5, false))
	case err == nil || !strings.Contains(err.Error(), want) || sinks.Classify(err).Class != sinks.ClassFatal:
		t.Errorf("Open: got %v, want a fatal error with %q", err, want)
	}
}

// TestOpen_Application has what a person must mend in an application's table.
func TestOpen_Application(t *testing.T) {
	t.Parallel()
	const columns = "email TEXT, first_name TEXT, last_name TEXT, image_url TEXT, profile TEXT, deleted_at TEXT"
	const table = "CREATE TABLE users (clerk_id TEXT PRIMARY KEY, " + columns
	for _, test := range []struct {
		name, ddl string
		change    func(*sqlite.Config)
		want      string
	}{
		{name: "as it should be", ddl: table + ")"},
		{name: "names in other letters", ddl: strings.ToUpper(table) + ")"},
		{name: "no table", ddl: "CREATE TABLE other (x)", want: "table users is not there: name the one that is in TABLE"},
		{name: "a view", ddl: "CREATE TABLE people (clerk_id, " + columns + "); CREATE VIEW users AS SELECT * FROM people", want: "table users is a view"},
		{name: "columns missing", ddl: "CREATE TABLE users (clerk_id TEXT UNIQUE, email TEXT, last_name TEXT, profile TEXT)", want: "lacks columns: first_name, image_url, deleted_at"},
		{name: "a column that is generated", ddl: strings.Replace(table, "profile TEXT", "profile TEXT AS (email)", 1) + ")", want: "makes its column profile itself"},
		{name: "no unique key", ddl: "CREATE TABLE users (clerk_id TEXT, " + columns + ")", want: `CREATE UNIQUE INDEX "users_clerk_id_key" ON "users" ("clerk_id")`},
		{name: "a unique key of more", ddl: "CREATE TABLE users (clerk_id TEXT, " + columns + ", UNIQUE (clerk_id, email))", want: "no unique index that is on clerk_id alone"},
		{name: "a unique key of some", ddl: "CREATE TABLE users (clerk_id TEXT, " + columns + "); CREATE UNIQUE INDEX i ON users (clerk_id) WHERE deleted_at IS NULL", want: "on all rows"},
		{name: "a unique key without case", ddl: "CREATE TABLE users (clerk_id TEXT COLLATE NOCASE UNIQUE, " + columns + ")", want: "tells letters by case"},
		{name: "a key of numbers", ddl: "CREATE TABLE users (clerk_id INTEGER PRIMARY KEY, " + columns + ")", want: "has whole numbers only in clerk_id"},
		{name: "a required column of the application's", ddl: table + ", tenant TEXT NOT NULL)", want: "fill it by INSERT_COLUMNS, as tenant = uuid"},
		{name: "filled", ddl: table + ", tenant TEXT NOT NULL)", change: func(c *sqlite.Config) { c.InsertColumns = "tenant = 'a'" }},
		{name: "a required column with a default", ddl: table + ", tenant TEXT NOT NULL DEFAULT 'a')"},
		{name: "a row's number", ddl: "CREATE TABLE users (id INTEGER NOT NULL PRIMARY KEY, clerk_id TEXT UNIQUE, " + columns + ")"},
		{name: "a primary key that nobody fills", ddl: "CREATE TABLE users (id TEXT PRIMARY KEY, clerk_id TEXT UNIQUE, " + columns + ")", want: "has the column id, which takes no null"},
		{name: "filled with uuids", ddl: "CREATE TABLE users (id TEXT PRIMARY KEY, clerk_id TEXT UNIQUE, " + columns + ")", change: func(c *sqlite.Config) { c.InsertColumns = "id = uuid" }},
		{name: "a time of deletion that takes no null", ddl: strings.Replace(table, "deleted_at TEXT", "deleted_at TEXT NOT NULL DEFAULT ''", 1) + ")", want: "column deleted_at, which takes no null: users who are not deleted"},
		{name: "a text in a column of numbers", ddl: strings.Replace(table, "first_name TEXT", "first_name STRING", 1) + ")", want: "column first_name is declared STRING"},
		{name: "without a row's number", ddl: table + ") WITHOUT ROWID"},
		{name: "without a row's number, a number that nobody fills", ddl: "CREATE TABLE users (id INTEGER PRIMARY KEY, clerk_id TEXT UNIQUE, " + columns + ") WITHOUT ROWID", want: "has the column id, which takes no null"},
		{name: "strict", ddl: table + ") STRICT"},
		{name: "strict with any", ddl: strings.ReplaceAll(strings.Replace(table, "email TEXT", "email ANY", 1), "deleted_at TEXT", "deleted_at ANY") + ") STRICT"},
		{name: "strict, a time in a column of numbers", ddl: strings.Replace(table, "deleted_at TEXT", "deleted_at INT", 1) + ") STRICT", want: "column deleted_at of a STRICT table is declared INT: declare it TEXT"},
		{name: "strict, a number for a time", ddl: strings.Replace(table, "deleted_at TEXT", "deleted_at INT", 1) + ") STRICT", change: func(c *sqlite.Config) { c.TimeFormat = sqlite.TimeUnix }},
		{name: "strict, a number in a column of texts", ddl: table + ") STRICT", change: func(c *sqlite.Config) { c.TimeFormat = sqlite.TimeUnix }, want: "declare it INTEGER"},
		{name: "a reference to nothing", ddl: table + ")", change: func(c *sqlite.Config) { c.References = []string{"orders.user_id"} }, want: `REFERENCES has "orders.user_id"`},
		{name: "a reference by a column that is not there", ddl: table + "); CREATE TABLE orders (u)", change: func(c *sqlite.Config) { c.References = []string{"orders.u=number"} }, want: `REFERENCES has "orders.u=number"`},
		{name: "all at once", ddl: "CREATE TABLE users (clerk_id TEXT, first_name STRING, tenant TEXT NOT NULL)", want: "lacks columns: email, last_name, image_url, profile, deleted_at\ntable users has no unique index"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := newApplication(t, test.ddl)
			settings := usertabletest.Settings()
			settings.Deletion = usertable.DeletionAuto
			cfg := a.config(settings)
			if test.change != nil {
				test.change(&cfg)
			}
			expectOpen(t, cfg, test.want)
		})
	}
}

// TestOpen_LeavesTheApplicationAlone shows that nothing is made but the side
// table.
func TestOpen_LeavesTheApplicationAlone(t *testing.T) {
	t.Parallel()
	a := newApplication(t, users(""))
	before := a.rows(t, "sqlite_schema")
	settings := usertabletest.Settings()
	settings.UniqueEmail = true
	a.open(t, settings)
	var made []string
	for _, row := range a.rows(t, "sqlite_schema")[:] {
		made = append(made, row["name"])
	}
	if len(made) != len(before)+1 {
		t.Errorf("got %q, want one more than %d", made, len(before))
	}
}

// TestRefused_Rollback has a trigger of the application's end the whole
// transaction: the batch is refused as one, to be split, and is whole again
// without the record.
func TestRefused_Rollback(t *testing.T) {
	t.Parallel()
	a := newApplication(t, users("")+"CREATE TRIGGER no BEFORE INSERT ON users WHEN NEW.email = 'no@x' BEGIN SELECT RAISE(ROLLBACK, 'canary'); END")
	sink := a.open(t, usertabletest.Settings())
	good, bad := usertabletest.Person("user_1", 1, "a@x"), usertabletest.Person("user_2", 1, "no@x")
	for range 2 {
		sinktest.ExpectClass(t, "a batch", sink.Apply(t.Context(), []sinks.Record{good, bad}), sinks.ClassPermanent, sinks.ReasonInvalidRecord)
		sinktest.ExpectClass(t, "the record", sink.Apply(t.Context(), []sinks.Record{bad}), sinks.ClassPermanent, sinks.ReasonInvalidRecord)
		expectEmails(t, a)
	}
	sinktest.MustApply(t, sink, good)
	expectEmails(t, a, "user_1 a@x")
}

// TestTriggers shows that a trigger on inserts runs for an insert alone.
func TestTriggers(t *testing.T) {
	t.Parallel()
	a := newApplication(t, users("")+"CREATE TABLE log (what); CREATE TRIGGER i BEFORE INSERT ON users BEGIN INSERT INTO log VALUES ('insert'); END; "+
		"CREATE TRIGGER u AFTER UPDATE ON users BEGIN INSERT INTO log VALUES ('update'); END")
	sink := a.open(t, usertabletest.Settings())
	for version := range int64(2) {
		sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1+version, "a@x"))
	}
	if log := a.rows(t, "log"); len(log) != 2 || log[0]["what"] != "insert" || log[1]["what"] != "update" {
		t.Errorf("triggers that ran: got %v", log)
	}
}

// TestTriggers_Kept has a trigger of the application's keep the row of an erased
// user: that it is not gone is told with the trigger's name, until the trigger
// is.
func TestTriggers_Kept(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, trigger string
		policy        usertable.Deletion
	}{
		{"lets nothing be deleted", "BEFORE DELETE ON Users BEGIN SELECT RAISE(IGNORE); END", usertable.DeletionHard},
		{"puts it back", "AFTER DELETE ON users BEGIN INSERT INTO users (clerk_id, email) VALUES (OLD.clerk_id, OLD.email); END", usertable.DeletionAuto},
		{"lets nothing be marked", "BEFORE UPDATE ON users WHEN NEW.deleted_at IS NOT NULL BEGIN SELECT RAISE(IGNORE); END", usertable.DeletionSoft},
		{"writes the old address back", "AFTER UPDATE OF email ON users BEGIN UPDATE users SET email = OLD.email WHERE id = NEW.id; END", usertable.DeletionAnonymize},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := newApplication(t, users("")+"CREATE TRIGGER keep_users "+test.trigger)
			settings := usertabletest.Settings()
			settings.Deletion = test.policy
			sink := a.open(t, settings)
			sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@x"))
			confirm := func() (bool, error) { return sink.Confirm(t.Context(), "user_1", nil) }
			if gone, err := confirm(); gone || err != nil {
				t.Errorf("Confirm of a user who is not erased: got %v, %v", gone, err)
			}
			erase := usertabletest.Erasure("user_1", 2, 5, false)
			sinktest.MustApply(t, sink, erase)
			gone, err := confirm()
			sinktest.ExpectClass(t, "Confirm", err, sinks.ClassPermanent, sinks.ReasonMisconfigured)
			if gone || err != nil && !strings.Contains(err.Error(), "(keep_users)") {
				t.Errorf("Confirm: got %v, %v, want a word about keep_users", gone, err)
			}
			exec(t, a.db, "DROP TRIGGER keep_users")
			if gone, err := confirm(); gone || err != nil {
				t.Errorf("Confirm without the trigger: got %v, %v", gone, err)
			}
			sinktest.MustApply(t, sink, erase)
			if gone, err := confirm(); !gone || err != nil {
				t.Errorf("Confirm after another erasure: got %v, %v", gone, err)
			}
		})
	}
}

// TestRefused_Named shows that what refuses a record is named, and nothing of
// the user is.
func TestRefused_Named(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ ddl, want string }{
		{"CREATE TABLE users (clerk_id TEXT PRIMARY KEY, email TEXT CHECK (email NOT LIKE 'canary%'))", "email NOT LIKE"},
		{"CREATE TABLE users (clerk_id TEXT PRIMARY KEY, email TEXT CONSTRAINT no_canaries CHECK (email NOT LIKE 'can%'))", "no_canaries"},
		{"CREATE TABLE users (clerk_id TEXT PRIMARY KEY, email TEXT, tenant TEXT NOT NULL DEFAULT (nullif(1, 1)))", "users.tenant"},
		{"CREATE TABLE users (clerk_id TEXT PRIMARY KEY, email TEXT); CREATE TRIGGER no_canaries BEFORE INSERT ON users BEGIN SELECT RAISE(ABORT, 'canary@x'); END", "(no_canaries)"},
	} {
		a := newApplication(t, test.ddl)
		sink := a.open(t, usertable.Config{Table: "users", KeyColumn: "clerk_id", CreateTable: true, Columns: "email = email"})
		err := usertabletest.Failure(sink.Apply(t.Context(), []sinks.Record{usertabletest.Person("user_1", 1, "canary@x")}), 0)
		sinktest.ExpectClass(t, test.ddl, err, sinks.ClassPermanent, sinks.ReasonInvalidRecord)
		if err != nil && (!strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "canary@x")) {
			t.Errorf("%s: got %v, want a word about %s, and none about the user", test.ddl, err, test.want)
		}
	}
}

// TestParts shows that a part of the metadata may be a number where the
// column's type says so.
func TestParts(t *testing.T) {
	t.Parallel()
	a := newApplication(t, "CREATE TABLE users (clerk_id TEXT PRIMARY KEY, seats INTEGER, plan TEXT, on_trial BOOLEAN)")
	cfg := a.config(usertable.Config{Table: "users", KeyColumn: "clerk_id", CreateTable: true,
		Columns: "seats = public_metadata.seats, plan = public_metadata.plan ?? 'free', on_trial = banned"})
	r := sinktest.Change("user_1", 1)
	r.Change.User.PublicMetadata, r.Change.User.Banned = new(`{"seats":12}`), new(true)
	sinktest.MustApply(t, openSink(t, cfg), r)
	var got string
	if err := a.db.QueryRow("SELECT typeof(seats) || seats || plan || typeof(on_trial) || on_trial FROM users").Scan(&got); err != nil || got != "integer12freeinteger1" {
		t.Errorf("got %s, %v", got, err)
	}
}
