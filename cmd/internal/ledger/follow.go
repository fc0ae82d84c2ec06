package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/sinks/runner"
)

// ErrNoEffect means that what was waited for has not come in time.
var ErrNoEffect = errors.New("nothing has come of it in time")

// Follower sees what is committed to a topic from the moment on in which it
// was made. Not safe for concurrent use.
type Follower struct{ client *kgo.Client }

// Follow returns a follower of a topic. Close it.
func (l *Ledger) Follow(ctx context.Context, topic string) (*Follower, error) {
	client, err := kgo.NewClient(append(l.Client[:len(l.Client):len(l.Client)], kgo.FetchIsolationLevel(kgo.ReadCommitted()))...)
	if err != nil {
		return nil, err
	}
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		client.Close()
		return nil, fmt.Errorf("follow %s: %w", topic, err)
	}
	from := map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) { from[o.Partition] = kgo.NewOffset().At(o.Offset) })
	client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	return &Follower{client}, nil
}

// Close frees what Follow took.
func (f *Follower) Close() { f.client.Close() }

// Until shows every record to see until that says done, and returns
// [ErrNoEffect] if it has not heard anything of interest for that long.
func (f *Follower) Until(ctx context.Context, patience time.Duration, see func(*kgo.Record) (heard, done bool)) error {
	deadline := time.Now().Add(patience)
	for {
		waiting, cancel := context.WithDeadlineCause(ctx, deadline, ErrNoEffect)
		fetches := f.client.PollFetches(waiting)
		cause := context.Cause(waiting)
		cancel()
		for iter := fetches.RecordIter(); !iter.Done(); {
			heard, done := see(iter.Next())
			if done {
				return nil
			}
			if heard {
				deadline = time.Now().Add(patience)
			}
		}
		if cause != nil && time.Now().After(deadline) || ctx.Err() != nil {
			return cause
		}
		var failed error
		fetches.EachError(func(_ string, _ int32, err error) {
			if waiting.Err() == nil {
				failed = errors.Join(failed, err)
			}
		})
		if failed != nil {
			return failed
		}
	}
}

// Standing reports whether k is the erasure that an event has asked for.
func (l *Ledger) Standing(ctx context.Context, k *kgo.Record, clerkID, eventID string) bool {
	var e schemas.Erasure
	return string(k.Key) == clerkID && k.Value != nil && l.codec().Decode(ctx, k.Value, &e) == nil && e.EventID == eventID
}

// Withdrawn reports whether k withdraws the erasure of a user.
func Withdrawn(k *kgo.Record, clerkID string) bool { return string(k.Key) == clerkID && k.Value == nil }

// Heard reports whether k is a receipt of a sink, written by who had heard of
// a word at that offset of its partition, and whose it is.
func Heard(k *kgo.Record, sink string, words map[string]int64) (clerkID string, ok bool) {
	clerkID, from, ok := schemas.SplitReceiptKey(string(k.Key))
	word, asked := words[clerkID]
	if !ok || !asked || from != sink || k.Value == nil {
		return clerkID, false
	}
	heard, err := strconv.ParseInt(schemas.Header(k.Headers, runner.HeaderHeard), 10, 64)
	return clerkID, err == nil && heard > word
}

// Running reports whether a process runs the sink, as far as its consumer group
// tells; known is false if that cannot be asked.
func (l *Ledger) Running(ctx context.Context, group string) (running, known bool) {
	client, err := kgo.NewClient(l.Client...)
	if err != nil {
		return false, false
	}
	defer client.Close()
	described, err := kadm.NewClient(client).DescribeGroups(ctx, group)
	if err != nil || described[group].Err != nil {
		return false, false
	}
	return len(described[group].Members) > 0, true
}
