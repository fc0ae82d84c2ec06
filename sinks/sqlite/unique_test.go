package sqlite_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/sqlite"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// users is a table of an application's with what stands in rules.
func users(rules string) string {
	return "CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, clerk_id TEXT UNIQUE, email TEXT, first_name TEXT, last_name TEXT, image_url TEXT, " +
		"profile TEXT, tenant TEXT NOT NULL DEFAULT 't', active INTEGER NOT NULL DEFAULT 1, deleted_at TEXT" + rules + ");"
}

// expectEmails compares the addresses in users, null as "-".
func expectEmails(t *testing.T, a application, want ...string) {
	t.Helper()
	var got []string
	for _, row := range a.rows(t, "users") {
		email, there := row["email"]
		if !there {
			email = "-"
		}
		got = append(got, row["clerk_id"]+" "+email)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("addresses: got %q, want %q", got, want)
	}
}

// TestUnique_Kinds has an address move under unique keys of every kind: SQLite
// decides what is equal, and which rows are in a key.
func TestUnique_Kinds(t *testing.T) {
	t.Parallel()
	person := usertabletest.Person
	for _, test := range []struct {
		name, ddl string
		want      []string // after user_2 has taken A@x, which user_1 has as a@x
	}{
		{"bytes", users(", UNIQUE (email)"), []string{"user_1 a@x", "user_2 A@x"}},
		{"without case", users(", UNIQUE (email COLLATE NOCASE)"), []string{"user_1 -", "user_2 A@x"}},
		{"column without case", strings.Replace(users(""), "email TEXT", "email TEXT COLLATE NOCASE UNIQUE", 1), []string{"user_1 -", "user_2 A@x"}},
		{"conflict that replaces", strings.Replace(users(""), "email TEXT", "email TEXT COLLATE NOCASE UNIQUE ON CONFLICT REPLACE", 1), []string{"user_1 -", "user_2 A@x"}},
		{"conflict that is ignored", strings.Replace(users(""), "email TEXT", "email TEXT COLLATE NOCASE UNIQUE ON CONFLICT IGNORE", 1), []string{"user_1 -", "user_2 A@x"}},
		{"expression", users("") + `CREATE UNIQUE INDEX i ON users (lower("email"))`, []string{"user_1 -", "user_2 A@x"}},
		{"expression with a comment", users("") + "CREATE UNIQUE INDEX i ON users (/* ( */ lower(trim(email, ',')) DESC -- )\n) WHERE email <> ')'", []string{"user_1 -", "user_2 A@x"}},
		{"only the active", users("") + "CREATE UNIQUE INDEX i ON users (lower(email)) where active = 0", []string{"user_1 a@x", "user_2 A@x"}},
		{"only who is not deleted", users("") + "CREATE UNIQUE INDEX i ON users (email COLLATE NOCASE) WHERE deleted_at IS NULL", []string{"user_1 -", "user_2 A@x"}},
		{"with the application's column", users(", UNIQUE (tenant, email COLLATE NOCASE)"), []string{"user_1 -", "user_2 A@x"}},
		{"two of ours", users(", UNIQUE (first_name, email COLLATE NOCASE)"), []string{"user_1 -", "user_2 A@x"}},
		{"several", users(", UNIQUE (email COLLATE NOCASE), UNIQUE (tenant, email)"), []string{"user_1 -", "user_2 A@x"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, known := range []bool{false, true} {
				a := newApplication(t, test.ddl)
				settings := usertabletest.Settings()
				settings.Deletion = usertable.DeletionSoft
				sink := a.open(t, settings)
				sinktest.MustApply(t, sink, person("user_1", 1, "a@x"))
				if known {
					sinktest.MustApply(t, sink, person("user_2", 1, "b@x"))
				}
				usertabletest.Deliver(t, sink, []sinks.Record{person("user_2", 2, "A@x")}, true)
				expectEmails(t, a, test.want...)
			}
		})
	}
}

// TestUnique_Deleted has a deleted user keep the address in a row that is not
// in the key: it is not taken from there.
func TestUnique_Deleted(t *testing.T) {
	t.Parallel()
	a := newApplication(t, users("")+"CREATE UNIQUE INDEX i ON users (email) WHERE deleted_at IS NULL")
	settings := usertabletest.Settings()
	settings.Deletion = usertable.DeletionSoft
	sink := a.open(t, settings)
	person := usertabletest.Person
	for i, r := range []sinks.Record{person("user_1", 1, "a@x"), usertabletest.Erasure("user_1", 2, 5, true), person("user_2", 3, "a@x"), person("user_3", 4, "a@x")} {
		if err := sink.Apply(t.Context(), []sinks.Record{r}); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	expectEmails(t, a, "user_1 a@x", "user_2 -", "user_3 a@x")
	usertabletest.Deliver(t, sink, []sinks.Record{person("user_1", 5, "a@x")}, true) // is back
	expectEmails(t, a, "user_1 a@x", "user_2 -", "user_3 -")
}

// TestUnique_ErasureFirst has one batch delete a user and give the address to
// another, although the change stands before the erasure and the user's own
// last change was newer.
func TestUnique_ErasureFirst(t *testing.T) {
	t.Parallel()
	a := newApplication(t, users(", UNIQUE (email)"))
	sink := a.open(t, usertabletest.Settings())
	sinktest.MustApply(t, sink, usertabletest.Person("user_1", 4, "a@x"), usertabletest.Person("user_9", 1, "c@x"))
	sinktest.MustApply(t, sink, usertabletest.Person("user_2", 3, "a@x"), usertabletest.Person("user_3", 3, "c@x"), usertabletest.Erasure("user_1", 5, 5, false))
	expectEmails(t, a, "user_2 a@x", "user_3 c@x", "user_9 -")
}

// TestUnique_OtherTenant has two users with one address, whom the application
// keeps in two places: nothing is taken from anybody.
func TestUnique_OtherTenant(t *testing.T) {
	t.Parallel()
	a := newApplication(t, users(", UNIQUE (tenant, email)"))
	exec(t, a.db, "INSERT INTO users (clerk_id, tenant) VALUES ('user_1', 'other')")
	sink := a.open(t, usertabletest.Settings())
	person := usertabletest.Person
	sinktest.MustApply(t, sink, person("user_1", 1, "a@x"), person("user_2", 2, "a@x"))
	expectEmails(t, a, "user_1 a@x", "user_2 a@x")
	usertabletest.Deliver(t, sink, []sinks.Record{person("user_3", 3, "a@x")}, true)
	expectEmails(t, a, "user_1 a@x", "user_2 -", "user_3 a@x")
}

// TestUnique_Stranger has the address in a row without a Clerk ID, and in a
// key that is not ours at all.
func TestUnique_Stranger(t *testing.T) {
	t.Parallel()
	a := newApplication(t, users(", UNIQUE (email)"))
	exec(t, a.db, "INSERT INTO users (email) VALUES ('a@x')")
	sink := a.open(t, usertabletest.Settings())
	err := sink.Apply(t.Context(), []sinks.Record{usertabletest.Person("user_1", 5, "a@x"), usertabletest.Person("user_2", 5, "b@x")})
	if got := sinks.Classify(usertabletest.Failure(err, 0)); got.HeldBy != "" || got.Reason != sinks.ReasonConflict || usertabletest.Failure(err, 1) != nil {
		t.Errorf("Apply: got %v, want only user_1 to wait", err)
	}
	expectEmails(t, a, " a@x", "user_1 -", "user_2 b@x")
}

// TestUnique_NothingToGiveUp has a key in which no column can be vacant: the
// record waits, and takes nothing.
func TestUnique_NothingToGiveUp(t *testing.T) {
	t.Parallel()
	a := newApplication(t, users("")+"CREATE UNIQUE INDEX i ON users (tenant)")
	settings := usertabletest.Settings()
	settings.InsertColumns = "tenant = 'one'"
	sink := a.open(t, settings)
	sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@x"))
	err := sink.Apply(t.Context(), []sinks.Record{usertabletest.Person("user_2", 2, "b@x"), usertabletest.Person("user_3", 2, "c@x"), usertabletest.Person("user_1", 2, "d@x")})
	for i := range 2 {
		sinktest.ExpectClass(t, "a second row", usertabletest.Failure(err, i), sinks.ClassRetry, sinks.ReasonConflict)
	}
	expectEmails(t, a, "user_1 d@x")
}

// TestUnique_IndexMadeLater has the application create its index while the
// sink is open.
func TestUnique_IndexMadeLater(t *testing.T) {
	t.Parallel()
	a := newApplication(t, users(", UNIQUE (email)"))
	sink := a.open(t, usertabletest.Settings())
	person := usertabletest.Person
	sinktest.MustApply(t, sink, person("user_1", 1, "a@x"))
	usertabletest.Deliver(t, sink, []sinks.Record{person("user_2", 2, "a@x")}, true)
	exec(t, a.db, "CREATE UNIQUE INDEX later ON users (lower(email))")
	usertabletest.Deliver(t, sink, []sinks.Record{person("user_1", 3, "A@x")}, true)
	expectEmails(t, a, "user_1 A@x", "user_2 -")
}

func TestReadIndex(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		statement string
		terms     []string
		predicate string
	}{
		{"", nil, ""},
		{"CREATE UNIQUE INDEX i ON t (a)", []string{"a"}, ""},
		{`CREATE UNIQUE INDEX "i (x)" ON [t (y)] (a desc, lower(b, 'x,)') ASC) WHERE c IS NULL`, []string{"a", "lower(b, 'x,)')"}, "c IS NULL"},
		{"create unique index i on t(a,coalesce((b),(c)) DESC)wHeRe(d)", []string{"a", "coalesce((b),(c))"}, "(d)"},
		{"CREATE UNIQUE INDEX i ON t (a -- it's\n, b /* ) WHERE */) /* x */ WHERE a <> 'it''s (' -- y", []string{"a", "b"}, "a <> 'it''s ('"},
		{"CREATE UNIQUE INDEX i ON t (a || 'DESC', \"x\"\"asc\", `q`)", []string{"a || 'DESC'", "\"x\"\"asc\"", "`q`"}, ""},
		{"CREATE UNIQUE INDEX i ON t (ASC)", []string{"ASC"}, ""},
		{"CREATE UNIQUE INDEX i ON t (a", nil, ""},
		{"CREATE UNIQUE INDEX i ON t ('a", nil, ""},
		{"CREATE UNIQUE INDEX i ON t (a) /* never closed", []string{"a"}, ""},
	} {
		terms, predicate := sqlite.ReadIndex(test.statement)
		if fmt.Sprintf("%q", terms) != fmt.Sprintf("%q", test.terms) || predicate != test.predicate {
			t.Errorf("%s: got %q, %q, want %q, %q", test.statement, terms, predicate, test.terms, test.predicate)
		}
	}
}
