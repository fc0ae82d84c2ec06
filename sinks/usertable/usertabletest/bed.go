// Package usertabletest is what the tests of the database sinks have in common:
// users among whom addresses move and, for SQL, an application with a users table
// of its own and what must be true of it whatever the sink is given. A SQL
// sink's tests say how the tables are made in their database, and call [Run].
// Programs do not import it.
package usertabletest

import (
	"testing"

	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

// Bed makes applications. Each has the tables
//
//	users   id, filled by itself, the primary key
//	        clerk_id, text, unique
//	        email, text, unique: required, or null for any number of users
//	        first_name, last_name, image_url, text, null
//	        profile, JSON, null
//	        bio, text, null; role, text, required, default 'member': the application's own
//	        deleted_at, a time, null
//	orders  id, filled by itself; user_id, which refers to users (id) with a foreign key without an action
//	posts   id, filled by itself; author, text, without a foreign key
type Bed struct {
	// New makes an empty application that no other test uses, and has it
	// removed at the end of t. emailRequired: email takes no null.
	New func(t testing.TB, emailRequired bool) Application
}

// Application is one made by a [Bed], seen round the sink.
type Application struct {
	// Open returns an open sink on the table users with settings of [Settings],
	// closed at the end of t.
	Open func(t testing.TB, settings usertable.Config) sinks.Sink
	// Exec runs a statement. A percent sign stands before the name of each
	// table: for a schema and a dot, or nothing.
	Exec func(t testing.TB, statement string)
	// Users returns the rows of the table users, by clerk_id ("" for null), by
	// column, as text; deleted_at in Unix milliseconds. What is null is missing.
	Users func(t testing.TB) map[string]Row
	// Dump returns the rows of all tables of the application and of the sink,
	// as raw as can be had.
	Dump func(t testing.TB) []byte
}

// Row is a row of the table users.
type Row map[string]string

// Settings are those of a sink on an application's table.
func Settings() usertable.Config {
	return usertable.Config{
		Table: "users", KeyColumn: "clerk_id", CreateTable: true,
		Columns: "email = email, first_name = first_name, last_name = last_name, image_url = image_url, profile = public_metadata",
	}
}

// Run runs every test. Call it from a test that is parallel.
func Run(t *testing.T, bed Bed) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Bed)
	}{
		{"TakesOver", takesOver},
		{"InsertColumns", insertColumns},
		{"Email", email},
		{"Unique", unique},
		{"UniqueForGood", uniqueForGood},
		{"UniqueConstant", uniqueConstant},
		{"UniqueStrangers", uniqueStrangers},
		{"UniqueRandom", uniqueRandom},
		{"Deletion", deletion},
		{"DeletionRefused", deletionRefused},
		{"Revival", revival},
		{"Zombie", zombie},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, bed)
		})
	}
}

// emails returns the addresses of the users that are not deleted.
func (a Application) emails(t testing.TB) map[string]string {
	t.Helper()
	emails := map[string]string{}
	for id, row := range a.Users(t) {
		if row["deleted_at"] == "" {
			emails[id] = row["email"]
		}
	}
	return emails
}
