package usertabletest

import (
	"fmt"
	"strings"
	"testing"

	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
)

// takesOver shows that a row that the application wrote first is taken over by
// its Clerk ID with the application's columns untouched, whatever is done to
// it.
func takesOver(t *testing.T, bed Bed) {
	for _, policy := range usertable.Deletions() {
		application := bed.New(t, true)
		settings := Settings()
		settings.Deletion = policy
		application.Exec(t, "INSERT INTO %users (clerk_id, email, bio, role) VALUES ('user_1', 'old@example.com', 'I sail', 'admin')")
		application.Exec(t, "INSERT INTO %users (clerk_id, email, bio, role) VALUES ('user_2', 'other@example.com', 'me too', 'member')")
		before := application.Users(t)
		sink := application.Open(t, settings)
		for i, r := range []sinks.Record{
			Person("user_1", 1, "ada@example.com"), Person("user_1", 2, "ada@example.org"), Erasure("user_1", 3, 5, false),
			Erasure("user_1", 3, 5, false), Person("user_1", 2, "late@example.com"),
		} {
			sinktest.MustApply(t, sink, r)
			got, there := application.Users(t)["user_1"]
			if i >= 2 && (policy == usertable.DeletionHard || policy == usertable.DeletionAuto) {
				if there {
					t.Fatalf("%s, step %d: got %v, want nothing", policy, i, got)
				}
				continue
			}
			if i < 2 && got["email"] != *r.Change.User.PrimaryEmailAddress {
				t.Errorf("%s, step %d: got %v, want the address of the change", policy, i, got)
			}
			for _, own := range []string{"id", "bio", "role"} {
				if got[own] != before["user_1"][own] {
					t.Errorf("%s, step %d: %s: got %q, want %q", policy, i, own, got[own], before["user_1"][own])
				}
			}
		}
		if got := application.Users(t)["user_2"]; fmt.Sprint(got) != fmt.Sprint(before["user_2"]) {
			t.Errorf("%s: the other row: got %v, want %v", policy, got, before["user_2"])
		}
	}
}

// insertColumns shows that what stands in INSERT_COLUMNS is the application's
// once the row is there.
func insertColumns(t *testing.T, bed Bed) {
	application := bed.New(t, true)
	settings := Settings()
	settings.InsertColumns = "bio = 'new here', role = public_metadata.role ?? 'guest'"
	sink := application.Open(t, settings)
	expect := func(when, bio, role string) {
		t.Helper()
		if got := application.Users(t)["user_1"]; got["bio"] != bio || got["role"] != role {
			t.Errorf("%s: got %v, want bio %q, role %q", when, got, bio, role)
		}
	}
	sinktest.MustApply(t, sink, Person("user_1", 1, "a@example.com"))
	expect("inserted", "new here", "guest")
	application.Exec(t, "UPDATE %users SET bio = 'mine', role = 'admin'")
	sinktest.MustApply(t, sink, Person("user_1", 2, "a@example.com"))
	expect("updated", "mine", "admin")
	application.Exec(t, "DELETE FROM %users")
	sinktest.MustApply(t, sink, Person("user_1", 3, "a@example.com"))
	expect("deleted by the application, and back", "new here", "guest")
}

// email has a user without an address meet a column that must have one.
func email(t *testing.T, bed Bed) {
	application := bed.New(t, true)
	sink := application.Open(t, Settings())
	sinktest.MustApply(t, sink, Person("user_3", 2, "c@example.com"), sinktest.Erase("user_4", 2))
	stale, late := Person("user_3", 1, ""), Person("user_4", 1, "")
	err := sink.Apply(t.Context(), []sinks.Record{Person("user_1", 1, ""), Person("user_2", 1, "b@example.com"), stale, late})
	sinktest.ExpectClass(t, "a user without a required address", Failure(err, 0), sinks.ClassPermanent, sinks.ReasonInvalidRecord)
	if err == nil || !strings.Contains(err.Error(), "PLACEHOLDER_EMAIL") || Failure(err, 1) != nil || application.emails(t)["user_2"] != "b@example.com" {
		t.Errorf("Apply: got %v, want user_2 written and a word about PLACEHOLDER_EMAIL", err)
	}
	if Failure(err, 2) != nil || !stale.Result().Superseded || Failure(err, 3) != nil || !late.Result().Superseded {
		t.Errorf("changes that come too late: got %v, want them superseded", err)
	}
	settings := Settings()
	settings.PlaceholderEmail = "{id}@no-email.invalid"
	sinktest.MustApply(t, application.Open(t, settings), Person("user_1", 1, ""), Person("user_5", 1, ""))
	if got := application.emails(t); got["user_1"] != "user_1@no-email.invalid" || got["user_5"] != "user_5@no-email.invalid" {
		t.Errorf("addresses: got %v, want placeholders", got)
	}
	optional := bed.New(t, false)
	sinktest.MustApply(t, optional.Open(t, Settings()), Person("user_1", 1, ""), Person("user_2", 1, ""))
	if got := optional.emails(t); got["user_1"] != "" || len(got) != 2 {
		t.Errorf("addresses where none is required: got %v", got)
	}
}
