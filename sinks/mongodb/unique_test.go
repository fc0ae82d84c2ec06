package mongodb_test

import (
	"context"
	"fmt"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"pgregory.net/rapid"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mongodb"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// TestUnique gives the last changes of users among whom addresses moved, in
// every order, one by one and together, and repeats what failed as the runner
// does. All end with what Clerk has.
func TestUnique(t *testing.T) {
	t.Parallel()
	for _, test := range usertabletest.Moves() {
		for _, order := range usertabletest.Permutations(len(test.After)) {
			for _, together := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s,%v,together=%v", test.Name, order, together), func(t *testing.T) {
					t.Parallel()
					both(t, func(t *testing.T, transactions bool) {
						for _, nullable := range []bool{true, false} {
							s := newServer(t)
							cfg := s.unique(t, nullable, transactions)
							sink := open(t, cfg)
							usertabletest.Deliver(t, sink, test.Before, true)
							records := make([]sinks.Record, len(order))
							for i, n := range order {
								records[i] = test.After[n]
							}
							usertabletest.Deliver(t, sink, records, together)
							s.expectEmails(t, cfg.Collection, test.Want)
						}
					})
				})
			}
		}
	}
}

// unique is a collection where two users cannot have the same address: the
// application's, where each must have one, or one of ours that keeps the
// deleted, where none is fine.
func (s server) unique(t testing.TB, nullable, transactions bool) mongodb.Config {
	t.Helper()
	if !nullable {
		return s.application(t, usertable.DeletionHard, transactions)
	}
	cfg := s.config(transactions)
	cfg.Collection, cfg.UniqueEmail, cfg.Deletion = "clerk_users", true, usertable.DeletionSoft
	if err := newSink(t, cfg).Init(context.Background()); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestUnique_Random has users of whom no two have the same address at a moment
// sign up, move, leave and come again, and delivers what is left of that in
// any order. Each ends with what he has.
func TestUnique_Random(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, transactions bool) {
		s := newServer(t)
		sink := open(t, s.unique(t, false, transactions))
		round := 0
		rapid.Check(t, func(rt *rapid.T) {
			round++
			want, records := usertabletest.History(rt, round)
			usertabletest.Deliver(rt, sink, rapid.Permutation(records).Draw(rt, "order"), rapid.Bool().Draw(rt, "together"))
			for id, email := range want {
				var got any
				for _, document := range s.all(t, "users", bson.D{{Key: "clerkId", Value: id}}) {
					got = at(document, "email")
				}
				if email == "" && got != nil || email != "" && got != email {
					rt.Errorf("%s: got %v, want %q", id, got, email)
				}
			}
		})
	})
}

// TestUnique_Collation has an index that holds addresses for equal that differ
// by case.
func TestUnique_Collation(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, transactions bool) {
		s := newServer(t)
		if _, err := s.db.Collection("clerk_users").Indexes().CreateOne(t.Context(), mongo.IndexModel{
			Keys:    bson.D{{Key: "email", Value: 1}},
			Options: options.Index().SetUnique(true).SetSparse(true).SetCollation(&options.Collation{Locale: "en", Strength: 2}),
		}); err != nil {
			t.Fatal(err)
		}
		sink := open(t, s.config(transactions))
		sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "A@example.com"))
		usertabletest.Deliver(t, sink, []sinks.Record{usertabletest.Person("user_2", 2, "a@example.com")}, true)
		s.expectEmails(t, "clerk_users", map[string]string{"user_1": "", "user_2": "a@example.com"})
	})
}

// expectEmails compares the addresses of users that are not deleted.
func (s server) expectEmails(t *testing.T, collection string, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for _, document := range s.all(t, collection, bson.D{{Key: "deletedAt", Value: nil}}) {
		id, _ := at(document, "clerkId").(string)
		got[id], _ = at(document, "email").(string)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("addresses: got %v, want %v", got, want)
	}
}

// TestUnique_ForGood has two users who truly hold the same address: the newer
// has it, the older waits and is told for whom.
func TestUnique_ForGood(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, transactions bool) {
		s := newServer(t)
		sink := open(t, s.application(t, usertable.DeletionHard, transactions))
		sinktest.MustApply(t, sink, usertabletest.Person("user_2", 2, "a@example.com"))
		for range 2 {
			err := usertabletest.Failure(sink.Apply(t.Context(), []sinks.Record{usertabletest.Person("user_1", 1, "a@example.com")}), 0)
			if got := sinks.Classify(err); got.HeldBy != "user_2" || got.Reason != sinks.ReasonConflict || got.Class != sinks.ClassRetry {
				t.Errorf("Apply: got %v, want to wait for user_2", err)
			}
			s.expectEmails(t, "users", map[string]string{"user_1": "pending-user_1@email.invalid", "user_2": "a@example.com"})
		}
		err := sink.Apply(t.Context(), []sinks.Record{usertabletest.Person("user_3", 6, "c@example.com"), usertabletest.Person("user_4", 5, "c@example.com")})
		if got := sinks.Classify(usertabletest.Failure(err, 1)); got.HeldBy != "user_3" || usertabletest.Failure(err, 0) != nil {
			t.Errorf("Apply of both: got %v, want the older to wait for user_3", err)
		}
		sinktest.MustApply(t, sink, sinktest.Erase("user_3", 7), sinktest.Erase("user_4", 7))
		sinktest.MustApply(t, sink, sinktest.Erase("user_2", 3))
		sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@example.com"))
		s.expectEmails(t, "users", map[string]string{"user_1": "a@example.com"})
	})
}

// TestUnique_Strangers has documents hold the address of whom nothing is known:
// nothing is taken from them.
func TestUnique_Strangers(t *testing.T) {
	t.Parallel()
	for name, stranger := range map[string]bson.M{
		"":       {"clerkId": "none", "email": "a@example.com"},
		"user_9": {"clerkId": "user_9", "email": "a@example.com"},
	} {
		both(t, func(t *testing.T, transactions bool) {
			s := newServer(t)
			s.createMongoose(t, bson.M{}, true)
			if name == "" {
				delete(stranger, "clerkId")
			}
			insert(t, s.db.Collection("users"), stranger)
			sink := open(t, s.mongoose(transactions))
			err := sink.Apply(t.Context(), []sinks.Record{usertabletest.Person("user_1", 5, "a@example.com"), usertabletest.Person("user_2", 5, "b@example.com")})
			if got := sinks.Classify(usertabletest.Failure(err, 0)); got.HeldBy != name || got.Reason != sinks.ReasonConflict || usertabletest.Failure(err, 1) != nil {
				t.Errorf("Apply: got %v, want only user_1 to wait, for %q", err, name)
			}
			if got := s.all(t, "users", bson.D{{Key: "email", Value: "a@example.com"}}); len(got) != 1 || at(got[0], "clerkId") != at(bsonD(t, stranger), "clerkId") {
				t.Errorf("who has the address: got %v", got)
			}
		})
	}
}

func bsonD(t *testing.T, m bson.M) (d bson.D) {
	t.Helper()
	raw, err := bson.Marshal(m)
	if err == nil {
		err = bson.Unmarshal(raw, &d)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}
