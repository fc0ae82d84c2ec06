// Package compacted reads a compacted partition from its start to its end.
//
// Whatever a component of clerk-connect must remember stands in a compacted
// topic, so this is how each of them starts.
package compacted

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// stalledAfter bounds the wait for the next record. The longest legal pause is
// that of a transaction whose owner was paused: its timeout, 10 s here, and at
// most as long again until the broker looks (23 s was seen at 15 s).
const stalledAfter = 60 * time.Second

// ErrStalled means that the end of the partition was not reached although
// nothing came any more.
var ErrStalled = errors.New("partition read stalled")

// ErrNoPartition means that the topic is not there, or not that partition.
var ErrNoPartition = errors.New("no such partition")

// Read calls each for every committed record of a partition, in order, from
// the start up to the end as it is when Read is called, and returns when it
// has read all of them. Transactions that are open then are waited for: what
// they commit is part of the result. opts name the brokers and the security;
// the client is Read's own, without a group. each may keep the record. An
// error of each ends the read and is returned as it is.
func Read(ctx context.Context, opts []kgo.Opt, topic string, partition int32, each func(*kgo.Record) error) error {
	return ReadRange(ctx, opts, topic, partition, 0, math.MaxInt64, each)
}

// ReadRange is [Read] from the offset from, or from the start of the log if
// that is later, and up to the offset to at most, which is left out.
func ReadRange(ctx context.Context, opts []kgo.Opt, topic string, partition int32, from, to int64, each func(*kgo.Record) error) error {
	client, err := kgo.NewClient(append(opts[:len(opts):len(opts)],
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // they show how far the read has come at the end of a transaction
	)...)
	if err != nil {
		return fmt.Errorf("read %s/%d: %w", topic, partition, err)
	}
	defer client.Close()

	start, end, err := bounds(ctx, client, topic, partition)
	if err != nil {
		return fmt.Errorf("read %s/%d: %w", topic, partition, err)
	}
	start, end = max(start, from), min(end, to)
	client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(start)}})
	for position := start; position < end; {
		next, err := poll(ctx, client, end, position, each)
		if err != nil {
			return fmt.Errorf("read %s/%d at offset %d of %d: %w", topic, partition, position, end, err)
		}
		position = next
	}
	return nil
}

// bounds returns the partition's first offset and its high watermark.
func bounds(ctx context.Context, client *kgo.Client, topic string, partition int32) (start, end int64, err error) {
	admin := kadm.NewClient(client)
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return 0, 0, err
	}
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, 0, err
	}
	first, ok := starts.Lookup(topic, partition)
	last, ok2 := ends.Lookup(topic, partition)
	if !ok || !ok2 {
		return 0, 0, ErrNoPartition
	}
	return first.Offset, last.Offset, errors.Join(first.Err, last.Err)
}

// poll handles one fetch and returns the position after it.
func poll(ctx context.Context, client *kgo.Client, end, position int64, each func(*kgo.Record) error) (int64, error) {
	waiting, cancel := context.WithTimeoutCause(ctx, stalledAfter, ErrStalled)
	defer cancel()
	fetches := client.PollFetches(waiting)
	if waiting.Err() != nil {
		return position, context.Cause(waiting)
	}
	var failed error
	fetches.EachError(func(_ string, _ int32, err error) { failed = errors.Join(failed, err) })
	if failed != nil {
		return position, failed
	}
	for iter := fetches.RecordIter(); !iter.Done(); {
		record := iter.Next()
		if record.Offset >= end {
			return end, nil
		}
		position = record.Offset + 1
		if record.Attrs.IsControl() {
			continue
		}
		if err := each(record); err != nil {
			return position, err
		}
	}
	return position, nil
}
