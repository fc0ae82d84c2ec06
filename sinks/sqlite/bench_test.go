package sqlite_test

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/sqlite"
	"clerkconnect/sinks/usertable"
)

// BenchmarkApply measures how many users a second are written, of users that
// are new and of users that are there, each with every column filled.
// times-plain compares it with plain inserts of the same new rows through one
// prepared statement in one transaction, into a table of the same columns in
// the same file.
func BenchmarkApply(b *testing.B) {
	sinktest.Benchmark(b, func(b *testing.B) sinktest.Bench {
		path := filepath.Join(b.TempDir(), "users.db")
		sink := openSink(b, sqlite.Config{Config: usertable.Config{CreateTable: true}, Path: path, BusyTimeout: time.Second})
		db, err := sql.Open("sqlite", "file:"+path+"?_pragma=synchronous(FULL)&_pragma=secure_delete(ON)")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = db.Close() })
		columns := mapping.Fields()
		exec(b, db, "CREATE TABLE plain (id TEXT NOT NULL PRIMARY KEY, "+names(columns)+")")
		return sinktest.Bench{Sink: sink, Plain: func(batch []sinks.Record) time.Duration { return plainRows(b, db, columns, batch) }}
	})
}

// plainRows inserts the batch and returns how long it took.
func plainRows(b *testing.B, db *sql.DB, columns []mapping.Field, batch []sinks.Record) time.Duration {
	b.Helper()
	start := time.Now()
	tx, err := db.BeginTx(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	insert, err := tx.Prepare("INSERT INTO plain VALUES (?" + strings.Repeat(", ?", len(columns)) + ")")
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range batch {
		row := []any{r.ClerkID}
		for _, c := range columns {
			value := c.Value(&r.Change.User)
			if moment, ok := value.(time.Time); ok {
				value = moment.Format(time.RFC3339)
			}
			row = append(row, value)
		}
		if _, err := insert.Exec(row...); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

func names(columns []mapping.Field) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = c.Name
	}
	return strings.Join(list, ", ")
}
