package runner

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"clerkconnect/sinks"
)

// requests makes n requests, so many at once, and returns when each was let
// through.
func requests(t *testing.T, p sinks.Pacer, n, atOnce int) (at []time.Time) {
	t.Helper()
	var mu sync.Mutex
	var running sync.WaitGroup
	left := n
	for range atOnce {
		running.Go(func() {
			for {
				mu.Lock()
				left--
				done := left < 0
				mu.Unlock()
				if done {
					return
				}
				if err := p.Wait(t.Context()); err != nil {
					t.Errorf("Wait: %v", err)
				}
				mu.Lock()
				at = append(at, time.Now())
				mu.Unlock()
			}
		})
	}
	running.Wait()
	return at
}

// busiest returns the most requests in any window, which is half open.
func busiest(at []time.Time, window time.Duration) int {
	slices.SortFunc(at, time.Time.Compare)
	most, first := 0, 0
	for i, last := range at {
		for last.Sub(at[first]) >= window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// In no window are more requests made than the vendor states, after a pause
// neither, and not many fewer.
func TestPacer_KeepsTheLimit(t *testing.T) {
	t.Parallel()
	for _, limit := range []sinks.Limit{{Requests: 1, Window: time.Second}, {Requests: 5, Window: time.Second}, {Requests: 190, Window: 10 * time.Second}, {Requests: 10_000, Window: time.Minute}} {
		t.Run(limit.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPacer(limit)
				n := 3*limit.Requests + 10
				at := requests(t, p, n, 8)
				time.Sleep(3 * limit.Window)
				at = append(at, requests(t, p, n, 8)...)
				if most := busiest(at, limit.Window); most > limit.Requests || most < limit.Requests*9/10 {
					t.Errorf("%d requests in one window, want at most %d and hardly fewer", most, limit.Requests)
				}
				if got := counted(t, p.requests); got != float64(2*n) {
					t.Errorf("requests_total: %v, want %d", got, 2*n)
				}
			})
		})
	}
}

// Processes that own parts of the partitions keep the limit together.
func TestPacer_SharesTheLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limit := sinks.Limit{Requests: 100, Window: 10 * time.Second}
		var mu sync.Mutex
		var all []time.Time
		var running sync.WaitGroup
		for _, owned := range []float64{1, 3, 8} {
			running.Go(func() {
				p := newPacer(limit)
				p.share(owned / 12)
				at := requests(t, p, int(owned)*50, 4)
				mu.Lock()
				defer mu.Unlock()
				all = append(all, at...)
			})
		}
		running.Wait()
		if most := busiest(all, limit.Window); most > limit.Requests || most < limit.Requests*85/100 {
			t.Errorf("%d requests in one window by three processes, want at most %d and hardly fewer", most, limit.Requests)
		}
	})
}

// What the destination says holds until its reset; of answers that contradict
// each other the tightest.
func TestPacer_Heeds(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		heed  func(sinks.Pacer)
		first int           // requests let through at once
		after time.Duration // when the next is
	}{
		{name: "nothing said", heed: func(sinks.Pacer) {}, first: 20},
		{name: "some remain", heed: func(p sinks.Pacer) { p.Heed(3, 7*time.Second) }, first: 3, after: 7 * time.Second},
		{name: "none remain", heed: func(p sinks.Pacer) { p.Heed(0, time.Minute) }, after: time.Minute},
		{name: "an older answer comes later", heed: func(p sinks.Pacer) { p.Heed(2, 5*time.Second); p.Heed(9, 5*time.Second) }, first: 2, after: 5 * time.Second},
		{name: "others use it up", heed: func(p sinks.Pacer) { p.Heed(9, 5*time.Second); p.Heed(1, 6*time.Second) }, first: 1, after: 6 * time.Second},
		{name: "refused for longer", heed: func(p sinks.Pacer) { p.Heed(0, time.Second); p.Heed(0, time.Minute) }, after: time.Minute},
		{name: "refused for shorter", heed: func(p sinks.Pacer) { p.Heed(0, time.Minute); p.Heed(0, time.Second) }, after: time.Minute},
		{name: "without a time", heed: func(p sinks.Pacer) { p.Heed(0, 0) }, first: 20},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				started := time.Now()
				p := newPacer(sinks.Limit{})
				test.heed(p)
				at := requests(t, p, 20, 1)
				first := 0
				for first < len(at) && at[first].Equal(started) {
					first++
				}
				if first != test.first || first < len(at) && at[first].Sub(started) != test.after {
					t.Errorf("%d requests at once, then after %s; want %d, then after %s", first, at[min(first, 19)].Sub(started), test.first, test.after)
				}
			})
		})
	}
}

func TestPacer_WaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dead := false
		for name, p := range map[string]*pacer{
			"limit": newPacer(sinks.Limit{Requests: 1, Window: time.Hour}), "told": newPacer(sinks.Limit{}), "not heard of": newPacer(sinks.Limit{}),
		} {
			switch name {
			case "limit":
				_ = p.Wait(t.Context())
			case "told":
				p.Heed(0, time.Hour)
			default:
				p.setAlive(func() bool { return dead })
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errDown)
			started := time.Now()
			if err := p.Wait(ctx); !errors.Is(err, errDown) || time.Since(started) != time.Second {
				t.Errorf("%s: Wait: %v after %s, want the cause after a second", name, err, time.Since(started))
			}
			cancel()
			if name == "limit" {
				if err := p.Wait(t.Context()); err != nil || time.Since(started) > 64*time.Minute {
					t.Errorf("the turn after one that was not taken: %v, after %s, want about an hour", err, time.Since(started))
				}
			}
		}
	})
}

// A process of which the group has not heard lately makes neither a call nor,
// within one, a request.
func TestProcess_NotHeardOfLately(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var alive atomic.Bool
		asked := time.Time{}
		var sink *paced
		called := time.Time{}
		sink = &paced{scripted: newScripted(t, func(ctx context.Context, _ []sinks.Record) error {
			called = time.Now()
			alive.Store(false) // paused
			time.AfterFunc(time.Minute, func() { alive.Store(true) })
			err := sink.pacer.Wait(ctx)
			asked = time.Now()
			return err
		})}
		p := bare(t, sink)
		p.alive = alive.Load
		p.pacer.setAlive(p.alive)
		started := time.Now()
		time.AfterFunc(time.Hour, func() { alive.Store(true) })
		process(t, p, upserts(3)...)
		if c, r := called.Sub(started), asked.Sub(called); c < time.Hour || c > time.Hour+time.Second || r < time.Minute || r > time.Minute+time.Second {
			t.Errorf("called after %s, asked %s later; want an hour and a minute", c, r)
		}
	})
}

// Waits for a turn do not count against APPLY_TIMEOUT; the destination's own
// time does.
func TestProcess_ApplyTimeoutLeavesWaitsOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow := false
		calls := 0
		var sink *paced
		sink = &paced{scripted: newScripted(t, func(ctx context.Context, batch []sinks.Record) error {
			calls++
			for range batch {
				if err := sink.pacer.Wait(ctx); err != nil {
					return err
				}
				work := 100 * time.Millisecond
				if slow {
					slow, work = false, time.Hour
				}
				if err := sleep(ctx, work); err != nil {
					return err
				}
			}
			return nil
		})}
		sink.facts.Limit = sinks.Limit{Requests: 1, Window: time.Second}
		p := bare(t, sink)
		started := time.Now()
		process(t, p, upserts(200)...) // 20 s of work, 200 s of waits
		if took := time.Since(started); calls != 1 || took < 200*time.Second {
			t.Errorf("%d calls in %s, want one of 200 s or more", calls, took)
		}
		slow, calls = true, 0
		started = time.Now()
		process(t, p, upsert("slow", 1))
		if took := time.Since(started); calls != 2 || took > p.cfg.ApplyTimeout+3*time.Second {
			t.Errorf("%d calls in %s, want a second one soon after APPLY_TIMEOUT", calls, took)
		}
	})
}

// An answer that says too many requests holds up the calls under way, too.
func TestProcess_RateLimitedHoldsCallsUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var at []time.Duration
		started := time.Now()
		var sink *paced
		sink = &paced{scripted: newScripted(t, func(ctx context.Context, batch []sinks.Record) error {
			for i := range 3 {
				if err := sink.pacer.Wait(ctx); err != nil {
					return err
				}
				mu.Lock()
				at = append(at, time.Since(started))
				mu.Unlock()
				if batch[0].ClerkID == user(0) && i == 0 && time.Since(started) < time.Second {
					return sinks.RetryAfter(sinks.ReasonRateLimited, time.Minute, errors.New("429"))
				}
				if err := sleep(ctx, time.Second); err != nil {
					return err
				}
			}
			return nil
		})}
		sink.facts.MaxBatch = 1
		process(t, bare(t, sink), upserts(2)...)
		if early := slices.IndexFunc(at, func(d time.Duration) bool { return d > 0 && d < time.Minute }); len(at) != 7 || early >= 0 {
			t.Errorf("requests at %v, want two at first and five after a minute", at)
		}
	})
}

// A transaction holds about ten seconds of work, whatever the limit and the
// number of requests that a user takes.
func TestBatchSize_FitsTheWork(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		limit sinks.Limit
		each  time.Duration // of one record
		first int
		last  int
	}{
		{name: "one request each", limit: sinks.Limit{Requests: 5, Window: time.Second}, each: 211 * time.Millisecond, first: 47, last: 47},
		{name: "three requests each", limit: sinks.Limit{Requests: 5, Window: time.Second}, each: 633 * time.Millisecond, first: 47, last: 15},
		{name: "a hundred in one", limit: sinks.Limit{Requests: 190, Window: 10 * time.Second}, each: 500 * time.Microsecond, first: 172, last: 1000},
		{name: "no limit known", each: 40 * time.Millisecond, first: 100, last: 200},
	}
	for _, test := range tests {
		sink := &paced{scripted: newScripted(t, nil)}
		sink.facts.Limit = test.limit
		s := bare(t, sink).size
		if s.limit() != test.first {
			t.Errorf("%s: begins with %d records, want %d", test.name, s.limit(), test.first)
		}
		for range 20 {
			s.took(s.limit(), time.Duration(s.limit())*test.each)
		}
		if s.limit() != test.last {
			t.Errorf("%s: ends at %d records, want %d", test.name, s.limit(), test.last)
		}
	}
	outage := &batchSize{most: 1000, paced: true, now: 800}
	outage.took(800, 24*time.Hour)
	if outage.limit() != 400 {
		t.Errorf("after an outage %d records, want half of 800", outage.limit())
	}
	database := bare(t, newScripted(t, nil)).size
	if database.took(1000, time.Hour); database.limit() != 1000 {
		t.Errorf("a sink without a limit takes %d records, want BATCH_RECORDS", database.limit())
	}
}

// What calls sleep counts neither against APPLY_TIMEOUT nor as work, to which the
// next transaction would be fitted; where calls sleep side by side it counts once.
func TestProcess_Sleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		asleep := 10 * time.Minute
		var sink *paced
		sink = &paced{scripted: newScripted(t, func(ctx context.Context, _ []sinks.Record) error {
			if calls.Add(1)%2 == 0 {
				if err := sleep(ctx, 20*time.Second); err != nil {
					return err
				}
			}
			return sink.pacer.Sleep(ctx, asleep)
		})}
		sink.facts.MaxBatch, sink.facts.MaxInFlight = 100, 2
		p := bare(t, sink)
		p.size.now = 400
		started := time.Now()
		process(t, p, upserts(200)...)
		if took := time.Since(started); calls.Load() != 2 || took != asleep+20*time.Second || p.pacer.slept() != took {
			t.Errorf("%d calls in %s, of which %s asleep; want 2 side by side, one 20 s later, and all of it", calls.Load(), took, p.pacer.slept())
		}
		if n := p.size.limit(); n != 400 {
			t.Errorf("after two calls that slept the next transaction has %d records, want as many as before", n)
		}
		asleep = 0
		later := upserts(200)
		for i, r := range later {
			later[i] = upsert(string(r.Key), 2)
		}
		process(t, p, later...)
		if n := p.size.limit(); n != 200 {
			t.Errorf("after 20 s of work it has %d, want half", n)
		}
	})
}

// A sleep ends with its call, as at shutdown.
func TestPacer_SleepEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(sinks.Limit{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		started := time.Now()
		if err := p.Sleep(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) || time.Since(started) != time.Second || p.slept() != time.Second {
			t.Errorf("got %v after %s, slept %s; want the end of ctx after a second", err, time.Since(started), p.slept())
		}
	})
}

// The limit that the sink states counts, unless a person has set another.
func TestNew_Limits(t *testing.T) {
	t.Parallel()
	limited := func(cfg Config, sink sinks.Sink) (*Runner, error) {
		return New(cfg, sink, Options{Topics: topics, InstanceName: "a", Logger: quiet()})
	}
	sink := &paced{scripted: newScripted(t, nil)}
	sink.facts.Limit = sinks.Limit{Requests: 10, Window: time.Second}
	r, err := limited(DefaultConfig("crm"), sink)
	if err != nil || r.pacer.limit != sink.facts.Limit || sink.pacer != r.pacer {
		t.Errorf("by default: %v, %+v; want the sink's own limit, and its pacer", err, r.pacer)
	}
	cfg := DefaultConfig("crm")
	if err := cfg.RateLimit.UnmarshalText([]byte("300/1m")); err != nil {
		t.Fatal(err)
	}
	cfg.MaxInFlight = 2
	if r, err = limited(cfg, sink); err != nil || r.pacer.limit != (sinks.Limit{Requests: 300, Window: time.Minute}) || r.facts.MaxInFlight != 2 || cap(r.slots) != 2 {
		t.Errorf("as set: %v, limit %s, %d in flight; want 300/1m0s, 2", err, r.pacer.limit, r.facts.MaxInFlight)
	}
	cfg.MaxInFlight = 5
	if _, err = limited(cfg, sink); err == nil {
		t.Error("more calls in flight than the sink takes are accepted")
	}
	cfg.MaxInFlight = 0
	if _, err = limited(cfg, newScripted(t, nil)); err == nil {
		t.Error("a rate limit of a sink that makes no counted requests is accepted")
	}
	for _, text := range []string{"", "10", "0/1s", "-1/1s", "10/0s", "10/s", "x/1s", "10/1s/1s"} {
		if cfg.RateLimit.UnmarshalText([]byte(text)) == nil {
			t.Errorf("limit %q is accepted", text)
		}
	}
}

// With a real group: what is owned decides over the share, and a heartbeat is
// heard.
func TestRunner_SharesByOwnership(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		start := func(instance string) (*running, *paced) {
			sink := &paced{scripted: newScripted(t, nil)}
			sink.facts.Limit = sinks.Limit{Requests: 1000, Window: time.Second}
			return b.run(sinkName, instance, sink), sink
		}
		share := func(r *running, owned int) bool {
			whole := newPacer(r.pacer.limit)
			whole.share(float64(owned) / partitions)
			return len(r.Status().Owned) == owned && r.pacer.perSecond() == whole.perSecond()
		}
		first, sink := start("a")
		eventually(t, "all of it for one", func() bool { return share(first, partitions) })
		second, _ := start("b")
		eventually(t, "divided", func() bool {
			n := len(first.Status().Owned)
			return n > 0 && n < partitions && share(first, n) && share(second, partitions-n)
		})
		second.stop()
		eventually(t, "all of it for one again", func() bool { return share(first, partitions) })
		b.write(upsert("a", 1))
		eventually(t, "applied", func() bool { return len(sink.sent("a")) == 1 })
		if !first.heartbeat[0].Fresh() {
			t.Error("the group has not heard of a runner that has just applied")
		}
	})
}
