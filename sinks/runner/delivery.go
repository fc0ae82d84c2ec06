package runner

import (
	"bytes"
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
// batches.
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
}

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
	for chunk := range slices.Chunk(items, p.facts.MaxBatch) {
		d.queue = append(d.queue, &unit{items: chunk})
	}
	defer func() {
		cancel()
		for ; d.inFlight > 0; d.inFlight-- {
			<-d.answers
		}
	}()
	ended := ctx.Done()
	for len(d.queue)+d.inFlight > 0 {
		timer := time.NewTimer(d.start(calls))
		select {
		case a := <-d.answers:
			timer.Stop()
			d.inFlight--
			if err := d.settle(a); err != nil {
				return err
			}
		case <-timer.C:
		case <-ended:
			timer.Stop()
			d.draining, ended = true, nil
		}
		if d.draining && (d.waiting() || errors.Is(context.Cause(ctx), transact.ErrPartitionLost) || calls.Err() != nil) {
			return context.Cause(ctx)
		}
		if d.stuck() && !d.probe() {
			return transact.ErrAgain
		}
	}
	return nil
}

// outlive returns the context of calls, which end DrainTimeout after ctx. If a
// partition is lost they end at once, because deliver returns.
func (p *processor) outlive(ctx context.Context) (context.Context, context.CancelFunc) {
	calls, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		_ = sleep(calls, p.cfg.DrainTimeout)
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
	const idle = time.Hour // an answer comes first
	for {
		now := time.Now()
		most := d.facts.MaxInFlight
		if d.health.streak > 0 {
			most = 1
		}
		if d.inFlight >= most || len(d.queue) == 0 {
			return idle
		}
		if pause := max(d.health.resting.Sub(now), d.health.limited.Sub(now)); pause > 0 {
			return pause
		}
		next := 0
		for i, u := range d.queue {
			if u.due.Before(d.queue[next].due) {
				next = i
			}
		}
		u := d.queue[next]
		if wait := u.due.Sub(now); wait > 0 {
			return wait
		}
		d.queue = slices.Delete(d.queue, next, next+1)
		d.inFlight++
		d.call(calls, u)
	}
}

// call applies a unit on a goroutine of its own.
func (d *delivery) call(calls context.Context, u *unit) {
	records := make([]sinks.Record, len(u.items))
	for i, it := range u.items {
		record := it.record
		if latest, ok := d.batch.states[record.ClerkID]; ok {
			record.State = bytes.Clone(latest.state)
		} else {
			record.State = bytes.Clone(d.partitions[record.Source.Partition].states[record.ClerkID])
		}
		records[i] = sinks.Track(record)
	}
	go func() {
		ctx, cancel := context.WithTimeoutCause(calls, d.cfg.ApplyTimeout, errApplyTimeout)
		defer cancel()
		started := time.Now()
		err := guarded(d.logger, func() error { return d.sink.Apply(ctx, slices.Clone(records)) })
		if err != nil && errors.Is(context.Cause(ctx), errApplyTimeout) && sinks.Classify(err).Reason == sinks.ReasonUnknown {
			err = sinks.RetryAfter(sinks.ReasonTimeout, 0, err)
		}
		d.answers <- answer{u, records, err, time.Since(started)}
	}()
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

// settle handles the answer to a call. An error is fatal.
func (d *delivery) settle(a answer) error {
	d.metrics.called(a)
	var listed *sinks.BatchError
	switch {
	case a.err == nil:
		return d.succeed(a, func(int) bool { return true })
	case errors.As(a.err, &listed):
		return d.settleListed(a, listed)
	}
	problem := sinks.Classify(a.err)
	d.metrics.failed(problem)
	if problem.Class == sinks.ClassFatal {
		return a.err
	}
	for _, it := range a.unit.items {
		it.attempts++
	}
	if problem.Class == sinks.ClassPermanent && !a.unit.probe {
		d.health.streak = 0 // it answers
		if len(a.unit.items) > 1 {
			d.halve(a.unit)
		} else {
			d.giveUp(a.unit.items[0], problem)
		}
		return nil
	}
	if d.health.streak++; d.health.streak == 1 {
		d.logger.Warn("apply, will retry", "reason", problem.Reason, "batch_size", len(a.unit.items), "err", a.err)
	}
	d.status.failed(problem, false)
	d.rest(problem)
	d.retry(a.unit, problem)
	return nil
}

// settleListed handles an answer that tells record from record.
func (d *delivery) settleListed(a answer, listed *sinks.BatchError) error {
	var again []*item
	var worst sinks.Error // of those to be retried: the one with the longest wait
	found := 0
	for i, it := range a.unit.items {
		err := listed.Failed(i)
		if err == nil {
			continue
		}
		found++
		it.attempts++
		problem := sinks.Classify(err)
		d.metrics.failed(problem)
		switch problem.Class {
		case sinks.ClassFatal:
			return err
		case sinks.ClassPermanent:
			if !a.unit.probe {
				d.giveUp(it, problem)
			}
		default:
			again = append(again, it)
			if len(again) == 1 || problem.After > worst.After {
				worst = problem
			}
		}
	}
	if found != listed.Len() {
		return sinks.Fatal(sinks.ReasonMisconfigured, errBatchError)
	}
	if found < len(a.unit.items) {
		if err := d.succeed(a, func(i int) bool { return listed.Failed(i) == nil }); err != nil {
			return err
		}
	}
	if len(again) > 0 {
		if found == len(a.unit.items) {
			d.health.streak++
		}
		d.status.failed(worst, false)
		d.rest(worst)
		a.unit.items = again
		d.retry(a.unit, worst)
	}
	return nil
}

// rest sets how long no call is made: by the backoff if nothing succeeds, and
// by the destination's own word.
func (d *delivery) rest(problem sinks.Error) {
	now := time.Now()
	if d.health.streak > 0 {
		d.health.resting = now.Add(d.backoff(d.health.streak))
	}
	if until := now.Add(problem.After); until.After(d.health.limited) {
		d.health.limited = until
	}
}

// succeed notes the records of a call that are applied.
func (d *delivery) succeed(a answer, ok func(int) bool) error {
	if d.health.streak > 0 {
		d.logger.Info("applying again", "failed_calls", d.health.streak)
	}
	d.health.streak, d.health.resting = 0, time.Time{}
	d.status.healthy()
	_, confirms := d.sink.(sinks.Confirmer) // it needs its memory to confirm
	for i, it := range a.unit.items {
		if !ok(i) {
			continue
		}
		d.health.applied++
		if a.unit.probe {
			continue
		}
		it.result = a.records[i].Result()
		it.result.State = bytes.Clone(it.result.State)
		it.fate = applied
		if it.result.Superseded { // an erasure: it was withdrawn, and the user is back
			it.fate = superseded
		}
		if err := d.batch.remember(it, !confirms); err != nil {
			return err
		}
	}
	return nil
}

// retry puts a unit that failed back, in halves if it failed often, or gives
// up on a record that fails alone, often, and while others are applied.
func (d *delivery) retry(u *unit, problem sinks.Error) {
	if u.probe {
		return
	}
	if !u.failed {
		u.failed, u.applied = true, d.health.applied
	}
	if problem.Reason != sinks.ReasonRateLimited { // which says nothing about the records
		u.attempts++
	}
	alive := d.health.applied > u.applied
	often := u.attempts >= d.cfg.MaxAttempts
	switch {
	case len(u.items) > 1 && (often || u.split && alive):
		d.halve(u)
	case len(u.items) == 1 && often && (alive || u.items[0].raw == nil): // a debt holds up no offset
		d.giveUp(u.items[0], problem)
	default:
		u.due = time.Now().Add(max(problem.After, d.backoff(u.attempts)))
		d.queue = append(d.queue, u)
	}
}

// halve queues the halves of a unit.
func (d *delivery) halve(u *unit) {
	middle := len(u.items) / 2
	for _, half := range [][]*item{u.items[:middle:middle], u.items[middle:]} {
		d.queue = append(d.queue, &unit{items: half, failed: u.failed, applied: u.applied, split: true})
	}
}

// giveUp ends the attempts at a record. An erasure is never dead-lettered: it
// is parked, which loses nothing, since it stays owed until there is a receipt.
func (d *delivery) giveUp(it *item, problem sinks.Error) {
	if it.record.Erase() {
		it.giveUp(problem, parked)
	} else {
		it.giveUp(problem, dead)
	}
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

// probe queues a change of this batch that is applied already, and reports
// whether there is any. Sending it again is harmless by the contract.
func (d *delivery) probe() bool {
	for _, it := range slices.Backward(d.batch.items) {
		if it.fate == applied && !it.record.Erase() {
			d.queue = append(d.queue, &unit{items: []*item{it}, probe: true})
			return true
		}
	}
	return false
}
