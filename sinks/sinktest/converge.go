package sinktest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// converges applies random histories in random order, with repeats, through
// two instances at random, and compares each step with the model. A failure is
// shrunk and its seed printed.
func converges(t testing.TB, h Harness) {
	d := h.New(t)
	instances := []sinks.Sink{opened(t, d), opened(t, d)}
	size := instances[0].Capabilities().MaxBatch
	rapid.Check(t, func(rt *rapid.T) {
		ids := []string{newID(), newID(), newID()}
		model := h.newModel()
		for range rapid.IntRange(1, 12).Draw(rt, "batches") {
			var batch []sinks.Record
			for _, id := range ids[:min(size, len(ids))] {
				if rapid.Bool().Draw(rt, "touched") {
					batch = append(batch, drawRecord(rt, id))
				}
			}
			if len(batch) == 0 {
				continue
			}
			instance := rapid.IntRange(0, 1).Draw(rt, "instance")
			if err := instances[instance].Apply(t.Context(), batch); err != nil {
				rt.Fatalf("Apply: %v", err)
			}
			for _, r := range batch {
				superseded, outcome := model.apply(r)
				if got := r.Result(); !h.says(got, superseded, outcome) {
					rt.Fatalf("result: got superseded %v, outcome %q, want %v, %q", got.Superseded, got.Outcome, superseded, outcome)
				}
			}
			h.compare(rt, d.Read(t, ids...), model, ids)
		}
	})
}

// drawRecord draws one of the few statements that there are about a user, so
// that repeats and ties are frequent. What a change states follows from its
// version, as the sequencer guarantees.
func drawRecord(rt *rapid.T, id string) sinks.Record {
	version := schemas.Version{
		Epoch:  rapid.SampledFrom([]int32{1, 1, 1, 2}).Draw(rt, "epoch"),
		Number: rapid.Int64Range(1, 5).Draw(rt, "version"),
	}
	switch rapid.SampledFrom([]string{
		"change", "change", "change", "change", "tombstone", "tombstone", "inferred", "final", "unknown",
	}).Draw(rt, "kind") {
	case "tombstone":
		return tombstone(id, version)
	case "inferred":
		return erasure(id, version, true)
	case "final":
		return erasure(id, version, false)
	case "unknown":
		return tombstone(id, schemas.Version{})
	}
	return upsert(id, version, plainUser(fmt.Sprint(version)))
}

// compare fails unless the rows are the model's.
func (h Harness) compare(t interface{ Fatalf(string, ...any) }, rows map[string]Row, model model, ids []string) {
	for i, id := range ids {
		row, held := rows[id]
		if diff := h.Differs(model.user(id), row, held); diff != "" {
			t.Fatalf("user %d: %s", i, diff)
		}
	}
}

// racingInstances has two instances work on the same users at the same time,
// as a paused process and the one that took over from it do. Whatever the
// interleaving, the strongest statement must have won at the end.
func racingInstances(t testing.TB, h Harness) {
	d := h.New(t)
	instances := []sinks.Sink{opened(t, d), opened(t, d)}
	seed := rand.Uint64()
	for round := range 30 {
		ids := []string{newID(), newID(), newID(), newID()}
		ids = ids[:min(len(ids), instances[0].Capabilities().MaxBatch)]
		model := h.newModel()
		batches := make([][]sinks.Record, 2)
		draw := rand.New(rand.NewPCG(seed, uint64(round)))
		for i := range batches {
			for _, id := range ids {
				version := at(1 + draw.Int64N(4))
				r := upsert(id, version, plainUser(fmt.Sprint(version)))
				if draw.IntN(3) == 0 {
					r = erasure(id, version, false)
				}
				model.apply(r)
				batches[i] = append(batches[i], r)
			}
			draw.Shuffle(len(ids), func(a, b int) { batches[i][a], batches[i][b] = batches[i][b], batches[i][a] })
		}
		var wait sync.WaitGroup
		for i, sink := range instances {
			wait.Go(func() {
				err := retried(func() error { return sink.Apply(t.Context(), batches[i]) })
				if err != nil {
					t.Errorf("Apply: got %v, want nil or, for a while, a conflict to retry", err)
				}
			})
		}
		wait.Wait()
		rows := d.Read(t, ids...)
		for i, id := range ids {
			row, held := rows[id]
			if diff := h.Differs(model.user(id), row, held); diff != "" {
				t.Fatalf("seed %d, round %d, user %d: %s", seed, round, i, diff)
			}
		}
	}
}
