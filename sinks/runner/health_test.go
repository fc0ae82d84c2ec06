package runner

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	memorysink "clerkconnect/sinks/memory"
)

func TestRetryBudget(t *testing.T) {
	t.Parallel()
	take := func(b *RetryBudget) (n int) {
		for b.spend() {
			n++
		}
		return n
	}
	var b RetryBudget
	first := take(&b)
	for range 10 {
		b.earn()
	}
	if again := take(&b); first != maxRetries || again != 2 {
		t.Errorf("%d retries at once and %d after ten first calls, want %d and 2", first, again, maxRetries)
	}
	var quiet RetryBudget
	for range 10_000 {
		quiet.earn()
	}
	if n := take(&quiet); n != maxRetries {
		t.Errorf("%d retries at once after many first calls, want no more than %d", n, maxRetries)
	}
}

// A destination that fails every other call of every record is not answered by
// as many repetitions at once; and one sink's do not take those of another.
func TestProcess_RetriesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		var mu sync.Mutex
		tried := map[string]int{}
		flaky := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
			mu.Lock()
			defer mu.Unlock()
			var failed sinks.BatchError
			for i, r := range batch {
				if tried[r.ClerkID]++; tried[r.ClerkID] == 1 && r.ClerkID != user(0) {
					failed.Fail(i, errDown)
				}
			}
			return failed.Err()
		})
		flaky.facts.MaxBatch = 2 // one of each call succeeds at times, so that it is no outage
		p := bare(t, flaky)
		p.cfg.BackoffMin, p.cfg.BackoffMax = time.Nanosecond, time.Nanosecond
		started := time.Now()
		process(t, p, upserts(n)...)
		calls := float64(flaky.callCount())
		again := counted(t, p.metrics.retries)
		room := maxRetries + ownRetries + retryShare*(calls-again)
		if least := time.Duration((again - room) * float64(ownRetryEvery)); again < n/2 || time.Since(started) < least {
			t.Errorf("%v retries in %s, want half of the records at least, in %s or more", again, time.Since(started), least)
		}

		other := newRetries(p.retries.budget) // of a sink of the same process
		at := time.Now()
		for range 2 * ownRetries {
			for !other.allow(true) {
				time.Sleep(retryInterval)
			}
		}
		if took := time.Since(at); took > 2*ownRetries*ownRetryEvery {
			t.Errorf("another sink waited %s for its retries", took)
		}
	})
}

// The circuit is open while the wait after a failure lasts, half open while one
// call tries, and closed by a success, or an answer that is no failure.
func TestProcess_Circuit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p *processor
		started := time.Now()
		seen := map[Circuit]int{}
		sink := newScripted(t, nil)
		sink.apply = func(ctx context.Context, _ []sinks.Record) error {
			sink.mu.Lock()
			first := len(sink.calls) <= sink.facts.MaxInFlight
			if !first {
				seen[p.Status().Circuit]++
				if sink.busy > 1 && time.Since(started) < time.Hour {
					t.Errorf("%d calls at once while the circuit is %s", sink.busy, p.Status().Circuit)
				}
			}
			sink.mu.Unlock()
			if err := sleep(ctx, time.Second); err != nil {
				return err
			}
			if time.Since(started) < time.Hour {
				return sinks.RetryAfter(sinks.ReasonUnavailable, 0, errDown)
			}
			return nil
		}
		sink.facts.MaxBatch = 5
		p = bare(t, sink)
		var open atomic.Int32
		for at := 2 * time.Second; at < time.Hour; at += 10 * time.Second {
			time.AfterFunc(at, func() {
				if p.Status().Circuit == CircuitOpen {
					open.Add(1)
				}
			})
		}
		process(t, p, upserts(100)...)
		if seen[CircuitOpen] != 0 || seen[CircuitHalfOpen] < 10 || open.Load() < 100 || p.Status().Circuit != CircuitClosed {
			t.Errorf("calls by state %v, open at %d of 360 moments, %s in the end; want none in open, most in half-open, closed", seen, open.Load(), p.Status().Circuit)
		}
		sink.apply = func(context.Context, []sinks.Record) error {
			return sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("no"))
		}
		p.status.trip(time.Now())
		process(t, p, upsert("bad", 1))
		if p.Status().Circuit != CircuitClosed {
			t.Error("a destination that refuses a record answers, but the circuit is not closed")
		}
	})
}

// 401 and 403 stop the sink, whether they are told of the call or of each
// record: nothing is dead-lettered, nothing is committed, the log says what to
// do, and when a person has done it everything is applied.
func TestRunner_UnauthorizedStopsTheSink(t *testing.T) {
	t.Parallel()
	refused := sinks.Fatal(sinks.ReasonUnauthorized, errors.New("status 401: give the token contacts.write"))
	for name, answer := range map[string]func([]sinks.Record) error{
		"the call": func([]sinks.Record) error { return refused },
		"each record": func(batch []sinks.Record) error {
			var failed sinks.BatchError
			for i := range batch {
				failed.Fail(i, refused)
			}
			return failed.Err()
		},
		"one of many": func(batch []sinks.Record) error {
			var failed sinks.BatchError
			failed.Fail(len(batch)-1, refused)
			return failed.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			var mu sync.Mutex
			var log bytes.Buffer
			mended := false
			store := &memorysink.Store{}
			store.Intercept(func(batch []sinks.Record) error {
				mu.Lock()
				defer mu.Unlock()
				if mended {
					return nil
				}
				return answer(batch)
			})
			const n = 40
			var ids []string
			for i := range n {
				ids = append(ids, user(i))
				b.write(upsert(user(i), 1))
			}
			r := b.run(sinkName, "a", onStore(t, store), func(_ *Config, o *Options) {
				o.Logger = slog.New(slog.NewTextHandler(&locked{mu: &mu, buffer: &log}, nil))
			})
			eventually(t, "stopped, and tried again", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return r.Status().Stopped && strings.Count(log.String(), "a person has to mend this") > 2
			})
			if s := r.Status(); s.LastReason != sinks.ReasonUnauthorized || s.Circuit != CircuitOpen {
				t.Errorf("status: reason %q, circuit %s; want unauthorized, open", s.LastReason, s.Circuit)
			}
			mu.Lock()
			if text := log.String(); !strings.Contains(text, "reason=unauthorized") || !strings.Contains(text, "give the token contacts.write") {
				t.Errorf("the log does not say what is wrong:\n%s", text)
			}
			mu.Unlock()
			offsets, err := kadm.NewClient(b.producer).FetchOffsets(t.Context(), r.Group())
			committed := 0
			offsets.Each(func(o kadm.OffsetResponse) { committed += int(max(0, o.At)) })
			if dead := len(b.latest(topics.DeadLetters(sinkName))); err != nil || dead != 0 || committed != 0 {
				t.Fatalf("%d dead letters, %d offsets committed, %v; want none", dead, committed, err)
			}
			mu.Lock()
			mended = true
			mu.Unlock()
			eventually(t, "all applied", func() bool { return len(store.Users()) == len(ids) && r.Status().LagRecords == 0 })
			if s := r.Status(); s.Stopped || s.Circuit != CircuitClosed || len(b.latest(topics.DeadLetters(sinkName))) != 0 {
				t.Errorf("after it was mended: %+v", s)
			}
		})
	}
}

// locked is a writer that tests read beside.
type locked struct {
	mu     *sync.Mutex
	buffer *bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

// One sink is down for the whole test, and another one flaps: a third in the same
// process is never more behind than without them, within what one poll takes.
func TestRunner_SinkThatIsDownSlowsNoOther(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	budget := &RetryBudget{}
	shared := func(_ *Config, o *Options) { o.Retries = budget }
	down := b.run("down", "a", newScripted(t, func(context.Context, []sinks.Record) error { return errDown }), shared)
	n := 0
	var mu sync.Mutex
	flaps := b.run("flaps", "a", newScripted(t, func(context.Context, []sinks.Record) error {
		mu.Lock()
		defer mu.Unlock()
		if n++; n%2 == 0 {
			return errDown
		}
		return nil
	}), shared)
	store := &memorysink.Store{}
	healthy := b.run(sinkName, "a", onStore(t, store), shared)
	eventually(t, "all ready", func() bool {
		return len(healthy.Status().Ready) == partitions && len(down.Status().Ready) == partitions && len(flaps.Status().Ready) == partitions
	})
	var worst time.Duration
	const rounds, each = 20, 25
	for round := range rounds {
		for i := range each {
			b.write(upsert(user(round*each+i), 1))
		}
		written := time.Now()
		eventually(t, "round applied", func() bool { return len(store.Users()) == (round+1)*each })
		worst = max(worst, time.Since(written))
	}
	eventually(t, "lag is gone", func() bool { return healthy.Status().LagRecords == 0 })
	eventually(t, "lag of the one that is down is known", func() bool { return down.Status().LagRecords >= rounds*each })
	t.Logf("the healthy sink was at most %s behind; the one that is down by %d records", worst, down.Status().LagRecords)
	if worst > 20*time.Second { // one poll waits half a second; the rest is the machine
		t.Errorf("the healthy sink was %s behind", worst)
	}
}

// A transaction that only pays what is owed has no records, and so no offsets:
// who has lost the partitions must not be able to commit it either.
func TestRunner_DebtsArePaidByTheOwner(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	sink := newScripted(t, nil)
	b.write(upsert("gone", 1))
	first := b.run(sinkName, "a", sink)
	eventually(t, "applied", func() bool { s := first.Status(); return len(s.Ready) == partitions && s.LagRecords == 0 })
	first.stop()
	b.write(erasure("gone", &schemas.Erasure{ClerkID: "gone", Epoch: 1, Version: 3, Origin: schemas.OriginWebhook, RequestedAt: 1}))
	refused := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.IllegalGeneration, Count: 2})
	second := b.run(sinkName, "a", sink)
	eventually(t, "paid", func() bool {
		s := second.Status()
		return len(s.Ready) == partitions && s.ErasuresOwed == 0 && b.latest(topics.ErasureReceipts())[schemas.ReceiptKey("gone", sinkName)] != nil
	})
	if refused.Hits() != 2 || len(sink.sent("gone")) < 4 {
		t.Errorf("%d commits refused, sent %v; want 2, and the erasure once more after each", refused.Hits(), sink.sent("gone"))
	}
}
