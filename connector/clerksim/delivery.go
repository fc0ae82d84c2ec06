package clerksim

import (
	"bytes"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// delivery is a copy of a message that is owed.
type delivery struct {
	msg      *message
	due      time.Time
	attempts int
	index    int // in the queue; -1 outside of it
}

const (
	holdBack = time.Duration(-1)      // until a newer message of the same user, or LateBy
	swapGap  = 100 * time.Millisecond // between that newer message and the one held back
)

var errAttemptTimeout = errors.New("no answer within the attempt's timeout")

// newClient makes the client of deliveries: no redirects, enough connections.
func newClient(cfg Config) *http.Client {
	client := &http.Client{}
	if cfg.HTTPClient != nil {
		*client = *cfg.HTTPClient
	} else {
		client.Transport = &http.Transport{MaxIdleConnsPerHost: cfg.Workers, IdleConnTimeout: time.Minute}
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client
}

// enqueue owes one delivery of m for each delay of the plan, and lets the
// messages of that user that were held back follow.
func (i *Instance) enqueue(m *message, plan []time.Duration) {
	now := time.Now()
	for _, d := range i.held[m.User.ID] {
		d.due = now.Add(swapGap)
		heap.Fix(&i.queue, d.index)
	}
	delete(i.held, m.User.ID)
	for _, delay := range plan {
		d := &delivery{msg: m, due: now.Add(delay)}
		if i.pauses.Load() > 0 {
			d.due = now // draining: nothing is late any more
		} else if delay == holdBack {
			d.due = now.Add(i.cfg.Disorder.LateBy)
			i.held[m.User.ID] = append(i.held[m.User.ID], d)
		}
		i.owed[m]++
		heap.Push(&i.queue, d)
	}
	i.signal()
}

// signal wakes a worker.
func (i *Instance) signal() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// Run makes events at Config.Rate and delivers them until ctx is done; then it
// returns nil, and what was owed or in flight stays owed. It returns an error
// if the state file cannot be written.
func (i *Instance) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for range i.cfg.Workers {
		wg.Go(func() { i.work(ctx) })
	}
	err := i.live(ctx)
	cancel()
	wg.Wait()
	return err
}

// live makes events at the rate. One that falls behind by more than a second
// is not made up for.
func (i *Instance) live(ctx context.Context) error {
	if i.cfg.Rate == 0 {
		<-ctx.Done()
		return i.err()
	}
	interval := time.Duration(float64(time.Second) / i.cfg.Rate)
	next := time.Now().Add(interval)
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return i.err()
		case <-timer.C:
		}
		now := time.Now()
		if now.Sub(next) > time.Second || i.pauses.Load() > 0 {
			next = now
		}
		for ; !next.After(now) && i.pauses.Load() == 0; next = next.Add(interval) {
			if err := i.Act(); err != nil {
				return err
			}
		}
		timer.Reset(max(time.Until(next), time.Millisecond))
	}
}

// Drain delivers everything that is owed, the late at once, and returns nil
// when all of it was answered 2xx; Run makes no events meanwhile. It returns an
// error when ctx ends first or there is nowhere to deliver to.
func (i *Instance) Drain(ctx context.Context) error {
	i.pauses.Add(1)
	defer i.pauses.Add(-1)
	i.mu.Lock()
	now := time.Now()
	for _, d := range i.queue {
		d.due = now
	}
	heap.Init(&i.queue)
	clear(i.held)
	pending, url, failed := i.pending(), i.url, i.failed
	if i.drained == nil {
		i.drained = make(chan struct{})
	}
	drained := i.drained
	i.mu.Unlock()
	switch {
	case failed != nil:
		return failed
	case pending == 0:
		return nil
	case url == "":
		return fmt.Errorf("drain %d deliveries: no webhook URL", pending)
	}
	working, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for range i.cfg.Workers {
		wg.Go(func() { i.work(working) })
	}
	select {
	case <-drained:
	case <-ctx.Done():
	}
	cancel()
	wg.Wait()
	i.mu.RLock()
	defer i.mu.RUnlock()
	if pending := i.pending(); pending > 0 && ctx.Err() != nil {
		return fmt.Errorf("drain: %d deliveries pending: %w", pending, context.Cause(ctx))
	}
	return i.failed
}

// pending is the number of deliveries owed, those in flight too.
func (i *Instance) pending() int { return len(i.queue) + i.flying }

// release tells the Drains under way that nothing is owed any more, or never
// will be delivered.
func (i *Instance) release() {
	if i.drained != nil && (i.pending() == 0 || i.failed != nil) {
		close(i.drained)
		i.drained = nil
	}
}

// work makes attempts until ctx is done.
func (i *Instance) work(ctx context.Context) {
	defer i.signal() // the token may have been meant for another
	for ctx.Err() == nil {
		d, url, wait := i.next()
		if d != nil {
			i.attempt(ctx, d, url)
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-i.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// next takes the first delivery that is due, or says how long to wait.
func (i *Instance) next() (d *delivery, url string, wait time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.failed != nil || i.url == "" || len(i.queue) == 0 {
		return nil, "", time.Hour
	}
	now := time.Now()
	if wait := i.queue[0].due.Sub(now); wait > 0 {
		return nil, "", wait
	}
	d = heap.Pop(&i.queue).(*delivery)
	i.flying++
	id := d.msg.User.ID
	if held := slices.DeleteFunc(i.held[id], func(h *delivery) bool { return h == d }); len(held) == 0 {
		delete(i.held, id)
	} else {
		i.held[id] = held
	}
	if len(i.queue) > 0 {
		i.signal() // this worker may be away for long: another shall wait for the next one
	}
	return d, i.url, 0
}

// attempt makes one attempt and settles it: done, given up, or owed again.
func (i *Instance) attempt(ctx context.Context, d *delivery, url string) {
	status, header, err := i.post(ctx, url, d.msg)
	i.mu.Lock()
	defer i.mu.Unlock()
	defer i.release()
	i.flying--
	d.attempts++
	i.stats.Attempts++
	ok := err == nil && status >= 200 && status < 300
	if !ok && ctx.Err() != nil { // ended by us: nobody failed
		i.stats.Attempts--
		d.attempts--
		heap.Push(&i.queue, d)
		return
	}
	if ok {
		i.stats.Deliveries++
		i.settle(d.msg)
		return
	}
	i.stats.Failures++
	i.cfg.Logger.Debug("delivery attempt failed", "svix_id", d.msg.ID, "attempt", d.attempts, "status", status, "err", err)
	if (i.cfg.MaxAttempts > 0 && d.attempts >= i.cfg.MaxAttempts) || header.Get("Webhook-Delivery") == "abort-message" {
		i.stats.GivenUp++ // https://docs.svix.com/receiving/delivery-control
		i.settle(d.msg)
		return
	}
	d.due = time.Now().Add(i.backoff(d.attempts, header.Get("Retry-After")))
	heap.Push(&i.queue, d)
	i.signal()
}

// settle marks one delivery of m as no longer owed. The mark may be lost.
func (i *Instance) settle(m *message) {
	if i.owed[m]--; i.owed[m] <= 0 {
		delete(i.owed, m)
	}
	_ = i.write(line{Done: m.ID}) // remembered in failed
}

// backoff is the schedule's wait after the nth attempt. Svix lets Retry-After
// stretch it up to twofold.
func (i *Instance) backoff(n int, retryAfter string) time.Duration {
	wait := i.cfg.RetrySchedule[min(n, len(i.cfg.RetrySchedule))-1]
	asked := time.Duration(0)
	if seconds, err := strconv.Atoi(retryAfter); err == nil {
		asked = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(retryAfter); err == nil {
		asked = time.Until(at)
	}
	return min(max(wait, asked), 2*wait)
}

// post makes one attempt, signed now.
func (i *Instance) post(ctx context.Context, url string, m *message) (int, http.Header, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, i.cfg.AttemptTimeout, errAttemptTimeout)
	defer cancel()
	body := i.body(m)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, fmt.Errorf("deliver %s: %w", m.ID, err)
	}
	req.Header = i.Sign(m.ID, body)
	resp, err := i.client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("deliver %s: %w", m.ID, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	return resp.StatusCode, resp.Header, nil
}

// deliveries is a heap by due.
type deliveries []*delivery

func (q deliveries) Len() int           { return len(q) }
func (q deliveries) Less(a, b int) bool { return q[a].due.Before(q[b].due) }
func (q deliveries) Swap(a, b int) {
	q[a], q[b] = q[b], q[a]
	q[a].index, q[b].index = a, b
}

// Push is for container/heap.
func (q *deliveries) Push(x any) {
	d := x.(*delivery)
	d.index = len(*q)
	*q = append(*q, d)
}

// Pop is for container/heap.
func (q *deliveries) Pop() any {
	old := *q
	d := old[len(old)-1]
	old[len(old)-1] = nil
	*q, d.index = old[:len(old)-1], -1
	return d
}
