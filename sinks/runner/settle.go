package runner

import (
	"bytes"
	"errors"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// settle handles the answer to a call. An error is fatal.
func (d *delivery) settle(a answer) error {
	d.metrics.called(a)
	var listed *sinks.BatchError
	switch {
	case a.err == nil:
		return d.succeed(a, func(int) bool { return true })
	case errors.As(a.err, &listed):
		return d.settleListed(a, listed)
	case errors.Is(a.err, sinks.ErrRememberFirst):
		return d.settleListed(a, allFailed(a))
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
		d.status.untrip()
		if len(a.unit.items) > 1 {
			d.halve(a.unit)
		} else {
			d.giveUp(a.unit.items[0], problem)
		}
		return nil
	}
	if len(a.unit.items) == 1 && problem.Reason == sinks.ReasonConflict && !a.unit.probe {
		d.contend(a.unit, problem)
		return nil
	}
	if d.health.streak++; d.health.streak == 1 {
		first := a.unit.items[0].record.Source
		d.logger.Warn("apply, will retry", "reason", problem.Reason, "batch_size", len(a.unit.items), "partition", first.Partition, "offset", first.Offset, "err", a.err)
	}
	d.status.failed(problem, false)
	d.rest(problem)
	d.retry(a.unit, problem)
	return nil
}

// contend retries a record that alone needs what another user holds. That says
// nothing against the destination; what resolves it may stand behind it in the
// topic.
func (d *delivery) contend(u *unit, problem sinks.Error) {
	if d.conflict.IsZero() {
		d.conflict = time.Now()
	}
	if u.heldBy == nil {
		d.logger.Debug("record waits for what another user holds", "key", u.items[0].record.ClerkID, "held_by", problem.HeldBy)
	}
	u.heldBy = &problem.HeldBy
	d.status.failed(problem, false)
	d.rest(problem)
	d.retry(u, problem)
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
		if errors.Is(err, sinks.ErrRememberFirst) {
			news, fatal := d.wantsNote(a, i)
			if fatal != nil {
				return fatal
			} else if news {
				continue
			}
			err = errNothingNew
		}
		it.attempts++
		problem := sinks.Classify(err)
		d.metrics.failed(problem)
		switch {
		case problem.Class == sinks.ClassFatal:
			return err
		case problem.Class == sinks.ClassPermanent:
			if !a.unit.probe {
				d.giveUp(it, problem)
			}
		case problem.Reason == sinks.ReasonConflict && !a.unit.probe:
			u := a.unit
			if len(u.items) > 1 {
				u = &unit{items: []*item{it}, failed: u.failed, applied: u.applied}
			}
			d.contend(u, problem)
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

// wantsNote takes down what the sink wants remembered before it goes on with a
// record, and reports whether there is anything to be committed.
func (d *delivery) wantsNote(a answer, i int) (news bool, err error) {
	if a.unit.probe {
		a.unit.items[i].showsNothing = true
		return true, nil
	}
	return d.note(d.batch, a.unit.items[i], a.records[i].Result())
}

// allFailed lists every record of a call with its error.
func allFailed(a answer) *sinks.BatchError {
	listed := &sinks.BatchError{}
	for i := range a.records {
		listed.Fail(i, a.err)
	}
	return listed
}

// rest sets how long no call is made: by the backoff if nothing succeeds, and
// by the destination's own word.
func (d *delivery) rest(problem sinks.Error) {
	now := time.Now()
	if d.health.streak > 0 {
		d.health.resting = now.Add(d.backoff(d.health.streak))
		d.status.trip(d.health.resting)
	}
	if until := now.Add(problem.After); until.After(d.health.limited) {
		d.health.limited = until
	}
	if d.pacer != nil && problem.Reason == sinks.ReasonRateLimited {
		d.pacer.Heed(0, problem.After) // the calls under way have requests to make, too
	}
}

// succeed notes the records of a call that are applied. Those of which nothing
// was sent do not show that the destination lives.
func (d *delivery) succeed(a answer, ok func(int) bool) error {
	sent := 0
	for i, it := range a.unit.items {
		if !ok(i) {
			continue
		}
		if result := a.records[i].Result(); !result.Unchanged && !result.Skipped {
			sent++
		} else if a.unit.probe {
			it.showsNothing = true
		}
	}
	if sent > 0 {
		d.revive()
	}
	d.health.applied += sent
	for i, it := range a.unit.items {
		if !ok(i) || a.unit.probe {
			continue
		}
		it.result = a.records[i].Result()
		it.result.State = bytes.Clone(it.result.State)
		it.fate = applied
		if it.result.Superseded { // an erasure: it was withdrawn, and the user is back
			it.fate = superseded
		} else if it.record.Erase() {
			d.noteErased(it)
		}
		d.nudge(it.record.ClerkID)
		if d.feed {
			continue
		}
		if err := d.remember(d.batch, it, d.confirmer == nil); err != nil { // who confirms needs its memory for that
			return err
		}
	}
	return nil
}

// revive notes that the destination has taken something.
func (d *delivery) revive() {
	if d.health.streak > 0 {
		d.logger.Info("applying again", "failed_calls", d.health.streak)
	}
	d.health.streak, d.health.resting = 0, time.Time{}
	d.status.healthy()
}

// noteErased keeps how an erasure was done until it is committed: after a
// failed commit, or a failed confirmation, it is done again and finds nobody.
func (d *delivery) noteErased(it *item) {
	it.done = time.Now()
	if _, known := d.done[it.record.ClerkID]; !known || it.result.Outcome != schemas.OutcomeNotPresent {
		d.done[it.record.ClerkID] = outcome{it.record.Version, it.result, it.done}
	}
}

// nudge tries at once what waits for this user to let go.
func (d *delivery) nudge(clerkID string) {
	if d.conflict.IsZero() {
		return
	}
	for _, u := range d.queue {
		if u.heldBy != nil && *u.heldBy == clerkID {
			u.due = time.Time{}
		}
	}
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
	alive := d.health.applied > u.applied || u.heldBy != nil && *u.heldBy != "" // who knows the holder has looked
	often := u.attempts >= d.cfg.MaxAttempts
	switch {
	case len(u.items) > 1 && (often || u.split && alive):
		d.halve(u)
	case len(u.items) == 1 && often && (alive || u.items[0].raw == nil): // a debt holds up no offset
		d.giveUp(u.items[0], problem)
	default:
		if often && len(u.items) == 1 {
			d.tellAlone(u.items[0], problem)
		}
		u.due = time.Now().Add(max(problem.After, d.backoff(u.attempts)))
		d.queue = append(d.queue, u)
	}
}

// tellAlone logs once that a record would be given up if the destination were
// known to live.
func (d *delivery) tellAlone(it *item, problem sinks.Error) {
	if it.toldAlone {
		return
	}
	it.toldAlone = true
	source := it.record.Source
	d.logger.Warn("record fails alone, and nothing else shows whether the destination lives: it is tried until something does",
		"topic", source.Topic, "partition", source.Partition, "offset", source.Offset, "reason", problem.Reason, "attempts", it.attempts, "err", problem.Err)
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
	switch {
	case it.record.Erase():
		it.giveUp(problem, parked)
	case it.raw == nil, d.afterErasure(it): // of addAhead: it comes once more
		it.giveUp(problem, superseded)
	default:
		it.giveUp(problem, dead)
	}
}
