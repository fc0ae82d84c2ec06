package runner

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/transact"
	"clerkconnect/sinks"
)

var (
	_ transact.Processor = (*processor)(nil)
	_ transact.Waker     = (*processor)(nil)
)

// processor is the sink as the owner of partitions, of <prefix>.users or, if
// it is the feed of receipts, of <prefix>.erasure-receipts. All but Restore runs
// on the owner's goroutine, so that nothing here is locked.
type processor struct {
	*Runner
	feed       bool
	mode       mode
	words      *words // what people have written; nil: nobody listens
	read       func(ctx context.Context, partition int32) (*memory, error)
	health     health
	size       *batchSize
	alive      func() bool // whether the group has heard of us lately; nil: there is none
	partitions map[int32]*memory
	batch      *batch             // what Process did last and nobody has committed yet
	again      *batch             // what Process has asked to go on with
	done       map[string]outcome // of erasures that are applied and not committed, by Clerk ID
}

// batch is what one Process does, or several that end in ErrAgain. It becomes
// memory in Committed.
type batch struct {
	began  time.Time
	slept  time.Duration // what calls had slept by then
	items  []*item
	checks []*check
	read   map[*kgo.Record]bool  // records that are in items, or say nothing
	users  map[string]bool       // of items and checks
	left   []*unit               // what failed and waits for another attempt
	notes  []*item               // what is to be remembered before it is applied again
	states map[string]remembered // by Clerk ID
	marked []*memory             // partitions whose moment of enabling is written

	letters []*kgo.Record // what is written to the dead letters
}

// outcome is how an erasure was done. What the sink says of its repetition,
// that nobody was there, must not replace it.
type outcome struct {
	version schemas.Version
	result  sinks.Result
	at      time.Time
}

// Restore implements [transact.Processor].
func (p *processor) Restore(ctx context.Context, partition int32) (func(), error) {
	restored, err := p.read(ctx, partition)
	if err != nil {
		return nil, err
	}
	return func() {
		p.partitions[partition] = restored
		p.countDebts()
	}, nil
}

// Forget implements [transact.Processor].
func (p *processor) Forget(partition int32) {
	delete(p.partitions, partition)
	for _, m := range p.partitions {
		m.letters.behind = 0 // of them, too, p.again may have applied what is read again now
	}
	p.batch, p.again = nil, nil
	if !p.feed {
		p.status.hold(nil)
	}
	p.countDebts()
}

// Due implements [transact.Waker]: debts that no record will bring, words of
// people, and the moment that the sink was first run.
func (p *processor) Due() time.Time {
	var due time.Time
	earlier := func(at time.Time) {
		if due.IsZero() || at.Before(due) {
			due = at
		}
	}
	for partition, m := range p.partitions {
		if m.unmarked && p.mode != modeStill || p.words.after(partition, m.heard) || p.words.lettersAfter(partition, m.letters.heard) {
			return time.Now()
		}
		if again := p.rereadDue(m); !again.IsZero() {
			earlier(again)
		}
		if p.mode == modeStill {
			continue
		}
		if at, ok := m.letters.due(); ok && p.mode == modeRun {
			if at.IsZero() {
				return time.Now()
			}
			earlier(at)
		}
		for _, d := range m.debts {
			switch {
			case p.waits(m, d):
			case d.due.IsZero():
				return time.Now()
			case p.stale(m, d) && d.due.Before(m.nextAt):
				earlier(m.nextAt)
			default:
				earlier(d.due)
			}
		}
		for _, d := range m.unconfirmed {
			earlier(d.due)
		}
	}
	return due
}

// stale reports whether m was read before d may be paid, so that a waiver may
// be missing in it.
func (p *processor) stale(m *memory, d *debt) bool {
	return p.cfg.EraseAfter > 0 && d.due.After(m.readAt)
}

// Process implements [transact.Processor].
func (p *processor) Process(ctx context.Context, records []*kgo.Record) ([]*kgo.Record, error) {
	p.batch = nil
	if p.again != nil {
		p.notesCommitted(p.again)
	}
	if err := errors.Join(p.readAgain(ctx), p.readLettersAgain(ctx)); err != nil {
		return nil, err
	}
	if p.mode == modeStill {
		return nil, transact.ErrAgain // there is nothing to commit
	}
	b := p.again
	if p.again = nil; b == nil {
		b = &batch{began: time.Now(), slept: p.pacer.slept(), read: map[*kgo.Record]bool{}, users: map[string]bool{}, states: map[string]remembered{}}
	}
	if err := p.collect(ctx, b, records); err != nil {
		return nil, err
	}
	if err := p.carryOut(ctx, b); err != nil {
		if errors.Is(err, transact.ErrAgain) {
			p.again = b
			return p.renderNotes(b), err
		}
		return nil, err
	}
	out, err := p.render(b)
	if err != nil {
		return nil, err
	}
	p.batch = b
	return out, nil
}

// readAgain reads the partitions again of which people have written something,
// where an erasure was held back until now, and where rereadDue says so.
func (p *processor) readAgain(ctx context.Context) error {
	for partition, m := range p.partitions {
		told := p.words.after(partition, m.heard)
		again := p.rereadDue(m)
		if !told && !p.heldUntilNow(m) && (again.IsZero() || again.After(time.Now())) {
			continue
		}
		var fresh *memory
		for attempt := 1; ; attempt++ {
			var err error
			if fresh, err = p.read(ctx, partition); err == nil {
				break
			}
			if attempt == 1 {
				p.logger.Warn("read receipts again, will retry", "partition", partition, "err", err)
			}
			if err := sleep(ctx, p.backoff(attempt)); err != nil {
				return err
			}
		}
		if told {
			p.logger.Info("erasures were waived or asked for again", "partition", partition, "owed_before", len(m.debts), "owed", len(fresh.debts))
			fresh.heard = max(fresh.heard, p.words.latest(partition)+1)
		}
		fresh.keepWaits(m)
		p.partitions[partition] = fresh
		p.again = nil
		p.countDebts()
	}
	return nil
}

func (p *processor) heldUntilNow(m *memory) bool {
	now := time.Now()
	if m.nextAt.After(now) {
		return false
	}
	for _, d := range m.debts {
		if p.stale(m, d) && !d.due.After(now) {
			return true
		}
	}
	return false
}

// collect puts into b what is due, and the records that are not in it yet.
func (p *processor) collect(ctx context.Context, b *batch, records []*kgo.Record) error {
	p.addDue(b, time.Now())
	if p.mode == modeRun {
		if err := p.addReplays(ctx, b, records); err != nil {
			return err
		}
	}
	for _, k := range records {
		if b.read[k] {
			continue
		}
		decode := p.decode
		if p.feed {
			decode = p.decodeReceipt
		}
		it, err := decode(ctx, k)
		if err != nil {
			return err
		}
		b.read[k] = true
		if it != nil {
			b.items = append(b.items, it)
			b.users[it.record.ClerkID] = true
		}
	}
	if !p.feed {
		p.status.start(records)
	}
	return nil
}

// carryOut brings everything of b to the destination.
func (p *processor) carryOut(ctx context.Context, b *batch) error {
	if err := p.confirmDue(ctx, b); err != nil {
		return err
	}
	for _, round := range p.plan(b.items) {
		if err := p.deliver(ctx, b, round); err != nil {
			return err
		}
		if err := p.confirmDone(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// Committed implements [transact.Processor].
func (p *processor) Committed() {
	now := time.Now()
	p.size.took(len(p.batch.items), now.Sub(p.batch.began)-(p.pacer.slept()-p.batch.slept))
	for k := range p.batch.read {
		if m, ok := p.partitions[k.Partition]; ok {
			m.reached(k)
		}
	}
	for _, c := range p.batch.checks {
		if m, ok := p.partitions[c.partition]; ok {
			p.settleCheck(m, c, now)
		}
	}
	for _, it := range p.batch.items {
		if it.fate == parked {
			it.due = now.Add(p.cfg.SlowRetry)
		} else if it.record.Erase() {
			delete(p.done, it.record.ClerkID)
		}
		if m, ok := p.partitions[it.record.Source.Partition]; ok {
			m.settle(it)
			if it.record.Erase() && it.fate != dead && p.words != nil {
				p.words.erased.forget(it.record.Source.Partition, it.record.ClerkID, it.record.Rank())
			}
		}
		p.metrics.settled(it, now)
		p.tell(it)
	}
	for id, r := range p.batch.states {
		m, ok := p.partitions[r.partition]
		switch {
		case !ok:
		case r.known == nil:
			m.states.delete(id)
		default:
			m.states.set(id, *r.known)
		}
	}
	for _, m := range p.batch.marked {
		m.unmarked = false
	}
	p.takeOverLetters(p.batch.letters)
	p.batch = nil
	if !p.feed {
		p.status.finish()
	}
	p.countDebts()
}

// tell logs what a person has to know of an item that is committed.
func (p *processor) tell(it *item) {
	source := it.record.Source
	switch it.fate {
	case dead:
		p.logger.Error("record dead-lettered", "topic", source.Topic, "partition", source.Partition, "offset", source.Offset,
			"reason", it.problem.Reason, "class", it.problem.Class.String(), "attempts", it.attempts, "err", it.problem.Err)
		p.logger.Debug("record dead-lettered", "key", it.record.ClerkID, "held_by", it.problem.HeldBy)
	case parked:
		p.logger.Error("erasure put off, still owed", "partition", source.Partition,
			"reason", it.problem.Reason, "attempts", it.attempts, "err", it.problem.Err, "next_attempt_in", p.cfg.SlowRetry.String())
		p.logger.Debug("erasure still owed", "key", it.record.ClerkID)
	}
}

// addDue adds the erasures, and the confirmations, whose time has come, at
// most a batch of each. What b has something of its user of comes later.
func (p *processor) addDue(b *batch, now time.Time) {
	debts, checks := 0, 0
	for partition, m := range p.partitions {
		for id, d := range m.debts {
			if debts == p.cfg.BatchRecords {
				break
			}
			if !d.due.After(now) && !p.stale(m, d) && !p.waits(m, d) && !b.users[id] {
				b.addAhead(d)
				b.items = append(b.items, d.item(partition))
				b.users[id] = true
				debts++
			}
		}
		for id, d := range m.unconfirmed {
			if checks == p.cfg.BatchRecords {
				break
			}
			if !d.due.After(now) && !b.users[id] {
				receipt, _ := m.receipts.get(id)
				b.checks = append(b.checks, &check{partition: partition, id: id, debt: d, receipt: receipt})
				b.users[id] = true
				checks++
			}
		}
	}
}

func (d *debt) item(partition int32) *item {
	return &item{record: eraseRecord(d.erasure, partition), occurred: d.erasure.RequestedAt, since: d.since}
}

// eraseRecord is the demand to erase as the sink sees it. Its source is the
// partition alone, unless it was read as a tombstone.
func eraseRecord(e schemas.Erasure, partition int32) sinks.Record {
	return sinks.Record{
		ClerkID: e.ClerkID, Version: versionOf(e), Erasure: &e,
		Source: sinks.Source{Partition: partition, Offset: -1},
	}
}

// countDebts publishes how many erasures are owed and since when, and how many
// dead letters there are.
func (p *processor) countDebts() {
	if p.feed {
		return
	}
	var sum debts
	for _, m := range p.partitions {
		open, _, parked := m.letters.fold.Count()
		sum.letters += open
		sum.lettersParked += parked
		sum.owed += len(m.debts)
		sum.unconfirmed += len(m.unconfirmed)
		for _, d := range m.debts {
			if d.held {
				sum.held++
			}
			if sum.oldest.IsZero() || d.since.Before(sum.oldest) {
				sum.oldest = d.since
			}
		}
	}
	p.status.setDebts(sum)
}
