package mysql_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

// BenchmarkApply measures how many users a second one connection writes, of
// users that are new and of users that are there, each with every column
// filled. times-plain is how often the time of one plain INSERT of all the same
// new rows, into a table of the same columns in the same run, goes into it.
func BenchmarkApply(b *testing.B) {
	for _, size := range []int{1, 10, 100, 500, 1000} {
		for _, form := range []string{"insert", "update"} {
			b.Run(fmt.Sprintf("%s/batch=%d", form, size), func(b *testing.B) { benchmarkApply(b, size, form == "insert") })
		}
	}
}

func benchmarkApply(b *testing.B, size int, insert bool) {
	s := newServer(b)
	sink := open(b, s.config())
	s.exec(b, "CREATE TABLE plain LIKE clerk_users")
	version := int64(0)
	batch := make([]sinks.Record, size)
	next := func() {
		version++
		for i := range batch {
			id := fmt.Sprintf("user_%08d", i)
			if insert {
				id = fmt.Sprintf("user_%08d_%08d", version, i)
			}
			batch[i] = change(id, version)
		}
	}
	next()
	mustApply(b, sink, batch...)
	var plain time.Duration
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		next()
		if insert {
			plain += s.plainRows(b, batch)
		}
		b.StartTimer()
		mustApply(b, sink, batch...)
	}
	rows := float64(b.N * size)
	b.ReportMetric(rows/b.Elapsed().Seconds(), "rows/s")
	if insert {
		b.ReportMetric(rows/plain.Seconds(), "plain-rows/s")
		b.ReportMetric(b.Elapsed().Seconds()/plain.Seconds(), "times-plain")
	}
}

// plainRows writes the batch with one INSERT and returns how long it took.
func (s server) plainRows(b *testing.B, batch []sinks.Record) time.Duration {
	b.Helper()
	columns := usertable.Columns()
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
