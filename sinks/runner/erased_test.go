package runner

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/transact"
	"clerkconnect/sinks"
)

// throughOutage processes and commits one batch, however often it has to be
// gone on with.
func throughOutage(t *testing.T, p *processor, records ...*kgo.Record) {
	t.Helper()
	_, err := p.Process(t.Context(), records)
	for errors.Is(err, transact.ErrAgain) {
		_, err = p.Process(t.Context(), records)
	}
	if err != nil {
		t.Fatalf("Process: %v", err)
	}
	p.Committed()
}

// During an outage users are erased whose changes are in hand: those are not
// sent when it is over, though their tombstones have not been read yet.
func TestProcess_ErasedMeanwhileIsNotSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		up := time.Now().Add(time.Hour)
		var mu sync.Mutex
		taken := map[string]bool{}
		sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
			if time.Now().Before(up) {
				return errDown
			}
			mu.Lock()
			defer mu.Unlock()
			for _, r := range batch {
				taken[r.ClerkID] = true
			}
			return nil
		})
		sink.facts.MaxBatch = 2
		p := bare(t, sink)
		p.words = &words{}
		p.words.erased.own([]int32{0})
		demand := func(id string, e *schemas.Erasure) {
			r := erasure(id, e)
			p.words.erased.read(p.Runner, r)
		}
		time.AfterFunc(time.Minute, func() {
			demand("signed", &schemas.Erasure{ClerkID: "signed", Epoch: 1, Version: 9, Origin: schemas.OriginWebhook})
			demand("inferred", &schemas.Erasure{ClerkID: "inferred", Epoch: 1, Version: 9, Origin: schemas.OriginReconcile, Inferred: true})
			demand("older", &schemas.Erasure{ClerkID: "older", Epoch: 1, Version: 3, Origin: schemas.OriginReconcile, Inferred: true})
			demand("back", &schemas.Erasure{ClerkID: "back", Epoch: 1, Version: 9, Origin: schemas.OriginReconcile, Inferred: true})
			demand("back", nil)
		})
		throughOutage(t, p, upsert("signed", 10), upsert("inferred", 5), upsert("older", 5), upsert("back", 5), upsert("other", 5))
		want := map[string]bool{"signed": false, "inferred": false, "older": true, "back": true, "other": true}
		for id, sent := range want {
			if taken[id] != sent {
				t.Errorf("%s: taken %t, want %t", id, taken[id], sent)
			}
		}
		if got := p.metrics.outcome(t, outcomeSuperseded); got != 2 {
			t.Errorf("records_total of superseded: %v, want 2", got)
		}
		process(t, p, tombstone("inferred", 9, schemas.OriginReconcile), upsert("inferred", 12))
		if len(p.words.erased.owned[0]) != 2 || !taken["inferred"] {
			t.Errorf("still kept: %v, taken %t; want signed and older alone, true: he came back", p.words.erased.owned[0], taken["inferred"])
		}
		p.words.erased.own(nil)
		demand("signed", &schemas.Erasure{ClerkID: "signed", Epoch: 1, Version: 9})
		if p.words.erased.covers(0, "signed", schemas.Version{}) {
			t.Error("an erasure of a partition that is not owned is kept")
		}
	})
}

// All that is in hand was erased meanwhile: there is nothing left to wait for.
func TestProcess_AllErasedMeanwhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sink := newScripted(t, func(context.Context, []sinks.Record) error { return errDown })
		p := bare(t, sink)
		p.words = &words{}
		p.words.erased.own([]int32{0})
		started := time.Now()
		time.AfterFunc(time.Minute, func() {
			p.words.erased.read(p.Runner, erasure("a", &schemas.Erasure{ClerkID: "a", Epoch: 1, Version: 9, Origin: schemas.OriginWebhook}))
		})
		throughOutage(t, p, upsert("a", 1))
		if took := time.Since(started); took > 2*time.Minute {
			t.Errorf("took %s, want little more than a minute", took)
		}
	})
}

// The same with a broker: the demand is heard while the destination is down.
func TestRunner_HearsOfErasuresDuringAnOutage(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		var mu sync.Mutex
		down, taken := true, []string{}
		sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
			mu.Lock()
			defer mu.Unlock()
			if down {
				return errDown
			}
			for _, r := range batch {
				if !r.Erase() {
					taken = append(taken, r.ClerkID)
				}
			}
			return nil
		})
		r := b.run(sinkName, "a", sink)
		b.write(upsert("gone", 1), upsert("stays", 2))
		eventually(t, "tried", func() bool { return len(sink.sent("gone")) > 0 && len(sink.sent("stays")) > 0 })
		b.write(tombstone("gone", 3, schemas.OriginWebhook), erasure("gone", &schemas.Erasure{ClerkID: "gone", Epoch: 1, Version: 3, Origin: schemas.OriginWebhook}))
		eventually(t, "not tried any more", func() bool {
			before := len(sink.sent("gone"))
			time.Sleep(5 * r.cfg.BackoffMax)
			return len(sink.sent("gone")) == before
		})
		mu.Lock()
		down = false
		mu.Unlock()
		eventually(t, "caught up", func() bool { s := r.Status(); return s.LagRecords == 0 && s.ErasuresOwed == 0 })
		r.stop()
		if !slices.Equal(taken, []string{"stays"}) || !slices.Contains(sink.sent("gone"), 3) {
			t.Errorf("taken %v, sent of the erased user %v; want stays alone, and the erasure", taken, sink.sent("gone"))
		}
	})
}

// What was demanded later outlives an earlier tombstone, and what could not be
// read: the user is not sent.
func TestErased_ForgetsNoLaterDemand(t *testing.T) {
	t.Parallel()
	unread := upsert("u", 1)
	unread.Value = []byte("garbage")
	for name, before := range map[string]*kgo.Record{"a tombstone that was taken back": tombstone("u", 1, schemas.OriginReconcile), "unreadable": unread} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sink := newScripted(t, nil)
			p := bare(t, sink)
			p.words = &words{}
			p.words.erased.own([]int32{0})
			p.words.erased.read(p.Runner, erasure("u", &schemas.Erasure{ClerkID: "u", Epoch: 1, Version: 3, Origin: schemas.OriginReconcile, Inferred: true}))
			process(t, p, before)
			process(t, p, upsert("u", 2))
			if slices.Contains(sink.sent("u"), 2) {
				t.Error("a change is sent though its user's erasure was demanded")
			}
			process(t, p, tombstone("u", 3, schemas.OriginReconcile))
			if len(p.words.erased.owned[0]) != 0 {
				t.Error("kept, though the memory has it")
			}
		})
	}
}
