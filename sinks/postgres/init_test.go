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

// relations names what a schema has, and of what kind.
func (s server) relations(t testing.TB) string {
	t.Helper()
	return s.text(t, "SELECT coalesce(string_agg(relname || ' ' || relkind::text, ', ' ORDER BY relname), '') FROM pg_class WHERE relnamespace = to_regnamespace($1)", s.schema)
}

// TestInit shows that Init and the script make the same, may run twice, and
// make what Open finds sufficient, with a view that counts.
func TestInit(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"Init", "script", "Open"} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			cfg := s.config()
			cfg.CreateTable, cfg.UniqueEmail, cfg.Deletion = form == "Open", true, usertable.DeletionSoft
			sink := newSink(t, cfg)
			for range 2 {
				switch form {
				case "Init":
					if err := sink.Init(t.Context()); err != nil {
						t.Fatalf("Init: %v", err)
					}
				case "script":
					if _, err := s.pool.Exec(t.Context(), sink.InitScript()); err != nil {
						t.Fatalf("the script: %v", err)
					}
				}
			}
			sink = open(t, cfg)
			want := "clerk_connect_versions r, clerk_connect_versions_pkey i, clerk_users r, clerk_users_email_active_key i, clerk_users_pkey i, clerk_users_signups_per_week v"
			if got := s.relations(t); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			week := func(id, email string, created int64) sinks.Record {
				r := usertabletest.Person(id, 1, email)
				r.Change.User.CreatedAt = &created
				return r
			}
			const sunday, monday = 1700434800000, 1700438400000 // 2023-11-19 23:00 and 2023-11-20 00:00 UTC
			sinktest.MustApply(t, sink, week("user_1", "a@example.com", sunday), week("user_2", "b@example.com", monday), week("user_3", "c@example.com", monday+123))
			s.exec(t, "SET timezone = 'Asia/Tokyo'")
			if got := s.text(t, "SELECT string_agg(to_char(week, 'YYYY-MM-DD Dy ') || signups, ', ') FROM %.clerk_users_signups_per_week"); got != "2023-11-13 Mon 1, 2023-11-20 Mon 2" {
				t.Errorf("weeks: got %s", got)
			}
			// Unique among those who are there.
			err := usertabletest.Failure(sink.Apply(t.Context(), []sinks.Record{usertabletest.Person("user_0", 1, "c@example.com")}), 0)
			if got := sinks.Classify(err); got.HeldBy != "user_3" {
				t.Errorf("Apply: got %v, want to wait for user_3", err)
			}
			sinktest.MustApply(t, sink, sinktest.Erase("user_3", 2))
			sinktest.MustApply(t, sink, usertabletest.Person("user_0", 1, "c@example.com"))
			if got := s.text(t, "SELECT string_agg(id, ',' ORDER BY id) FROM %.clerk_users WHERE email = 'c@example.com'"); got != "user_0,user_3" {
				t.Errorf("who has the address: got %s, want both, one of them deleted", got)
			}
		})
	}
}

// TestInit_Types shows what the default table is made of.
func TestInit_Types(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	if err := newSink(t, s.config()).Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := s.text(t, `SELECT string_agg(DISTINCT format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' required' ELSE '' END, ', ')
		FROM pg_attribute WHERE attrelid = '%.clerk_users'::regclass AND attnum > 0`)
	if want := "bigint, boolean, jsonb, text, text required, timestamp(3) with time zone"; got != want {
		t.Errorf("types: got %s, want %s", got, want)
	}
	if got := s.text(t, "SELECT count(*)::text FROM pg_index WHERE indrelid = '%.clerk_users'::regclass AND indisunique"); got != "1" {
		t.Errorf("unique keys: got %s, want only that of the Clerk ID", got)
	}
}

// TestInit_Application shows that of an application's table Init makes only
// what is ours, and alters nothing.
func TestInit_Application(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.createArticle(t, true)
	before := s.relations(t)
	cfg := s.config()
	cfg.Config = usertabletest.Settings()
	cfg.UniqueEmail = true
	sink := newSink(t, cfg)
	if err := sink.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := strings.NewReplacer("clerk_connect_versions_users r, ", "", "clerk_connect_versions_users_pkey i, ", "").Replace(s.relations(t))
	if got != before {
		t.Errorf("got %s, want the side table besides %s", got, before)
	}
	script := sink.InitScript()
	if !strings.Contains(script, "\n-- CREATE UNIQUE INDEX") || strings.Contains(script, "\nCREATE UNIQUE") || strings.Contains(script, "ALTER") {
		t.Errorf("the script alters a table of the application's, or gives no advice:\n%s", script)
	}
}

// TestInit_LeavesAlone shows that Open leaves a users table that is there as it
// is, and that a role without the right to create may open what is there.
func TestInit_LeavesAlone(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, ownTable(""))
	open(t, s.config())
	if got := s.relations(t); strings.Contains(got, "email") || strings.Contains(got, "week") {
		t.Errorf("got %s, want nothing but the side table added", got)
	}
	if err := newSink(t, s.config()).Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.relations(t); !strings.Contains(got, "clerk_users_email_idx") || !strings.Contains(got, "clerk_users_signups_per_week") {
		t.Errorf("got %s, want what was not there", got)
	}
}

// TestInit_Refused shows what keeps Init from its work.
func TestInit_Refused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.config()
	cfg.Schema = s.schema + "_none"
	err := newSink(t, cfg).Init(t.Context())
	sinktest.ExpectClass(t, "no such schema", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
	if err != nil && !strings.Contains(err.Error(), "there is no such schema: create it, or name another in SCHEMA") {
		t.Errorf("Init: got %v, want a word about SCHEMA", err)
	}
	cfg = s.config()
	cfg.DSN += "&default_transaction_read_only=on"
	err = newSink(t, cfg).Open(t.Context())
	sinktest.ExpectClass(t, "a standby", err, sinks.ClassRetry, sinks.ReasonUnavailable)
	if err != nil && !strings.Contains(err.Error(), "target_session_attrs=read-write") {
		t.Errorf("Open: got %v, want a word about the primary", err)
	}
	cfg = postgres.Config{DSN: "postgres://x@127.0.0.1:1/x?sslmode=disable"}
	sinktest.ExpectClass(t, "no server", newSink(t, cfg).Init(t.Context()), sinks.ClassRetry, sinks.ReasonUnavailable)
}
