package usertabletest

import (
	"context"
	"fmt"
	"slices"

	"pgregory.net/rapid"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
)

// Person is a change of a user as an application sees one; email "": none.
func Person(id string, version int64, email string) sinks.Record {
	r := sinktest.Change(id, version)
	r.Change.User.PrimaryEmailAddress, r.Change.User.FirstName = &email, new("Ada")
	if email == "" {
		r.Change.User.PrimaryEmailAddress = nil
	}
	return r
}

// Erasure is a demand that is final, or an inferred one, of that time in Unix
// milliseconds.
func Erasure(id string, version, requestedAt int64, inferred bool) sinks.Record {
	r := sinktest.Erase(id, version)
	r.Erasure = &schemas.Erasure{ClerkID: id, Epoch: 1, Version: version, RequestedAt: requestedAt, Inferred: inferred}
	return r
}

// Move is a way in which addresses move among users: where they stand before it,
// the last record of each after it, and the addresses that Clerk has then of the
// users that it still has.
type Move struct {
	Name          string
	Before, After []sinks.Record
	Want          map[string]string
}

// Moves are those that must come right in every order of After.
func Moves() []Move {
	const a, b, c, d = "a@example.com", "b@example.com", "c@example.com", "d@example.com"
	return []Move{
		{
			"a swap",
			[]sinks.Record{Person("user_1", 1, a), Person("user_2", 2, b)},
			[]sinks.Record{Person("user_1", 4, b), Person("user_2", 5, a)},
			map[string]string{"user_1": b, "user_2": a},
		},
		{
			"deleted and signed up again",
			[]sinks.Record{Person("user_1", 1, a)},
			[]sinks.Record{sinktest.Erase("user_1", 3), Person("user_2", 4, a)},
			map[string]string{"user_2": a},
		},
		{
			"a chain",
			[]sinks.Record{Person("user_1", 1, a), Person("user_2", 2, b), Person("user_3", 3, c)},
			[]sinks.Record{Person("user_1", 4, d), Person("user_2", 5, a), Person("user_3", 6, b)},
			map[string]string{"user_1": d, "user_2": a, "user_3": b},
		},
		{
			"new users, one of whom gave the address up",
			nil,
			[]sinks.Record{Person("user_1", 1, a), Person("user_1", 3, b), Person("user_2", 4, a)},
			map[string]string{"user_1": b, "user_2": a},
		},
	}
}

// Permutations are the orders of n things.
func Permutations(n int) (all [][]int) {
	if n == 0 {
		return [][]int{{}}
	}
	for _, shorter := range Permutations(n - 1) {
		for at := range n {
			one := append(append(append([]int{}, shorter[:at]...), n-1), shorter[at:]...)
			all = append(all, one)
		}
	}
	return all
}

// History draws what happens to a few users, and returns where each ends ("":
// deleted) and what was said of them.
func History(rt *rapid.T, round int) (want map[string]string, records []sinks.Record) {
	want = map[string]string{}
	taken, version := map[string]bool{}, int64(0)
	for range rapid.IntRange(2, 14).Draw(rt, "steps") {
		version++
		id := fmt.Sprintf("user_%d_%d", round, rapid.IntRange(0, 3).Draw(rt, "user"))
		email, there := want[id]
		if there && email == "" {
			continue // deleted for good
		}
		delete(taken, email)
		if there && rapid.IntRange(0, 5).Draw(rt, "leaves") == 0 {
			want[id] = ""
			records = append(records, Erasure(id, version, 5, false))
			continue
		}
		email = fmt.Sprintf("%d-%d@example.com", round, rapid.IntRange(0, 3).Draw(rt, "address"))
		for taken[email] {
			email = "x" + email
		}
		want[id], taken[email] = email, true
		records = append(records, Person(id, version, email))
	}
	return want, records
}

// tester is a test, or a round of a property.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Context() context.Context
}

// Deliver applies records as the runner does: of one user only one in a batch,
// what waits again later, a batch that is refused as a whole by halves.
func Deliver(t tester, sink sinks.Sink, records []sinks.Record, together bool) {
	t.Helper()
	for range 8 {
		var again []sinks.Record
		for len(records) > 0 {
			n := 1
			for together && n < len(records) && !slices.ContainsFunc(records[:n], func(r sinks.Record) bool { return r.ClerkID == records[n].ClerkID }) {
				n++
			}
			again = append(again, attempt(t, sink, records[:n])...)
			records = records[n:]
		}
		if records = again; len(records) == 0 {
			return
		}
	}
	t.Errorf("%d records still wait, the first of %s", len(records), records[0].ClerkID)
}

// attempt applies a batch and returns what must be tried again.
func attempt(t tester, sink sinks.Sink, batch []sinks.Record) (again []sinks.Record) {
	t.Helper()
	tracked := make([]sinks.Record, len(batch))
	for i, r := range batch {
		tracked[i] = sinks.Track(r)
	}
	err := sink.Apply(t.Context(), tracked)
	if failed, ok := err.(*sinks.BatchError); ok { //nolint:errorlint // the contract is about the error itself
		for i := range batch {
			if why := failed.Failed(i); why != nil {
				if got := sinks.Classify(why); got.Class != sinks.ClassRetry || got.Reason != sinks.ReasonConflict {
					t.Errorf("a record that waits: got %v", why)
				}
				again = append(again, batch[i])
			}
		}
		return again
	}
	switch class := sinks.Classify(err); {
	case err == nil:
		return nil
	case class.Class == sinks.ClassPermanent && len(batch) > 1:
		return append(attempt(t, sink, batch[:len(batch)/2]), attempt(t, sink, batch[len(batch)/2:])...)
	case class.Class != sinks.ClassRetry:
		t.Fatalf("Apply: %v", err)
	}
	return batch
}

// Failure returns what Apply says of one record.
func Failure(err error, i int) error {
	if batch, ok := err.(*sinks.BatchError); ok { //nolint:errorlint // the contract is about the error itself
		return batch.Failed(i)
	}
	return err
}
