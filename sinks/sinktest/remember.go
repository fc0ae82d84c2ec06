package sinktest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	"clerkconnect/sinks"
)

// kept is what the runner keeps for a tool's sink: it outlives the sink.
type kept struct {
	mu     sync.Mutex
	states map[string][]byte
	lost   bool // what is said of an applied record does not reach Kafka: a crash before the commit
}

func (k *kept) state(id string) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return bytes.Clone(k.states[id])
}

func (k *kept) lose(lost bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lost = lost
}

// take keeps what was said of r. first: with ErrRememberFirst.
func (k *kept) take(r sinks.Record, first, forget bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	said := r.Result()
	switch {
	case k.lost && !first:
	case said.Remembered && said.State != nil:
		k.states[r.ClerkID] = bytes.Clone(said.State)
	case said.Remembered, forget && r.Erase():
		delete(k.states, r.ClerkID)
	}
}

// remembered is a tool's sink with the runner's part in front of it: records
// carry what was remembered, batches are of the sink's size, and what asks to be
// remembered first is applied again.
type remembered struct {
	sinks.Sink
	kept *kept
}

// remembering keeps the optional interfaces that sink has.
func remembering(sink sinks.Sink, k *kept) sinks.Sink {
	base := remembered{sink, k}
	confirmer, confirms := sink.(sinks.Confirmer)
	lister, lists := sink.(sinks.Lister)
	switch {
	case confirms && lists:
		return struct {
			remembered
			confirmed
			sinks.Lister
		}{base, confirmed{confirmer, k}, lister}
	case confirms:
		return struct {
			remembered
			confirmed
		}{base, confirmed{confirmer, k}}
	case lists:
		return struct {
			remembered
			sinks.Lister
		}{base, lister}
	}
	return base
}

type confirmed struct {
	confirmer sinks.Confirmer
	kept      *kept
}

// Confirm implements [sinks.Confirmer].
func (c confirmed) Confirm(ctx context.Context, clerkID string, _ []byte) (bool, error) {
	gone, err := c.confirmer.Confirm(ctx, clerkID, c.kept.state(clerkID))
	if gone && err == nil {
		c.kept.mu.Lock()
		defer c.kept.mu.Unlock()
		delete(c.kept.states, clerkID)
	}
	return gone, err
}

// inner is the sink itself.
func (r remembered) inner() sinks.Sink { return r.Sink }

// Apply implements [sinks.Sink].
func (r remembered) Apply(ctx context.Context, batch []sinks.Record) error {
	var failed sinks.BatchError
	size := r.Sink.Capabilities().MaxBatch
	for start := 0; start < len(batch); start += size {
		part := batch[start:min(start+size, len(batch))]
		err := r.applyPart(ctx, part)
		var listed *sinks.BatchError
		switch {
		case err == nil:
		case errors.As(err, &listed):
			for i := range part {
				if problem := listed.Failed(i); problem != nil {
					failed.Fail(start+i, problem)
				}
			}
		case len(part) == 1 && sinks.Classify(err).Class == sinks.ClassPermanent: // as the runner finds out by halving
			failed.Fail(start, err)
		default:
			return err
		}
	}
	return failed.Err()
}

func (r remembered) applyPart(ctx context.Context, part []sinks.Record) error {
	_, confirms := r.Sink.(sinks.Confirmer)
	var failed sinks.BatchError
	todo := make([]int, len(part))
	for i := range part {
		todo[i] = i
	}
	for round := 0; len(todo) > 0 && round < 5; round++ {
		records := make([]sinks.Record, len(todo))
		for k, i := range todo {
			records[k] = part[i]
			records[k].State = r.kept.state(part[i].ClerkID)
		}
		err := r.Sink.Apply(ctx, slices.Clone(records))
		var listed *sinks.BatchError
		if err != nil && !errors.As(err, &listed) {
			return err
		}
		var again []int
		for k, i := range todo {
			var problem error
			if listed != nil {
				problem = listed.Failed(k)
			}
			switch {
			case problem == nil:
				r.kept.take(part[i], false, !confirms)
			case errors.Is(problem, sinks.ErrRememberFirst):
				r.kept.take(part[i], true, false)
				again = append(again, i)
			default:
				failed.Fail(i, problem)
			}
		}
		todo = again
	}
	for _, i := range todo {
		failed.Fail(i, errors.New("asks to be remembered first again and again"))
	}
	return failed.Err()
}
