package sequencer

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

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

// TestGaps_NoAnswerIsNoGap: while the broker cannot tell where a partition's log
// begins, nobody knows whether events were lost, so that the look is repeated.
func TestGaps_NoAnswerIsNoGap(t *testing.T) {
	t.Parallel()
	names := schemas.Topics{Prefix: "clerk"}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, names.UserEvents(), names.ConnectState()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	opts := []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}
	loseEvents(t, opts, names)
	writer := flags{map[string]any{}}
	g := newGaps(Config{Client: opts, Topics: names, Writer: writer, Logger: slog.New(slog.DiscardHandler)},
		prometheus.NewGauge(prometheus.GaugeOpts{Name: "gaps"}))
	var failing atomic.Bool
	failing.Store(true)
	cluster.ControlKey(int16(kmsg.ListOffsets), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if !failing.Load() {
			return nil, nil, false
		}
		answer := request.ResponseKind().(*kmsg.ListOffsetsResponse)
		partition := kmsg.NewListOffsetsResponseTopicPartition()
		partition.ErrorCode, partition.Offset = kerr.UnknownServerError.Code, -1
		topic := kmsg.NewListOffsetsResponseTopic()
		topic.Topic, topic.Partitions = names.UserEvents(), append(topic.Partitions, partition)
		answer.Topics = append(answer.Topics, topic)
		return answer, nil, true
	})
	if err := g.check(t.Context(), 0); !errors.Is(err, kerr.UnknownServerError) || len(writer.stored) != 0 {
		t.Errorf("without an answer: got %v, flagged %v; want an error", err, writer.stored)
	}
	failing.Store(false)
	if err := g.check(t.Context(), 0); err != nil || len(writer.stored) != 1 {
		t.Errorf("with an answer: got %v, flagged %v; want the gap", err, writer.stored)
	}
}

// loseEvents has the group commit an offset, and the log begin behind it.
func loseEvents(t *testing.T, opts []kgo.Opt, names schemas.Topics) {
	t.Helper()
	client, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	const committed = 3
	for range committed + 2 {
		if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: names.UserEvents(), Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	admin, done, lost := kadm.NewClient(client), kadm.Offsets{}, kadm.Offsets{}
	done.AddOffset(names.UserEvents(), 0, committed, -1)
	lost.AddOffset(names.UserEvents(), 0, committed+1, -1)
	if err := admin.CommitAllOffsets(t.Context(), Group(names), done); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.DeleteRecords(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
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
