package runner

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted is a sink whose answers a test writes. It checks what the runner
// promises to every sink.
type scripted struct {
	t     *testing.T
	facts sinks.Capabilities
	open  func() error
	apply func(context.Context, []sinks.Record) error // nil: everything succeeds

	mu      sync.Mutex
	calls   [][]sinks.Record
	flying  map[string]bool // users in calls under way
	busy    int             // calls under way
	opened  int
	closed  int
	busiest int
}

func newScripted(t *testing.T, apply func(context.Context, []sinks.Record) error) *scripted {
	return &scripted{t: t, apply: apply, flying: map[string]bool{}, facts: sinks.Capabilities{Kind: "scripted", MaxBatch: 500, MaxInFlight: 4}}
}

func (s *scripted) Capabilities() sinks.Capabilities { return s.facts }

func (s *scripted) Open(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened++
	if s.open != nil {
		return s.open()
	}
	return nil
}

func (s *scripted) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
	return nil
}

func (s *scripted) Apply(ctx context.Context, batch []sinks.Record) error {
	s.mu.Lock()
	s.calls = append(s.calls, batch)
	s.busy++
	s.busiest = max(s.busiest, s.busy)
	if s.busy > s.facts.MaxInFlight || len(batch) == 0 || len(batch) > s.facts.MaxBatch {
		s.t.Errorf("Apply: %d calls in flight (at most %d), %d records (1 to %d)", s.busy, s.facts.MaxInFlight, len(batch), s.facts.MaxBatch)
	}
	for _, r := range batch {
		if s.flying[r.ClerkID] {
			s.t.Errorf("Apply: %s is in two calls, or twice in one", r.ClerkID)
		}
		s.flying[r.ClerkID] = true
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy--
		for _, r := range batch {
			delete(s.flying, r.ClerkID)
		}
	}()
	if s.apply == nil {
		return nil
	}
	return s.apply(ctx, batch)
}

func (s *scripted) callCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

// applications counts how often a record with that version was sent.
func (s *scripted) sent(id string) (versions []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, call := range s.calls {
		for _, r := range call {
			if r.ClerkID == id {
				versions = append(versions, r.Version.Number)
			}
		}
	}
	return versions
}

var topics = schemas.Topics{Prefix: "clerk"}

const sinkName = "crm"

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// bare returns a processor that owns partition 0 with nothing in it, without
// a broker.
func bare(t *testing.T, sink sinks.Sink) *processor {
	t.Helper()
	r, err := New(DefaultConfig(sinkName), sink, Options{Topics: topics, InstanceName: "a", Logger: quiet()})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	p := r.newProcessor(nil)
	p.partitions[0] = newMemory()
	return p
}

func user(i int) string { return fmt.Sprintf("user_%04d", i) }

// upsert is a record of <prefix>.users; its offset is its version.
func upsert(id string, version int64) *kgo.Record {
	name := fmt.Sprintf("v%d", version)
	value, err := (&schemas.Codec{}).Encode(&schemas.UserChange{
		ClerkID: id, Operation: schemas.ChangeUpdate, Epoch: 1, Version: version, Origin: schemas.OriginWebhook,
		OccurredAt: time.Now().UnixMilli(), User: schemas.User{Username: &name},
	})
	if err != nil {
		panic(err)
	}
	return &kgo.Record{
		Topic: topics.Users(), Key: []byte(id), Value: value, Offset: version,
		Headers: headersOf(version, string(schemas.ChangeUpdate), schemas.OriginWebhook),
	}
}

func tombstone(id string, version int64, origin schemas.Origin) *kgo.Record {
	return &kgo.Record{Topic: topics.Users(), Key: []byte(id), Offset: version, Headers: headersOf(version, schemas.OperationDelete, origin)}
}

func headersOf(version int64, operation string, origin schemas.Origin) []kgo.RecordHeader {
	return schemas.ChangeHeaders{
		Version: schemas.Version{Epoch: 1, Number: version}, Operation: operation,
		Origin: origin, OccurredAt: time.Now().UnixMilli(), Snapshot: schemas.SnapshotFalse,
	}.Headers()
}

// count returns how many of the records go to a topic.
func count(records []*kgo.Record, topic string) int {
	n := 0
	for _, r := range records {
		if r.Topic == topic {
			n++
		}
	}
	return n
}
