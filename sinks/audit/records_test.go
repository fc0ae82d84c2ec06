package audit

import (
	"fmt"
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// canary stands for personal data.
const canary = "canary-7c93aa"

// change is a record as the runner makes it, of a user whose first name is name.
func change(id string, version int64, operation schemas.ChangeOperation, name string) sinks.Record {
	email := canary + "@example.com"
	return sinks.Track(sinks.Record{
		ClerkID: id, Version: schemas.Version{Epoch: 7, Number: version},
		Source: sinks.Source{Topic: "clerk.users", Partition: 3, Offset: 100 + version},
		Change: &schemas.UserChange{
			ClerkID: id, Operation: operation, Epoch: 7, Version: version,
			EventID: fmt.Sprintf("msg_%d", version), EventType: "user.updated", Origin: schemas.OriginWebhook, InstanceID: "ins_1",
			OccurredAt: 1_700_000_000_000 + version, ReceivedAt: 1_700_000_001_000 + version, SequencedAt: 1_700_000_002_000 + version,
			PolicyHash: "p1", ClientIP: new(canary + " 203.0.113.7"), UserAgent: new(canary + " Mozilla/5.0"),
			User: schemas.User{FirstName: &name, PrimaryEmailAddress: &email, UpdatedAt: new(version)},
		},
	})
}

func erase(id string, version int64) sinks.Record {
	return sinks.Track(sinks.Record{
		ClerkID: id, Version: schemas.Version{Epoch: 7, Number: version},
		Source: sinks.Source{Topic: "clerk.users", Partition: 3, Offset: 100 + version},
		Erasure: &schemas.Erasure{
			ClerkID: id, Epoch: 7, Version: version, Origin: schemas.OriginWebhook, EventID: fmt.Sprintf("msg_%d", version), RequestedAt: 1_700_000_009_000,
		},
	})
}

func infer(id string, version int64) sinks.Record {
	r := erase(id, version)
	r.Erasure.Inferred, r.Erasure.Origin = true, schemas.OriginReconcile
	return r
}

// receipt is another sink's word, confirmed at once if confirmed is not 0.
func receipt(id, sink string, version int64, outcome schemas.Outcome, confirmed int64) sinks.Record {
	r := &schemas.Receipt{ClerkID: id, Sink: sink, Epoch: 7, Version: version, Outcome: outcome, DoneAt: 1_700_000_010_000, Reason: new("rows of orders refer to it")}
	if confirmed != 0 {
		r.ConfirmedAt = &confirmed
	}
	return sinks.Track(sinks.Record{
		ClerkID: id, Version: schemas.Version{Epoch: 7, Number: version}, Receipt: r,
		Source: sinks.Source{Topic: "clerk.erasure-receipts", Partition: 3, Offset: 40},
	})
}

// deliver applies records one by one, as the runner does for one user: each
// with the state that the one before has left.
func deliver(t testing.TB, s *Sink, records ...sinks.Record) {
	t.Helper()
	states := map[string][]byte{}
	for _, r := range records {
		r.State = states[r.ClerkID]
		r = sinks.Track(r)
		if err := s.Apply(t.Context(), []sinks.Record{r}); err != nil {
			t.Fatalf("Apply: %v", err)
		}
		if result := r.Result(); result.Remembered {
			states[r.ClerkID] = result.State
		} else if r.Erase() {
			delete(states, r.ClerkID)
		}
	}
}

// entriesOf lists what rows say, in order.
func entriesOf(rows []stored) []string {
	list := make([]string, len(rows))
	for i, row := range rows {
		list[i] = row.Entry
	}
	return list
}
