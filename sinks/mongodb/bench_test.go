package mongodb_test

import (
	"fmt"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mongodb"
	"clerkconnect/sinks/usertable"
)

// BenchmarkApply measures how many users a second one connection writes, of
// users that are new, each with every path filled. times-insert is how often
// the time of a plain InsertMany of the same values, into a collection without
// an index of its own in the same run, goes into it.
func BenchmarkApply(b *testing.B) {
	for _, transactions := range []bool{true, false} {
		for _, size := range []int{1, 10, 100} {
			b.Run(fmt.Sprintf("transactions=%v/batch=%d", transactions, size), func(b *testing.B) { benchmarkApply(b, transactions, size) })
		}
	}
}

func benchmarkApply(b *testing.B, transactions bool, size int) {
	s := newServer(b)
	sink := open(b, s.config(transactions))
	version := int64(0)
	batch := make([]sinks.Record, size)
	next := func() {
		version++
		for i := range batch {
			batch[i] = change(fmt.Sprintf("user_%08d_%08d", version, i), version)
		}
	}
	next()
	mustApply(b, sink, batch...)
	var plain time.Duration
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		next()
		plain += s.insertPlainly(b, batch)
		b.StartTimer()
		mustApply(b, sink, batch...)
	}
	rows := float64(b.N * size)
	b.ReportMetric(rows/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(rows/plain.Seconds(), "insert-rows/s")
	b.ReportMetric(b.Elapsed().Seconds()/plain.Seconds(), "times-insert")
}

// insertPlainly writes the batch with a plain InsertMany and returns how long
// it took.
func (s server) insertPlainly(b *testing.B, batch []sinks.Record) time.Duration {
	b.Helper()
	documents := make([]any, len(batch))
	for i, r := range batch {
		document := bson.D{{Key: "clerkId", Value: r.ClerkID}}
		for _, c := range usertable.Columns() {
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
