package storm

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
)

const partitions = 3

var topics = schemas.Topics{Prefix: "clerk"}

// broker is a Kafka in the test's process, and the sequencer that writes to it.
type broker struct {
	t        testing.TB
	client   []kgo.Opt
	producer *kgo.Client
}

func newBroker(t testing.TB) *broker {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	b := &broker{t: t, client: []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}}
	b.producer, err = kgo.NewClient(append(b.client, kgo.TransactionalID("clerk.sequencer"), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.producer.Close)
	_, err = kadm.NewClient(b.producer).CreateTopics(t.Context(), partitions, 1, nil,
		topics.Users(), topics.Erasures(), topics.ErasureReceipts(), topics.SinkState(sinkName), topics.DeadLetters(sinkName))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// write writes records in one transaction, each to its user's partition.
func (b *broker) write(records ...*kgo.Record) {
	b.t.Helper()
	if err := b.producer.BeginTransaction(); err != nil {
		b.t.Fatal(err)
	}
	for _, r := range records {
		id, _, _ := strings.Cut(string(r.Key), "/")
		r.Partition = schemas.Partition(id, partitions)
	}
	if err := b.producer.ProduceSync(b.t.Context(), records...).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
	if err := b.producer.EndTransaction(b.t.Context(), kgo.TryCommit); err != nil {
		b.t.Fatal(err)
	}
}

// read returns all committed records of a topic.
func (b *broker) read(topic string) (records []*kgo.Record) {
	b.t.Helper()
	for p := range int32(partitions) {
		err := compacted.Read(b.t.Context(), b.client, topic, p, func(k *kgo.Record) error {
			records = append(records, k)
			return nil
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	return records
}
