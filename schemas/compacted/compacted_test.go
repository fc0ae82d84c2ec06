package compacted_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas/compacted"
)

// log is a partition that a test fills.
type log struct {
	t     *testing.T
	opts  []kgo.Opt
	topic string
	admin *kadm.Client
}

// brokers runs a test on the in-process broker, and on the Kafka that
// TEST_KAFKA_BROKERS names.
func brokers(t *testing.T, test func(l *log)) {
	t.Helper()
	run := func(t *testing.T, addresses []string) {
		l := &log{t: t, opts: []kgo.Opt{kgo.SeedBrokers(addresses...)}, topic: "test-compacted-" + strings.ToLower(rand.Text()[:10])}
		client, err := kgo.NewClient(l.opts...)
		if err != nil {
			t.Fatal(err)
		}
		l.admin = kadm.NewClient(client)
		t.Cleanup(func() {
			_, _ = l.admin.DeleteTopic(context.Background(), l.topic)
			client.Close()
		})
		policy := "compact,delete" // delete: for DeleteRecords
		if _, err := l.admin.CreateTopic(t.Context(), 1, -1, map[string]*string{"cleanup.policy": &policy}, l.topic); err != nil {
			t.Fatal(err)
		}
		test(l)
	}
	t.Run("kfake", func(t *testing.T) {
		t.Parallel()
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cluster.Close)
		run(t, cluster.ListenAddrs())
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
		run(t, strings.Split(addresses, ","))
	})
}

// produce writes values, in a transaction of that id unless it is empty, and
// returns what ends it.
func (l *log) produce(id string, values ...string) (end func(kgo.TransactionEndTry)) {
	l.t.Helper()
	opts := append(slices.Clone(l.opts), kgo.DefaultProduceTopic(l.topic))
	if id != "" {
		opts = append(opts, kgo.TransactionalID(l.topic+id), kgo.TransactionTimeout(10*time.Second))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(client.Close)
	if id != "" {
		if err := client.BeginTransaction(); err != nil {
			l.t.Fatal(err)
		}
	}
	for _, value := range values {
		if err := client.ProduceSync(l.t.Context(), kgo.KeyStringRecord(value, value)).FirstErr(); err != nil {
			l.t.Fatal(err)
		}
	}
	return func(try kgo.TransactionEndTry) {
		if err := client.EndTransaction(context.Background(), try); err != nil {
			l.t.Error(err)
		}
	}
}

// read returns what Read gives within two minutes.
func (l *log) read() (values []string, err error) {
	ctx, cancel := context.WithTimeout(l.t.Context(), 2*time.Minute)
	defer cancel()
	err = compacted.Read(ctx, l.opts, l.topic, 0, func(r *kgo.Record) error {
		values = append(values, string(r.Value))
		return nil
	})
	return values, err
}

func (l *log) wants(want ...string) {
	l.t.Helper()
	got, err := l.read()
	if err != nil || !slices.Equal(got, want) {
		l.t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

// TestRead_Ends: a read ends whatever stands at the end of the partition, and
// gives what is committed, no less and no more.
func TestRead_Ends(t *testing.T) {
	brokers(t, func(l *log) {
		l.wants()
		l.produce("a", "never")(kgo.TryAbort)
		l.wants() // nothing but an aborted transaction and its mark
		l.produce("b")(kgo.TryCommit)
		l.produce("", "one")
		l.wants("one")
		l.produce("a", "two", "three")(kgo.TryCommit)
		l.wants("one", "two", "three")
		l.produce("a", "four")(kgo.TryAbort)
		l.wants("one", "two", "three")
		for i := range 20 {
			l.produce("a", fmt.Sprint("aborted ", i))(kgo.TryAbort)
		}
		l.wants("one", "two", "three")

		ends, err := l.admin.ListEndOffsets(l.t.Context(), l.topic)
		if err != nil {
			l.t.Fatal(err)
		}
		end, _ := ends.Lookup(l.topic, 0)
		all := kadm.Offsets{}
		all.AddOffset(l.topic, 0, end.Offset, -1)
		if _, err := l.admin.DeleteRecords(l.t.Context(), all); err != nil {
			l.t.Fatal(err)
		}
		l.wants() // it begins where it ends
	})
}

// TestRead_WaitsForOpenTransactions: what is being committed when the read
// begins is part of it, and what is behind it is not lost either.
func TestRead_WaitsForOpenTransactions(t *testing.T) {
	brokers(t, func(l *log) {
		end := l.produce("a", "slow")
		l.produce("", "quick")
		go func() {
			time.Sleep(2 * time.Second)
			end(kgo.TryCommit)
		}()
		l.wants("slow", "quick")
		l.produce("a", "forgotten") // its owner dies: the broker aborts it after its timeout
		ctx, cancel := context.WithTimeout(l.t.Context(), time.Second)
		defer cancel()
		if err := compacted.Read(ctx, l.opts, l.topic, 0, func(*kgo.Record) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			l.t.Errorf("read over an open transaction: got %v, want that it waits", err)
		}
		l.produce("a")(kgo.TryAbort) // the next of its name ends it at once
		l.wants("slow", "quick")
	})
}
