package usertabletest

import (
	"fmt"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
)

// unique gives the last changes of users among whom addresses moved, in every
// order, one by one and together, and repeats what failed as the runner does.
// All end with what Clerk has.
func unique(t *testing.T, bed Bed) {
	for _, test := range Moves() {
		for _, policy := range []usertable.Deletion{usertable.DeletionHard, usertable.DeletionSoft} {
			for _, required := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s,%s,required=%v", test.Name, policy, required), func(t *testing.T) {
					t.Parallel()
					application := bed.New(t, required)
					settings := Settings()
					settings.Deletion = policy
					sink := application.Open(t, settings)
					want := map[string]string{}
					for n, order := range Permutations(len(test.After)) {
						for _, together := range []bool{true, false} {
							tag := fmt.Sprintf("%d-%v-", n, together) // other users, in the same table
							Deliver(t, sink, tagged(tag, test.Before), true)
							records := make([]sinks.Record, len(order))
							for i, n := range order {
								records[i] = test.After[n]
							}
							Deliver(t, sink, tagged(tag, records), together)
							for id, email := range test.Want {
								want[tag+id] = tag + email
							}
							if got := application.emails(t); !maps.Equal(got, want) {
								t.Fatalf("order %v, together %v: got %v, want %v", order, together, got, want)
							}
						}
					}
				})
			}
		}
	}
}

// tagged returns records of other users with other addresses.
func tagged(tag string, records []sinks.Record) []sinks.Record {
	others := make([]sinks.Record, len(records))
	for i, r := range records {
		if r.ClerkID = tag + r.ClerkID; r.Change != nil {
			change := *r.Change
			change.ClerkID, change.User.PrimaryEmailAddress = r.ClerkID, new(tag+*change.User.PrimaryEmailAddress)
			r.Change = &change
		}
		others[i] = r
	}
	return others
}

// uniqueForGood has two users who truly hold the same address: the newer has
// it, the older waits and is told for whom.
func uniqueForGood(t *testing.T, bed Bed) {
	application := bed.New(t, true)
	sink := application.Open(t, Settings())
	sinktest.MustApply(t, sink, Person("user_2", 2, "a@example.com"))
	expect := func(want map[string]string) {
		t.Helper()
		if got := application.emails(t); !maps.Equal(got, want) {
			t.Errorf("addresses: got %v, want %v", got, want)
		}
	}
	for range 2 {
		err := Failure(sink.Apply(t.Context(), []sinks.Record{Person("user_1", 1, "a@example.com")}), 0)
		if got := sinks.Classify(err); got.HeldBy != "user_2" || got.Reason != sinks.ReasonConflict || got.Class != sinks.ClassRetry {
			t.Errorf("Apply: got %v, want to wait for user_2", err)
		}
		expect(map[string]string{"user_1": "pending-user_1@email.invalid", "user_2": "a@example.com"})
	}
	newer, older := Person("user_3", 6, "c@example.com"), Person("user_4", 5, "c@example.com")
	for i, batch := range [][]sinks.Record{{older, newer}, {newer, older}} { // before either has it, and after
		err := sink.Apply(t.Context(), batch)
		if got := sinks.Classify(Failure(err, i)); got.HeldBy != "user_3" || Failure(err, 1-i) != nil {
			t.Errorf("Apply of both, the older at %d: got %v, want that to wait for user_3", i, err)
		}
	}
	sinktest.MustApply(t, sink, sinktest.Erase("user_3", 7), sinktest.Erase("user_4", 7), sinktest.Erase("user_2", 3))
	sinktest.MustApply(t, sink, Person("user_1", 1, "a@example.com"))
	expect(map[string]string{"user_1": "a@example.com"})
}

// uniqueConstant has a key with a constant in it, by which the users of one
// application are told from another's: what moves is the address.
func uniqueConstant(t *testing.T, bed Bed) {
	application := bed.New(t, false)
	application.Exec(t, "CREATE UNIQUE INDEX role_email ON %users (role, email)")
	settings := Settings()
	settings.Columns = "role = 'guest', email = email"
	sink := application.Open(t, settings)
	sinktest.MustApply(t, sink, Person("user_1", 1, "a@example.com"))
	sinktest.MustApply(t, sink, Person("user_2", 2, "a@example.com"))
	users := application.Users(t)
	if users["user_1"]["role"] != "guest" || users["user_1"]["email"] != "" || users["user_2"]["email"] != "a@example.com" {
		t.Errorf("got %v, want the address to move, and nothing else", users)
	}
}

// uniqueStrangers has rows hold the address of whom nothing is known: nothing
// is taken from them, and others of the batch are not to blame.
func uniqueStrangers(t *testing.T, bed Bed) {
	application := bed.New(t, true)
	application.Exec(t, "INSERT INTO %users (clerk_id, email) VALUES ('user_9', 'a@example.com')")
	sink := application.Open(t, Settings())
	err := sink.Apply(t.Context(), []sinks.Record{Person("user_1", 5, "a@example.com"), Person("user_2", 5, "b@example.com")})
	if got := sinks.Classify(Failure(err, 0)); got.HeldBy != "user_9" || got.Reason != sinks.ReasonConflict || Failure(err, 1) != nil {
		t.Errorf("Apply: got %v, want only user_1 to wait, for user_9", err)
	}
	if got := application.emails(t)["user_9"]; got != "a@example.com" {
		t.Errorf("the stranger's address: got %q", got)
	}
	Deliver(t, sink, []sinks.Record{Person("user_1", 5, "a@example.com"), Person("user_9", 6, "c@example.com")}, false)
	want := map[string]string{"user_1": "a@example.com", "user_2": "b@example.com", "user_9": "c@example.com"}
	if got := application.emails(t); !maps.Equal(got, want) {
		t.Errorf("after his change: got %v, want %v", got, want)
	}
}

// uniqueRandom has users of whom no two have the same address at a moment sign
// up, move, leave and come again, and delivers what is left of that in any
// order, through two instances, under any policy. Each ends with what he has.
func uniqueRandom(t *testing.T, bed Bed) {
	type table struct {
		application Application
		instances   []sinks.Sink
	}
	tables := map[usertable.Deletion]table{}
	for _, policy := range usertable.Deletions() {
		application := bed.New(t, true)
		settings := Settings()
		settings.Deletion = policy
		tables[policy] = table{application, []sinks.Sink{application.Open(t, settings), application.Open(t, settings)}}
	}
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		table := tables[rapid.SampledFrom(usertable.Deletions()).Draw(rt, "policy")]
		want, records := History(rt, round)
		records = rapid.Permutation(records).Draw(rt, "order")
		cut := rapid.IntRange(0, len(records)).Draw(rt, "cut")
		first := rapid.IntRange(0, 1).Draw(rt, "instance")
		// What the first half waits for may come with the second.
		var waiting []sinks.Record
		for _, r := range records[:cut] {
			waiting = append(waiting, attempt(rt, table.instances[first], []sinks.Record{r})...)
		}
		Deliver(rt, table.instances[1-first], append(records[cut:], waiting...), rapid.Bool().Draw(rt, "together"))
		got := table.application.emails(t)
		for id, email := range want {
			if got[id] != email {
				rt.Errorf("%s: got %q, want %q", id, got[id], email)
			}
		}
	})
}
