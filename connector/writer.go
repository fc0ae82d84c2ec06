package connector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/deadletters"
)

// Writer produces what source tasks read and stores their offsets: the one
// place of this package tree that writes to Kafka outside a transaction.
// Safe for concurrent use; concurrent calls share produce requests.
type Writer struct {
	client     *kgo.Client
	codec      *schemas.Codec
	topics     schemas.Topics
	partitions int32
}

// NewWriter returns a writer over client, which must have been made with
// [WriterOptions]. partitions is the pinned number of partitions of
// <prefix>.user-events.
func NewWriter(client *kgo.Client, codec *schemas.Codec, topics schemas.Topics, partitions int32) *Writer {
	return &Writer{client: client, codec: codec, topics: topics, partitions: partitions}
}

// WriterOptions are what a [Writer]'s client needs besides brokers and
// security: idempotent writes acknowledged by all in-sync replicas (franz-go's
// defaults, stated so that nothing can turn them off), partitions computed by
// [schemas.Partition], and no lingering, because a webhook's sender waits for
// the answer; records that arrive during a produce request share the next one.
//
// A context ends a write also when a broker may have it already: else whoever
// has asked would wait for a broker that is gone, for ever, and no process
// could stop meanwhile. The writer's doubt is harmless, see [Writer.Write].
func WriterOptions() []kgo.Opt {
	return []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0),
		kgo.AllowIdempotentProduceCancellation(),
		kgo.ProducerBatchMaxBytes(brokerRecordBytes - headroom),
	}
}

const (
	// brokerRecordBytes is Kafka's default max.message.bytes. A webhook's body
	// is at most 1 MiB, and its Avro form is smaller.
	brokerRecordBytes = 1_048_588
	// headroom is what an event must leave for those after it: the sequencer
	// adds fields and headers to the user, and a sink the headers of a dead
	// letter, about 1 KiB in all. What could be acknowledged but not be
	// published would hold its partition up for ever.
	headroom = 16 << 10
)

// Write produces records and returns when all are acknowledged by all in-sync
// replicas. On an error some may have been written; writing all of them again
// is harmless, since the sequencer drops repetitions.
func (w *Writer) Write(ctx context.Context, records ...SourceRecord) error {
	var out []*kgo.Record
	for _, r := range records {
		produced, err := w.render(r)
		if err != nil {
			return err
		}
		out = append(out, produced...)
	}
	if err := w.client.ProduceSync(ctx, out...).FirstErr(); err != nil {
		return fmt.Errorf("produce %d records: %w", len(out), err)
	}
	return nil
}

// StoreState writes value as JSON under key in <prefix>.connect-state; nil
// removes the key. It returns when the broker has acknowledged it.
func (w *Writer) StoreState(ctx context.Context, key string, value any) error {
	record, err := StateRecord(w.topics, key, value)
	if err != nil {
		return err
	}
	if err := w.client.ProduceSync(ctx, record).FirstErr(); err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	return nil
}

// Tick appends a tick to a partition, which lets the broker compact it.
func (w *Writer) Tick(ctx context.Context, topic string, partition int32) error {
	tick := &kgo.Record{Topic: topic, Partition: partition, Key: []byte(schemas.TickKey)}
	if err := w.client.ProduceSync(ctx, tick).FirstErr(); err != nil {
		return fmt.Errorf("tick %s/%d: %w", topic, partition, err)
	}
	return nil
}

// StateRecord is the record that stores value as JSON under key in
// <prefix>.connect-state; a nil value removes the key.
func StateRecord(topics schemas.Topics, key string, value any) (*kgo.Record, error) {
	record := &kgo.Record{Topic: topics.ConnectState(), Key: []byte(key)}
	if value == nil {
		return record, nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", key, err)
	}
	record.Value = text
	return record, nil
}

func (w *Writer) render(r SourceRecord) ([]*kgo.Record, error) {
	switch {
	case r.Event != nil:
		value, err := w.codec.Encode(r.Event)
		if err != nil {
			return nil, err
		}
		return []*kgo.Record{{
			Topic:     w.topics.UserEvents(),
			Partition: schemas.Partition(r.Event.ClerkID, w.partitions),
			Key:       []byte(r.Event.ClerkID),
			Value:     value,
		}}, nil
	case r.DeadLetter != nil:
		return []*kgo.Record{w.deadLetter(r.DeadLetter)}, nil
	case r.Reread != nil:
		record, err := StateRecord(w.topics, StateKeyRereadPrefix+r.Reread.ClerkID, r.Reread)
		return []*kgo.Record{record}, err
	case r.SnapshotEnd != "":
		ticks := make([]*kgo.Record, w.partitions)
		for p := range ticks {
			ticks[p] = &kgo.Record{
				Topic:     w.topics.UserEvents(),
				Partition: int32(p),
				Key:       []byte(schemas.TickKey),
				Headers: []kgo.RecordHeader{
					{Key: schemas.HeaderSnapshot, Value: []byte(schemas.SnapshotLast)},
					{Key: schemas.HeaderSnapshotID, Value: []byte(r.SnapshotEnd)},
				},
			}
		}
		return ticks, nil
	}
	return nil, errors.New("empty source record")
}

func (w *Writer) deadLetter(d *DeadLetter) *kgo.Record {
	header := func(key, value string) kgo.RecordHeader {
		return kgo.RecordHeader{Key: key, Value: []byte(value)}
	}
	letter := &kgo.Record{
		Topic:     w.topics.DeadLettersWebhook(),
		Partition: schemas.Partition(d.EventID, w.partitions),
		Key:       []byte(d.EventID),
		Headers: []kgo.RecordHeader{
			header(deadletters.HeaderReason, d.Reason),
			header(deadletters.HeaderEventType, d.EventType),
			header(deadletters.HeaderBytes, strconv.Itoa(d.Bytes)),
			header(deadletters.HeaderSHA256, d.SHA256),
			header(deadletters.HeaderErrorAt, strconv.FormatInt(d.Offset, 10)),
			header(deadletters.HeaderReceivedAt, strconv.FormatInt(d.ReceivedAt, 10)),
		},
	}
	if d.ClerkID != "" {
		letter.Headers = append(letter.Headers, header(deadletters.HeaderClerkID, d.ClerkID))
	}
	return letter
}
