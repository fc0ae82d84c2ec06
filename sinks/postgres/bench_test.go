package postgres_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/sinktest"
)

// BenchmarkApply measures how many users a second one connection writes, of
// users that are new and of users that are there, each with every column
// filled. copy/row is how often the time of a plain COPY of the same new rows,
// into a table of the same columns in the same run, goes into it.
func BenchmarkApply(b *testing.B) {
	sinktest.Benchmark(b, func(b *testing.B) sinktest.Bench {
		s := newServer(b)
		sink := open(b, s.config())
		s.exec(b, "CREATE TABLE %.copied (LIKE %.clerk_users INCLUDING ALL)")
		return sinktest.Bench{Sink: sink, Plain: func(batch []sinks.Record) time.Duration { return s.copyRows(b, batch) }}
	})
}

// copyRows writes the batch with a plain COPY and returns how long it took.
func (s server) copyRows(b *testing.B, batch []sinks.Record) time.Duration {
	b.Helper()
	columns, names := mapping.Fields(), []string{"id"}
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
