package runner

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas/compacted"
	"clerkconnect/sinks"
)

// A sink with Capabilities.EveryChange is given what happened in the order in
// which it happened: no erasure takes a change from it, and an erasure that is
// owed waits for what the partition still has of the user (debt.behind). Such a
// sink bears a change behind an erasure, as every sink has to.

// waitBehind finds for each erasure that m owes how far the partition must be
// applied first: up to the user's last record that the group has not committed.
// That is his tombstone, or what compaction has left of him; nothing, and the
// erasure waits for nothing. It reads the sink's lag once, where anything is owed.
// While the partition is not read, it keeps the changes for addAhead.
func (p *processor) waitBehind(ctx context.Context, partition int32, m *memory) error {
	if !p.facts.EveryChange || len(m.debts) == 0 {
		return nil
	}
	topic := p.options.Topics.Users()
	from, _, err := p.lag(ctx, partition)
	if err != nil {
		return err
	}
	return compacted.ReadRange(ctx, p.options.Client, topic, partition, from, math.MaxInt64, func(k *kgo.Record) error {
		d, ok := m.debts[string(k.Key)]
		if !ok {
			return nil
		}
		d.behind = k.Offset + 1
		if p.mode != modeErase {
			return nil
		}
		it, err := p.decode(ctx, k)
		if err != nil {
			return err
		}
		if m.covers(it.record) {
			it.raw = nil // it would keep the whole fetch in memory
			d.ahead = append(d.ahead, *it)
		}
		return nil
	})
}

// addAhead adds to b the changes that stand before d: a person has paused the
// sink but for its erasures, so that the partition is not read. They come once
// more when it is, and what fails now is not lost.
func (b *batch) addAhead(d *debt) {
	for _, it := range d.ahead {
		b.items = append(b.items, &it)
	}
}

// lag returns where the group goes on in a partition of the users, 0 if it has
// committed nothing: then it begins with the start of the log; and where the
// partition ends.
func (r *Runner) lag(ctx context.Context, partition int32) (from, end int64, err error) {
	client, err := kgo.NewClient(r.options.Client...)
	if err != nil {
		return 0, 0, err
	}
	defer client.Close()
	admin, topic := kadm.NewClient(client), r.options.Topics.Users()
	offsets, err := admin.FetchOffsets(ctx, r.Group())
	if err != nil {
		return 0, 0, fmt.Errorf("committed offset of %s/%d: %w", topic, partition, err)
	}
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, 0, fmt.Errorf("end of %s/%d: %w", topic, partition, err)
	}
	at, _ := offsets.Lookup(topic, partition)
	last, _ := ends.Lookup(topic, partition)
	return max(0, at.At), last.Offset, errors.Join(at.Err, last.Err)
}

// waits reports whether records of the user are to be read and applied before d.
// Where a person has paused the sink but for its erasures none are read, and d
// brings them along (addAhead).
func (p *processor) waits(m *memory, d *debt) bool { return p.mode == modeRun && d.behind > m.next }

// anyWaits reports whether an erasure of m waits for records of its user, which
// may have been compacted away since m was read.
func (p *processor) anyWaits(m *memory) bool {
	for _, d := range m.debts {
		if p.waits(m, d) {
			return true
		}
	}
	return false
}

// reached notes how far the partition is applied.
func (m *memory) reached(k *kgo.Record) { m.next = max(m.next, k.Offset+1) }

// covers reports whether an erasure, owed or paid, was demanded that the change
// r does not outlast. It stays as it is, whatever becomes of r: only a sink that
// wants every change is given r.
func (m *memory) covers(r sinks.Record) bool {
	rank, erased := m.erased.get(r.ClerkID)
	return r.Change != nil && erased && r.Version.Compare(rank) <= 0
}

// afterErasure reports whether it is a change of a user whom the sink has
// erased, and whom no person wants kept: nothing may be kept of him, neither as
// what the sink remembers nor as a dead letter, since no erasure comes any more
// that would end it.
func (p *processor) afterErasure(it *item) bool {
	m, ok := p.partitions[it.record.Source.Partition]
	if !ok || !m.covers(it.record) {
		return false
	}
	_, owed := m.debts[it.record.ClerkID]
	receipt, _ := m.receipts.get(it.record.ClerkID)
	return !owed && receipt.WaivedAt == nil
}
