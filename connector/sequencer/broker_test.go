package sequencer_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/connector/sequencer"
	"clerkconnect/connector/topics"
	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
	"clerkconnect/schemas/transact"
)

// brokers runs a test against the in-process broker, and against the Kafka
// that TEST_KAFKA_BROKERS names.
func brokers(t *testing.T, test func(t *testing.T, opts []kgo.Opt)) {
	t.Helper()
	t.Run("kfake", func(t *testing.T) {
		t.Parallel()
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cluster.Close)
		test(t, []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)})
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		addresses := os.Getenv("TEST_KAFKA_BROKERS")
		if addresses == "" {
			if os.Getenv("CI") == "true" {
				t.Fatal("TEST_KAFKA_BROKERS is not set: make services")
			}
			t.Skip("TEST_KAFKA_BROKERS is not set")
		}
		test(t, []kgo.Opt{kgo.SeedBrokers(strings.Split(addresses, ",")...)})
	})
}

// deployment is a set of topics with a random prefix and what is needed to run
// sequencers over them.
type deployment struct {
	opts   []kgo.Opt
	topics schemas.Topics
	pins   connector.Pins
	writer *connector.Writer
	codec  *schemas.Codec
	client *kgo.Client
}

func deploy(t *testing.T, opts []kgo.Opt, partitions int32) *deployment {
	t.Helper()
	d := &deployment{opts: opts, topics: schemas.Topics{Prefix: "test-" + strings.ToLower(rand.Text()[:10])}, codec: &schemas.Codec{}}
	var err error
	d.pins, err = topics.Ensure(t.Context(), opts, topics.Config{Prefix: d.topics.Prefix, Partitions: partitions, ReplicationFactor: -1, Create: true}, nil, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if d.client, err = kgo.NewClient(append(opts, connector.WriterOptions()...)...); err != nil {
		t.Fatal(err)
	}
	d.writer = connector.NewWriter(d.client, d.codec, d.topics, partitions)
	t.Cleanup(func() {
		admin := kadm.NewClient(d.client)
		found, err := admin.ListTopics(context.Background())
		if err == nil {
			for _, name := range found.Names() {
				if strings.HasPrefix(name, d.topics.Prefix+".") {
					_, _ = admin.DeleteTopics(context.Background(), name)
				}
			}
		}
		d.client.Close()
	})
	return d
}

// start runs a sequencer until the returned function is called.
func (d *deployment) start(t *testing.T, instance string) (*sequencer.Sequencer, func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := sequencer.New(sequencer.Config{
		Client: d.opts, Codec: d.codec, Topics: d.topics, Pins: d.pins, Instance: instance, Writer: d.writer,
		Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
		SessionTimeout: 6 * time.Second, TickInterval: 50 * time.Millisecond,
	})
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	var result error
	stop := func() error {
		once.Do(func() { cancel(); result = <-done })
		return result
	}
	t.Cleanup(func() { _ = stop() })
	return s, stop
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(b)))
	return len(b), nil
}

// table reads clerk.users as a new consumer does, and fails if it steps back.
func (d *deployment) table(t *testing.T) map[string]*schemas.UserChange {
	t.Helper()
	table := map[string]*schemas.UserChange{}
	versions := map[string]schemas.Version{}
	for p := range d.pins.Partitions {
		err := compacted.Read(t.Context(), d.opts, d.topics.Users(), p, func(r *kgo.Record) error {
			if string(r.Key) == schemas.TickKey {
				return nil
			}
			headers, err := schemas.ParseChangeHeaders(r.Headers)
			if err != nil {
				return err
			}
			if headers.Version.Compare(versions[string(r.Key)]) <= 0 {
				t.Errorf("%s: version %v after %v", r.Key, headers.Version, versions[string(r.Key)])
			}
			versions[string(r.Key)] = headers.Version
			table[string(r.Key)] = nil
			if r.Value != nil {
				change := &schemas.UserChange{}
				if err := d.codec.Decode(t.Context(), r.Value, change); err != nil {
					return err
				}
				table[string(r.Key)] = change
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return table
}

func event(user string, updatedAt int64, name string) *schemas.UserEvent {
	return &schemas.UserEvent{
		ClerkID: user, Operation: schemas.EventUpsert, Origin: schemas.OriginWebhook, EventID: rand.Text(), EventType: "user.updated",
		UpdatedAt: updatedAt, StatedAt: updatedAt, OccurredAt: updatedAt, ReceivedAt: time.Now().UnixMilli(),
		Fingerprint: int64(len(name))<<32 + updatedAt, User: &schemas.User{FirstName: &name, UpdatedAt: &updatedAt},
	}
}

func deletion(user string, stated int64) *schemas.UserEvent {
	return &schemas.UserEvent{
		ClerkID: user, Operation: schemas.EventDelete, Origin: schemas.OriginWebhook, EventID: rand.Text(), EventType: "user.deleted",
		StatedAt: stated, OccurredAt: stated, ReceivedAt: time.Now().UnixMilli(),
	}
}

// patience bounds every wait for something that is to happen; it costs nothing
// where it does, so it is far beyond what a machine takes that does much else.
const patience = 2 * time.Minute

// eventually polls a condition until it holds or the time is up.
func eventually(t *testing.T, within time.Duration, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (d *deployment) caughtUp(t *testing.T, sequencers ...*sequencer.Sequencer) func() bool {
	admin := kadm.NewClient(d.client)
	return func() bool {
		owned := 0
		var lag int64
		for _, s := range sequencers {
			owned += len(s.Status().Ready)
			behind, err := s.Lag(t.Context(), admin)
			if err != nil {
				return false
			}
			lag += behind
		}
		return owned == int(d.pins.Partitions) && lag == 0
	}
}

// TestSequencer_OrdersOverRestarts: a shuffled history with repetitions, given
// to sequencers that come and go, ends at the newest state of each user.
func TestSequencer_OrdersOverRestarts(t *testing.T) {
	brokers(t, func(t *testing.T, opts []kgo.Opt) {
		d := deploy(t, opts, 4)
		const users, updates = 40, 8
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		random := mathrand.New(mathrand.NewPCG(seed, 0))
		var history []connector.SourceRecord
		for u := range users {
			id := fmt.Sprintf("user_%d", u)
			for v := range updates {
				e := event(id, int64(1000+v), fmt.Sprintf("name %d", v))
				history = append(history, connector.SourceRecord{Event: e}, connector.SourceRecord{Event: e})
			}
			if u%4 == 0 {
				history = append(history, connector.SourceRecord{Event: deletion(id, 1000)})
			}
		}
		random.Shuffle(len(history), func(i, j int) { history[i], history[j] = history[j], history[i] })

		first, stopFirst := d.start(t, "a")
		second, stopSecond := d.start(t, "b")
		third := len(history) / 3
		if err := d.writer.Write(t.Context(), history[:third]...); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "both sequencers have caught up", d.caughtUp(t, first, second))
		if err := d.writer.Write(t.Context(), history[third:2*third]...); err != nil {
			t.Fatal(err)
		}
		if err := stopFirst(); err != nil {
			t.Fatal(err)
		}
		if err := d.writer.Write(t.Context(), history[2*third:]...); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "the one that is left has caught up", d.caughtUp(t, second))
		if err := stopSecond(); err != nil {
			t.Fatal(err)
		}
		last, stopLast := d.start(t, "a")
		if err := d.writer.Write(t.Context(), history...); err != nil { // everything once more
			t.Fatal(err)
		}
		eventually(t, patience, "the restarted one has caught up", d.caughtUp(t, last))
		if known := last.Status().Known; known != users {
			t.Errorf("known users: got %d, want %d", known, users)
		}
		if err := stopLast(); err != nil {
			t.Fatal(err)
		}
		table := d.table(t)
		for u := range users {
			id := fmt.Sprintf("user_%d", u)
			got, ok := table[id]
			switch {
			case !ok:
				t.Errorf("%s: missing", id)
			case u%4 == 0 && got != nil:
				t.Errorf("%s: came back", id)
			case u%4 != 0 && (got == nil || *got.User.FirstName != fmt.Sprintf("name %d", updates-1)):
				t.Errorf("%s: got %+v", id, got)
			}
		}
	})
}

// TestSequencer_DuplicateInstance: of two live processes with one name the
// older one stops and says why.
func TestSequencer_DuplicateInstance(t *testing.T) {
	brokers(t, func(t *testing.T, opts []kgo.Opt) {
		d := deploy(t, opts, 2)
		first, stopFirst := d.start(t, "same")
		eventually(t, patience, "the first is ready", d.caughtUp(t, first))
		_, stopSecond := d.start(t, "same")
		eventually(t, patience, "the first has left by itself", func() bool { return first.Status().Left })
		if err := stopFirst(); !errors.Is(err, transact.ErrDuplicateInstance) {
			t.Errorf("the first: got %v, want %v", err, transact.ErrDuplicateInstance)
		}
		if err := d.writer.Write(t.Context(), connector.SourceRecord{Event: event("user_1", 1000, "n")}); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "the second does the work", func() bool { return d.table(t)["user_1"] != nil })
		if err := stopSecond(); err != nil {
			t.Errorf("the second: got %v", err)
		}
	})
}

// TestSequencer_Gap: events that retention took before they were sequenced are
// noticed, and stay flagged until the flag is taken away.
func TestSequencer_Gap(t *testing.T) {
	brokers(t, func(t *testing.T, opts []kgo.Opt) {
		d := deploy(t, opts, 1)
		s, stop := d.start(t, "a")
		if err := d.writer.Write(t.Context(), connector.SourceRecord{Event: event("user_1", 1000, "n")}); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "caught up", d.caughtUp(t, s))
		if gaps := s.Status().Gaps; len(gaps) != 0 {
			t.Fatalf("gaps %v before anything was lost", gaps)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if err := d.writer.Write(t.Context(), connector.SourceRecord{Event: event("user_2", 1000, "n")}, connector.SourceRecord{Event: event("user_3", 1000, "n")}); err != nil {
			t.Fatal(err)
		}
		lost := kadm.Offsets{}
		lost.AddOffset(d.topics.UserEvents(), 0, 2, -1) // user_2's event is behind the committed offset 1
		if _, err := kadm.NewClient(d.client).DeleteRecords(t.Context(), lost); err != nil {
			t.Fatal(err)
		}
		again, _ := d.start(t, "a")
		eventually(t, patience, "the gap is flagged", func() bool { return len(again.Status().Gaps) == 1 })
		if err := d.writer.StoreState(t.Context(), connector.StateKeyGapPrefix+"0", nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "the gap is closed", func() bool { return len(again.Status().Gaps) == 0 })
	})
}

// TestSequencer_PartitionCountChanged: a user in a partition that is not his
// stops the sequencer before it writes anything wrong.
func TestSequencer_PartitionCountChanged(t *testing.T) {
	brokers(t, func(t *testing.T, opts []kgo.Opt) {
		d := deploy(t, opts, 3)
		wrong := connector.NewWriter(d.client, d.codec, d.topics, 1)
		id := "user_1"
		for i := 0; schemas.Partition(id, 3) == 0; i++ {
			id = fmt.Sprint("user_", i)
		}
		if err := wrong.Write(t.Context(), connector.SourceRecord{Event: event(id, 1000, "n")}); err != nil {
			t.Fatal(err)
		}
		s, stop := d.start(t, "a")
		eventually(t, patience, "it owned partitions and has left the group", func() bool {
			return s.Status().Left
		})
		if err := stop(); err == nil || !strings.Contains(err.Error(), "number of partitions") {
			t.Fatalf("got %v", err)
		}
	})
}

// TestSequencer_Ticks: every partition of the compacted topics is written to,
// and the end of a snapshot arrives behind its rows.
func TestSequencer_Ticks(t *testing.T) {
	brokers(t, func(t *testing.T, opts []kgo.Opt) {
		d := deploy(t, opts, 2)
		s, _ := d.start(t, "a")
		if err := d.writer.Write(t.Context(), connector.SourceRecord{SnapshotEnd: "snap_1"}); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "caught up", d.caughtUp(t, s))
		for p := range d.pins.Partitions {
			ended := false
			read := func(topic string) (ticks int) {
				err := compacted.Read(t.Context(), d.opts, topic, p, func(r *kgo.Record) error {
					if string(r.Key) == schemas.TickKey {
						ticks++
						ended = ended || schemas.Header(r.Headers, schemas.HeaderSnapshotID) == "snap_1"
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				return ticks
			}
			for _, topic := range []string{d.topics.Users(), d.topics.SequencerState(), d.topics.Erasures(), d.topics.ErasureReceipts()} {
				eventually(t, patience, "a tick in "+topic, func() bool { return read(topic) > 0 })
			}
			if !ended {
				t.Errorf("partition %d: the end of the snapshot is missing", p)
			}
		}
	})
}
