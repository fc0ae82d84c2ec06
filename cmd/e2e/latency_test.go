package e2e

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"clerkconnect/connector/clerksim"
)

// latencyLimit is what a webhook may take to its row at the 99th percentile,
// on two processors with everything on one machine (broker, database,
// simulator): the figure that Sequin publishes for Postgres to Kafka alone is
// 253 ms.
const latencyLimit = 250 * time.Millisecond

// latencySamples is enough for a 99th percentile that no single outlier makes.
const latencySamples = 1000

// BenchmarkWebhookToRow measures from the moment that a webhook is sent to the
// moment that its row can be read from the database: one at a time, so nothing
// waits in a queue. The reader polls every millisecond, which is its error. Each
// round takes latencySamples; it reports the first sample apart, which finds
// everything cold, then the 50th and 99th percentile and the ratio of the latter to
// latencyLimit. Servers: the in-process broker always, Kafka and PostgreSQL if
// TEST_KAFKA_BROKERS and TEST_POSTGRES_DSN name them.
func BenchmarkWebhookToRow(b *testing.B) {
	for _, kafka := range []bool{false, true} {
		b.Run(fmt.Sprintf("kafka=%v", kafka), func(b *testing.B) {
			if kafka && os.Getenv("TEST_KAFKA_BROKERS") == "" {
				b.Skip("TEST_KAFKA_BROKERS is not set")
			}
			if os.Getenv("TEST_POSTGRES_DSN") == "" {
				b.Skip("TEST_POSTGRES_DSN is not set")
			}
			s := newStack(b, kafka, 1000)
			s.start("one", all, "")
			db := s.postgres()
			defer db.Close()
			rows := func(id string) (n int) {
				if err := db.QueryRow("SELECT count(*) FROM "+s.schema+".clerk_users WHERE $1 IN ('', id)", id).Scan(&n); err != nil {
					return 0
				}
				return n
			}
			eventually(b, patience, "the snapshot is in the table", func() bool { return rows("") >= 1000 })
			first := signUp(b, s, rows)
			var took []time.Duration
			for b.Loop() {
				for range latencySamples {
					took = append(took, signUp(b, s, rows))
				}
			}
			slices.Sort(took)
			p99 := took[(len(took)*99+99)/100-1] // the nearest rank
			b.ReportMetric(float64(first.Microseconds())/1000, "first-ms")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(p99.Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(p99)/float64(latencyLimit), "of-limit")
		})
	}
}

// signUp returns how long a new user took from his webhook to his row.
func signUp(b *testing.B, s *stack, rows func(id string) int) time.Duration {
	id := s.sim.SignUp()
	messages := s.sim.Messages()
	message := messages[len(messages)-1]
	if message.UserID != id || message.Type != clerksim.UserCreated {
		b.Fatalf("the last message is %s of %s", message.Type, message.UserID)
	}
	started := time.Now()
	if status, err := s.sim.Deliver(b.Context(), message.ID); err != nil || status != 200 {
		b.Fatalf("delivery: %d, %v", status, err)
	}
	for rows(id) == 0 {
		time.Sleep(time.Millisecond)
	}
	return time.Since(started)
}
