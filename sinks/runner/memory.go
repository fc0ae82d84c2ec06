package runner

import (
	"context"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
	"clerkconnect/sinks"
)

// memory is what is known of the users of one partition. It equals what is
// committed; it changes by the install of a restore, by readAgain and in
// Committed only. All maps are by Clerk ID.
type memory struct {
	states      states           // what the sink remembers, and of which version
	erased      ranks            // of the erasure, owed or paid: what is not above it is not sent
	debts       map[string]*debt // erasures owed
	unconfirmed map[string]*debt // erasures done and not read back yet
	receipts    receipts         // this sink's own

	enabled  int64    // when the sink was first run, Unix milliseconds; 0: not known
	unmarked bool     // that is not in Kafka yet
	letters  *letters // the dead letters that are open

	readAt time.Time // when the topics were read
	nextAt time.Time // not before may they be read again only because time has passed
	heard  int64     // all of the partition of the receipts before this offset is in here
	next   int64     // all of the partition before this offset is applied, as far as it was since readAt
}

// debt is an erasure without a receipt that is not known to come as a record
// any more, or one without a confirmation.
type debt struct {
	erasure schemas.Erasure
	since   time.Time // when it was asked for
	due     time.Time // not before; zero: now
	held    bool      // it waits for EraseAfter
	behind  int64     // not before all of the partition up to this offset is applied; see waitBehind
	ahead   []item    // to be applied before it, where the partition is not read; see addAhead

	unanswered int // questions in a row whether it is confirmed that had no answer
}

func newMemory() *memory {
	return &memory{
		states: newStates(), erased: newRanks(), receipts: newReceipts(),
		debts: map[string]*debt{}, unconfirmed: map[string]*debt{},
		letters: &letters{},
	}
}

// restore reads what the predecessors, and people, have written: erasures less
// receipts is what is owed. The receipts come first, so that of the many that are
// paid nothing is ever held but what stays of them. An erasure that is written after this read is not
// missed, since its tombstone stands in the same transaction and is not read
// yet.
func (p *processor) restore(ctx context.Context, partition int32) (*memory, error) {
	m := newMemory()
	m.readAt = time.Now()
	read := func(topic string, each func(*kgo.Record) error) error {
		return compacted.Read(ctx, p.options.Client, topic, partition, each)
	}
	topics := p.options.Topics
	if err := read(topics.SinkState(p.cfg.Name), m.readState); err != nil {
		return nil, err
	}
	if m.enabled == 0 {
		m.enabled, m.unmarked = p.began.UnixMilli(), true
	}
	takenBack := map[string]int64{}
	err := read(topics.ErasureReceipts(), func(k *kgo.Record) error { return p.receipt(ctx, k, m, takenBack) })
	if err != nil {
		return nil, err
	}
	if err = read(topics.Erasures(), func(k *kgo.Record) error { return p.erasure(ctx, k, m) }); err != nil {
		return nil, err
	}
	if m.letters, err = p.readLetters(ctx, partition, false); err != nil {
		return nil, err
	}
	if err := p.waitBehind(ctx, partition, m); err != nil {
		return nil, err
	}
	now := time.Now()
	m.nextAt = now.Add(10 * now.Sub(m.readAt)) // so that reading takes a tenth of the time at most
	return m, nil
}

// compare makes of an erasure what it comes to beside the sink's receipt.
func (r *Runner) compare(m *memory, id string, d *debt) {
	receipt, ok := m.receipts.get(id)
	if !ok || receiptVersion(receipt).Compare(versionOf(d.erasure)) < 0 {
		if r.cfg.EraseAfter > 0 {
			d.due = d.since.Add(r.cfg.EraseAfter)
			d.held = d.due.After(m.readAt)
		}
		m.debts[id] = d
		return
	}
	if r.confirmer != nil && receipt.ConfirmedAt == nil && receipt.WaivedAt == nil {
		d.due = time.UnixMilli(receipt.DoneAt).Add(r.facts.ConfirmAfter)
		m.unconfirmed[id] = d
	}
}

// erasure takes over a demand, which takes the place of an earlier one, or that
// it was withdrawn. The receipts are known.
func (r *Runner) erasure(ctx context.Context, k *kgo.Record, m *memory) error {
	id := string(k.Key)
	m.owesNothing(id)
	m.erased.delete(id)
	if k.Value == nil { // withdrawn, or a tick
		return nil
	}
	d := &debt{}
	if err := r.options.Codec.Decode(ctx, k.Value, &d.erasure); err != nil {
		return err
	}
	d.since = askedFor(d.erasure, k.Timestamp)
	m.erased.set(id, eraseRecord(d.erasure, k.Partition).Rank())
	r.compare(m, id, d)
	return nil
}

// askedFor returns when an erasure was asked for, as far as it is known.
func askedFor(e schemas.Erasure, written time.Time) time.Time {
	switch {
	case e.RequestedAt != 0:
		return time.UnixMilli(e.RequestedAt)
	case e.SequencedAt != 0:
		return time.UnixMilli(e.SequencedAt)
	}
	return written
}

// receipt notes this sink's latest receipt for a user. takenBack has the
// offsets at which receipts were taken back: one that was written by a runner
// that had not heard of it yet does not outlast it.
func (r *Runner) receipt(ctx context.Context, k *kgo.Record, m *memory, takenBack map[string]int64) error {
	m.heard = k.Offset + 1
	id, sink, ok := schemas.SplitReceiptKey(string(k.Key))
	if !ok || sink != r.cfg.Name {
		return nil
	}
	if k.Value == nil {
		m.receipts.delete(id)
		takenBack[id] = k.Offset
		return nil
	}
	heard, err := strconv.ParseInt(schemas.Header(k.Headers, HeaderHeard), 10, 64)
	if at, ok := takenBack[id]; ok && err == nil && heard <= at {
		return nil
	}
	var receipt schemas.Receipt
	if err := r.options.Codec.Decode(ctx, k.Value, &receipt); undecodable(err) {
		r.logger.Warn("receipt cannot be understood, so it pays nothing", "partition", k.Partition, "offset", k.Offset)
		m.receipts.delete(id)
		return nil
	} else if err != nil {
		return err
	}
	receipt.ClerkID = id
	m.receipts.set(receipt)
	return nil
}

func versionOf(e schemas.Erasure) schemas.Version {
	return schemas.Version{Epoch: e.Epoch, Number: e.Version}
}

func receiptVersion(r schemas.Receipt) schemas.Version {
	return schemas.Version{Epoch: r.Epoch, Number: r.Version}
}

// paid reports whether the receipt, if there is one, covers the erasure r.
func (m *memory) paid(r sinks.Record) (receipt schemas.Receipt, covers bool) {
	receipt, ok := m.receipts.get(r.ClerkID)
	return receipt, ok && receiptVersion(receipt).Compare(r.Version) >= 0
}

// settle takes over what became of one item of a committed batch.
func (m *memory) settle(it *item) {
	id := it.record.ClerkID
	switch {
	case it.fate == waived: // its receipt is known
	case it.fate == superseded && it.record.Erase(): // by a newer change, here or at the destination
		m.owesNothing(id)
	case it.fate == superseded, m.covers(it.record):
	case !it.record.Erase(): // applied or given up: a user who came back owes nothing
		m.owesNothing(id)
		m.erased.delete(id)
		m.receipts.delete(id)
	case it.fate == parked || it.fate == held:
		m.owesNothing(id)
		m.debts[id] = it.debt()
		m.erased.set(id, it.record.Rank())
	case it.fate == applied:
		m.owesNothing(id)
		m.erased.set(id, it.record.Rank())
		m.receipts.set(it.receipt)
		if !it.due.IsZero() {
			m.unconfirmed[id] = it.debt()
		}
	}
}

func (m *memory) owesNothing(id string) {
	delete(m.debts, id)
	delete(m.unconfirmed, id)
}

// keepWaits takes over from the memory before what no topic tells: how long
// to wait with what has failed, and the demands of tombstones that carry no
// version, which stand nowhere else.
func (m *memory) keepWaits(before *memory) {
	for id, d := range before.debts {
		if owed, ok := m.debts[id]; ok && !d.held {
			owed.due, owed.held = d.due, false
		} else if done, ok := m.unconfirmed[id]; ok {
			done.due = d.due
		} else if versionOf(d.erasure) == (schemas.Version{}) {
			m.debts[id] = d
			rank, _ := before.erased.get(id)
			m.erased.set(id, rank)
		}
	}
	for id, d := range before.unconfirmed {
		if done, ok := m.unconfirmed[id]; ok {
			done.due = d.due
		}
	}
}
