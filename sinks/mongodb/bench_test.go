package mongodb_test

import (
	"fmt"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/mongodb"
	"clerkconnect/sinks/sinktest"
)

// BenchmarkApply measures how many users a second one connection writes, of
// users that are new, each with every path filled. times-insert is how often
// the time of a plain InsertMany of the same values, into a collection without
// an index of its own in the same run, goes into it.
func BenchmarkApply(b *testing.B) {
	for _, transactions := range []bool{true, false} {
		b.Run(fmt.Sprintf("transactions=%v", transactions), func(b *testing.B) {
			sinktest.Benchmark(b, func(b *testing.B) sinktest.Bench {
				s := newServer(b)
				return sinktest.Bench{Sink: open(b, s.config(transactions)), Plain: func(batch []sinks.Record) time.Duration { return s.insertPlainly(b, batch) }}
			})
		})
	}
}

// insertPlainly writes the batch with a plain InsertMany and returns how long
// it took.
func (s server) insertPlainly(b *testing.B, batch []sinks.Record) time.Duration {
	b.Helper()
	documents := make([]any, len(batch))
	for i, r := range batch {
		document := bson.D{{Key: "clerkId", Value: r.ClerkID}}
		for _, c := range mapping.Fields() {
			document = append(document, bson.E{Key: mongodb.Paths[c.Name], Value: c.Value(&r.Change.User)})
		}
		documents[i] = document
	}
	start := time.Now()
	if _, err := s.db.Collection("plain").InsertMany(b.Context(), documents); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}
