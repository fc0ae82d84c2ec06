package ledger

import (
	"context"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"clerkconnect/connector"
	"clerkconnect/connector/topics"
	"clerkconnect/schemas"
	"clerkconnect/sinks/runner"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	partitions = 3
	deadline   = 28 * 24 * time.Hour
)

// monday is when everything happens, about.
var monday = time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)

// deployment is a broker with the topics of a deployment, and its ledger.
type deployment struct {
	*Ledger
	t      *testing.T
	client *kgo.Client
}

// newDeployment has the topics of sinks that have run; configured are those of
// this process.
func newDeployment(t *testing.T, haveRun []string, configured ...Sink) *deployment {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	opts := []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}
	cfg := topics.Config{Prefix: "test", Partitions: partitions, ReplicationFactor: -1, Create: true}
	if _, err := topics.Ensure(t.Context(), opts, cfg, haveRun, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(append(opts, connector.WriterOptions()...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &deployment{t: t, client: client, Ledger: &Ledger{Client: opts, Topics: cfg.Names(), Partitions: partitions, Deadline: deadline, Sinks: configured}}
}

func (d *deployment) write(topic, id, key string, value any, headers ...kgo.RecordHeader) int64 {
	d.t.Helper()
	r := &kgo.Record{Topic: topic, Partition: schemas.Partition(id, partitions), Key: []byte(key), Headers: headers}
	if value != nil {
		var err error
		if r.Value, err = d.codec().Encode(value); err != nil {
			d.t.Fatal(err)
		}
	}
	if err := d.client.ProduceSync(context.Background(), r).FirstErr(); err != nil {
		d.t.Fatal(err)
	}
	return r.Offset
}

// demand writes what the sequencer writes.
func (d *deployment) asks(e schemas.Erasure) {
	d.t.Helper()
	d.write(d.Topics.Erasures(), e.ClerkID, e.ClerkID, &e)
}

func (d *deployment) withdraws(id string) { d.write(d.Topics.Erasures(), id, id, nil) }

// answers writes what a runner writes that has heard everything before an
// offset.
func (d *deployment) answers(r schemas.Receipt, heard int64) int64 {
	d.t.Helper()
	return d.write(d.Topics.ErasureReceipts(), r.ClerkID, schemas.ReceiptKey(r.ClerkID, r.Sink), &r,
		kgo.RecordHeader{Key: runner.HeaderHeard, Value: strconv.AppendInt(nil, heard, 10)})
}

func erasure(id string, version int64, requested time.Time) schemas.Erasure {
	return schemas.Erasure{
		ClerkID: id, Epoch: 1, Version: version, Origin: schemas.OriginWebhook, EventID: "msg_" + id,
		RequestedAt: requested.UnixMilli(), SequencedAt: requested.Add(time.Second).UnixMilli(),
	}
}

func receipt(id, sink string, version int64, done time.Time) schemas.Receipt {
	return schemas.Receipt{ClerkID: id, Sink: sink, Epoch: 1, Version: version, Outcome: schemas.OutcomeDeleted, DoneAt: done.UnixMilli()}
}

func confirmed(r schemas.Receipt) schemas.Receipt {
	r.ConfirmedAt = new(r.DoneAt + 5)
	return r
}

func (d *deployment) find(id string, now time.Time) Entry {
	d.t.Helper()
	e, found, _, err := d.Find(d.t.Context(), id, now)
	if err != nil || !found {
		d.t.Fatalf("Find %s: found %v, %v", id, found, err)
	}
	return e
}

func (d *deployment) states(id string, now time.Time) map[string]State {
	d.t.Helper()
	states := map[string]State{}
	for _, s := range d.find(id, now).Sinks {
		states[s.Sink] = s.State
	}
	return states
}
