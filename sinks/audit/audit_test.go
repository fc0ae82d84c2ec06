package audit

import (
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
)

// TestSink is the contract of all sinks, read for a log: who is there is told
// by all that was said, under the rule that sinks.Guard has.
func TestSink(t *testing.T) {
	for _, database := range databases[:4] { // without transactions all but the suite of states is tested
		t.Run(database.name, func(t *testing.T) {
			sinktest.Run(t, sinktest.Harness{Log: true, Erased: schemas.OutcomeAnonymized, Fields: []string{}, New: func(t testing.TB) sinktest.Destination {
				direct := database.bed(t)
				direct.open(t) // makes the tables
				direct.read(t) // closed after the last check
				proxied, cut := direct.proxied(t)
				d := sinktest.Destination{
					Sink: func(t testing.TB) sinks.Sink { return proxied.sink(t) },
					Read: func(t testing.TB, ids ...string) map[string]sinktest.Row {
						return whoIsThere(direct.hands.said(t, ids))
					},
					Dump: func(t testing.TB) []byte { return direct.hands.dump(t) },
				}
				if cut != nil {
					d.Break = func(testing.TB) func() { return cut() }
				}
				t.Cleanup(func() { direct.mustBeIntact(t) })
				return d
			}})
		})
	}
}

// whoIsThere is who is there by what rows say.
func whoIsThere(rows []Row) map[string]sinktest.Row {
	guards := map[string]sinks.Guard{}
	for _, row := range rows {
		r := sinks.Record{ClerkID: row.ClerkID, Version: schemas.Version{Epoch: int32(row.Epoch), Number: row.Version}}
		switch row.Action {
		case ActionDeletionRequested:
			r.Erasure = &schemas.Erasure{}
		case ActionDeletionInferred:
			r.Erasure = &schemas.Erasure{Inferred: true}
		default:
			r.Change = &schemas.UserChange{}
		}
		guards[row.ClerkID], _ = guards[row.ClerkID].Advance(r)
	}
	there := map[string]sinktest.Row{}
	for id, guard := range guards {
		if !guard.Deleted {
			there[id] = sinktest.Row{}
		}
	}
	return there
}
