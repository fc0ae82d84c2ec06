package embedded

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

var discard = slog.New(slog.DiscardHandler)

// TestStart_KeepsDataAndPort: what was acknowledged before Close is there after
// the next Start, at the same address.
func TestStart_KeepsDataAndPort(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	dir := t.TempDir()
	first, err := Start(dir, discard)
	if err != nil {
		t.Fatal(err)
	}
	client := newClient(t, first.Address)
	compact := "compact"
	if _, err := kadm.NewClient(client).CreateTopic(ctx, 1, 1, map[string]*string{"cleanup.policy": &compact}, "users"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: "users", Key: []byte("user_1"), Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	client.Close()
	first.Close()

	second, err := Start(dir, discard)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if second.Address != first.Address {
		t.Errorf("Start: got address %s, want %s", second.Address, first.Address)
	}
	ends, err := kadm.NewClient(newClient(t, second.Address)).ListEndOffsets(ctx, "users")
	if err != nil {
		t.Fatal(err)
	}
	if end, _ := ends.Lookup("users", 0); end.Offset != 5 {
		t.Errorf("end offset after restart: got %d, want 5", end.Offset)
	}
}

// TestCompact_WaitsForTransactions: kfake compacts open transactions away, so
// it must not while one is open.
func TestCompact_WaitsForTransactions(t *testing.T) {
	t.Parallel()
	broker, err := Start(t.TempDir(), discard)
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	lock := broker.CommitLock()
	lock.Lock()
	compacted := make(chan struct{})
	go func() {
		broker.Compact()
		close(compacted)
	}()
	select {
	case <-compacted:
		t.Error("Compact returned while a transaction was open")
	case <-time.After(100 * time.Millisecond):
	}
	lock.Unlock()
	<-compacted
}

func newClient(t *testing.T, address string) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}
