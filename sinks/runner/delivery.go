package runner

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"clerkconnect/schemas/transact"
	"clerkconnect/sinks"
)

// health is what the calls so far say of the destination. It outlives the
// batches. The feed of receipts has its own.
type health struct {
	applied int       // records applied since the start
	streak  int       // failed calls since the last one that applied something
	resting time.Time // no call before: the wait after a failure
	limited time.Time // no call before: the destination's own word
}

// unit is what is sent in one call.
type unit struct {
	items    []*item
	due      time.Time // not before
	attempts int       // failed calls of exactly these items
	failed   bool      // they, or a batch with them, failed before
	applied  int       // health.applied when that happened first
	split    bool      // half of a batch that failed often: narrow it down at once
	probe    bool      // applied before, and sent again to see whether the destination lives
	heldBy   *string   // a record that needs what this user holds, "" if it is not known who; nil: none
}

// conflictWait is how long a record waits for what another user holds before
// further records are taken in.
const conflictWait = time.Second

// delivery brings one round to the destination. One goroutine runs it; each
// call has its own.
//
// Units wait in one queue, so that one that fails lets the others pass. While
// nothing succeeds there is one call at a time, at the pace of the backoff,
// however many units wait.
type delivery struct {
	*processor
	batch    *batch
	queue    []*unit
	inFlight int
	answers  chan answer
	draining bool
	conflict time.Time // since when a record waits for what another user holds; zero: none does
}

type answer struct {
	unit    *unit
	records []sinks.Record
	err     error
	took    time.Duration
}

var (
	errApplyTimeout = errors.New("no answer within APPLY_TIMEOUT")
	errDrainTimeout = errors.New("not finished within DRAIN_TIMEOUT")
	errPanic        = errors.New("sink panicked")
	errBatchError   = errors.New("BatchError lists records that are not in the batch")
)

// deliver returns nil when every item has its fate. Otherwise nothing may be
// committed: ctx has ended, the sink is in a fatal state, or it is
// [transact.ErrAgain].
func (p *processor) deliver(ctx context.Context, b *batch, items []*item) error {
	calls, cancel := p.outlive(ctx)
	d := &delivery{processor: p, batch: b, answers: make(chan answer, p.facts.MaxInFlight)}
	d.enqueue(items)
	defer func() {
		cancel()
		for ; d.inFlight > 0; d.inFlight-- {
			<-d.answers
		}
	}()
	ended := ctx.Done()
	for len(d.queue)+d.inFlight+len(b.notes) > 0 {
		wait := d.start(calls)
		if d.inFlight == 0 && len(b.notes) > 0 { // there is nothing else to do now
			b.left = d.queue
			return transact.ErrAgain // or, at shutdown, the end: nothing was asked of the destination yet
		}
		if d.inFlight == 0 && len(d.queue) == 0 {
			return nil // the last were dropped
		}
		timer := time.NewTimer(wait)
		select {
		case a := <-d.answers:
			timer.Stop()
			d.inFlight--
			if err := d.settle(a); err != nil {
				return err
			}
			d.tellHeld()
		case <-timer.C:
		case <-p.words.told():
			timer.Stop()
		case <-ended:
			timer.Stop()
			d.draining, ended = true, nil
		}
		if d.draining && (d.waiting() || lost(ctx) || calls.Err() != nil) {
			return context.Cause(ctx)
		}
		switch {
		case d.outdated():
			return transact.ErrAgain
		case d.stuck() && !d.probe():
			b.left = slices.DeleteFunc(d.queue, func(u *unit) bool { return u.heldBy == nil })
			return transact.ErrAgain
		case d.blocked():
			b.left = d.queue
			return transact.ErrAgain
		}
	}
	return nil
}

// enqueue makes units of items: those that were left by the Process before,
// less what is settled since, and new ones.
func (d *delivery) enqueue(items []*item) {
	queued := map[*item]bool{}
	for _, u := range d.batch.left {
		u.items = slices.DeleteFunc(u.items, func(it *item) bool { return it.fate != pending })
		for _, it := range u.items {
			queued[it] = true
		}
		if len(u.items) > 0 {
			d.queue = append(d.queue, u)
		}
		if u.heldBy != nil {
			d.conflict = time.Now()
		}
	}
	d.batch.left = nil
	items = slices.DeleteFunc(slices.Clone(items), func(it *item) bool { return queued[it] })
	for chunk := range slices.Chunk(items, d.facts.MaxBatch) {
		d.queue = append(d.queue, &unit{items: chunk})
	}
}

// outlive returns the context of calls, which end DrainTimeout after ctx, and
// at once if a partition is lost.
func (p *processor) outlive(ctx context.Context) (context.Context, context.CancelFunc) {
	calls, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if !lost(ctx) {
			_ = sleep(calls, p.cfg.DrainTimeout)
		}
		cancel(errDrainTimeout)
	})
	return calls, func() {
		stop()
		cancel(nil)
	}
}

// start makes the calls that may be made now and returns how long nothing
// else can be done.
func (d *delivery) start(calls context.Context) time.Duration {
	idle := time.Hour // an answer comes first
	for {
		now := time.Now()
		if !d.conflict.IsZero() && d.conflict.Add(conflictWait).After(now) {
			idle = d.conflict.Add(conflictWait).Sub(now) // until blocked
		}
		most := d.facts.MaxInFlight
		if d.health.streak > 0 || d.feed { // receipts come in order
			most = 1
		}
		if d.inFlight >= most || len(d.queue) == 0 {
			return idle
		}
		if pause := max(d.health.resting.Sub(now), d.health.limited.Sub(now)); pause > 0 {
			return min(pause, idle)
		}
		next := 0
		for i, u := range d.queue {
			if u.due.Before(d.queue[next].due) {
				next = i
			}
		}
		u := d.queue[next]
		if wait := u.due.Sub(now); wait > 0 {
			return min(wait, idle)
		}
		if !d.retries.allow(u.failed) {
			return min(retryInterval, idle)
		}
		d.queue = slices.Delete(d.queue, next, next+1)
		if d.dropErased(u); len(u.items) == 0 {
			continue
		}
		d.inFlight++
		if u.failed {
			d.metrics.retries.Inc()
		}
		d.send(calls, u)
	}
}

// send applies a unit on a goroutine of its own.
func (d *delivery) send(calls context.Context, u *unit) {
	records := make([]sinks.Record, len(u.items))
	for i, it := range u.items {
		of := d.knownOf(d.batch, it.record.ClerkID, it.record.Source.Partition)
		if u.probe {
			of = d.committedOf(it.record.ClerkID, it.record.Source.Partition)
		}
		records[i] = d.give(it.record, of)
	}
	go func() {
		started := time.Now()
		err := d.call(calls, func(ctx context.Context) error {
			started = time.Now() // after the wait for its turn
			return d.sink.Apply(ctx, slices.Clone(records))
		})
		d.answers <- answer{u, records, err, time.Since(started)}
	}()
}

// call makes one call of the sink, at most MaxInFlight at once of all that run.
func (p *processor) call(calls context.Context, call func(context.Context) error) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-calls.Done():
		return context.Cause(calls)
	}
	for p.alive != nil && !p.alive() { // others may own these users by now
		if err := sleep(calls, aliveInterval); err != nil {
			return err
		}
	}
	ctx, cancel := p.timed(calls)
	defer cancel()
	err := guarded(p.logger, func() error { return call(ctx) })
	if err != nil && errors.Is(context.Cause(ctx), errApplyTimeout) && sinks.Classify(err).Reason == sinks.ReasonUnknown {
		err = sinks.RetryAfter(sinks.ReasonTimeout, 0, err)
	}
	return err
}

// guarded turns a panic of a sink into an error, since one broken sink must
// not end the process. The value of the panic may hold personal data.
func guarded(logger *slog.Logger, call func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			logger.Error("sink panicked", "stack", string(debug.Stack()))
			err = errPanic
		}
	}()
	return call()
}

// outdated reports whether a person has written something about these
// partitions while nothing can be done but wait.
func (d *delivery) outdated() bool {
	if d.inFlight > 0 || !d.waiting() {
		return false
	}
	for partition, m := range d.partitions {
		if d.words.after(partition, m.heard) || d.words.lettersAfter(partition, m.letters.heard) {
			return true
		}
	}
	return false
}

// blocked reports whether records wait for what others hold, and all else is
// done or has failed too: it is time to take in more.
func (d *delivery) blocked() bool {
	return !d.conflict.IsZero() && time.Since(d.conflict) >= conflictWait && d.inFlight == 0 && d.health.streak == 0 &&
		slices.ContainsFunc(d.queue, func(u *unit) bool { return u.heldBy != nil }) &&
		!slices.ContainsFunc(d.queue, func(u *unit) bool { return u.attempts == 0 })
}

// waiting reports whether something failed and waits for another attempt.
func (d *delivery) waiting() bool {
	return d.health.streak > 0 || slices.ContainsFunc(d.queue, func(u *unit) bool { return u.attempts > 0 })
}

// stuck reports whether all that is left are single records that failed often,
// while nothing else is here to show whether the destination lives. A record
// that it took before may show it, or what has come since.
func (d *delivery) stuck() bool {
	return d.inFlight == 0 && len(d.queue) > 0 && !slices.ContainsFunc(d.queue, func(u *unit) bool {
		return len(u.items) > 1 || u.attempts < d.cfg.MaxAttempts || d.health.applied > u.applied
	})
}

// tellHeld publishes which record fails alone and is tried again: of several the
// one that was tried most often.
func (d *delivery) tellHeld() {
	if d.feed {
		return
	}
	var held *Held
	for _, u := range d.queue {
		it := u.items[0]
		if len(u.items) > 1 || u.attempts == 0 || it.raw == nil || held != nil && held.Attempts >= it.attempts {
			continue
		}
		held = &Held{Source: it.record.Source, Attempts: it.attempts, Next: u.due}
		for _, rest := range []time.Time{d.health.resting, d.health.limited} {
			if rest.After(held.Next) {
				held.Next = rest
			}
		}
	}
	d.status.hold(held)
}

// probe queues a change of this batch that is applied already, and reports
// whether there is any. Sending it again is harmless by the contract. The sink
// is given the state that Kafka has, so that it sends what is sent already.
func (d *delivery) probe() bool {
	for _, it := range slices.Backward(d.batch.items) {
		if it.fate == applied && !it.record.Erase() && !it.result.Unchanged && !it.result.Skipped && !it.showsNothing {
			d.queue = append(d.queue, &unit{items: []*item{it}, probe: true})
			return true
		}
	}
	return false
}
