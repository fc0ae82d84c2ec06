package postgres_test

import (
	"strings"
	"testing"

	"clerkconnect/sinks"
	"clerkconnect/sinks/postgres"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// TestTypes shows what each kind of value becomes in columns of other types
// than its own.
func TestTypes(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, `CREATE TYPE %.mood AS ENUM ('fine', 'bad'); CREATE DOMAIN %.short AS varchar(30) CHECK (value <> 'no');
		CREATE TABLE %.users (id text PRIMARY KEY, key uuid, mood %.mood, age int, ratio numeric(5,2), on_text text, on_number smallint,
			day date, at_text text, at_number bigint, list text[], numbers int[], raw json, text_of_json text, name %.short, fixed char(5),
			lower text GENERATED ALWAYS AS (lower(name)) STORED)`)
	cfg := s.config()
	cfg.Config = usertable.Config{
		Table: "users", CreateTable: true,
		Columns: `key = uuid, mood = public_metadata.mood, age = public_metadata.age, ratio = public_metadata.ratio, on_text = banned, on_number = locked,
			day = created_at, at_text = created_at, at_number = created_at, list = public_metadata.list, numbers = public_metadata.numbers, raw = public_metadata,
			text_of_json = public_metadata, name = first_name, fixed = 'abc'`,
	}
	sink := open(t, cfg)
	r := usertabletest.Person("user_1", 1, "a@example.com")
	r.Change.User.Banned, r.Change.User.Locked, r.Change.User.CreatedAt = new(true), new(false), new(int64(1700438400123))
	r.Change.User.PublicMetadata = new(`{"mood":"fine","age":41,"ratio":1.239,"list":["x",null],"numbers":[3,4]}`)
	sinktest.MustApply(t, sink, r)
	got := s.text(t, "SELECT to_jsonb(u) - 'key' - 'text_of_json' - 'raw' || jsonb_build_object('key', length(key::text), 'same', text_of_json::jsonb = raw::jsonb) FROM %.users u")
	want := `{"age": 41, "day": "2023-11-20", "key": 36, "list": ["x", null], "mood": "fine", "name": "Ada", "same": true, "fixed": "abc  ", "lower": "ada", "ratio": 1.24, ` +
		`"at_text": "2023-11-20T00:00:00.123Z", "numbers": [3, 4], "on_text": "true", "at_number": 1700438400123, "on_number": 0}`
	if got = strings.Replace(got, `"id": "user_1", `, "", 1); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for metadata, class := range map[string]sinks.Class{`{"mood":"odd"}`: sinks.ClassPermanent, `{"age":"old"}`: sinks.ClassPermanent, `{"list":"x"}`: sinks.ClassPermanent} {
		bad := usertabletest.Person("user_2", 1, "")
		bad.Change.User.PublicMetadata = &metadata
		sinktest.ExpectClass(t, metadata, sink.Apply(t.Context(), []sinks.Record{bad}), class, sinks.ReasonInvalidRecord)
	}
	long := usertabletest.Person("user_3", 1, "")
	long.Change.User.FirstName = new(strings.Repeat("x", 31))
	sinktest.ExpectClass(t, "a name that is too long", sink.Apply(t.Context(), []sinks.Record{long}), sinks.ClassPermanent, sinks.ReasonTooLarge)
}

// TestOpen_Application shows that Open names everything that a person must
// mend, at once, before the first record.
func TestOpen_Application(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, ddl string
		change    func(*postgres.Config)
		want      []string
	}{
		{"no table, which is not ours to make", "SELECT 1", func(c *postgres.Config) { c.Columns = "a = email" }, []string{"there is no table", `."users"`}},
		{"several at once", "CREATE TABLE %.users (n int NOT NULL, id text, a date, b text GENERATED ALWAYS AS ('x') STORED, age int[] NOT NULL)", func(c *postgres.Config) {
			c.Columns, c.Deletion = "a = email, b = email, c = email, age = username", usertable.DeletionSoft
		}, []string{"lacks columns: c, deleted_at", "make id unique", "fills column b always by itself", "type integer[] in column age, which does not hold username", "needs a value in column n", "INSERT_COLUMNS"}},
		{"a view", "CREATE TABLE %.t (id text PRIMARY KEY); CREATE VIEW %.users AS SELECT * FROM %.t", nil, []string{"is no table"}},
		{"a key by case", "CREATE COLLATION %.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); CREATE TABLE %.users (id text COLLATE %.ci PRIMARY KEY, a text)", func(c *postgres.Config) { c.Columns = "a = email" }, []string{"does not compare byte for byte"}},
		{"a key that is a number", "CREATE TABLE %.users (id int PRIMARY KEY, a text)", func(c *postgres.Config) { c.Columns = "a = email" }, []string{"make id text"}},
		{"a key unique in part", "CREATE TABLE %.users (id text, a text, gone boolean); CREATE UNIQUE INDEX ON %.users (id) WHERE gone", func(c *postgres.Config) { c.Columns = "a = email" }, []string{"make id unique"}},
		{"a key unique too late", "CREATE TABLE %.users (id text UNIQUE DEFERRABLE INITIALLY DEFERRED, a text)", func(c *postgres.Config) { c.Columns = "a = email" }, []string{"make id unique"}},
		{"a date of deletion", "CREATE TABLE %.users (id text PRIMARY KEY, a text, deleted_at date NOT NULL)", func(c *postgres.Config) { c.Columns, c.Deletion = "a = email", usertable.DeletionSoft }, []string{"no time in column deleted_at", "takes no null in column deleted_at"}},
		{"an enum without a neutral value", "CREATE TYPE %.mood AS ENUM ('fine'); CREATE TABLE %.users (id text PRIMARY KEY, mood %.mood NOT NULL, deleted_at timestamptz)", func(c *postgres.Config) {
			c.Columns, c.Deletion = "mood = public_metadata.mood", usertable.DeletionAnonymize
		}, []string{"column mood", "last alternative"}},
		{"a key too short", "CREATE DOMAIN %.ident AS varchar(31); CREATE TABLE %.users (id %.ident PRIMARY KEY, a text)", func(c *postgres.Config) { c.Columns = "a = email" }, []string{"no room for a Clerk ID in column id, at 31"}},
		{"an address too short", "CREATE TABLE %.users (id varchar(32) PRIMARY KEY, a varchar(50), deleted_at timestamptz)", func(c *postgres.Config) {
			c.Columns, c.Deletion = "a = email", usertable.DeletionAnonymize
		}, []string{"column a is too short for what is left of an erased user, at 50"}},
		{"a reference to nothing", "CREATE TABLE %.users (id text PRIMARY KEY, a text, deleted_at timestamptz)", func(c *postgres.Config) {
			c.Columns, c.Deletion, c.References = "a = email", usertable.DeletionAuto, []string{"orders.user_id"}
		}, []string{"orders.user_id", "REFERENCES", "42P01"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.exec(t, test.ddl)
			cfg := s.config()
			cfg.Table = "users"
			if test.change != nil {
				test.change(&cfg)
			}
			sink := newSink(t, cfg)
			defer sink.Close() //nolint:errcheck // it is not open
			err := sink.Open(t.Context())
			sinktest.ExpectClass(t, "Open", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
			for _, want := range test.want {
				if err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("Open: got %v, want a word about %q", err, want)
				}
			}
			if strings.HasPrefix(test.name, "no table") && s.relations(t) != "" {
				t.Errorf("for a table that is not there Open has made %s", s.relations(t))
			}
		})
	}
}

// TestInsertColumns_Fields shows that a whole field may be given at insertion.
func TestInsertColumns_Fields(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.config()
	cfg.Config = usertable.Config{Table: "users", CreateTable: true, Columns: "email = email", InsertColumns: "first_seen = created_at, handle = username"}
	s.exec(t, "CREATE TABLE %.users (id text PRIMARY KEY, email text, first_seen date NOT NULL, handle text)")
	sink := open(t, cfg)
	sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@example.com"))
	s.exec(t, "UPDATE %.users SET handle = NULL")
	sinktest.MustApply(t, sink, usertabletest.Person("user_1", 2, "b@example.com"))
	if got := s.rows(t, "users", "id")["user_1"]; got["handle"] != "" || got["email"] != "b@example.com" || got["first_seen"] == "" {
		t.Errorf("got %v", got)
	}
}
