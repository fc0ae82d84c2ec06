package runner

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"clerkconnect/sinks"
)

var _ sinks.Pacer = (*pacer)(nil)

// jitter of the way to the destination is allowed for by a twentieth of its
// limit, and as much may come at once after a pause.
const jitter = 20

// pacer spaces a sink's requests out. The limit is the account's, and other
// processes run the same sink: each takes of it what it owns of the partitions,
// which needs no talk between them and adds up to the whole.
type pacer struct {
	limit    sinks.Limit // of the account; zero: none is known
	limiter  *rate.Limiter
	requests prometheus.Counter
	waited   prometheus.Counter

	mu    sync.Mutex
	left  int         // requests that the destination lets through
	until time.Time   // before this; later its word says nothing
	alive func() bool // whether the group has heard of us lately; nil: there is no group

	sleepers int           // calls that sleep now
	since    time.Time     // when the first of them fell asleep
	asleep   time.Duration // before that, in which any call slept
}

func newPacer(limit sinks.Limit) *pacer {
	p := &pacer{
		limit: limit, limiter: rate.NewLimiter(rate.Inf, 1),
		requests: counter("requests_total", "Requests that a sink with a rate limit was let make."),
		waited:   counter("request_wait_seconds_total", "Time that requests have waited for their turn under the rate limit, all in all."),
	}
	p.share(1)
	return p
}

// share sets how much of the limit is this process's, above 0 up to 1.
func (p *pacer) share(part float64) {
	if p.limit.Requests == 0 {
		return
	}
	requests := float64(p.limit.Requests) * part
	burst := max(1, math.Floor(requests/jitter))
	perWindow := (requests - burst + 1) * (1 - 1.0/jitter)
	p.limiter.SetLimit(rate.Limit(perWindow / p.limit.Window.Seconds()))
	p.limiter.SetBurst(int(burst))
}

// perSecond is the share in requests per second; 0: no limit is known.
func (p *pacer) perSecond() float64 {
	if limit := p.limiter.Limit(); limit != rate.Inf {
		return float64(limit)
	}
	return 0
}

// Wait implements [sinks.Pacer]. The time does not count against APPLY_TIMEOUT,
// and ends with ctx. A process of which the group has not heard lately makes no
// request: another may own its users by now.
func (p *pacer) Wait(ctx context.Context) error {
	started := time.Now()
	defer stopClock(ctx)()
	defer func() { p.waited.Add(time.Since(started).Seconds()) }()
	for {
		wait := p.told()
		if wait == 0 {
			break
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
	turn := p.limiter.Reserve()
	if err := sleep(ctx, turn.Delay()); err != nil {
		turn.Cancel()
		return err
	}
	for !p.isAlive() {
		if err := sleep(ctx, aliveInterval); err != nil {
			return err
		}
	}
	p.requests.Inc()
	return context.Cause(ctx)
}

// told takes one of the requests that the destination lets through, or returns
// how long there is none.
func (p *pacer) told() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	switch {
	case !now.Before(p.until):
		return 0
	case p.left > 0:
		p.left--
		return 0
	}
	return p.until.Sub(now)
}

// Heed implements [sinks.Pacer]. Answers overtake each other, and one says
// nothing of the requests under way: the tightest holds until its reset.
func (p *pacer) Heed(remaining int, reset time.Duration) {
	if reset <= 0 || remaining < 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	until := now.Add(reset)
	switch {
	case !now.Before(p.until), remaining < p.left:
		p.left, p.until = remaining, until
	case remaining == 0 && until.After(p.until):
		p.until = until
	}
}

// Sleep implements [sinks.Pacer].
func (p *pacer) Sleep(ctx context.Context, d time.Duration) error {
	defer stopClock(ctx)()
	p.fallAsleep()
	defer p.wake()
	return sleep(ctx, d)
}

func (p *pacer) fallAsleep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sleepers++; p.sleepers == 1 {
		p.since = time.Now()
	}
}

func (p *pacer) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sleepers--; p.sleepers == 0 {
		p.asleep += time.Since(p.since)
	}
}

// slept is for how long at least one call has slept since the start. A nil pacer
// lets nobody sleep.
func (p *pacer) slept() time.Duration {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sleepers > 0 {
		return p.asleep + time.Since(p.since)
	}
	return p.asleep
}

// forget drops what the destination has said: it may have said an hour, and a
// person knows that it is over. What it still means it says again.
func (p *pacer) forget() {
	p.mu.Lock()
	p.left, p.until = 0, time.Time{}
	p.mu.Unlock()
}

// setAlive sets how to find out whether the group has heard of us lately.
func (p *pacer) setAlive(alive func() bool) {
	p.mu.Lock()
	p.alive = alive
	p.mu.Unlock()
}

func (p *pacer) isAlive() bool {
	p.mu.Lock()
	alive := p.alive
	p.mu.Unlock()
	return alive == nil || alive()
}

// aliveInterval is how often it is asked whether the group has heard of us.
const aliveInterval = 100 * time.Millisecond

// clock ends a context when the time has passed for which it was not stopped.
type clock struct {
	mu      sync.Mutex
	timer   *time.Timer
	left    time.Duration // while it is stopped
	started time.Time
	stops   int // waits under way
}

type clockKey struct{}

// timed returns the context of one call of the sink: it ends after APPLY_TIMEOUT
// with errApplyTimeout. What a call waits for its turn, or sleeps ([sinks.Pacer]),
// does not count.
func (r *Runner) timed(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.pacer == nil {
		return context.WithTimeoutCause(ctx, r.cfg.ApplyTimeout, errApplyTimeout)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c := &clock{left: r.cfg.ApplyTimeout, started: time.Now()}
	c.timer = time.AfterFunc(c.left, func() { cancel(errApplyTimeout) })
	return context.WithValue(ctx, clockKey{}, c), func() {
		c.timer.Stop()
		cancel(nil)
	}
}

// stopClock stops the clock of ctx, if it has one, and returns what lets it go
// on.
func stopClock(ctx context.Context) (goOn func()) {
	c, ok := ctx.Value(clockKey{}).(*clock)
	if !ok {
		return func() {}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stops++; c.stops == 1 {
		c.timer.Stop()
		c.left -= time.Since(c.started)
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.stops--; c.stops == 0 {
			c.started = time.Now()
			c.timer.Reset(max(0, c.left))
		}
	}
}
