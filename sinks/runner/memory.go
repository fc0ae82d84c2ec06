package runner

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
	"clerkconnect/sinks"
)

// memory is what is known of the users of one partition. It equals what is
// committed; it changes by the install of a restore and in Committed only.
type memory struct {
	states map[string][]byte          // what the sink remembers, by Clerk ID
	erased map[string]schemas.Version // rank of the erasure, owed or paid: what is not above it is not sent
	debts  map[string]*debt           // erasures owed, by Clerk ID
}

// debt is an erasure without a receipt that is not known to come as a record
// any more.
type debt struct {
	erasure schemas.Erasure
	due     time.Time // not before; zero: now
}

// restore reads what the predecessors have committed: erasures less receipts
// is what is owed. An erasure that is written after this read is not missed,
// since its tombstone stands in the same transaction and is not read yet.
func (r *Runner) restore(ctx context.Context, partition int32) (*memory, error) {
	m := &memory{states: map[string][]byte{}, erased: map[string]schemas.Version{}, debts: map[string]*debt{}}
	read := func(topic string, each func(*kgo.Record) error) error {
		return compacted.Read(ctx, r.options.Client, topic, partition, each)
	}
	topics := r.options.Topics
	if err := read(topics.SinkState(r.cfg.Name), m.state); err != nil {
		return nil, err
	}
	err := read(topics.Erasures(), func(k *kgo.Record) error { return m.erasure(ctx, r.options.Codec, k) })
	if err != nil {
		return nil, err
	}
	paid := map[string]schemas.Version{}
	err = read(topics.ErasureReceipts(), func(k *kgo.Record) error { return r.receipt(ctx, k, paid) })
	if err != nil {
		return nil, err
	}
	for id, d := range m.debts {
		m.erased[id] = eraseRecord(d.erasure, partition).Rank()
		if version, ok := paid[id]; ok && version.Compare(versionOf(d.erasure)) >= 0 {
			delete(m.debts, id)
		}
	}
	return m, nil
}

func (m *memory) state(k *kgo.Record) error {
	if k.Value == nil {
		delete(m.states, string(k.Key))
	} else {
		m.states[string(k.Key)] = k.Value
	}
	return nil
}

func (m *memory) erasure(ctx context.Context, codec *schemas.Codec, k *kgo.Record) error {
	switch {
	case string(k.Key) == schemas.TickKey:
	case k.Value == nil:
		delete(m.debts, string(k.Key)) // withdrawn
	default:
		d := &debt{}
		if err := codec.Decode(ctx, k.Value, &d.erasure); err != nil {
			return err
		}
		m.debts[string(k.Key)] = d
	}
	return nil
}

// receipt notes the version up to which this sink has paid for a user.
func (r *Runner) receipt(ctx context.Context, k *kgo.Record, paid map[string]schemas.Version) error {
	id, sink, ok := schemas.SplitReceiptKey(string(k.Key))
	if !ok || sink != r.cfg.Name {
		return nil
	}
	delete(paid, id)
	if k.Value == nil {
		return nil
	}
	var receipt schemas.Receipt
	if err := r.options.Codec.Decode(ctx, k.Value, &receipt); err != nil {
		return err
	}
	paid[id] = schemas.Version{Epoch: receipt.Epoch, Number: receipt.Version}
	return nil
}

func versionOf(e schemas.Erasure) schemas.Version {
	return schemas.Version{Epoch: e.Epoch, Number: e.Version}
}

// paid reports whether there is a receipt for the erasure r already.
func (m *memory) paid(r sinks.Record) bool {
	_, owed := m.debts[r.ClerkID]
	known, ok := m.erased[r.ClerkID]
	return ok && !owed && known.Compare(r.Rank()) >= 0
}

// settle takes over what became of one item of a committed batch.
func (m *memory) settle(it *item, due time.Time) {
	id := it.record.ClerkID
	switch {
	case it.fate == superseded && it.record.Erase(): // by a newer change, here or at the destination
		delete(m.debts, id)
	case it.fate == superseded:
	case !it.record.Erase(): // applied or given up: a user who came back owes nothing
		delete(m.debts, id)
		delete(m.erased, id)
	case it.fate == parked:
		m.debts[id] = &debt{erasure: it.demand(), due: due}
		m.erased[id] = it.record.Rank()
	case it.fate == applied:
		delete(m.debts, id)
		m.erased[id] = it.record.Rank()
	}
}
