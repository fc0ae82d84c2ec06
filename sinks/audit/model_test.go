package audit

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// TestLog_EqualsModel delivers random histories of random users as runners do:
// by partitions that change hands, in batches that come again, through crashes
// before and after the commit. The log must say each thing once, in the order
// of each user, in chains that are intact, and hold clients of the living alone.
func TestLog_EqualsModel(t *testing.T) {
	everywhere(t, func(t *testing.T, b bed) {
		owners := []*Sink{b.open(t), b.open(t), b.open(t)}
		b.read(t)
		run := 0
		rapid.Check(t, func(rt *rapid.T) {
			if run++; run > 30 && b.cfg.scheme() == "mongodb" {
				return // the server of the tests takes a second for each history
			}
			w := &world{rt: rt, b: b, owners: owners, prefix: fmt.Sprintf("user_%s_%d", unique(), run), states: map[string][]byte{}, partition: int32(1000 + run)}
			w.history()
			for range rapid.IntRange(2, 10).Draw(rt, "batches") {
				w.deliver()
			}
			w.compare(t)
		})
		b.mustBeIntact(t)
		if bytes.Contains(b.hands.dump(t), []byte("Grace")) {
			t.Error("the database holds the value of a field")
		}
	})
}

// world is a partition: what its topic holds, and how far the runners are.
type world struct {
	rt        *rapid.T
	b         bed
	owners    []*Sink
	prefix    string
	partition int32

	topic     []sinks.Record
	committed int               // offset
	states    map[string][]byte // committed
	applied   int               // highest offset that any owner has brought in
}

// history draws what the topic holds: changes, and at the end of some lives an
// erasure, after which there is nothing.
func (w *world) history() {
	ended, versions := map[string]bool{}, map[string]int64{}
	for range rapid.IntRange(1, 25).Draw(w.rt, "records") {
		id := fmt.Sprintf("%s_%d", w.prefix, rapid.IntRange(0, 3).Draw(w.rt, "user"))
		if ended[id] {
			continue
		}
		versions[id]++
		var r sinks.Record
		switch kind := rapid.SampledFrom([]string{"change", "change", "change", "snapshot", "inferred", "final"}).Draw(w.rt, "kind"); kind {
		case "final":
			r, ended[id] = erase(id, versions[id]), true
		case "inferred":
			r = infer(id, versions[id])
		default:
			operation := schemas.ChangeUpdate
			if kind == "snapshot" {
				operation = schemas.ChangeSnapshot
			}
			r = change(id, versions[id], operation, rapid.SampledFrom([]string{"Ada", "Grace"}).Draw(w.rt, "name"))
		}
		r.Source = sinks.Source{Topic: "clerk.users", Partition: w.partition, Offset: int64(len(w.topic))}
		w.topic = append(w.topic, r)
	}
}

// deliver is one batch by one owner, from where the last commit was. Then it
// commits, or dies, with all of the batch brought in or a part of it. A zombie
// delivers what was committed long ago.
func (w *world) deliver() {
	owner := rapid.SampledFrom(w.owners).Draw(w.rt, "owner")
	from := w.committed
	zombie := rapid.IntRange(0, 4).Draw(w.rt, "zombie") == 0
	if zombie {
		from = rapid.IntRange(0, w.committed).Draw(w.rt, "from")
	}
	batch := w.topic[from:min(len(w.topic), from+rapid.IntRange(0, 9).Draw(w.rt, "size"))]
	states := maps.Clone(w.states)
	died := rapid.IntRange(0, 3).Draw(w.rt, "died") == 0
	for done := 0; done < len(batch); {
		some := batch[done:min(len(batch), done+rapid.IntRange(1, 4).Draw(w.rt, "call"))]
		if died && rapid.Bool().Draw(w.rt, "here") {
			return
		}
		w.apply(owner, some, states)
		done += len(some)
		w.applied = max(w.applied, from+done)
	}
	if !died && !zombie {
		w.committed, w.states = from+len(batch), states
	}
}

// apply calls the sink in rounds, as the runner does: no user twice in one, and
// each with the state that the one before has left.
func (w *world) apply(owner *Sink, records []sinks.Record, states map[string][]byte) {
	for len(records) > 0 {
		var round, rest []sinks.Record
		seen := map[string]bool{}
		for _, r := range records {
			if seen[r.ClerkID] {
				rest = append(rest, r)
				continue
			}
			seen[r.ClerkID] = true
			r.State = states[r.ClerkID]
			round = append(round, sinks.Track(r))
		}
		if err := owner.Apply(context.Background(), round); err != nil {
			w.rt.Fatalf("Apply: %v", err)
		}
		for _, r := range round {
			if result := r.Result(); result.Remembered {
				states[r.ClerkID] = result.State
			} else if r.Erase() {
				delete(states, r.ClerkID)
			}
		}
		records = rest
	}
}

// compare holds the log against what was brought in.
func (w *world) compare(t *testing.T) {
	rows := w.b.chain(t, fmt.Sprintf("users-%d", w.partition)) // each history has its own
	want := map[string][]string{}                              // entries and changed fields, by user
	erased := map[string]int64{}                               // version of the last erasure
	before := map[string]schemas.User{}
	for _, r := range w.topic[:w.applied] {
		made := newEntry(r).rows[0]
		fields := "-"
		if c := r.Change; c != nil {
			fields = "unknown"
			if old, known := before[r.ClerkID]; known {
				fields = ""
				if *old.FirstName != *c.User.FirstName {
					fields = "first_name"
				}
			} else if made.Action == ActionSnapshot {
				fields = "first_name,primary_email_address"
			}
			before[r.ClerkID] = c.User
		} else {
			delete(before, r.ClerkID)
			erased[r.ClerkID] = r.Version.Number
		}
		want[r.ClerkID] = append(want[r.ClerkID], made.Entry+" "+fields)
	}
	got := map[string][]string{}
	for _, row := range rows {
		fields := "-"
		if row.Action == ActionSnapshot || row.Action == ActionUpdated {
			if fields = "unknown"; row.ChangedFields != nil {
				fields = *row.ChangedFields
			}
		}
		got[row.ClerkID] = append(got[row.ClerkID], row.Entry+" "+fields)
		live := row.Version > erased[row.ClerkID] && row.Action != ActionDeletionInferred && row.Action != ActionDeletionRequested
		if (row.client != nil) != live {
			w.rt.Fatalf("%s: client data there %v, want %v", row.Entry, row.client != nil, live)
		}
	}
	if !maps.EqualFunc(got, want, slices.Equal) {
		w.rt.Fatalf("log: got %q, want %q", got, want)
	}
	last := genesis
	for i, row := range rows {
		if row.Seq != int64(i+1) || row.PrevHash != last || row.Digest() != row.Hash {
			w.rt.Fatalf("row %d is not in its place", i+1)
		}
		last = row.Hash
	}
}
