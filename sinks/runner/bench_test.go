package runner

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
)

// Limits of what a sink that remembers its users costs: 100 bytes a user beside
// what the sink itself remembers, so that ten million of them, of 150 bytes
// each, fit into 2.5 GB for each sink; 150 bytes an erased user, of whom there
// are more each year; and 200,000 users a second when a partition is taken over,
// so that those ten million are there within a minute.
const (
	bytesLimit     = 100
	paidBytesLimit = 150
	restoreLimit   = 200_000
)

// remembers is what a tool's sink remembers of a user: the remote id, the
// address, and hashes of four properties.
func remembers(i int) []byte {
	return fmt.Appendf(nil, `{"v":1,"id":"%012d","email":"person.%07d@example.com","sent":`+
		`{"email":"%08x","firstname":"%08x","lastname":"%08x","plan":"%08x"}}`, i, i, i, i+1, i+2, i+3)
}

// fill writes what is known of that many users into the topic of states, each
// of them twice, as in a partition that is not compacted yet.
func fill(b *testing.B, client *kgo.Client, p *processor, users int) {
	b.Helper()
	for round := range 2 {
		for i := range users {
			of := known{state: remembers(i), version: schemas.Version{Epoch: 29_000_000, Number: int64(1_790_000_000_000 + round*users + i)}}
			client.Produce(b.Context(), p.stateRecord(fmt.Sprintf("user_%027d", i), remembered{0, &of}), nil)
		}
	}
	if err := client.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkStates restores a partition from the in-process broker, and reports
// the heap that each user costs beside what the sink remembers, and how many
// records a second are read, each with the ratio to its limit; of-memory-limit
// and of-time-limit below 1 are within it.
func BenchmarkStates(b *testing.B) {
	benchmarkRestore(b, fill, restored{
		records: 2, given: len(remembers(0)), limit: bytesLimit, known: func(m *memory) int { return m.states.len() },
	})
}

// BenchmarkPaidErasures is BenchmarkStates for users whose erasure was paid and
// read back: of them a sink knows no more, for ever.
func BenchmarkPaidErasures(b *testing.B) {
	benchmarkRestore(b, fillPaid, restored{
		records: 2, limit: paidBytesLimit, known: func(m *memory) int { return m.receipts.len() - len(m.debts) - len(m.unconfirmed) },
	})
}

// fillPaid writes erasures and the sink's receipts.
func fillPaid(b *testing.B, client *kgo.Client, p *processor, users int) {
	b.Helper()
	for i := range users {
		id, version, at := fmt.Sprintf("user_%027d", i), int64(1_790_000_000_000+i), int64(1_790_000_060_000+i)
		demand := erasure(id, &schemas.Erasure{
			ClerkID: id, Epoch: 29_000_000, Version: version, Origin: schemas.OriginWebhook,
			EventID: fmt.Sprintf("msg_%027d", i), RequestedAt: at - 1000, SequencedAt: at - 900,
		})
		receipt, err := p.receiptRecord(schemas.Receipt{
			ClerkID: id, Sink: sinkName, Epoch: 29_000_000, Version: version, Outcome: schemas.OutcomeDeleted, DoneAt: at, ConfirmedAt: new(at + 900_000),
		}, 0)
		if err != nil {
			b.Fatal(err)
		}
		client.Produce(b.Context(), demand, nil)
		client.Produce(b.Context(), receipt, nil)
	}
	if err := client.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// restored is what a partition has of each user.
type restored struct {
	records int     // in Kafka
	given   int     // bytes in memory that are the sink's own
	limit   float64 // of the bytes beside them
	known   func(m *memory) (users int)
}

func benchmarkRestore(b *testing.B, fill func(*testing.B, *kgo.Client, *processor, int), what restored) {
	for _, users := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("users=%d", users), func(b *testing.B) {
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1,
				topics.SinkState(sinkName), topics.Erasures(), topics.ErasureReceipts(), topics.DeadLetters(sinkName)))
			if err != nil {
				b.Fatal(err)
			}
			defer cluster.Close()
			opts := []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}
			client, err := kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			r, err := New(DefaultConfig(sinkName), newConfirming(nil, 0), Options{Client: opts, Topics: topics, InstanceName: "a", Logger: quiet()})
			if err != nil {
				b.Fatal(err)
			}
			p := r.newProcessor(nil)
			p.partitions[0] = newMemory()
			fill(b, client, p, users)
			what.measure(b, p, users)
		})
	}
}

func (what restored) measure(b *testing.B, p *processor, users int) {
	var perUser float64
	for b.Loop() {
		p.Forget(0)
		b.StopTimer()
		before := heap()
		b.StartTimer()
		install, err := p.Restore(b.Context(), 0)
		if err != nil {
			b.Fatal(err)
		}
		install()
		install = nil
		b.StopTimer()
		if known := what.known(p.partitions[0]); known != users {
			b.Fatalf("%d users restored, want %d", known, users)
		}
		perUser = float64(heap()-before)/float64(users) - float64(what.given)
		b.StartTimer()
	}
	perSecond := float64(what.records*users*b.N) / b.Elapsed().Seconds()
	b.ReportMetric(perUser, "bytes/user")
	b.ReportMetric(perUser/what.limit, "of-memory-limit")
	b.ReportMetric(perSecond, "records/s")
	b.ReportMetric(restoreLimit/perSecond, "of-time-limit")
}

// heap returns the bytes in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
