package mongodb_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mongodb"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// openPaused is a sink that is paused once, before it sends the first such
// command to the users, while meanwhile is done.
func openPaused(t *testing.T, cfg mongodb.Config, command string, meanwhile func()) *mongodb.Sink {
	t.Helper()
	sink := newSink(t, cfg)
	var opened atomic.Bool
	var once sync.Once
	sink.Watch(func(name, collection string) {
		if opened.Load() && name == command && collection == cfg.Collection {
			once.Do(meanwhile)
		}
	})
	if err := sink.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sink.Close(); err != nil {
			t.Error(err)
		}
		once.Do(func() { t.Errorf("no %s was sent", command) })
	})
	opened.Store(true)
	return sink
}

// TestChecked_HolderMoves has the holder of an address written by other hands
// between the look at it and the update that takes the address away: what they
// wrote stays.
func TestChecked_HolderMoves(t *testing.T) {
	t.Parallel()
	const a = "a@example.com"
	newer := func(t *testing.T, _ server, other *mongodb.Sink) {
		sinktest.MustApply(t, other, usertabletest.Person("user_1", 9, a))
	}
	for _, test := range []struct {
		name      string
		unranked  bool // the holder's document has no version
		meanwhile func(*testing.T, server, *mongodb.Sink)
		waits     bool
		want      map[string]string
	}{
		{
			"another address of the application's", false,
			func(t *testing.T, s server, _ *mongodb.Sink) { s.set(t, "user_1", "email", "mine@example.com") },
			false, map[string]string{"user_1": "mine@example.com", "user_2": a},
		},
		{"a newer change with the same address", false, newer, true, map[string]string{"user_1": a, "user_2": "pending-user_2@email.invalid"}},
		{"the same, of a document without a version", true, newer, true, map[string]string{"user_1": a, "user_2": "pending-user_2@email.invalid"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			cfg := s.application(t, usertable.DeletionHard, false)
			other := open(t, cfg)
			sinktest.MustApply(t, other, usertabletest.Person("user_1", 1, a))
			if test.unranked {
				s.set(t, "user_1", "clerkConnect", nil)
			}
			sink := openPaused(t, cfg, "update", func() { test.meanwhile(t, s, other) })
			claim := []sinks.Record{usertabletest.Person("user_2", 2, a)}
			for range 2 { // the runner repeats it
				err := usertabletest.Failure(sink.Apply(t.Context(), claim), 0)
				if waits := sinks.Classify(err).Reason == sinks.ReasonConflict; waits != test.waits || !waits && err != nil {
					t.Errorf("Apply: got %v, want to wait: %v", err, test.waits)
				}
			}
			s.expectEmails(t, "users", test.want)
		})
	}
}

// set writes a path of a user's document as the application does, nil to take
// it away.
func (s server) set(t *testing.T, clerkID, path string, value any) {
	t.Helper()
	change := bson.D{{Key: "$set", Value: bson.D{{Key: path, Value: value}}}}
	if value == nil {
		change = bson.D{{Key: "$unset", Value: bson.D{{Key: path, Value: ""}}}}
	}
	if _, err := s.db.Collection("users").UpdateOne(t.Context(), bson.D{{Key: "clerkId", Value: clerkID}}, change); err != nil {
		t.Error(err)
	}
}

// TestChecked_ZombieFails has a process that was paused with a change of a user
// who was erased meanwhile wake up, write the user, and fail for another reason.
// Nobody repeats its batch, for its partition is another's: the user must be gone
// at once.
func TestChecked_ZombieFails(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{true, false} {
		for name, test := range map[string]struct {
			before, batch, between []sinks.Record
		}{
			"another user holds the address": {
				before: []sinks.Record{usertabletest.Person("user_2", 9, "late@example.com")},
				batch:  []sinks.Record{usertabletest.Person("user_1", 2, "late@example.com")},
			},
			"another user moved": {
				before:  []sinks.Record{usertabletest.Person("user_2", 1, "b@example.com")},
				batch:   []sinks.Record{usertabletest.Person("user_1", 2, "late@example.com"), usertabletest.Person("user_2", 2, "b@example.com")},
				between: []sinks.Record{usertabletest.Person("user_2", 3, "b@example.com")},
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newServer(t)
				cfg := s.application(t, usertable.DeletionHard, false)
				zombie, owner := open(t, cfg), open(t, cfg)
				sinktest.MustApply(t, owner, test.before...)
				if known {
					sinktest.MustApply(t, owner, usertabletest.Person("user_1", 1, "a@example.com"))
				}
				zombie.Between(func() {
					sinktest.MustApply(t, owner, append(test.between, sinktest.Erase("user_1", 3))...)
				})
				if err := zombie.Apply(t.Context(), test.batch); err == nil {
					t.Error("Apply: got nil, want a failure")
				}
				if got := s.all(t, "users", bson.D{{Key: "clerkId", Value: "user_1"}}); len(got) != 0 {
					t.Errorf("known %v: the erased user is back: %v", known, got)
				}
			})
		}
	}
}

// TestChecked_RevivedWhileUndone has an erased user come back between the look of
// the check and its deletion: the check takes away only what is older.
func TestChecked_RevivedWhileUndone(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.application(t, usertable.DeletionHard, false)
	owner := open(t, cfg)
	zombie := openPaused(t, cfg, "delete", func() { sinktest.MustApply(t, owner, usertabletest.Person("user_1", 4, "back@example.com")) })
	zombie.Between(func() { sinktest.MustApply(t, owner, sinktest.Erase("user_1", 3)) })
	sinktest.MustApply(t, zombie, usertabletest.Person("user_1", 2, "late@example.com"))
	s.expectEmails(t, "users", map[string]string{"user_1": "back@example.com"})
}

// TestChecked_RevivedWhileRestored has a user who was deleted, and to whom an
// order came to refer, come back before an anonymous document is put in place:
// the user stays as he is.
func TestChecked_RevivedWhileRestored(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.application(t, usertable.DeletionAuto, false)
	owner := open(t, cfg)
	sinktest.MustApply(t, owner, usertabletest.Person("user_1", 1, "a@example.com"))
	id := at(s.all(t, "users", bson.D{})[0], "_id")
	sink := openPaused(t, cfg, "insert", func() { sinktest.MustApply(t, owner, usertabletest.Person("user_1", 4, "back@example.com")) })
	sink.Between(func() {
		sink.Between(func() {})
		insert(t, s.db.Collection("orders"), bson.M{"user": id})
	})
	usertabletest.Deliver(t, sink, []sinks.Record{usertabletest.Erasure("user_1", 2, 5, true)}, true)
	s.expectEmails(t, "users", map[string]string{"user_1": "back@example.com"})
}
