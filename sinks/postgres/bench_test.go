package postgres_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

// BenchmarkApply measures how many users a second one connection writes, of
// users that are new and of users that are there, each with every column
// filled. copy/row is how often the time of a plain COPY of the same new rows,
// into a table of the same columns in the same run, goes into it.
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
	s.exec(b, "CREATE TABLE %.copied (LIKE %.clerk_users INCLUDING ALL)")
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
			plain += s.copyRows(b, batch)
		}
		b.StartTimer()
		mustApply(b, sink, batch...)
	}
	rows := float64(b.N * size)
	b.ReportMetric(rows/b.Elapsed().Seconds(), "rows/s")
	if insert {
		b.ReportMetric(rows/plain.Seconds(), "copy-rows/s")
		b.ReportMetric(b.Elapsed().Seconds()/plain.Seconds(), "times-copy")
	}
}

// copyRows writes the batch with a plain COPY and returns how long it took.
func (s server) copyRows(b *testing.B, batch []sinks.Record) time.Duration {
	b.Helper()
	columns, names := usertable.Columns(), []string{"id"}
	for _, c := range columns {
		names = append(names, c.Name)
	}
	start := time.Now()
	_, err := s.pool.CopyFrom(b.Context(), pgx.Identifier{s.schema, "copied"}, names, pgx.CopyFromSlice(len(batch), func(i int) ([]any, error) {
		row := []any{batch[i].ClerkID}
		for _, c := range columns {
			row = append(row, c.Value(&batch[i].Change.User))
		}
		return row, nil
	}))
	if err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}
