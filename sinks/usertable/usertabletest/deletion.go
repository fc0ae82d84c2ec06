package usertabletest

import (
	"bytes"
	"fmt"
	"maps"
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
)

const canary = "canary-4b1f7e" // stands for personal data

// refer makes a row that refers to user_1.
var refer = map[string]string{
	"orders": "INSERT INTO %orders (user_id) SELECT id FROM %users WHERE clerk_id = 'user_1'",
	"posts":  "INSERT INTO %posts (author) VALUES ('user_1')",
}

// deletion has every policy meet users with and without references.
func deletion(t *testing.T, bed Bed) {
	for _, test := range []deletionCase{
		{usertable.DeletionHard, "", schemas.OutcomeDeleted, "", false, false},
		{usertable.DeletionHard, "posts", schemas.OutcomeDeleted, "", false, false},
		{usertable.DeletionSoft, "orders", schemas.OutcomeSoftDeleted, "", true, false},
		{usertable.DeletionAnonymize, "", schemas.OutcomeAnonymized, "", true, true},
		{usertable.DeletionAnonymize, "orders", schemas.OutcomeAnonymized, "", true, true},
		{usertable.DeletionAuto, "", schemas.OutcomeDeleted, "", false, false},
		{usertable.DeletionAuto, "orders", schemas.OutcomeAnonymized, "rows of orders refer to it", true, true},
		{usertable.DeletionAuto, "posts", schemas.OutcomeAnonymized, "rows of posts refer to it", true, true},
	} {
		t.Run(fmt.Sprintf("%s,%s", test.policy, test.refer), func(t *testing.T) {
			t.Parallel()
			for _, required := range []bool{true, false} {
				test.run(t, bed.New(t, required))
			}
		})
	}
}

type deletionCase struct {
	policy           usertable.Deletion
	refer            string // table with a row that refers to the user, "": none
	outcome          schemas.Outcome
	reason           string
	stays, anonymous bool
}

func (test deletionCase) run(t *testing.T, application Application) {
	settings := Settings()
	settings.Deletion, settings.References = test.policy, []string{"posts.author"}
	sink := application.Open(t, settings)
	secret := Person("user_1", 1, canary+"@example.com")
	secret.Change.User.LastName, secret.Change.User.ImageURL = new(canary), new(canary)
	secret.Change.User.PublicMetadata = new(`{"a":"` + canary + `"}`)
	sinktest.MustApply(t, sink, secret, Person("user_2", 1, "b@example.com"), Person("user_3", 1, "c@example.com"))
	if !bytes.Contains(application.Dump(t), []byte(canary)) {
		t.Fatal("Dump does not show what the tables hold")
	}
	if test.refer != "" {
		application.Exec(t, refer[test.refer])
	}
	before := application.Users(t)["user_1"]
	expectConfirm(t, sink, false)
	unknown, first := Erasure("user_9", 1, 1, false), Erasure("user_1", 2, 1700000000123, false)
	sinktest.MustApply(t, sink, unknown, first)
	if got := unknown.Result(); got.Outcome != schemas.OutcomeNotPresent || got.Superseded {
		t.Errorf("an unknown user: got %+v", got)
	}
	if got := first.Result(); got.Outcome != test.outcome || got.Reason != test.reason {
		t.Errorf("got %+v, want %s, %q", got, test.outcome, test.reason)
	}
	after, stays := application.Users(t)["user_1"]
	if stays != test.stays || stays && (after["deleted_at"] != "1700000000123" || after["id"] != before["id"]) {
		t.Fatalf("the row: got %v, want it to stay: %v", after, test.stays)
	}
	if held := bytes.Contains(application.Dump(t), []byte(canary)); held != (test.policy == usertable.DeletionSoft) {
		t.Errorf("the user's data is there: %v", held)
	}
	// Again, and a late change: nothing moves, not even the time.
	again, late := Erasure("user_1", 2, 1700000009999, false), Person("user_1", 1, canary+"@example.com")
	sinktest.MustApply(t, sink, again)
	sinktest.MustApply(t, sink, late)
	if got := application.Users(t)["user_1"]; !maps.Equal(got, after) || !late.Result().Superseded {
		t.Errorf("after a repetition and a late change: got %v, want %v", got, after)
	}
	want := test.outcome
	if !test.stays {
		want = schemas.OutcomeNotPresent
	}
	if got := again.Result(); got.Outcome != want || got.Reason != test.reason || got.Superseded {
		t.Errorf("the repetition: got %+v, want %s, %q", got, want, test.reason)
	}
	expectConfirm(t, sink, true)
	if keys, err := sink.(sinks.Lister).Keys(t.Context(), "", 9); err != nil || fmt.Sprint(keys) != "[user_2 user_3]" {
		t.Errorf("Keys: got %v, %v", keys, err)
	}
	if test.anonymous {
		test.checkAnonymous(t, application, sink, after)
	}
}

func (test deletionCase) checkAnonymous(t *testing.T, application Application, sink sinks.Sink, row Row) {
	t.Helper()
	if row["email"] != "deleted-user_1@anonymized.local" || row["first_name"] != "Deleted" || row["last_name"] != "User" || row["image_url"] != "" || row["profile"] != "" || row["role"] != "member" {
		t.Errorf("anonymous: got %v", row)
	}
	if test.policy == usertable.DeletionAnonymize { // the addresses of two must not meet
		sinktest.MustApply(t, sink, Erasure("user_2", 2, 5, false))
	}
	application.Exec(t, "UPDATE %users SET last_name = 'Back' WHERE clerk_id = 'user_1'")
	expectConfirm(t, sink, false) // of what came back by other hands
	sinktest.MustApply(t, sink, Erasure("user_1", 2, 1700000009999, false))
	expectConfirm(t, sink, true)
}

func expectConfirm(t *testing.T, sink sinks.Sink, want bool) {
	t.Helper()
	if gone, err := sink.(sinks.Confirmer).Confirm(t.Context(), "user_1", nil); err != nil || gone != want {
		t.Errorf("Confirm: got %v, %v, want %v", gone, err, want)
	}
}

// deletionRefused has a foreign key in the way of a plain deletion: the record
// is tried again, and passes when the row that refers is gone. Others of the
// batch are not to blame.
func deletionRefused(t *testing.T, bed Bed) {
	application := bed.New(t, true)
	sink := application.Open(t, Settings())
	sinktest.MustApply(t, sink, Person("user_1", 1, "a@example.com"))
	application.Exec(t, refer["orders"])
	erase := Erasure("user_1", 2, 5, false)
	for range 2 {
		sinktest.ExpectClass(t, "Apply", Failure(sink.Apply(t.Context(), []sinks.Record{erase}), 0), sinks.ClassRetry, sinks.ReasonConflict)
	}
	if _, there := application.Users(t)["user_1"]; !there {
		t.Error("the user is gone although a row refers to it")
	}
	expectConfirm(t, sink, false)
	application.Exec(t, "DELETE FROM %orders")
	sinktest.MustApply(t, sink, erase)
	expectConfirm(t, sink, true)
}

// revival has an inferred deletion taken back.
func revival(t *testing.T, bed Bed) {
	for _, policy := range usertable.Deletions() {
		application := bed.New(t, true)
		settings := Settings()
		settings.Deletion = policy
		sink := application.Open(t, settings)
		sinktest.MustApply(t, sink, Person("user_1", 1, "a@example.com"))
		application.Exec(t, refer["posts"])
		sinktest.MustApply(t, sink, Erasure("user_1", 2, 5, true))
		sinktest.MustApply(t, sink, Person("user_1", 3, "a@example.com"))
		sinktest.MustApply(t, sink, Erasure("user_1", 2, 5, true)) // withdrawn
		got := application.Users(t)
		if len(got) != 1 || got["user_1"]["deleted_at"] != "" || got["user_1"]["email"] != "a@example.com" {
			t.Errorf("%s: got %v, want the user alive", policy, got)
		}
	}
}

// zombie has a process that was paused wake up with an old change in its hand,
// after another has erased the user.
func zombie(t *testing.T, bed Bed) {
	for _, policy := range usertable.Deletions() {
		for _, known := range []bool{true, false} {
			application := bed.New(t, true)
			settings := Settings()
			settings.Deletion = policy
			zombie, owner := application.Open(t, settings), application.Open(t, settings)
			if known {
				sinktest.MustApply(t, zombie, Person("user_1", 1, "a@example.com"))
			}
			sinktest.MustApply(t, owner, Erasure("user_1", 3, 5, false))
			before := application.Users(t)
			late := Person("user_1", 2, canary+"@example.com")
			sinktest.MustApply(t, zombie, late)
			expectConfirm(t, owner, true)
			if got := application.Users(t); !maps.EqualFunc(got, before, maps.Equal[Row, Row]) || !late.Result().Superseded {
				t.Errorf("%s, known %v: got %v, %+v, want %v", policy, known, got, late.Result(), before)
			}
			if bytes.Contains(application.Dump(t), []byte(canary)) {
				t.Errorf("%s, known %v: the late change was written", policy, known)
			}
		}
	}
}
