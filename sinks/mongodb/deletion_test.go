package mongodb_test

import (
	"bytes"
	"fmt"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/mongodb"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// application is a collection with a reference to its users.
func (s server) application(t testing.TB, policy usertable.Deletion, transactions bool) mongodb.Config {
	s.createMongoose(t, mongooseSchema, true)
	cfg := s.mongoose(transactions)
	cfg.Deletion, cfg.References = policy, []string{"orders.user=_id", "posts.by.clerkId"}
	return cfg
}

// TestDeletion has every policy meet users with and without references.
func TestDeletion(t *testing.T) {
	t.Parallel()
	const canary = "canary-4b1f7e"
	for _, test := range []struct {
		policy    usertable.Deletion
		refer     string
		outcome   schemas.Outcome
		reason    string
		stays     bool
		anonymous bool
	}{
		{usertable.DeletionHard, "orders", schemas.OutcomeDeleted, "", false, false},
		{usertable.DeletionSoft, "", schemas.OutcomeSoftDeleted, "", true, false},
		{usertable.DeletionAnonymize, "", schemas.OutcomeAnonymized, "", true, true},
		{usertable.DeletionAuto, "", schemas.OutcomeDeleted, "", false, false},
		{usertable.DeletionAuto, "orders", schemas.OutcomeAnonymized, "documents of orders refer to it", true, true},
		{usertable.DeletionAuto, "posts", schemas.OutcomeAnonymized, "documents of posts refer to it", true, true},
	} {
		t.Run(fmt.Sprintf("%s,%s", test.policy, test.refer), func(t *testing.T) {
			t.Parallel()
			both(t, func(t *testing.T, transactions bool) {
				s := newServer(t)
				sink := open(t, s.application(t, test.policy, transactions))
				secret := usertabletest.Person("user_1", 1, canary+"@example.com")
				secret.Change.User.LastName, secret.Change.User.ImageURL = new(canary), new(canary)
				secret.Change.User.PublicMetadata = new(`{"a":"` + canary + `"}`)
				sinktest.MustApply(t, sink, secret, usertabletest.Person("user_2", 1, "b@example.com"), usertabletest.Person("user_3", 1, "c@example.com"))
				document := func() bson.D {
					found := s.all(t, "users", bson.D{{Key: "clerkId", Value: "user_1"}})
					if len(found) == 0 {
						return nil
					}
					return found[0]
				}
				id := at(document(), "_id")
				switch test.refer {
				case "orders":
					insert(t, s.db.Collection("orders"), bson.M{"user": id})
				case "posts":
					insert(t, s.db.Collection("posts"), bson.M{"by": bson.M{"clerkId": "user_1"}})
				}
				if gone, err := sink.Confirm(t.Context(), "user_1", nil); err != nil || gone {
					t.Errorf("Confirm before: got %v, %v", gone, err)
				}
				unknown, first := usertabletest.Erasure("user_9", 1, 1, false), usertabletest.Erasure("user_1", 2, 1700000000123, false)
				sinktest.MustApply(t, sink, unknown, first)
				if got := unknown.Result(); got.Outcome != schemas.OutcomeNotPresent {
					t.Errorf("an unknown user: got %+v", got)
				}
				if got := first.Result(); got.Outcome != test.outcome || got.Reason != test.reason {
					t.Errorf("got %+v, want %s, %q", got, test.outcome, test.reason)
				}
				after := document()
				if (after != nil) != test.stays || test.stays && at(after, "deletedAt") != bson.DateTime(1700000000123) {
					t.Fatalf("the document: got %v, want it to stay: %v", after, test.stays)
				}
				if held := bytes.Contains(s.dump(t), []byte(canary)); held != (test.policy == usertable.DeletionSoft) {
					t.Errorf("the user's data is there: %v", held)
				}
				// Again, and a late change: nothing moves, not even the time.
				sinktest.MustApply(t, sink, usertabletest.Erasure("user_1", 2, 1700000009999, false))
				late := usertabletest.Person("user_1", 1, canary+"@example.com")
				sinktest.MustApply(t, sink, late)
				if !same(document(), after) || !late.Result().Superseded {
					t.Errorf("after a repetition and a late change: got %v, want %v", document(), after)
				}
				if test.anonymous {
					other := usertabletest.Erasure("user_2", 2, 5, false)
					sinktest.MustApply(t, sink, other) // the placeholders of two must not meet
					if at(after, "email") != "deleted-user_1@anonymized.local" || at(after, "profile.firstName") != "Deleted" || at(after, "metadata") != nil {
						t.Errorf("anonymous: got %v", after)
					}
				}
				if gone, err := sink.Confirm(t.Context(), "user_1", nil); err != nil || !gone {
					t.Errorf("Confirm: got %v, %v", gone, err)
				}
				if keys, err := sink.Keys(t.Context(), "", 9); err != nil || len(keys) == 0 || keys[0] == "user_1" || keys[len(keys)-1] != "user_3" {
					t.Errorf("Keys: got %v, %v", keys, err)
				}
				if test.stays && test.policy != usertable.DeletionSoft {
					set := bson.D{{Key: "$set", Value: bson.D{{Key: "profile.lastName", Value: "Back"}}}}
					if _, err := s.db.Collection("users").UpdateOne(t.Context(), bson.D{{Key: "clerkId", Value: "user_1"}}, set); err != nil {
						t.Fatal(err)
					}
					if gone, err := sink.Confirm(t.Context(), "user_1", nil); err != nil || gone {
						t.Errorf("Confirm of what came back by other hands: got %v, %v", gone, err)
					}
				}
			})
		})
	}
}

// TestDeletion_Revival has an inferred deletion taken back.
func TestDeletion_Revival(t *testing.T) {
	t.Parallel()
	for _, policy := range usertable.Deletions() {
		both(t, func(t *testing.T, transactions bool) {
			s := newServer(t)
			sink := open(t, s.application(t, policy, transactions))
			sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@example.com"))
			sinktest.MustApply(t, sink, usertabletest.Erasure("user_1", 2, 5, true))
			sinktest.MustApply(t, sink, usertabletest.Person("user_1", 3, "a@example.com"))
			sinktest.MustApply(t, sink, usertabletest.Erasure("user_1", 2, 5, true)) // withdrawn
			got := s.all(t, "users", bson.D{})
			if len(got) != 1 || at(got[0], "deletedAt") != nil || at(got[0], "email") != "a@example.com" {
				t.Errorf("%s: got %v, want the user alive", policy, got)
			}
		})
	}
}

// TestDeletion_Zombie has a process paused between its guards and its users,
// without transactions, while another erases the user.
func TestDeletion_Zombie(t *testing.T) {
	t.Parallel()
	for _, policy := range usertable.Deletions() {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s,known=%v", policy, known), func(t *testing.T) {
				t.Parallel()
				s := newServer(t)
				cfg := s.application(t, policy, false)
				zombie, owner := open(t, cfg), open(t, cfg)
				if known {
					sinktest.MustApply(t, owner, usertabletest.Person("user_1", 1, "a@example.com"))
				}
				zombie.Between(func() {
					zombie.Between(func() {})
					sinktest.MustApply(t, owner, usertabletest.Erasure("user_1", 3, 5, false))
				})
				for range 3 {
					if zombie.Apply(t.Context(), []sinks.Record{usertabletest.Person("user_1", 2, "late@example.com")}) == nil {
						break
					}
				}
				if gone, err := owner.Confirm(t.Context(), "user_1", nil); err != nil || !gone {
					t.Errorf("the erased user is back: %v, %v: %v", gone, err, s.all(t, "users", bson.D{}))
				}
				if got := s.all(t, "users", bson.D{{Key: "email", Value: "late@example.com"}}); len(got) != 0 {
					t.Errorf("the late change was written: %v", got)
				}
				stays := known && (policy == usertable.DeletionSoft || policy == usertable.DeletionAnonymize)
				if got := s.all(t, "users", bson.D{{Key: "deletedAt", Value: bson.DateTime(5)}}); (len(got) == 1) != stays {
					t.Errorf("what the erasure left: got %v, want it to stay: %v", got, stays)
				}
			})
		}
	}
}

// TestDeletion_LateReference has an order come in, without transactions,
// between the look for references and the deletion.
func TestDeletion_LateReference(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sink := open(t, s.application(t, usertable.DeletionAuto, false))
	sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@example.com"))
	id := at(s.all(t, "users", bson.D{})[0], "_id")
	sink.Between(func() { insert(t, s.db.Collection("orders"), bson.M{"user": id}) })
	erase := usertabletest.Erasure("user_1", 2, 5, false)
	sinktest.MustApply(t, sink, erase)
	got := s.all(t, "users", bson.D{})
	if len(got) != 1 || at(got[0], "_id") != id || at(got[0], "email") != "deleted-user_1@anonymized.local" || erase.Result().Outcome != schemas.OutcomeAnonymized {
		t.Errorf("got %v, %+v, want an anonymous document with the same _id", got, erase.Result())
	}
}
