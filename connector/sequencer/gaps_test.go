package sequencer

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/schemas"
)

// TestGaps_AreReadAgain: who cannot read at the start what those before him
// have flagged goes on trying, and is not ready until then.
func TestGaps_AreReadAgain(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	names := schemas.Topics{Prefix: "clerk"}
	var log lockedBuffer
	g := newGaps(Config{
		Client: []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}, Topics: names, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	}, prometheus.NewGauge(prometheus.GaugeOpts{Name: "gaps"}))
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { g.watchForever(ctx) })
	t.Cleanup(func() { cancel(); watching.Wait() })
	until := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s does not happen:\n%s", what, log.String())
			}
		}
	}
	until("a failure, since the topic is missing", func() bool { return strings.Contains(log.String(), "look for gaps") })
	if open, known := g.list(); known {
		t.Fatalf("got %v, known, before anything was read", open)
	}
	if _, err := kadm.NewClient(client).CreateTopic(t.Context(), 1, 1, nil, names.ConnectState()); err != nil {
		t.Fatal(err)
	}
	flag, err := connector.StateRecord(names, connector.StateKeyGapPrefix+"3", connector.Gap{LogStart: 7})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(t.Context(), flag).FirstErr(); err != nil {
		t.Fatal(err)
	}
	until("the gap of the process before", func() bool {
		open, known := g.list()
		return known && slices.Equal(open, []int32{3})
	})
}

// lockedBuffer is a buffer that one goroutine writes and another reads.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
