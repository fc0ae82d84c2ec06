package transact_test

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas/transact"
)

// scripted is a processor whose Process a test writes.
type scripted struct {
	process func([]*kgo.Record) error
	due     func() time.Time
}

func (*scripted) Restore(context.Context, int32) (func(), error) { return func() {}, nil }
func (*scripted) Forget(int32)                                   {}
func (*scripted) Committed()                                     {}
func (s *scripted) Due() time.Time                               { return s.due() }

func (s *scripted) Process(_ context.Context, records []*kgo.Record) ([]*kgo.Record, error) {
	return nil, s.process(records)
}

// run runs an owner until the test ends, and returns a client that writes.
func run(t *testing.T, s *scripted, maxRecords int) *kgo.Client {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, input, output))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	opts := []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}
	client, err := kgo.NewClient(append(opts, kgo.DefaultProduceTopic(input), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if s.due == nil {
		s.due = func() time.Time { return time.Time{} }
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		err := transact.Run(ctx, transact.Config{
			Client: opts, Topic: input, Group: "g", TransactionalID: "a", MaxRecords: maxRecords, SessionTimeout: 6 * time.Second,
			Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		}, s)
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return client
}

func produce(t *testing.T, client *kgo.Client, partition int32, key string) {
	t.Helper()
	if err := client.ProduceSync(t.Context(), &kgo.Record{Partition: partition, Key: []byte(key)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// What is processed again is the same, with what has come since in another
// partition behind it, and the offsets of all of it are committed together.
func TestRun_AgainTakesInMore(t *testing.T) {
	t.Parallel()
	calls := make(chan []*kgo.Record, 1000)
	client := run(t, &scripted{process: func(records []*kgo.Record) error {
		calls <- records
		if len(records) < 2 {
			return transact.ErrAgain
		}
		return nil
	}}, 10)
	produce(t, client, 0, "a")
	first := <-calls
	produce(t, client, 1, "b")
	last := first
	for len(last) < 2 {
		if last = <-calls; last[0] != first[0] {
			t.Fatal("processed again with other records")
		}
	}
	if string(last[0].Key) != "a" || string(last[1].Key) != "b" {
		t.Errorf("processed %s and %s, want a and b", last[0].Key, last[1].Key)
	}
	admin := kadm.NewClient(client)
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		offsets, err := admin.FetchOffsets(t.Context(), "g")
		a, _ := offsets.Lookup(input, 0)
		b, _ := offsets.Lookup(input, 1)
		if err == nil && a.At == 1 && b.At == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("offsets %v, %v; want 1 in both partitions", offsets, err)
		}
	}
}

func TestRun_AgainIsBounded(t *testing.T) {
	t.Parallel()
	const maxRecords = 5
	var mu sync.Mutex
	most, calls := 0, 0
	client := run(t, &scripted{process: func(records []*kgo.Record) error {
		mu.Lock()
		defer mu.Unlock()
		calls++
		most = max(most, len(records))
		return transact.ErrAgain
	}}, maxRecords)
	for range 30 * maxRecords {
		produce(t, client, 0, "a")
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		mu.Lock()
		enough := most >= 9*maxRecords && calls > 30
		mu.Unlock()
		if enough {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing further was taken in")
		}
	}
	time.Sleep(500 * time.Millisecond) // five calls more
	mu.Lock()
	defer mu.Unlock()
	if most > 10*maxRecords {
		t.Errorf("processed %d records at once, want %d at most", most, 10*maxRecords)
	}
}

// Somebody else makes the processor due while nothing comes.
func TestRun_WakerIsAskedAgain(t *testing.T) {
	t.Parallel()
	woken := make(chan int, 1000)
	var mu sync.Mutex
	var due time.Time
	client := run(t, &scripted{
		process: func(records []*kgo.Record) error {
			mu.Lock()
			due = time.Time{}
			mu.Unlock()
			woken <- len(records)
			return nil
		},
		due: func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return due
		},
	}, 10)
	produce(t, client, 0, "a")
	<-woken
	time.Sleep(3 * time.Second) // longer than one poll
	select {
	case <-woken:
		t.Error("called although nothing was due")
	default:
	}
	mu.Lock()
	due = time.Now()
	mu.Unlock()
	select {
	case n := <-woken:
		if n != 0 {
			t.Errorf("called with %d records, want none", n)
		}
	case <-time.After(2 * time.Minute):
		t.Error("not called within two minutes")
	}
}

// A processor that is due all the time, as with many erasures to read back,
// still takes in records.
func TestRun_DueAllTheTimeTakesInRecords(t *testing.T) {
	t.Parallel()
	const all = 500
	taken := make(chan int, 100*all)
	client := run(t, &scripted{
		process: func(records []*kgo.Record) error {
			taken <- len(records)
			return nil
		},
		due: func() time.Time { return time.Unix(0, 0) },
	}, 10)
	for i := range all {
		client.Produce(t.Context(), &kgo.Record{Partition: int32(i % partitions), Key: []byte("a")}, nil)
	}
	if err := client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	timeout := time.After(2 * time.Minute)
	for sum := 0; sum < all; {
		select {
		case n := <-taken:
			sum += n
		case <-timeout:
			t.Fatalf("after two minutes: %d of %d records taken in", sum, all)
		}
	}
}
