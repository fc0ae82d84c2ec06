package mysql_test

import (
	"fmt"
	"strings"
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/mysql"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// TestApplication is what all SQL sinks do in an application's table.
func TestApplication(t *testing.T) {
	t.Parallel()
	usertabletest.Run(t, usertabletest.Bed{New: newApplication})
}

func newApplication(t testing.TB, emailRequired bool) usertabletest.Application {
	s := newServer(t)
	email := "VARCHAR(255) NULL UNIQUE"
	if emailRequired {
		email = "VARCHAR(255) NOT NULL UNIQUE"
	}
	// The unique key of the address before that of the Clerk ID: what ON
	// DUPLICATE KEY meets first.
	s.exec(t, `CREATE TABLE users (id INT AUTO_INCREMENT PRIMARY KEY, email `+email+`, clerk_id VARCHAR(255) NOT NULL UNIQUE,
		first_name VARCHAR(255), last_name VARCHAR(255), image_url TEXT, profile JSON, bio TEXT, role VARCHAR(20) NOT NULL DEFAULT 'member',
		deleted_at TIMESTAMP(3) NULL) ENGINE InnoDB DEFAULT CHARSET utf8mb4`)
	s.exec(t, "CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY, user_id INT NOT NULL, FOREIGN KEY (user_id) REFERENCES users (id)) ENGINE InnoDB")
	s.exec(t, "CREATE TABLE posts (id INT AUTO_INCREMENT PRIMARY KEY, author VARCHAR(64)) ENGINE InnoDB DEFAULT CHARSET utf8mb4")
	return usertabletest.Application{
		Open: func(t testing.TB, settings usertable.Config) sinks.Sink { return open(t, s.with(settings)) },
		Exec: func(t testing.TB, statement string) { s.exec(t, strings.ReplaceAll(statement, "%", "")) },
		Users: func(t testing.TB) map[string]usertabletest.Row {
			return s.people(t, "SELECT coalesce(clerk_id, ''), users.*, round(unix_timestamp(deleted_at) * 1000) AS deleted_at FROM users")
		},
		Dump: s.dump,
	}
}

// with returns a configuration with settings of the users table.
func (s server) with(settings usertable.Config) (cfg mysql.Config) {
	cfg = s.config()
	cfg.Config = settings
	return cfg
}

// people returns the rows of a query by the first column, by name, as text.
func (s server) people(t testing.TB, query string) map[string]usertabletest.Row {
	t.Helper()
	rows := map[string]usertabletest.Row{}
	s.named(t, query, func(names []string, values []any) {
		row := usertabletest.Row{}
		for i := 1; i < len(names); i++ {
			delete(row, names[i]) // the last of a name
			switch value := values[i].(type) {
			case nil:
			case []byte:
				row[names[i]] = string(value)
			default:
				row[names[i]] = fmt.Sprint(value)
			}
		}
		rows[string(values[0].([]byte))] = row
	})
	return rows
}

// TestArticle shows that in the article's own table no user's data is ever
// written into another's row, whoever has the address, in whatever letters, and
// in whatever order the server has its unique keys.
func TestArticle(t *testing.T) {
	t.Parallel()
	named := func(id, name string, version int64, email string) sinks.Record {
		r := usertabletest.Person(id, version, email)
		r.Change.User.FirstName = &name
		return r
	}
	for _, ddl := range []string{articleTable, strings.Replace(articleTable, "clerk_id VARCHAR(255) NOT NULL UNIQUE,\n  email VARCHAR(255) NOT NULL UNIQUE,", "email VARCHAR(255) NOT NULL UNIQUE,\n  clerk_id VARCHAR(255) NOT NULL UNIQUE,", 1)} {
		for _, together := range []bool{true, false} {
			s := newServer(t)
			s.exec(t, ddl)
			sink := open(t, s.with(articleSettings()))
			rows := func() string {
				return s.text(t, "SELECT group_concat(id, ' ', clerk_id, ' ', first_name, ' ', email ORDER BY id SEPARATOR '; ') FROM users")
			}
			expect := func(when, want string) {
				t.Helper()
				if got := rows(); got != want {
					t.Errorf("%s: got %s, want %s", when, got, want)
				}
			}
			sinktest.MustApply(t, sink, named("user_1", "Ada", 5, "ada@example.com"), named("user_2", "Bob", 5, "bob@example.com"))
			expect("two users", "1 user_1 Ada ada@example.com; 2 user_2 Bob bob@example.com")
			// An older claim to an address in other letters, of a known user and of
			// a new one.
			err := sink.Apply(t.Context(), []sinks.Record{named("user_2", "Bobby", 6, "bob@example.com"), named("user_3", "Eve", 4, "ADA@example.com")})
			if got := sinks.Classify(usertabletest.Failure(err, 1)); got.HeldBy != "user_1" {
				t.Errorf("an older claim: got %v, want to wait for user_1", err)
			}
			expect("an older claim", "1 user_1 Ada ada@example.com; 2 user_2 Bobby bob@example.com; "+s.text(t, "SELECT id FROM users WHERE clerk_id = 'user_3'")+" user_3 Eve pending-user_3@email.invalid")
			sinktest.MustApply(t, sink, sinktest.Erase("user_3", 9))
			// A newer one of a known user, then the swap's other half.
			usertabletest.Deliver(t, sink, []sinks.Record{named("user_2", "Bob", 8, "Ada@Example.com"), named("user_1", "Ada", 9, "bob@example.com")}, together)
			expect("a swap", "1 user_1 Ada bob@example.com; 2 user_2 Bob Ada@Example.com")
			sinktest.MustApply(t, sink, named("user_2", "Bob", 10, "bob@example.com"))
			expect("a newer claim", "1 user_1 Ada pending-user_1@email.invalid; 2 user_2 Bob bob@example.com")
			sinktest.MustApply(t, sink, named("user_1", "Ada", 11, ""))
			expect("no address", "1 user_1 Ada user_1@no-email.invalid; 2 user_2 Bob bob@example.com")
		}
	}
}

// TestArticle_Times shows that times of a second are Clerk's, in UTC, whatever
// the server's clock and zone, and that updated_at does not set itself.
func TestArticle_Times(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, articleTable)
	sink := open(t, s.with(articleSettings()))
	for i, want := range []string{"2026-01-31 09:30:00 2026-01-31 09:30:01", "2026-01-31 09:30:00 2026-01-31 09:30:02"} {
		r := usertabletest.Person("user_1", int64(i+1), "a@example.com")
		r.Change.User.CreatedAt, r.Change.User.UpdatedAt = new(int64(1769851800125)), new(1769851801125+1000*int64(i))
		sinktest.MustApply(t, sink, r)
		if got := s.text(t, "SELECT concat(created_at, ' ', updated_at) FROM users"); got != want {
			t.Errorf("times: got %s, want %s", got, want)
		}
	}
}

// TestPrisma shows what becomes of the columns of the application's in a table
// as Prisma makes it, and that a row with orders stays, anonymous.
func TestPrisma(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, prismaTable)
	s.exec(t, prismaOrders)
	sink := open(t, s.with(prismaSettings()))
	const own = "SELECT concat_ws(' ', id, bio, company, role, tier) FROM `User` WHERE clerkId = ?"
	s.exec(t, "INSERT INTO `User` (id, clerkId, email, bio, company, role, tier, updatedAt) VALUES ('cjld2cyuq0000t3rmniod1foy', 'user_1', 'ada@example.com', 'I sail', 'Acme', 'ADMIN', 'PRO', now(3))")
	sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "ada@example.org"), usertabletest.Person("user_2", 1, "b@example.com"))
	if got := s.text(t, own, "user_1"); got != "cjld2cyuq0000t3rmniod1foy I sail Acme ADMIN PRO" {
		t.Errorf("the application's columns: got %s", got)
	}
	id := s.text(t, "SELECT id FROM `User` WHERE clerkId = 'user_2'")
	if got := s.text(t, own, "user_2"); len(id) != 36 || got != id+" USER FREE" {
		t.Errorf("a new user: got %s, want a UUID, a role and a tier", got)
	}
	s.exec(t, "UPDATE `User` SET bio = 'mine', role = 'MODERATOR' WHERE clerkId = 'user_2'")
	s.exec(t, "INSERT INTO `Order` VALUES ('o1', ?)", id)
	erasures := []sinks.Record{usertabletest.Erasure("user_1", 3, 1700000000123, false), usertabletest.Erasure("user_2", 3, 1700000000123, false)}
	sinktest.MustApply(t, sink, append([]sinks.Record{usertabletest.Person("user_3", 3, "b@example.com")}, erasures...)...)
	if got := erasures[0].Result(); got.Outcome != schemas.OutcomeDeleted || got.Reason != "" {
		t.Errorf("the user without orders: got %+v", got)
	}
	if got := erasures[1].Result(); got.Outcome != schemas.OutcomeAnonymized || got.Reason != "rows of Order refer to it" {
		t.Errorf("the user with orders: got %+v", got)
	}
	want := map[string]usertabletest.Row{"user_2": {
		"id": id, "clerkId": "user_2", "email": "deleted-user_2@anonymized.local", "firstName": "Deleted", "lastName": "User", "bio": "mine", "role": "MODERATOR",
		"tier": "FREE", "deletedAt": "2023-11-14 22:13:20.123", "createdAt": "2023-11-14 22:13:20.123", "updatedAt": "2023-11-14 22:13:20.123",
	}}
	if got := s.people(t, "SELECT clerkId, `User`.* FROM `User` WHERE clerkId <> 'user_3'"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("after the erasures: got %v, want %v", got, want)
	}
	if gone, err := sink.Confirm(t.Context(), "user_2", nil); err != nil || !gone {
		t.Errorf("Confirm: got %v, %v", gone, err)
	}
}

// TestNames has columns of the names that statements use themselves, and others
// that must be quoted.
func TestNames(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, "CREATE TABLE `order by` (given VARCHAR(64) PRIMARY KEY, id TEXT, c0 TEXT, c1 TEXT, u TEXT, `a``b?` TEXT, `key` TEXT, deleted DATETIME) DEFAULT CHARSET utf8mb4")
	cfg := s.with(usertable.Config{
		Table: "order by", KeyColumn: "given", Deletion: usertable.DeletionAnonymize, DeletedAtColumn: "deleted", CreateTable: true,
		Columns: "id = external_id, c1 = username, c0 = first_name, u = last_name, \"a`b?\" = email, \"key\" = locale",
	})
	sink := open(t, cfg)
	for version := range int64(2) {
		sinktest.MustApply(t, sink, sinktest.Change("user_1", version+1))
		if got := s.text(t, "SELECT concat_ws(' ', given, id, c1, c0, u, `a``b?`, `key`) FROM `order by`"); got != "user_1 external_id-1 username-1 first_name-1 last_name-1 address-1@example.com locale-1" {
			t.Errorf("got %s", got)
		}
	}
	sinktest.MustApply(t, sink, usertabletest.Erasure("user_1", 3, 1700000000123, false))
	if got := s.text(t, "SELECT concat_ws(' ', given, id, c1, c0, u, `a``b?`, `key`, deleted) FROM `order by`"); got != "user_1 Deleted User deleted-user_1@anonymized.local 2023-11-14 22:13:20" {
		t.Errorf("erased: got %s", got)
	}
	if gone, err := sink.Confirm(t.Context(), "user_1", nil); err != nil || !gone {
		t.Errorf("Confirm: got %v, %v", gone, err)
	}
}

// railsTable is what Rails makes for MySQL, with Devise's columns: no nulls,
// and defaults in their place.
const railsTable = "CREATE TABLE `users` (`id` bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, `clerk_id` varchar(255), `email` varchar(255) DEFAULT '' NOT NULL, " +
	"`encrypted_password` varchar(255) DEFAULT '' NOT NULL, `name` varchar(255) DEFAULT 'nobody' NOT NULL, `locale` varchar(10) DEFAULT 'en' NOT NULL, " +
	"`banned` tinyint(1) DEFAULT FALSE NOT NULL, `seats` int DEFAULT 1 NOT NULL, `preferences` json, `bio` text, " +
	"`created_at` datetime(6) NOT NULL, `updated_at` datetime(6) NOT NULL, UNIQUE INDEX `index_users_on_email` (`email`), UNIQUE INDEX `index_users_on_clerk_id` (`clerk_id`)) DEFAULT CHARSET utf8mb4"

// TestRails shows that a column that takes no null has its default instead, of
// a user who is inserted and of one who is there.
func TestRails(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, railsTable)
	s.exec(t, "INSERT INTO users (email, created_at, updated_at) VALUES ('old@example.com', now(), now())") // of the time before Clerk
	cfg := s.with(usertable.Config{
		Table: "users", KeyColumn: "clerk_id", CreateTable: true, PlaceholderEmail: "{id}@no-email.invalid",
		Columns:       "email = email, name = full_name, locale = locale, banned = banned, seats = public_metadata.seats, preferences = public_metadata, created_at = created_at, updated_at = updated_at",
		InsertColumns: "bio = 'new here'",
	})
	sink := open(t, cfg)
	full := usertabletest.Person("user_1", 1, "a@example.com")
	full.Change.User.Locale, full.Change.User.Banned, full.Change.User.PublicMetadata = new("de"), new(true), new(`{"seats":7}`)
	empty := usertabletest.Person("user_1", 2, "")
	empty.Change.User.FirstName, empty.Change.User.LastName, empty.Change.User.Locale, empty.Change.User.Banned, empty.Change.User.PublicMetadata = nil, nil, nil, nil, nil
	fresh := empty
	fresh.ClerkID = "user_2"
	const row = "SELECT concat_ws(' ', email, name, locale, banned, seats, preferences, bio, encrypted_password) FROM users WHERE clerk_id = ?"
	sinktest.MustApply(t, sink, full)
	if got := s.text(t, row, "user_1"); got != `a@example.com Ada last_name-1 de 1 7 {"seats":7} new here ` {
		t.Errorf("a full user: got %s", got)
	}
	sinktest.MustApply(t, sink, empty, fresh)
	for _, id := range []string{"user_1", "user_2"} {
		if got, want := s.text(t, row, id), id+"@no-email.invalid nobody en 0 1 new here "; got != want {
			t.Errorf("an empty user: got %s, want %s", got, want)
		}
	}
	late := usertabletest.Person("user_3", 1, "c@example.com")
	late.Change.User.CreatedAt = nil
	err := usertabletest.Failure(sink.Apply(t.Context(), []sinks.Record{late}), 0)
	sinktest.ExpectClass(t, "a user without a time that must be there", err, sinks.ClassPermanent, sinks.ReasonInvalidRecord)
	cfg.PlaceholderEmail = "" // the default, which only one user may have
	fresh.ClerkID = "user_4"
	err = usertabletest.Failure(open(t, cfg).Apply(t.Context(), []sinks.Record{fresh}), 0)
	sinktest.ExpectClass(t, "a user without an address that must be unique", err, sinks.ClassPermanent, sinks.ReasonInvalidRecord)
	if got := s.text(t, "SELECT count(*) FROM users WHERE clerk_id IS NULL AND email = 'old@example.com'"); got != "1" {
		t.Error("the row without a Clerk ID is not as it was")
	}
}
