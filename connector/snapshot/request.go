package snapshot

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/schemas"
)

// Request asks for a new snapshot, which the one live task takes, and returns
// the wish, whose ID [Follow] takes. It waits for the broker, not for the task.
func Request(ctx context.Context, writer Writer) (connector.SnapshotRequest, error) {
	wish := connector.SnapshotRequest{ID: "request-" + rand.Text(), RequestedAt: time.Now().UnixMilli()}
	if err := writer.StoreState(ctx, connector.StateKeySnapshotRequest, wish); err != nil {
		return connector.SnapshotRequest{}, fmt.Errorf("request a snapshot: %w", err)
	}
	return wish, nil
}

// Follow calls each with every checkpoint of the snapshot task until the
// snapshot that request asked for is finished, or ctx is done. Checkpoints of a
// snapshot that was under way before are told too. opts say how to reach the
// brokers.
func Follow(ctx context.Context, opts []kgo.Opt, topics schemas.Topics, request string, each func(connector.SourceOffset)) error {
	client, err := kgo.NewClient(append(opts[:len(opts):len(opts)],
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topics.ConnectState(): {0: kgo.NewOffset().AtStart()}}),
	)...)
	if err != nil {
		return fmt.Errorf("follow snapshot: %w", err)
	}
	defer client.Close()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var failed error
		fetches.EachError(func(_ string, _ int32, err error) { failed = errors.Join(failed, err) })
		if failed != nil {
			return fmt.Errorf("follow snapshot: %w", failed)
		}
		for iter := fetches.RecordIter(); !iter.Done(); {
			record := iter.Next()
			if string(record.Key) != connector.StateKeySnapshotOffset || record.Value == nil {
				continue
			}
			var offset connector.SourceOffset
			if err := json.Unmarshal(record.Value, &offset); err != nil {
				return fmt.Errorf("follow snapshot: offset %d: %w", record.Offset, err)
			}
			each(offset)
			if offset.Request == request && offset.FinishedAt != 0 {
				return nil
			}
		}
	}
}
