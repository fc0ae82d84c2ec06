package connector_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"clerkconnect/connector"
	"clerkconnect/schemas"
)

// TestWriter_EndsWithItsContext: the broker goes away with a request in its
// hands. Nobody knows whether it was written, and nobody waits for that.
func TestWriter_EndsWithItsContext(t *testing.T) {
	t.Parallel()
	topics := schemas.Topics{Prefix: "clerk"}
	for name, write := range map[string]func(*connector.Writer, context.Context) error{
		"event": func(w *connector.Writer, ctx context.Context) error {
			return w.Write(ctx, connector.SourceRecord{Event: &schemas.UserEvent{ClerkID: "user_1", Operation: schemas.EventDelete, Origin: schemas.OriginWebhook}})
		},
		"state": func(w *connector.Writer, ctx context.Context) error {
			return w.StoreState(ctx, "pins", connector.Pins{})
		},
		"tick": func(w *connector.Writer, ctx context.Context) error {
			return w.Tick(ctx, topics.Users(), 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topics.UserEvents(), topics.Users(), topics.ConnectState()))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cluster.Close)
			asked := make(chan struct{}, 1000)
			cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
				cluster.KeepControl()
				asked <- struct{}{}
				return nil, errors.New("gone"), true // the connection ends without an answer
			})
			client, err := kgo.NewClient(append(connector.WriterOptions(), kgo.SeedBrokers(cluster.ListenAddrs()...))...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(client.Close)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- write(connector.NewWriter(client, new(schemas.Codec), topics, 1), ctx) }()
			<-asked
			cancel()
			select {
			case err := <-ended:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want %v", err, context.Canceled)
				}
			case <-time.After(2 * time.Minute):
				t.Error("it goes on waiting")
			}
		})
	}
}

// TestStateRecord_NilRemovesTheKey: nothing, and not JSON's word for it.
func TestStateRecord_NilRemovesTheKey(t *testing.T) {
	t.Parallel()
	record, err := connector.StateRecord(schemas.Topics{Prefix: "clerk"}, "reread/user_1", nil)
	if err != nil || record.Value != nil || string(record.Key) != "reread/user_1" {
		t.Errorf("got key %q, value %q, %v; want a tombstone", record.Key, record.Value, err)
	}
}

// TestWriter_AsksForEveryAcknowledgement: of all replicas in sync, and
// idempotent, or what a leader alone has taken is lost with it.
func TestWriter_AsksForEveryAcknowledgement(t *testing.T) {
	t.Parallel()
	topics := schemas.Topics{Prefix: "clerk"}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topics.UserEvents()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	requests := make(chan *kmsg.ProduceRequest, 1000)
	cluster.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		requests <- request.(*kmsg.ProduceRequest)
		return nil, nil, false // answered as ever
	})
	client, err := kgo.NewClient(append(connector.WriterOptions(), kgo.SeedBrokers(cluster.ListenAddrs()...))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	event := &schemas.UserEvent{ClerkID: "user_1", Operation: schemas.EventDelete, Origin: schemas.OriginWebhook}
	if err := connector.NewWriter(client, new(schemas.Codec), topics, 1).Write(t.Context(), connector.SourceRecord{Event: event}); err != nil {
		t.Fatal(err)
	}
	request := <-requests
	var batch kmsg.RecordBatch
	if err := batch.ReadFrom(request.Topics[0].Partitions[0].Records); err != nil {
		t.Fatal(err)
	}
	if request.Acks != -1 || batch.ProducerID < 0 {
		t.Errorf("got acks %d and producer id %d, want -1 (all in sync) and one that the broker has given", request.Acks, batch.ProducerID)
	}
}
