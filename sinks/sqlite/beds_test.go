package sqlite_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/sqlite"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// bed is an application as a tool makes it, and the settings for it.
type bed struct {
	name     string
	ddl      string
	settings usertable.Config
	times    sqlite.TimeFormat
	fields   map[string]string // fields of user.avsc that it holds, and where
	first    string            // a row that the application writes first, of user_1
	own      []string          // columns that are the application's
	order    string            // a row that refers to user_1
}

// prisma is what its migrations make of the schema of the README, on SQLite.
// Its client writes times as Unix milliseconds.
var prisma = bed{
	name: "Prisma",
	ddl: `
CREATE TABLE "User" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "clerkId" TEXT NOT NULL,
    "email" TEXT NOT NULL,
    "firstName" TEXT,
    "lastName" TEXT,
    "imageUrl" TEXT,
    "bio" TEXT,
    "company" TEXT,
    "role" TEXT NOT NULL DEFAULT 'USER',
    "tier" TEXT NOT NULL DEFAULT 'FREE',
    "deletedAt" DATETIME,
    "createdAt" DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" DATETIME NOT NULL
);
CREATE TABLE "Order" (
    "id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "userId" TEXT NOT NULL,
    CONSTRAINT "Order_userId_fkey" FOREIGN KEY ("userId") REFERENCES "User" ("id") ON DELETE RESTRICT ON UPDATE CASCADE
);
CREATE UNIQUE INDEX "User_clerkId_key" ON "User"("clerkId");
CREATE UNIQUE INDEX "User_email_key" ON "User"("email");`,
	settings: usertable.Config{
		Table: "User", KeyColumn: "clerkId", DeletedAtColumn: "deletedAt", CreateTable: true,
		Columns:       "email = email, firstName = first_name, lastName = last_name, imageUrl = image_url, createdAt = created_at, updatedAt = updated_at",
		InsertColumns: "id = uuid",
	},
	times: sqlite.TimeUnixMilli,
	fields: map[string]string{
		"primary_email_address": "email", "first_name": "firstName", "last_name": "lastName", "image_url": "imageUrl",
		"created_at": "createdAt", "updated_at": "updatedAt",
	},
	first: `INSERT INTO "User" ("id", "clerkId", "email", "bio", "company", "role", "tier", "createdAt", "updatedAt")
		VALUES ('cm3xk2v9p0000', 'user_1', 'old@example.com', 'I sail', 'Analytical Engines', 'ADMIN', 'PRO', 1700000000000, 1700000000000)`,
	own:   []string{"id", "bio", "company", "role", "tier"},
	order: `INSERT INTO "Order" ("userId") SELECT "id" FROM "User" WHERE "clerkId" = 'user_1'`,
}

// rails is what schema.rb loads, with Devise's index on the address.
var rails = bed{
	name: "Rails",
	ddl: `
CREATE TABLE "users" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "clerk_id" varchar NOT NULL, "email" varchar DEFAULT '' NOT NULL,
	"first_name" varchar, "last_name" varchar, "avatar_url" varchar, "settings" json, "admin" boolean DEFAULT 0 NOT NULL, "bio" text,
	"discarded_at" datetime(6), "created_at" datetime(6) NOT NULL, "updated_at" datetime(6) NOT NULL);
CREATE UNIQUE INDEX "index_users_on_clerk_id" ON "users" ("clerk_id");
CREATE UNIQUE INDEX "index_users_on_email" ON "users" ("email");
CREATE TABLE "orders" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "user_id" integer NOT NULL,
	CONSTRAINT "fk_rails_f868b47f6a" FOREIGN KEY ("user_id") REFERENCES "users" ("id"));`,
	settings: usertable.Config{
		Table: "users", KeyColumn: "clerk_id", DeletedAtColumn: "discarded_at", CreateTable: true,
		Columns: "email = email, first_name = first_name, last_name = last_name, avatar_url = image_url, settings = public_metadata, created_at = created_at, updated_at = updated_at",
	},
	times: sqlite.TimeSQL,
	fields: map[string]string{
		"primary_email_address": "email", "first_name": "first_name", "last_name": "last_name", "image_url": "avatar_url",
		"public_metadata": "settings", "created_at": "created_at", "updated_at": "updated_at",
	},
	first: `INSERT INTO users (clerk_id, email, admin, bio, created_at, updated_at)
		VALUES ('user_1', 'old@example.com', 1, 'I sail', '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000')`,
	own:   []string{"id", "admin", "bio"},
	order: `INSERT INTO orders (user_id) SELECT id FROM users WHERE clerk_id = 'user_1'`,
}

// article is the table of Clerk's own article, in SQLite's words.
var article = bed{
	name: "article",
	ddl: `
CREATE TABLE users (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  clerk_id VARCHAR(255) NOT NULL UNIQUE,
  email VARCHAR(255) NOT NULL UNIQUE,
  first_name VARCHAR(255),
  last_name VARCHAR(255),
  image_url TEXT,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  deleted_at TIMESTAMP NULL
);
CREATE INDEX idx_email ON users (email);
CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES users);`,
	settings: usertable.Config{
		Table: "users", KeyColumn: "clerk_id", CreateTable: true,
		Columns: "email = email, first_name = first_name, last_name = last_name, image_url = image_url, created_at = created_at, updated_at = updated_at",
	},
	times: sqlite.TimeSQL,
	fields: map[string]string{
		"primary_email_address": "email", "first_name": "first_name", "last_name": "last_name", "image_url": "image_url",
		"created_at": "created_at", "updated_at": "updated_at",
	},
	first: `INSERT INTO users (clerk_id, email) VALUES ('user_1', 'old@example.com')`,
	own:   []string{"id"},
	order: `INSERT INTO orders (user_id) SELECT id FROM users WHERE clerk_id = 'user_1'`,
}

// config are the settings of a sink on the bed.
func (b bed) config(a application, policy usertable.Deletion) sqlite.Config {
	cfg := a.config(b.settings)
	cfg.Deletion, cfg.TimeFormat = policy, b.times
	return cfg
}

// outcomes has what each policy says of a user to whom nothing refers.
var outcomes = map[usertable.Deletion]schemas.Outcome{
	usertable.DeletionSoft: schemas.OutcomeSoftDeleted, usertable.DeletionAnonymize: schemas.OutcomeAnonymized,
}

// TestBeds runs the suite on applications' tables, with each policy on one. The
// suite gives users without e-mail addresses and times, and with shared ones,
// hence no rules on these here.
func TestBeds(t *testing.T) {
	for _, test := range []struct {
		bed    bed
		policy usertable.Deletion
	}{
		{prisma, usertable.DeletionAuto}, {rails, usertable.DeletionSoft}, {article, usertable.DeletionAnonymize}, {article, usertable.DeletionHard},
	} {
		t.Run(test.bed.name+","+string(test.policy), func(t *testing.T) {
			fields := make([]string, 0, len(test.bed.fields))
			for name := range test.bed.fields {
				fields = append(fields, name)
			}
			sinktest.Run(t, sinktest.Harness{Fields: fields, Erased: outcomes[test.policy], New: func(t testing.TB) sinktest.Destination {
				return test.bed.destination(t, test.policy)
			}})
		})
	}
}

// lenient takes the rules away that the suite's users do not keep.
var lenient = strings.NewReplacer(`"email" TEXT NOT NULL`, `"email" TEXT`, `"email" varchar DEFAULT '' NOT NULL`, `"email" varchar`,
	"email VARCHAR(255) NOT NULL UNIQUE", "email VARCHAR(255)", `UNIQUE INDEX "User_email_key"`, `INDEX "User_email_key"`,
	`UNIQUE INDEX "index_users_on_email"`, `INDEX "index_users_on_email"`, "DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP", "DATETIME",
	"DATETIME NOT NULL", "DATETIME", "datetime(6) NOT NULL", "datetime(6)")

func (b bed) destination(t testing.TB, policy usertable.Deletion) sinktest.Destination {
	a := newApplication(t, lenient.Replace(b.ddl))
	table := usertable.Quote(b.settings.Table)
	first := usertable.Quote(b.fields["first_name"])
	for _, event := range []string{"INSERT", "UPDATE"} {
		exec(t, a.db, fmt.Sprintf(`CREATE TRIGGER "refuse %s" BEFORE %s ON %s WHEN NEW.%s = 'poison'
			BEGIN SELECT RAISE(ABORT, 'cannot take ' || NEW.%s); END`, event, event, table, first, first))
	}
	return sinktest.Destination{
		Sink:   func(t testing.TB) sinks.Sink { return newSink(t, b.config(a, policy)) },
		Read:   func(t testing.TB, ids ...string) map[string]sinktest.Row { return b.read(t, a, ids) },
		Dump:   a.dump,
		Poison: func(u *schemas.User) { u.FirstName = new("poison") },
	}
}

// read reads the users who are not deleted as the suite wants them.
func (b bed) read(t testing.TB, a application, ids []string) map[string]sinktest.Row {
	t.Helper()
	wanted := map[string]bool{}
	for _, id := range ids {
		wanted[id] = true
	}
	rows := map[string]sinktest.Row{}
	for _, found := range a.rows(t, b.settings.Table) {
		id := found[b.settings.KeyColumn]
		if _, deleted := found[b.settings.WithDefaults().DeletedAtColumn]; deleted || !wanted[id] {
			continue
		}
		row := sinktest.Row{}
		for field, column := range b.fields {
			text, ok := found[column]
			switch {
			case !ok:
			case strings.HasSuffix(field, "_at"):
				row[field] = b.milliseconds(t, text)
			default:
				row[field] = text
			}
		}
		rows[id] = row
	}
	return rows
}

// milliseconds reads a time as the driver gives it as text.
func (b bed) milliseconds(t testing.TB, text string) int64 {
	t.Helper()
	if number, err := strconv.ParseInt(text, 10, 64); err == nil {
		return number
	}
	for _, layout := range []string{time.RFC3339, time.DateTime} {
		if at, err := time.Parse(layout, text); err == nil {
			return at.UnixMilli()
		}
	}
	t.Fatalf("%s is no time", text)
	return 0
}

// TestBeds_Life has users of whom the application wrote one first come, swap
// addresses, and leave with an order behind them, under the rules that the
// applications really have.
func TestBeds_Life(t *testing.T) {
	t.Parallel()
	for _, b := range []bed{prisma, rails, article} {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			a := newApplication(t, b.ddl)
			exec(t, a.db, b.first)
			before := a.rows(t, b.settings.Table)[0]
			sink := openSink(t, b.config(a, usertable.DeletionAuto))
			expect := func(when string, want ...string) {
				t.Helper()
				var got []string
				for _, row := range a.rows(t, b.settings.Table) {
					got = append(got, row[b.settings.KeyColumn]+" "+row["email"])
				}
				if slices.Sort(got); !slices.Equal(got, want) {
					t.Errorf("%s: got %v, want %v", when, got, want)
				}
				for _, row := range a.rows(t, b.settings.Table) {
					for _, own := range b.own {
						if row[b.settings.KeyColumn] == "user_1" && row[own] != before[own] {
							t.Errorf("%s: the application's %s: got %q, want %q", when, own, row[own], before[own])
						}
					}
				}
			}
			person := usertabletest.Person
			usertabletest.Deliver(t, sink, []sinks.Record{person("user_1", 1, "a@example.com"), person("user_2", 1, "b@example.com"), person("user_3", 1, "c@example.com")}, true)
			expect("come", "user_1 a@example.com", "user_2 b@example.com", "user_3 c@example.com")
			usertabletest.Deliver(t, sink, []sinks.Record{person("user_1", 2, "b@example.com"), person("user_2", 3, "a@example.com")}, false)
			expect("swapped", "user_1 b@example.com", "user_2 a@example.com", "user_3 c@example.com")
			exec(t, a.db, b.order)
			usertabletest.Deliver(t, sink, []sinks.Record{usertabletest.Erasure("user_1", 4, 1700000000123, false), usertabletest.Erasure("user_2", 4, 5, false), person("user_4", 5, "a@example.com")}, true)
			expect("left", "user_1 deleted-user_1@anonymized.local", "user_3 c@example.com", "user_4 a@example.com")
			b.expectTimes(t, a)
			for _, id := range []string{"user_1", "user_2"} {
				if gone, err := sink.Confirm(t.Context(), id, nil); err != nil || !gone {
					t.Errorf("Confirm of %s: got %v, %v", id, gone, err)
				}
			}
		})
	}
}

// expectTimes compares how the times stand in the file.
func (b bed) expectTimes(t *testing.T, a application) {
	t.Helper()
	deletedAt := usertable.Quote(b.settings.WithDefaults().DeletedAtColumn)
	var got string
	text := fmt.Sprintf("SELECT group_concat(typeof(%[1]s) || ' ' || %[1]s, ', ') FROM %[2]s WHERE %[1]s IS NOT NULL", deletedAt, usertable.Quote(b.settings.Table))
	if err := a.db.QueryRow(text).Scan(&got); err != nil {
		t.Fatal(err)
	}
	want := map[sqlite.TimeFormat]string{sqlite.TimeUnixMilli: "integer 1700000000123", sqlite.TimeSQL: "text 2023-11-14 22:13:20.123"}[b.times]
	if got != want {
		t.Errorf("times of deletion: got %s, want %s", got, want)
	}
}
