package compacted_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

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

// produceTogether writes values in one batch.
func (l *log) produceTogether(values ...string) {
	l.t.Helper()
	client, err := kgo.NewClient(append(slices.Clone(l.opts), kgo.DefaultProduceTopic(l.topic), kgo.ProducerLinger(time.Second))...)
	if err != nil {
		l.t.Fatal(err)
	}
	defer client.Close()
	var records []*kgo.Record
	for _, value := range values {
		records = append(records, kgo.KeyStringRecord(value, value))
	}
	if err := client.ProduceSync(l.t.Context(), records...).FirstErr(); err != nil {
		l.t.Fatal(err)
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

// TestReadRange_KeepsToItsBounds: neither what stands before the range nor what
// comes behind it in the same fetch is given.
func TestReadRange_KeepsToItsBounds(t *testing.T) {
	brokers(t, func(l *log) {
		l.produceTogether("zero", "one", "two", "three", "four", "five")
		for _, test := range []struct {
			from, to int64
			want     []string
		}{
			{0, 6, []string{"zero", "one", "two", "three", "four", "five"}}, {2, 4, []string{"two", "three"}}, {4, 99, []string{"four", "five"}},
			{3, 3, nil}, {4, 3, nil}, {6, 9, nil},
		} {
			var got []string
			err := compacted.ReadRange(l.t.Context(), l.opts, l.topic, 0, test.from, test.to, func(r *kgo.Record) error {
				got = append(got, string(r.Value))
				return nil
			})
			if err != nil || !slices.Equal(got, test.want) {
				l.t.Errorf("%d to %d: got %q, %v; want %q", test.from, test.to, got, err, test.want)
			}
		}
	})
}

// TestRead_ErrorOfEach: a record that cannot be taken ends the read, and is not
// passed over.
func TestRead_ErrorOfEach(t *testing.T) {
	brokers(t, func(l *log) {
		l.produceTogether("zero", "one", "two")
		refused, given := errors.New("refused"), 0
		err := compacted.Read(l.t.Context(), l.opts, l.topic, 0, func(r *kgo.Record) error {
			if given++; string(r.Value) == "one" {
				return refused
			}
			return nil
		})
		if !errors.Is(err, refused) || given != 2 {
			l.t.Errorf("got %v after %d records, want %v after 2", err, given, refused)
		}
	})
}

// TestRead_NoAnswerIsNotEmpty: a partition whose bounds the broker cannot tell is
// not one that holds nothing; whoever believed that would forget what is in it.
func TestRead_NoAnswerIsNotEmpty(t *testing.T) {
	t.Parallel()
	const topic = "test"
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	opts := []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}
	read := func(partition int32) error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		return compacted.Read(ctx, opts, topic, partition, func(*kgo.Record) error { return nil })
	}
	if err := read(0); err != nil {
		t.Fatalf("an empty partition: got %v", err)
	}
	if err := read(1); err == nil {
		t.Error("a partition that is not there: got no error")
	}
	var failing atomic.Int64
	cluster.ControlKey(int16(kmsg.ListOffsets), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if request.(*kmsg.ListOffsetsRequest).Topics[0].Partitions[0].Timestamp != failing.Load() {
			return nil, nil, false
		}
		answer := request.ResponseKind().(*kmsg.ListOffsetsResponse)
		partition := kmsg.NewListOffsetsResponseTopicPartition()
		partition.ErrorCode, partition.Offset = kerr.UnknownServerError.Code, -1
		about := kmsg.NewListOffsetsResponseTopic()
		about.Topic, about.Partitions = topic, append(about.Partitions, partition)
		answer.Topics = append(answer.Topics, about)
		return answer, nil, true
	})
	const start, end = -2, -1 // what Kafka calls them
	for _, bound := range []int64{start, end} {
		failing.Store(bound)
		if err := read(0); !errors.Is(err, kerr.UnknownServerError) {
			t.Errorf("without an answer about bound %d: got %v, want an error", bound, err)
		}
	}
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
