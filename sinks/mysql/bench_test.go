package mysql_test

import (
	"strings"
	"testing"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/sinktest"
)

// BenchmarkApply measures how many users a second one connection writes, of
// users that are new and of users that are there, each with every column
// filled. times-plain is how often the time of one plain INSERT of all the same
// new rows, into a table of the same columns in the same run, goes into it.
func BenchmarkApply(b *testing.B) {
	sinktest.Benchmark(b, func(b *testing.B) sinktest.Bench {
		s := newServer(b)
		sink := open(b, s.config())
		s.exec(b, "CREATE TABLE plain LIKE clerk_users")
		return sinktest.Bench{Sink: sink, Plain: func(batch []sinks.Record) time.Duration { return s.plainRows(b, batch) }}
	})
}

// plainRows writes the batch with one INSERT and returns how long it took.
func (s server) plainRows(b *testing.B, batch []sinks.Record) time.Duration {
	b.Helper()
	columns := mapping.Fields()
	row := "(?" + strings.Repeat(", ?", len(columns)) + ")"
	start := time.Now()
	var args []any
	for _, r := range batch {
		args = append(args, r.ClerkID)
		for _, c := range columns {
			args = append(args, c.Value(&r.Change.User))
		}
	}
	s.exec(b, "INSERT INTO plain VALUES "+row+strings.Repeat(", "+row, len(batch)-1), args...)
	return time.Since(start)
}
