package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// recoverTimeout bounds the repair: it reads everything once, from memory or
// from a local disk.
const recoverTimeout = 5 * time.Minute

// transaction names one: every transaction of a producer has its own epoch
// (KIP-890).
type transaction struct {
	producer int64
	epoch    int16
}

type place struct {
	topic     string
	partition int32
}

// repair finishes the transactions that a crash has cut off, which kfake does
// not do as Kafka does:
//
//   - It writes the marks of a transaction partition by partition, so that a
//     crash can leave a transaction committed in some and open in others. What
//     is open of such a one is written again: it was committed.
//   - It takes what was open for aborted but writes no mark. Readers would wait
//     for the mark for ever, and after a second crash what the same producer
//     commits later would bring it back. So the mark is written.
//
// The offsets of the group are written after all marks; if the crash came in
// between, the input is read again, and found to be known.
func (b *Broker) repair(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, recoverTimeout, errors.New("the broker's data could not be read in time"))
	defer cancel()
	open, committed, err := b.scan(ctx)
	if err != nil || len(open) == 0 {
		return err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Address), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer client.Close()
	var marks []kadm.TxnMarkers
	for at, transactions := range open {
		for t, records := range transactions {
			if committed[t] {
				if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
					return fmt.Errorf("write a committed transaction again: %w", err)
				}
			}
			marks = append(marks, kadm.TxnMarkers{
				ProducerID: t.producer, ProducerEpoch: t.epoch,
				Topics: kadm.TopicsSet{at.topic: {at.partition: {}}},
			})
		}
	}
	responses, err := kadm.NewClient(client).WriteTxnMarkers(ctx, marks...)
	if err != nil {
		return fmt.Errorf("mark aborted transactions: %w", err)
	}
	for _, response := range responses {
		for _, partition := range response.Topics.Sorted() {
			for _, p := range partition.Partitions.Sorted() {
				err = errors.Join(err, p.Err)
			}
		}
	}
	return err
}

// scan reads every partition and returns what belongs to transactions without
// a mark, and the transactions that have a mark of a commit anywhere.
func (b *Broker) scan(ctx context.Context) (open map[place]map[transaction][]*kgo.Record, committed map[transaction]bool, err error) {
	from, until, err := b.bounds(ctx)
	if err != nil || len(until) == 0 {
		return nil, nil, err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Address), kgo.KeepControlRecords(), kgo.ConsumePartitions(from))
	if err != nil {
		return nil, nil, err
	}
	defer client.Close()
	open, committed = map[place]map[transaction][]*kgo.Record{}, map[transaction]bool{}
	for len(until) > 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		if err := fetches.Err(); err != nil {
			return nil, nil, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			at := place{r.Topic, r.Partition}
			note(open, committed, at, r)
			if r.Offset+1 >= until[at] {
				delete(until, at)
			}
		})
	}
	return open, committed, nil
}

// note takes one record of a scan into account.
func note(open map[place]map[transaction][]*kgo.Record, committed map[transaction]bool, at place, r *kgo.Record) {
	t := transaction{r.ProducerID, r.ProducerEpoch}
	switch {
	case r.Attrs.IsControl():
		// The key of a mark is its version and its type, two bytes each; type 1
		// is a commit. https://kafka.apache.org/documentation/#controlbatch
		if len(r.Key) >= 4 && binary.BigEndian.Uint16(r.Key[2:]) == 1 {
			committed[t] = true
		}
		delete(open[at], t)
		if len(open[at]) == 0 {
			delete(open, at)
		}
	case r.Attrs.IsTransactional():
		if open[at] == nil {
			open[at] = map[transaction][]*kgo.Record{}
		}
		open[at][t] = append(open[at][t], &kgo.Record{
			Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers,
		})
	}
}

// bounds returns where the partitions that are not empty begin and end.
func (b *Broker) bounds(ctx context.Context) (from map[string]map[int32]kgo.Offset, until map[place]int64, err error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Address))
	if err != nil {
		return nil, nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	starts, err := admin.ListStartOffsets(ctx)
	if err != nil {
		return nil, nil, err
	}
	ends, err := admin.ListEndOffsets(ctx)
	if err != nil {
		return nil, nil, err
	}
	from, until = map[string]map[int32]kgo.Offset{}, map[place]int64{}
	ends.Each(func(end kadm.ListedOffset) {
		start, _ := starts.Lookup(end.Topic, end.Partition)
		if end.Offset <= start.Offset {
			return
		}
		if from[end.Topic] == nil {
			from[end.Topic] = map[int32]kgo.Offset{}
		}
		from[end.Topic][end.Partition] = kgo.NewOffset().At(start.Offset)
		until[place{end.Topic, end.Partition}] = end.Offset
	})
	return from, until, nil
}
