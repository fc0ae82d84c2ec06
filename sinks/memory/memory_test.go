package memory_test

import (
	"errors"
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/memory"
	"clerkconnect/sinks/sinktest"
)

func TestSink(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{New: newDestination})
}

func newDestination(testing.TB) sinktest.Destination {
	store := &memory.Store{}
	store.Intercept(refusePoison)
	return sinktest.Destination{
		Sink: func(t testing.TB) sinks.Sink {
			sink, err := memory.New(memory.Config{Store: store})
			if err != nil {
				t.Fatal(err)
			}
			return sink
		},
		Read: func(_ testing.TB, ids ...string) map[string]sinktest.Row {
			rows := map[string]sinktest.Row{}
			for _, id := range ids {
				if change, ok := store.User(id); ok {
					rows[id] = sinktest.RowOf(&change.User)
				}
			}
			return rows
		},
		Dump: func(testing.TB) []byte { return store.Dump() },
		Break: func(testing.TB) func() {
			store.Intercept(func([]sinks.Record) error {
				return sinks.RetryAfter(sinks.ReasonUnavailable, 0, errors.New("outage"))
			})
			return func() { store.Intercept(refusePoison) }
		},
		Poison: func(u *schemas.User) { u.Locale = new("poison") },
	}
}

// refusePoison plays a destination that does not take every user.
func refusePoison(batch []sinks.Record) error {
	var failed sinks.BatchError
	for i, r := range batch {
		if !r.Erase() && r.Change.User.Locale != nil && *r.Change.User.Locale == "poison" {
			failed.Fail(i, sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("refused")))
		}
	}
	return failed.Err()
}
