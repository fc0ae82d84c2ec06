package runner

import (
	"context"
	"errors"
	"fmt"
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

// processor is the sink as the owner of partitions. All but Restore runs on
// the owner's goroutine, so that nothing here is locked.
type processor struct {
	*Runner
	partitions map[int32]*memory
	batch      *batch // what Process did last and nobody has committed yet
}

// batch is what one Process does. It becomes memory in Committed.
type batch struct {
	items  []*item
	states map[string]remembered // by Clerk ID
}

type remembered struct {
	partition int32
	state     []byte // nil: forgotten
}

// Restore implements [transact.Processor].
func (p *processor) Restore(ctx context.Context, partition int32) (func(), error) {
	restored, err := p.restore(ctx, partition)
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
	p.batch = nil
	p.countDebts()
}

// Due implements [transact.Waker]: debts that no record will bring.
func (p *processor) Due() time.Time {
	var due time.Time
	for _, m := range p.partitions {
		for _, d := range m.debts {
			if d.due.IsZero() {
				return time.Now()
			}
			if due.IsZero() || d.due.Before(due) {
				due = d.due
			}
		}
	}
	return due
}

// Process implements [transact.Processor].
func (p *processor) Process(ctx context.Context, records []*kgo.Record) ([]*kgo.Record, error) {
	p.batch = nil
	b := &batch{items: p.dueDebts(time.Now()), states: map[string]remembered{}}
	for _, k := range records {
		it, err := p.decode(ctx, k)
		if err != nil {
			return nil, err
		}
		if it != nil {
			b.items = append(b.items, it)
		}
	}
	p.status.start(records)
	for _, round := range p.plan(b.items) {
		if err := p.deliver(ctx, b, round); err != nil {
			return nil, err
		}
	}
	out, err := p.render(b)
	if err != nil {
		return nil, err
	}
	p.batch = b
	return out, nil
}

// Committed implements [transact.Processor].
func (p *processor) Committed() {
	now := time.Now()
	for _, it := range p.batch.items {
		if m, ok := p.partitions[it.record.Source.Partition]; ok {
			m.settle(it, now.Add(p.cfg.SlowRetry))
		}
		p.metrics.settled(it, now)
		p.tell(it)
	}
	for id, r := range p.batch.states {
		m, ok := p.partitions[r.partition]
		switch {
		case !ok:
		case r.state == nil:
			delete(m.states, id)
		default:
			m.states[id] = r.state
		}
	}
	p.batch = nil
	p.status.finish()
	p.countDebts()
}

// tell logs what a person has to know of an item that is committed.
func (p *processor) tell(it *item) {
	source := it.record.Source
	switch it.fate {
	case dead:
		p.logger.Error("record dead-lettered", "topic", source.Topic, "partition", source.Partition, "offset", source.Offset,
			"reason", it.problem.Reason, "class", it.problem.Class, "attempts", it.attempts, "err", it.problem.Err)
		p.logger.Debug("record dead-lettered", "key", it.record.ClerkID)
	case parked:
		p.logger.Error("erasure put off, still owed", "partition", source.Partition,
			"reason", it.problem.Reason, "attempts", it.attempts, "err", it.problem.Err, "next_attempt_in", p.cfg.SlowRetry)
		p.logger.Debug("erasure still owed", "key", it.record.ClerkID)
	}
}

// dueDebts returns erasures whose time has come, at most a batch of them.
func (p *processor) dueDebts(now time.Time) []*item {
	var items []*item
	for partition, m := range p.partitions {
		for _, d := range m.debts {
			if len(items) == p.cfg.BatchRecords {
				return items
			}
			if !d.due.After(now) {
				items = append(items, &item{record: eraseRecord(d.erasure, partition), occurred: d.erasure.RequestedAt})
			}
		}
	}
	return items
}

// eraseRecord is the demand to erase as the sink sees it. Its source is the
// partition alone, unless it was read as a tombstone.
func eraseRecord(e schemas.Erasure, partition int32) sinks.Record {
	return sinks.Record{
		ClerkID: e.ClerkID, Version: versionOf(e), Erasure: &e,
		Source: sinks.Source{Partition: partition, Offset: -1},
	}
}

// countDebts publishes how many erasures are owed and since when.
func (p *processor) countDebts() {
	owed, oldest := 0, int64(0)
	for _, m := range p.partitions {
		owed += len(m.debts)
		for _, d := range m.debts {
			if at := d.erasure.RequestedAt; oldest == 0 || at < oldest {
				oldest = at
			}
		}
	}
	p.status.setDebts(owed, oldest)
}

// decode returns what k says, nil if it says nothing about a user. What cannot
// be understood comes back as given up. It waits out a schema registry that
// does not answer; an error means that ctx has ended.
func (p *processor) decode(ctx context.Context, k *kgo.Record) (*item, error) {
	if string(k.Key) == schemas.TickKey {
		return nil, nil
	}
	it := &item{raw: k}
	it.record.ClerkID = string(k.Key)
	it.record.Source = sinks.Source{Topic: k.Topic, Partition: k.Partition, Offset: k.Offset}
	if k.Value == nil {
		p.decodeTombstone(it)
		return it, nil
	}
	for attempt := 1; ; attempt++ {
		change := &schemas.UserChange{}
		err := p.options.Codec.Decode(ctx, k.Value, change)
		switch {
		case err == nil && change.ClerkID != it.record.ClerkID:
			it.giveUp(sinks.Error{Class: sinks.ClassPermanent, Reason: sinks.ReasonInvalidRecord, Err: errForeignKey}, dead)
			return it, nil
		case err == nil:
			it.record.Change, it.occurred = change, change.OccurredAt
			it.record.Version = schemas.Version{Epoch: change.Epoch, Number: change.Version}
			it.snapshot = change.Operation == schemas.ChangeSnapshot
			return it, nil
		case errors.Is(err, schemas.ErrMalformed) || errors.Is(err, schemas.ErrUnknownSchema):
			// The decoder's text may quote the value.
			it.giveUp(sinks.Error{Class: sinks.ClassPermanent, Reason: sinks.ReasonInvalidRecord, Err: errUndecodable}, dead)
			return it, nil
		}
		if attempt == 1 {
			p.logger.Warn("decode, will retry", "partition", k.Partition, "offset", k.Offset, "err", err)
		}
		if err := sleep(ctx, p.backoff(attempt)); err != nil {
			return nil, err
		}
	}
}

var (
	errForeignKey  = errors.New("the value names another user than the key")
	errUndecodable = errors.New("the value is not a UserChange")
)

// decodeTombstone takes what is known of an erasure from the headers. One
// without a version still erases: nothing better can be assumed of it.
func (p *processor) decodeTombstone(it *item) {
	headers, err := schemas.ParseChangeHeaders(it.raw.Headers)
	if err != nil {
		p.logger.Warn("tombstone without a version", "partition", it.raw.Partition, "offset", it.raw.Offset, "err", err)
		return
	}
	it.record.Version, it.occurred = headers.Version, headers.OccurredAt
	it.record.Erasure = &schemas.Erasure{
		ClerkID: it.record.ClerkID, Epoch: headers.Version.Epoch, Version: headers.Version.Number,
		Origin: headers.Origin, Inferred: headers.Origin == schemas.OriginReconcile,
		EventID: headers.EventID, RequestedAt: headers.OccurredAt,
	}
}

// remember takes over what the sink said of an applied record.
func (b *batch) remember(it *item, forget bool) error {
	const most = 4 << 10
	if len(it.result.State) > most {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("sink remembers %d bytes of a user, at most %d", len(it.result.State), most))
	}
	if it.result.Remembered || forget && it.fate == applied && it.record.Erase() {
		b.states[it.record.ClerkID] = remembered{it.record.Source.Partition, it.result.State}
	}
	return nil
}
