package runner

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
	"clerkconnect/schemas/transact"
	"clerkconnect/sinks"
	memorysink "clerkconnect/sinks/memory"
)

const partitions = 3

// broker is a Kafka with the topics of a deployment.
type broker struct {
	t        *testing.T
	cluster  *kfake.Cluster // nil if it is not in the test's process
	client   []kgo.Opt
	prefix   string
	session  time.Duration // timeout of the groups: longer than a loaded machine may leave a process without its turn
	created  map[string]bool
	producer *kgo.Client // writes as the sequencer does: in transactions
}

// newBroker returns one in the test's process.
func newBroker(t *testing.T) *broker {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return connect(&broker{t: t, cluster: cluster, prefix: topics.Prefix, session: 6 * time.Second}, cluster.ListenAddrs())
}

// onEachBroker runs a test on a broker in the test's process and on the one
// that TEST_KAFKA_BROKERS names, there with topics of its own.
func onEachBroker(t *testing.T, test func(t *testing.T, b *broker)) {
	t.Run("in-process", func(t *testing.T) {
		t.Parallel()
		test(t, newBroker(t))
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		addresses := os.Getenv("TEST_KAFKA_BROKERS")
		if addresses == "" {
			if os.Getenv("CI") == "true" {
				t.Fatal("TEST_KAFKA_BROKERS is not set: make services")
			}
			t.Skip("TEST_KAFKA_BROKERS is not set: make services")
		}
		b := &broker{t: t, prefix: "test-" + strings.ToLower(crand.Text()[:10]), session: 6 * time.Second}
		test(t, connect(b, strings.Split(addresses, ",")))
	})
}

func connect(b *broker, addresses []string) *broker {
	b.t.Helper()
	b.client, b.created = []kgo.Opt{kgo.SeedBrokers(addresses...)}, map[string]bool{}
	var err error
	b.producer, err = kgo.NewClient(append(b.client, kgo.TransactionalID(b.prefix+".sequencer"), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		_, _ = kadm.NewClient(b.producer).DeleteTopics(context.Background(), slices.Collect(maps.Keys(b.created))...)
		b.producer.Close()
	})
	b.create(topics.Users(), topics.Erasures(), topics.ErasureReceipts())
	return b
}

// named returns the name that a topic has at b.
func (b *broker) named(topic string) string {
	return b.prefix + strings.TrimPrefix(topic, topics.Prefix)
}

func (b *broker) create(names ...string) {
	b.t.Helper()
	for _, name := range names {
		name = b.named(name)
		if b.created[name] {
			continue
		}
		b.created[name] = true
		admin := kadm.NewClient(b.producer)
		if _, err := admin.CreateTopic(b.t.Context(), partitions, 1, nil, name); err != nil {
			b.t.Fatal(err)
		}
		eventually(b.t, "topic known to the broker", func() bool {
			ends, err := admin.ListEndOffsets(b.t.Context(), name)
			return err == nil && ends.Error() == nil && len(ends[name]) == partitions
		})
	}
}

// write writes records in one transaction, each to its user's partition.
func (b *broker) write(records ...*kgo.Record) {
	b.t.Helper()
	if err := b.producer.BeginTransaction(); err != nil {
		b.t.Fatal(err)
	}
	for _, r := range records {
		id, _, _ := strings.Cut(string(r.Key), "/")
		r.Topic, r.Partition = b.named(r.Topic), schemas.Partition(id, partitions)
	}
	err := b.producer.ProduceSync(b.t.Context(), records...).FirstErr()
	if err = errors.Join(err, b.producer.EndTransaction(b.t.Context(), kgo.TryCommit)); err != nil {
		b.t.Fatal(err)
	}
}

// erasure is what the sequencer writes beside a tombstone; nil withdraws it.
func erasure(id string, e *schemas.Erasure) *kgo.Record {
	r := &kgo.Record{Topic: topics.Erasures(), Key: []byte(id)}
	if e != nil {
		r.Value, _ = (&schemas.Codec{}).Encode(e)
	}
	return r
}

// records returns all committed records of a topic.
func (b *broker) records(topic string) (records []*kgo.Record) {
	b.t.Helper()
	for p := range int32(partitions) {
		err := compacted.Read(b.t.Context(), b.client, b.named(topic), p, func(k *kgo.Record) error {
			records = append(records, k)
			return nil
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	return records
}

// latest returns the last committed value of each key of a topic.
func (b *broker) latest(topic string) map[string][]byte {
	b.t.Helper()
	values := map[string][]byte{}
	for _, k := range b.records(topic) {
		values[string(k.Key)] = k.Value
		if k.Value == nil {
			delete(values, string(k.Key))
		}
	}
	return values
}

// running is a runner under way.
type running struct {
	*Runner
	t      *testing.T
	cancel context.CancelFunc
	done   chan error
}

func (b *broker) run(name, instance string, sink sinks.Sink, change ...func(*Config, *Options)) *running {
	b.t.Helper()
	b.create(topics.SinkState(name), topics.DeadLetters(name))
	cfg := DefaultConfig(name)
	cfg.BackoffMin, cfg.BackoffMax, cfg.SlowRetry = time.Millisecond, 20*time.Millisecond, 100*time.Millisecond
	options := Options{
		Client: b.client, Topics: schemas.Topics{Prefix: b.prefix}, InstanceName: instance, Logger: quiet(),
		Registerer: prometheus.NewPedanticRegistry(), SessionTimeout: b.session,
	}
	for _, f := range change {
		f(&cfg, &options)
	}
	r, err := New(cfg, sink, options)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	out := &running{Runner: r, t: b.t, cancel: cancel, done: make(chan error, 1)}
	go func() { out.done <- r.Run(ctx) }()
	b.t.Cleanup(func() { out.stop() })
	return out
}

// stop ends the runner and waits for it. It may be called twice.
func (r *running) stop() {
	r.t.Helper()
	r.cancel()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Errorf("Run: %v", err)
		}
		r.done <- nil
	case <-time.After(patience):
		r.t.Fatal("Run does not end")
	}
}

// patience bounds every wait for something that is to happen; it costs nothing
// where it does, so it is far beyond what a machine takes that does much else.
const patience = 2 * time.Minute

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("after %s: not %s", patience, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func onStore(t *testing.T, store *memorysink.Store) sinks.Sink {
	t.Helper()
	sink, err := memorysink.New(memorysink.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	return sink
}

// Two processes of one sink come and go while the destination and the broker
// fail at random, and people take receipts back. In the end destination and
// receipts are the model's.
func TestRunner_ConvergesThroughFailuresAndRebalances(t *testing.T) {
	t.Parallel()
	for name, slow := range map[string]time.Duration{"at once": 0, "held back and confirmed later": 300 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			converges(t, slow)
		})
	}
}

func converges(t *testing.T, slow time.Duration) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	b := newBroker(t)
	b.session = 2 * time.Second // so that rebalances are noticed soon; one that comes of itself does no harm
	store := &memorysink.Store{}
	var mu sync.Mutex
	failing := true
	store.Intercept(func(batch []sinks.Record) error {
		mu.Lock()
		defer mu.Unlock()
		switch dice := random.IntN(6); {
		case !failing || dice > 2:
			return nil
		case dice == 0:
			return errDown
		}
		var failed sinks.BatchError
		failed.Fail(random.IntN(len(batch)), errDown)
		return failed.Err()
	})
	few := func(cfg *Config, _ *Options) { cfg.BatchRecords, cfg.MaxAttempts, cfg.EraseAfter = 40, 1000, slow }
	newSink := func() sinks.Sink {
		sink, err := memorysink.New(memorysink.Config{Store: store, ConfirmAfter: slow})
		if err != nil {
			t.Fatal(err)
		}
		return sink
	}
	model := newModel(seed)
	first := b.run(sinkName, "a", newSink(), few)
	var second *running
	for step := range 60 {
		b.write(model.step(20)...)
		b.write(model.takeBack(step % 2)...)
		switch step {
		case 10:
			second = b.run(sinkName, "b", newSink(), few)
		case 25:
			first.stop()
		case 35:
			first = b.run(sinkName, "a", newSink(), few)
			b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Group: first.Group(), Err: kerr.IllegalGeneration, Count: 5})
		case 45:
			second.stop()
		case 50:
			b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.InvalidProducerEpoch, When: func(r kmsg.Request) bool {
				return r.(*kmsg.EndTxnRequest).TransactionalID == first.Group()+".a"
			}})
		}
		time.Sleep(time.Duration(model.random.IntN(40)) * time.Millisecond) // different each time, that is all
	}
	mu.Lock()
	failing = false
	mu.Unlock()
	eventually(t, "caught up", func() bool {
		s := first.Status()
		return len(s.Ready) == partitions && s.LagRecords == 0 && s.ErasuresOwed+s.ErasuresUnconfirmed == 0 && len(store.Users()) == len(model.live)
	})
	held := map[string]int64{}
	for id, change := range store.Users() {
		held[id] = change.Version
	}
	if !maps.Equal(held, model.live) {
		t.Errorf("the destination holds %v, want %v", held, model.live)
	}
	receipts := b.latest(topics.ErasureReceipts())
	for id, version := range model.erased {
		var receipt schemas.Receipt
		err := (&schemas.Codec{}).Decode(t.Context(), receipts[schemas.ReceiptKey(id, sinkName)], &receipt)
		if err != nil || receipt.Version < version || receipt.ConfirmedAt == nil {
			t.Errorf("receipt of %s: %+v, %v; want version %d, confirmed", id, receipt, err, version)
		}
	}
	if dead := b.latest(topics.DeadLetters(sinkName)); len(dead) != 0 {
		t.Errorf("%d dead letters, want none", len(dead))
	}
}

// model is the truth of the convergence test, and writes it as the sequencer
// does.
type model struct {
	random  *rand.Rand
	version int64
	live    map[string]int64 // version by Clerk ID
	erased  map[string]int64
	signed  map[string]bool // deleted for ever
}

func newModel(seed uint64) *model {
	return &model{
		random: rand.New(rand.NewPCG(seed, 2)), live: map[string]int64{}, erased: map[string]int64{}, signed: map[string]bool{},
	}
}

func (m *model) step(n int) (records []*kgo.Record) {
	for range n {
		id := user(m.random.IntN(150))
		if m.signed[id] {
			continue
		}
		m.version++
		if m.random.IntN(5) > 0 {
			records = append(records, upsert(id, m.version))
			if _, ok := m.erased[id]; ok {
				records = append(records, erasure(id, nil))
			}
			m.live[id] = m.version
			delete(m.erased, id)
			continue
		}
		origin := schemas.OriginReconcile
		if m.random.IntN(2) == 0 {
			origin = schemas.OriginWebhook
			m.signed[id] = true
		}
		records = append(records, tombstone(id, m.version, origin), erasure(id, &schemas.Erasure{
			ClerkID: id, Epoch: 1, Version: m.version, Origin: origin, Inferred: origin == schemas.OriginReconcile,
		}))
		m.erased[id] = m.version
		delete(m.live, id)
	}
	return records
}

// takeBack takes receipts back, of erasures that may be done or not.
func (m *model) takeBack(n int) (records []*kgo.Record) {
	for id := range m.erased {
		if n--; n < 0 {
			break
		}
		records = append(records, word(id, nil))
	}
	return records
}

// The sink was away for longer than tombstones last: nothing in clerk.users
// speaks of the user any more.
func TestRunner_PaysWhatItOwesAfterALongAbsence(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		store := &memorysink.Store{}
		first := b.run(sinkName, "a", onStore(t, store))
		b.write(upsert("gone", 1), upsert("stays", 2))
		eventually(t, "two users held", func() bool { return len(store.Users()) == 2 })
		first.stop()
		inferred := &schemas.Erasure{ClerkID: "stays", Epoch: 1, Version: 3, Origin: schemas.OriginReconcile, Inferred: true}
		b.write(erasure("gone", &schemas.Erasure{ClerkID: "gone", Epoch: 1, Version: 3, Origin: schemas.OriginWebhook, RequestedAt: 1}),
			erasure("stays", inferred), erasure("stays", nil)) // withdrawn
		second := b.run(sinkName, "a", onStore(t, store))
		receipt := schemas.ReceiptKey("gone", sinkName)
		eventually(t, "erased, with a receipt", func() bool { return len(store.Users()) == 1 && b.latest(topics.ErasureReceipts())[receipt] != nil })
		eventually(t, "nothing owed", func() bool { return second.Status().ErasuresOwed == 0 })
		second.stop()
		if _, held := store.User("stays"); !held {
			t.Error("an erasure that was withdrawn was done")
		}

		calls := newScripted(t, nil) // what is paid is not demanded again
		third := b.run(sinkName, "a", calls)
		eventually(t, "ready", func() bool { return len(third.Status().Ready) == partitions })
		third.stop()
		if got := calls.sent("gone"); len(got) != 0 {
			t.Errorf("the erasure was demanded %d times after the receipt", len(got))
		}
		// Another sink owes it for itself.
		other := newScripted(t, nil)
		b.run("other", "a", other)
		eventually(t, "demanded from the other sink", func() bool { return len(other.sent("gone")) > 0 })
	})
}

// A crash between the destination's acknowledgement and the commit: the batch
// is applied again, and its receipts and dead letters are there once.
func TestRunner_FailedCommitIsAppliedAgain(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
		var failed sinks.BatchError
		for i, r := range batch {
			r.Remember(fmt.Append(r.State, "x"))
			if r.ClerkID == "bad" {
				failed.Fail(i, sinks.Permanent(sinks.ReasonInvalidRecord, errDown))
			}
		}
		return failed.Err()
	})
	faults := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.IllegalGeneration, Count: 3})
	b.write(upsert("good", 1), upsert("bad", 2), tombstone("gone", 3, schemas.OriginWebhook),
		erasure("gone", &schemas.Erasure{ClerkID: "gone", Epoch: 1, Version: 3, Origin: schemas.OriginWebhook}))
	r := b.run(sinkName, "a", sink)
	eventually(t, "caught up", func() bool {
		s := r.Status()
		return len(s.Ready) == partitions && s.LagRecords == 0 && s.ErasuresOwed == 0
	})
	r.stop()
	if faults.Hits() != 3 || len(sink.sent("good")) < 2 {
		t.Errorf("%d commits failed, applied %d times; want 3, more than once", faults.Hits(), len(sink.sent("good")))
	}
	for topic, most := range map[string]int{topics.DeadLetters(sinkName): 1, topics.ErasureReceipts(): 2} {
		n := 0
		for p := range int32(partitions) {
			err := compacted.Read(t.Context(), b.client, topic, p, func(*kgo.Record) error { n++; return nil })
			if err != nil {
				t.Fatal(err)
			}
		}
		if n < 1 || n > most {
			t.Errorf("%d records on %s, want 1 to %d", n, topic, most)
		}
	}
	// State that was not committed was not remembered either.
	if got := string(b.latest(topics.SinkState(sinkName))["good"]); got != "x" {
		t.Errorf("state %q, want x, once", got)
	}
}

func TestRunner_StateIsRestored(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
			for _, r := range batch {
				r.Remember(fmt.Appendf(slices.Clone(r.State), "%d,", r.Version.Number))
			}
			return nil
		})
		for version := int64(1); version <= 3; version++ {
			b.write(upsert("a", version))
			r := b.run(sinkName, "a", sink)
			eventually(t, "applied and committed", func() bool { return len(sink.sent("a")) == int(version) && r.Status().LagRecords == 0 })
			r.stop()
		}
		if got := string(b.latest(topics.SinkState(sinkName))["a"]); got != "1,2,3," {
			t.Errorf("state %q, want 1,2,3,", got)
		}
	})
}

func TestRunner_BrokenSinkSlowsNoOther(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	down := b.run("down", "a", newScripted(t, func(context.Context, []sinks.Record) error { return errDown }))
	fatal := b.run("fatal", "a", newScripted(t, func(context.Context, []sinks.Record) error {
		return sinks.Fatal(sinks.ReasonUnauthorized, errDown)
	}))
	shut := newScripted(t, nil)
	shut.open = func() error { return errDown }
	closed := b.run("closed", "a", shut)
	store := &memorysink.Store{}
	b.run(sinkName, "a", onStore(t, store))
	for i := range 50 {
		b.write(upsert(user(i), 1))
	}
	eventually(t, "the healthy sink holds all", func() bool { return len(store.Users()) == 50 })
	eventually(t, "the fatal sink says so", func() bool { s := fatal.Status(); return s.Stopped && s.LastReason == sinks.ReasonUnauthorized })
	eventually(t, "the sink that is down lags", func() bool { s := down.Status(); return s.LagRecords > 0 && s.LastReason == sinks.ReasonUnknown })
	if closed.Status().Opened {
		t.Error("a sink that cannot be opened says it is")
	}
	for _, r := range []*running{down, fatal} {
		if dead := b.latest(topics.DeadLetters(r.cfg.Name)); len(dead) != 0 {
			t.Errorf("%s: %d dead letters, want none", r.cfg.Name, len(dead))
		}
	}
}

// What a person mends at the destination needs no restart here.
func TestRunner_FatalSinkIsOpenedAgain(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	var mu sync.Mutex
	mended := false
	sink := newScripted(t, func(context.Context, []sinks.Record) error {
		mu.Lock()
		defer mu.Unlock()
		if mended {
			return nil
		}
		return sinks.Fatal(sinks.ReasonMisconfigured, errors.New("table missing"))
	})
	b.write(upsert("a", 1))
	r := b.run(sinkName, "a", sink)
	eventually(t, "stopped", func() bool { return r.Status().Stopped })
	mu.Lock()
	mended = true
	mu.Unlock()
	eventually(t, "applied", func() bool { s := r.Status(); return !s.Stopped && s.LagRecords == 0 && len(s.Ready) == partitions })
	r.stop()
	if sink.opened < 2 || sink.closed != sink.opened {
		t.Errorf("opened %d times, closed %d times", sink.opened, sink.closed)
	}
}

func TestRunner_ShutdownFinishesAndCommits(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	sink := newScripted(t, func(context.Context, []sinks.Record) error {
		entered <- struct{}{}
		<-leave
		return nil
	})
	b.write(upsert("a", 1))
	r := b.run(sinkName, "a", sink)
	<-entered
	r.cancel()
	close(leave)
	r.stop()
	next := newScripted(t, nil)
	second := b.run(sinkName, "a", next)
	eventually(t, "ready", func() bool { return len(second.Status().Ready) == partitions })
	b.write(upsert("a", 2))
	eventually(t, "the next change applied", func() bool { return len(next.sent("a")) > 0 })
	if got := next.sent("a"); !slices.Equal(got, []int64{2}) {
		t.Errorf("after the restart versions %v were sent, want 2 alone", got)
	}
}

// Poison alone in a quiet topic is given up as soon as another record shows
// that the destination lives, and not before.
func TestRunner_LonePoison(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
			if slices.ContainsFunc(batch, func(r sinks.Record) bool { return r.ClerkID == "bad" }) {
				return errDown
			}
			return nil
		})
		var mu sync.Mutex
		var log bytes.Buffer
		r := b.run(sinkName, "a", sink, func(_ *Config, o *Options) {
			o.Logger = slog.New(slog.NewTextHandler(&locked{mu: &mu, buffer: &log}, nil))
		})
		b.write(upsert("bad", 1))
		eventually(t, "attempted often", func() bool { return sink.callCount() > 3*r.cfg.MaxAttempts })
		place := sinks.Source{Topic: b.named(topics.Users()), Partition: schemas.Partition("bad", partitions)}
		eventually(t, "told what holds it up", func() bool {
			held := r.Status().Held
			return held != nil && held.Source == place && held.Attempts > r.cfg.MaxAttempts && !held.Next.IsZero()
		})
		mu.Lock()
		for _, text := range []string{"apply, will retry", "nothing else shows whether the destination lives"} {
			at := fmt.Sprintf("partition=%d offset=0", place.Partition)
			if n := strings.Count(log.String(), text); n != 1 || strings.Count(log.String(), at) != 2 {
				t.Errorf("the log says %d times %q, want once, with %s:\n%s", n, text, at, log.String())
			}
		}
		mu.Unlock()
		if dead := b.latest(topics.DeadLetters(sinkName)); len(dead) != 0 {
			t.Fatalf("%d dead letters before anything was applied", len(dead))
		}
		b.write(upsert("good", 2))
		eventually(t, "dead-lettered", func() bool { return len(b.latest(topics.DeadLetters(sinkName))) == 1 })
		eventually(t, "caught up", func() bool { s := r.Status(); return s.LagRecords == 0 && s.Held == nil })
	})
}

// A partition that goes while nothing is being written is noticed each time.
func TestRunner_IdleRebalances(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	stays := b.run(sinkName, "a", newScripted(t, nil))
	owned := func(r *running) int { return len(r.Status().Owned) }
	for range 3 {
		comes := b.run(sinkName, "b", newScripted(t, nil))
		eventually(t, "shared between two", func() bool { return owned(comes) > 0 && owned(stays)+owned(comes) == partitions })
		comes.stop()
		eventually(t, "all with one", func() bool { return len(stays.Status().Ready) == partitions })
	}
}

func TestRunner_SecondProcessOfTheSameName(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.session = 2 * time.Second // the older one ends after three
	first := b.run(sinkName, "a", newScripted(t, nil))
	second := b.run(sinkName, "a", newScripted(t, nil))
	var ended *running
	deadline := time.Now().Add(patience)
	for i := int64(1); ended == nil && time.Now().Before(deadline); i++ {
		var records []*kgo.Record
		for u := range 12 {
			records = append(records, upsert(user(u), i))
		}
		b.write(records...)
		select {
		case err := <-first.done:
			ended = first
			first.done <- err
		case err := <-second.done:
			ended = second
			second.done <- err
		case <-time.After(50 * time.Millisecond):
		}
	}
	if ended == nil {
		t.Fatal("neither ended")
	}
	err := <-ended.done
	ended.done <- nil
	if !errors.Is(err, transact.ErrDuplicateInstance) {
		t.Errorf("Run: %v, want ErrDuplicateInstance", err)
	}
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig("crm-2").Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	for _, name := range []string{"", "webhook", "Crm", "a/b", "-a", "a.b"} {
		if DefaultConfig(name).Validate() == nil {
			t.Errorf("name %q is accepted", name)
		}
	}
	var empty Config
	if err := empty.Validate(); err == nil || len(err.(interface{ Unwrap() []error }).Unwrap()) != 8 {
		t.Errorf("zero value: %v, want eight problems", err)
	}
}
