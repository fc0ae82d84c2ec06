package transact_test

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"clerkconnect/schemas/transact"
)

// An owner without partitions has joined all the same, and who has not joined
// does not say so: readiness hangs on it.
func TestRun_TellsWhetherItHasJoined(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, input))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	start := func(id string) <-chan transact.Ownership {
		told := make(chan transact.Ownership, 1000)
		running.Go(func() {
			err := transact.Run(ctx, transact.Config{
				Client: []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}, Topic: input, Group: "g", TransactionalID: id, MaxRecords: 1,
				Logger:  slog.New(slog.NewTextHandler(io.Discard, nil)),
				OnOwned: func(o transact.Ownership) { told <- o },
			}, &scripted{due: func() time.Time { return time.Time{} }})
			if err != nil {
				t.Errorf("Run: %v", err)
			}
			close(told)
		})
		return told
	}
	until := func(told <-chan transact.Ownership, done func(transact.Ownership) bool) {
		t.Helper()
		timeout := time.After(2 * time.Minute)
		for {
			select {
			case o, open := <-told:
				if !open {
					t.Fatal("the owner has ended")
				}
				if done(o) {
					return
				}
			case <-timeout:
				t.Fatal("it was not told within two minutes")
			}
		}
	}
	joining := make(chan struct{}, 1000)
	cluster.ControlKey(int16(kmsg.JoinGroup), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		joining <- struct{}{}
		return nil, nil, false
	})
	first := start("a")
	until(first, func(o transact.Ownership) bool {
		if o.Joined && len(joining) == 0 {
			t.Error("joined before it has asked to join")
		}
		return o.Joined && len(o.Ready) == 1
	})
	second := start("b")
	until(second, func(o transact.Ownership) bool { return o.Joined && len(o.Owned) == 0 })
	cancel()
	running.Wait()
	last := transact.Ownership{Joined: true}
	for o := range first {
		last = o
	}
	if last.Joined {
		t.Error("it has ended and says that it has joined")
	}
}
