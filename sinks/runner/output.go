package runner

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/deadletters"
	"clerkconnect/sinks"
)

// HeaderHeard of a receipt: what stood in the partition before this offset was
// known to its writer.
const HeaderHeard = "clerk-heard"

// render returns what a batch writes to Kafka beside its offsets.
func (p *processor) render(b *batch) ([]*kgo.Record, error) {
	var out []*kgo.Record
	for _, c := range b.checks { // first: the receipt of a later erasure in b is to be the last of its key
		if c.confirmed.IsZero() {
			continue
		}
		c.receipt.ConfirmedAt = millis(c.confirmed)
		receipt, err := p.receiptRecord(c.receipt, c.partition)
		if err != nil {
			return nil, err
		}
		out = append(out, receipt)
	}
	p.dropOvertaken(b)
	for _, it := range b.items {
		switch {
		case it.fate == dead:
			letter := p.deadLetter(it)
			out, b.letters = append(out, letter), append(b.letters, letter)
		case it.fate == applied && it.record.Erase():
			if !p.receiptFor(it) {
				continue // erased a second time: the first receipt says it all
			}
			receipt, err := p.receiptRecord(it.receipt, it.record.Source.Partition)
			if err != nil {
				return nil, err
			}
			out = append(out, receipt)
		}
	}
	for id, r := range b.states {
		if !r.known.equal(p.committedOf(id, r.partition)) {
			out = append(out, p.stateRecord(id, r))
		}
	}
	for partition, m := range p.partitions {
		if m.unmarked {
			out = append(out, p.enabledRecord(partition, m))
			b.marked = append(b.marked, m)
		}
	}
	answers := p.answers(b)
	b.letters = append(b.letters, answers...)
	return append(out, answers...), nil
}

// receiptFor sets the receipt of an erasure that is done, and when it is to be
// read back. It reports whether that says more than the receipt that is there:
// a repetition, which finds nobody or cannot tell, does not replace how and
// when it was done.
func (p *processor) receiptFor(it *item) (news bool) {
	known, covers := p.partitions[it.record.Source.Partition].paid(it.record)
	first, repeated := p.done[it.record.ClerkID]
	nobody := it.result.Outcome == schemas.OutcomeNotPresent || it.result.Outcome == ""
	switch {
	case covers && (nobody || it.result.Outcome == known.Outcome):
		it.receipt = known
	case nobody && repeated && first.version == it.record.Version:
		it.receipt = p.newReceipt(it.record, first)
	default:
		it.receipt = p.newReceipt(it.record, outcome{result: it.result, at: it.done})
	}
	if it.receipt.ConfirmedAt == nil && !it.confirmed.IsZero() {
		it.receipt.ConfirmedAt = millis(it.confirmed)
	}
	if p.confirmer != nil && it.receipt.ConfirmedAt == nil {
		it.due = it.done.Add(p.facts.ConfirmAfter)
	}
	return !covers || it.receipt != known
}

func (p *processor) newReceipt(r sinks.Record, o outcome) schemas.Receipt {
	receipt := schemas.Receipt{
		ClerkID: r.ClerkID, Epoch: r.Version.Epoch, Version: r.Version.Number,
		Outcome: cmp.Or(o.result.Outcome, schemas.OutcomeDeleted), DoneAt: o.at.UnixMilli(),
	}
	if o.result.Reason != "" {
		receipt.Reason = &o.result.Reason
	}
	return receipt
}

func millis(t time.Time) *int64 { return new(t.UnixMilli()) }

func (p *processor) receiptRecord(receipt schemas.Receipt, partition int32) (*kgo.Record, error) {
	receipt.Sink = p.cfg.Name
	value, err := p.options.Codec.Encode(&receipt)
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return &kgo.Record{
		Topic: p.options.Topics.ErasureReceipts(), Partition: partition,
		Key: []byte(schemas.ReceiptKey(receipt.ClerkID, p.cfg.Name)), Value: value,
		Headers: []kgo.RecordHeader{{Key: HeaderHeard, Value: strconv.AppendInt(nil, p.partitions[partition].heard, 10)}},
	}, nil
}

// deadLetter is the record as it was read, and why it is here. Its value is
// within the policy, since nothing else is ever written to <prefix>.users.
func (p *processor) deadLetter(it *item) *kgo.Record {
	source := it.record.Source
	headers := deadletters.Original(it.raw.Headers)
	add := func(name, value string) {
		if value != "" {
			headers = append(headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
		}
	}
	add(deadletters.HeaderSink, p.cfg.Name)
	add(deadletters.HeaderClass, it.problem.Class.String())
	add(deadletters.HeaderReason, string(it.problem.Reason))
	add(deadletters.HeaderMessage, message(it.problem))
	add(deadletters.HeaderAttempts, strconv.Itoa(it.attempts))
	add(deadletters.HeaderOrigin, deadletters.Origin(source).String())
	add(deadletters.HeaderHeldBy, it.problem.HeldBy)
	if it.letter != nil { // it takes the place of that one
		replays := it.letter.Replays + 1
		add(deadletters.HeaderLetter, strconv.FormatInt(it.letter.Offset, 10))
		add(deadletters.HeaderReplays, strconv.Itoa(replays))
		if replays >= p.cfg.MaxReplays {
			add(deadletters.HeaderParked, "true")
		}
	}
	return &kgo.Record{
		Topic: p.options.Topics.DeadLetters(p.cfg.Name), Partition: source.Partition,
		Key: it.raw.Key, Value: it.raw.Value, Headers: headers,
	}
}

// message is what an error says to a person. One that the sink has not classified
// may quote the user, and is left to the log of the process.
func message(problem sinks.Error) string {
	if problem.Reason == sinks.ReasonUnknown || problem.Err == nil {
		return ""
	}
	text := problem.Err.Error()
	return strings.ToValidUTF8(text[:min(len(text), deadletters.MaxMessage)], "")
}
