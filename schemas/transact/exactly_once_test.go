package transact_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"clerkconnect/schemas/compacted"
	"clerkconnect/schemas/transact"
)

const (
	input, output, noted = "in", "out", "noted"
	partitions           = 3
)

// counter numbers the records of each partition: its output is right only if
// every record is processed once, in order, by somebody who knows how far the
// one before came.
type counter struct {
	opts    []kgo.Opt
	seen    map[int32]int
	pending map[int32]int
}

func (c *counter) Restore(ctx context.Context, partition int32) (func(), error) {
	n := 0
	err := compacted.Read(ctx, c.opts, output, partition, func(*kgo.Record) error { n++; return nil })
	return func() { c.seen[partition] = n }, err
}

func (c *counter) Forget(partition int32) {
	delete(c.seen, partition)
	c.pending = map[int32]int{}
}

func (c *counter) Process(_ context.Context, records []*kgo.Record) ([]*kgo.Record, error) {
	c.pending = map[int32]int{}
	var out []*kgo.Record
	for _, r := range records {
		n, restored := c.seen[r.Partition]
		if !restored {
			return nil, errors.New("a record of a partition that is not restored")
		}
		n += c.pending[r.Partition]
		c.pending[r.Partition]++
		out = append(out, &kgo.Record{Topic: output, Partition: r.Partition, Key: r.Key, Value: fmt.Append(nil, n)})
	}
	return out, nil
}

func (c *counter) Committed() {
	for partition, n := range c.pending {
		c.seen[partition] += n
	}
}

// noter commits something before it goes on with the same records, once or
// several times.
type noter struct {
	counter
	notes int
}

func (n *noter) Process(ctx context.Context, records []*kgo.Record) ([]*kgo.Record, error) {
	if n.notes = (n.notes + 1) % 4; n.notes > 1 && len(records) > 0 {
		r := records[len(records)-1]
		return []*kgo.Record{{Topic: noted, Partition: r.Partition, Key: r.Key}}, transact.ErrAgain
	}
	return n.counter.Process(ctx, records)
}

// TestRun_ExactlyOnce: owners come and go while the broker fails requests of
// every step, and each record is in the output once, in order.
func TestRun_ExactlyOnce(t *testing.T) {
	t.Parallel()
	for name, processor := range map[string]func(counter) transact.Processor{
		"at once":    func(c counter) transact.Processor { return &c },
		"with notes": func(c counter) transact.Processor { return &noter{counter: c} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			exactlyOnce(t, processor)
		})
	}
}

func exactlyOnce(t *testing.T, processor func(counter) transact.Processor) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, input, output, noted), kfake.GroupMinSessionTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	opts := []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}

	var mu sync.Mutex // random is used by the broker's goroutine too
	chance := func(n int) bool { mu.Lock(); defer mu.Unlock(); return random.IntN(n) == 0 }
	for _, key := range []int16{int16(kmsg.TxnOffsetCommit), int16(kmsg.EndTxn), int16(kmsg.Heartbeat)} {
		cluster.ControlKey(key, func(kmsg.Request) (kmsg.Response, error, bool) {
			cluster.KeepControl()
			if chance(15) {
				return nil, errors.New("cut"), true // closes the connection: the answer is lost
			}
			return nil, nil, false
		})
	}

	var owners sync.WaitGroup
	defer owners.Wait()
	start := func(name string) context.CancelFunc {
		ctx, cancel := context.WithCancel(context.Background())
		owners.Go(func() {
			err := transact.Run(ctx, transact.Config{
				Client: opts, Topic: input, Group: "g", TransactionalID: name, MaxRecords: 20, SessionTimeout: 3 * time.Second,
				Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
			}, processor(counter{opts: opts, seen: map[int32]int{}, pending: map[int32]int{}}))
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		return cancel
	}

	client, err := kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const records = 600
	stopA, stopB := start("a"), start("b")
	defer func() { stopA(); stopB() }()
	for i := range records {
		r := &kgo.Record{Topic: input, Partition: int32(i % partitions), Key: fmt.Append(nil, i/partitions)}
		if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if i%150 == 149 { // one goes, and comes again
			stopA()
			stopA = start(fmt.Sprint("a", i))
			time.Sleep(200 * time.Millisecond)
		}
	}
	admin := kadm.NewClient(client)
	deadline := time.Now().Add(3 * time.Minute)
	for {
		lag, err := admin.Lag(t.Context(), "g")
		described := lag["g"]
		if err == nil && described.Error() == nil && described.Lag.Total() == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not caught up: %v", described.Lag)
		}
		time.Sleep(100 * time.Millisecond)
	}
	for p := range int32(partitions) {
		n := 0
		err := compacted.Read(t.Context(), opts, output, p, func(r *kgo.Record) error {
			if string(r.Key) != fmt.Sprint(n) || string(r.Value) != fmt.Sprint(n) {
				return fmt.Errorf("partition %d: record %d has key %s and number %s", p, n, r.Key, r.Value)
			}
			n++
			return nil
		})
		if err != nil || n != records/partitions {
			t.Errorf("partition %d: %d records, want %d: %v", p, n, records/partitions, err)
		}
	}
}

// TestRun_ProcessError: an error of Process ends the owner and is returned.
func TestRun_ProcessError(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, input, output))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	opts := []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}
	client, err := kgo.NewClient(append(opts, kgo.DefaultProduceTopic(input))...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(t.Context(), kgo.KeyStringRecord("k", "v")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	broken := &failing{counter{opts: opts, seen: map[int32]int{}, pending: map[int32]int{}}}
	err = transact.Run(t.Context(), transact.Config{
		Client: opts, Topic: input, Group: "g", TransactionalID: "x", MaxRecords: 10, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}, broken)
	if !errors.Is(err, errBroken) {
		t.Errorf("got %v, want %v", err, errBroken)
	}
}

var errBroken = errors.New("broken")

type failing struct{ counter }

func (*failing) Process(context.Context, []*kgo.Record) ([]*kgo.Record, error) { return nil, errBroken }
