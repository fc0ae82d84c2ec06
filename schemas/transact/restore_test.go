package transact_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas/transact"
)

// late is a processor that cannot restore anything at first.
type late struct {
	scripted
	failures atomic.Int32 // still to come, of each of its partitions
}

func (l *late) Restore(context.Context, int32) (func(), error) {
	if l.failures.Add(-1) >= 0 {
		return nil, errors.New("not yet")
	}
	return func() {}, nil
}

// A restore is tried every second: a broker that is away for an hour must not
// fill the log.
func TestRun_RestoreWarnsOnce(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, input))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	ctx, cancel := context.WithCancel(t.Context())
	processor := &late{scripted: scripted{due: func() time.Time { return time.Time{} }}}
	processor.failures.Store(3)
	var log bytes.Buffer
	err = transact.Run(ctx, transact.Config{
		Client: []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}, Topic: input, Group: "g", TransactionalID: "a", MaxRecords: 1,
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
		OnOwned: func(o transact.Ownership) {
			if len(o.Ready) == 1 {
				cancel()
			}
		},
	}, processor)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	if got := strings.Count(log.String(), "restore, will retry"); got != 1 {
		t.Errorf("got %d warnings of 3 failures, want 1:\n%s", got, log.String())
	}
	if !strings.Contains(log.String(), "failures=3") {
		t.Errorf("the log does not tell of the end:\n%s", log.String())
	}
}
