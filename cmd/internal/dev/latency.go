package dev

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// keptLatencies bounds what is remembered: the newest ones, a day at one a
// second.
const keptLatencies = 86_400

// latency measures the time from the receipt of a webhook to its row. Safe
// for concurrent use.
type latency struct {
	mu     sync.Mutex
	values []time.Duration
	next   int // place of the next value once the slice is full
}

// observe puts the measurement around a sink, which keeps what it can do
// besides if it can do all of it, as databases can.
func (l *latency) observe(sink sinks.Sink) sinks.Sink {
	o := &observed{Sink: sink, latency: l}
	if all, ok := sink.(abilities); ok {
		return struct {
			*observed
			abilities
		}{o, all}
	}
	return o
}

// abilities are the optional interfaces of a sink.
type abilities interface {
	sinks.Lister
	sinks.Confirmer
}

type observed struct {
	sinks.Sink
	latency *latency
}

// Apply implements [sinks.Sink].
func (o *observed) Apply(ctx context.Context, batch []sinks.Record) error {
	err := o.Sink.Apply(ctx, batch)
	var partly *sinks.BatchError
	if err != nil && !errors.As(err, &partly) {
		return err
	}
	now := time.Now().UnixMilli()
	for i, r := range batch {
		if r.Change != nil && r.Change.Origin == schemas.OriginWebhook && (partly == nil || partly.Failed(i) == nil) {
			o.latency.add(time.Duration(now-r.Change.ReceivedAt) * time.Millisecond)
		}
	}
	return err
}

func (l *latency) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.values) < keptLatencies {
		l.values = append(l.values, d)
		return
	}
	l.values[l.next] = d
	l.next = (l.next + 1) % keptLatencies
}

// quantiles returns the latency that half of them and that 99 % of them do not
// exceed, and of how many.
func (l *latency) quantiles() (p50, p99 time.Duration, n int) {
	l.mu.Lock()
	sorted := slices.Clone(l.values)
	l.mu.Unlock()
	if len(sorted) == 0 {
		return 0, 0, 0
	}
	slices.Sort(sorted)
	at := func(share float64) time.Duration { return sorted[int(share*float64(len(sorted)-1)+0.5)] }
	return at(0.5), at(0.99), len(sorted)
}
