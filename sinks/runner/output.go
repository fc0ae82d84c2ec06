package runner

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
)

// Headers that a dead letter carries beside those of its record. No text of an
// error is among them: it may quote the user.
const (
	HeaderDLQSink     = "dlq-sink"
	HeaderDLQClass    = "dlq-class"
	HeaderDLQReason   = "dlq-reason"
	HeaderDLQAttempts = "dlq-attempts"
	HeaderDLQOrigin   = "dlq-origin" // topic/partition/offset
)

// render returns what a batch writes to Kafka beside its offsets.
func (p *processor) render(b *batch) ([]*kgo.Record, error) {
	var out []*kgo.Record
	for _, it := range b.items {
		switch {
		case it.fate == dead:
			out = append(out, p.deadLetter(it))
		case it.fate != applied || !it.record.Erase():
		case it.result.Outcome == schemas.OutcomeNotPresent && p.partitions[it.record.Source.Partition].paid(it.record):
			// Erased a second time: the first receipt says how it was done.
		default:
			receipt, err := p.receiptOf(it)
			if err != nil {
				return nil, err
			}
			out = append(out, receipt)
		}
	}
	for id, r := range b.states {
		if _, held := p.partitions[r.partition].states[id]; r.state == nil && !held {
			continue // nothing to forget
		}
		out = append(out, &kgo.Record{
			Topic: p.options.Topics.SinkState(p.cfg.Name), Partition: r.partition, Key: []byte(id), Value: r.state,
		})
	}
	return out, nil
}

func (p *processor) receiptOf(it *item) (*kgo.Record, error) {
	value, err := p.options.Codec.Encode(&schemas.Receipt{
		ClerkID: it.record.ClerkID, Sink: p.cfg.Name,
		Epoch: it.record.Version.Epoch, Version: it.record.Version.Number,
		Outcome: cmp.Or(it.result.Outcome, schemas.OutcomeDeleted), DoneAt: time.Now().UnixMilli(),
	})
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return &kgo.Record{
		Topic: p.options.Topics.ErasureReceipts(), Partition: it.record.Source.Partition,
		Key: []byte(schemas.ReceiptKey(it.record.ClerkID, p.cfg.Name)), Value: value,
	}, nil
}

// deadLetter is the record as it was read, and why it is here. Its value is
// within the policy, since nothing else is ever written to <prefix>.users.
func (p *processor) deadLetter(it *item) *kgo.Record {
	source := it.record.Source
	return &kgo.Record{
		Topic: p.options.Topics.DeadLetters(p.cfg.Name), Partition: source.Partition,
		Key: it.raw.Key, Value: it.raw.Value,
		Headers: append(slices.Clone(it.raw.Headers),
			kgo.RecordHeader{Key: HeaderDLQSink, Value: []byte(p.cfg.Name)},
			kgo.RecordHeader{Key: HeaderDLQClass, Value: []byte(it.problem.Class.String())},
			kgo.RecordHeader{Key: HeaderDLQReason, Value: []byte(it.problem.Reason)},
			kgo.RecordHeader{Key: HeaderDLQAttempts, Value: strconv.AppendInt(nil, int64(it.attempts), 10)},
			kgo.RecordHeader{Key: HeaderDLQOrigin, Value: fmt.Appendf(nil, "%s/%d/%d", source.Topic, source.Partition, source.Offset)},
		),
	}
}
