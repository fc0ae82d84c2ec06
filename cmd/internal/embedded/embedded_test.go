package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas/compacted"
)

var discard = slog.New(slog.DiscardHandler)

// TestStart_KeepsDataAndPort: what was acknowledged before Close is there after
// the next Start, at the same address.
func TestStart_KeepsDataAndPort(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := t.TempDir()
	// A port that nobody is given who asks for any, nor takes by default: others
	// would have it in between. The folder knows it from an earlier start.
	port := 20000 + rand.IntN(10000)
	if err := os.WriteFile(filepath.Join(dir, infoName), fmt.Appendf(nil, `{"port":%d}`, port), 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := Start(t.Context(), dir, discard)
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

	second, err := Start(t.Context(), dir, discard)
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
	broker, err := Start(t.Context(), t.TempDir(), discard)
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

// TestStart_FinishesTransactionsAfterACrash: a crash in the middle of a commit
// leaves all of the transaction or nothing, and readers do not wait for it.
func TestStart_FinishesTransactionsAfterACrash(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		cut  bool // the mark of the commit reached one of the two partitions
		want int
	}{{"open", false, 0}, {"half committed", true, 1}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			dir := t.TempDir()
			broker, err := Start(ctx, dir, discard)
			if err != nil {
				t.Fatal(err)
			}
			defer broker.Close()
			client := newClient(t, broker.Address, kgo.TransactionalID("one"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
			admin := kadm.NewClient(client)
			if _, err := admin.CreateTopic(ctx, 2, 1, nil, "users"); err != nil {
				t.Fatal(err)
			}
			if err := client.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			for partition := range int32(2) {
				record := &kgo.Record{Topic: "users", Partition: partition, Key: []byte("user_1"), Value: []byte("x")}
				if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
					t.Fatal(err)
				}
			}
			if test.cut {
				id, epoch, err := client.ProducerID(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := admin.WriteTxnMarkers(ctx, kadm.TxnMarkers{
					ProducerID: id, ProducerEpoch: epoch, Commit: true, Topics: kadm.TopicsSet{"users": {0: {}}},
				}); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // a second crash must not bring back what the first has ended
				dir = crashed(t, dir)
				again, err := Start(ctx, dir, discard)
				if err != nil {
					t.Fatal(err)
				}
				defer again.Close()
				for partition := range int32(2) {
					got := 0
					if err := compacted.Read(ctx, []kgo.Opt{kgo.SeedBrokers(again.Address)}, "users", partition, func(*kgo.Record) error {
						got++
						return nil
					}); err != nil {
						t.Fatal(err)
					}
					if got != test.want {
						t.Errorf("partition %d: got %d committed records, want %d", partition, got, test.want)
					}
				}
			}
		})
	}
}

// crashed returns a copy of the folder of a running broker, as a crash would
// leave it: every write is synced.
func crashed(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(to, infoName)); err != nil { // its port is taken
		t.Fatal(err)
	}
	return to
}

func newClient(t *testing.T, address string, options ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append(options, kgo.SeedBrokers(address))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}
