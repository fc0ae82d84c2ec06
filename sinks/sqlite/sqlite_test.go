package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/sqlite"
	"clerkconnect/sinks/usertable"
)

func TestSink(t *testing.T) {
	for _, policy := range usertable.Deletions() {
		t.Run(string(policy), func(t *testing.T) {
			sinktest.Run(t, sinktest.Harness{Erased: outcomes[policy], New: func(t testing.TB) sinktest.Destination { return newDestination(t, policy) }})
		})
	}
}

// newDestination is a file whose users table refuses the locale "poison", with
// the value in the message.
func newDestination(t testing.TB, policy usertable.Deletion) sinktest.Destination {
	path := filepath.Join(t.TempDir(), "users #1?.db")
	settings := usertable.Config{CreateTable: true, Deletion: policy}
	first := openSink(t, sqlite.Config{Config: settings, Path: path, BusyTimeout: 5 * time.Second})
	close(t, first)
	db, err := sql.Open("sqlite", "file:"+escape.Replace(path))
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	exec(t, db, `CREATE TRIGGER refuse BEFORE INSERT ON clerk_users WHEN NEW.locale = 'poison'
		BEGIN SELECT RAISE(ABORT, 'cannot take ' || NEW.first_name); END`)
	busy := 5 * time.Second
	return sinktest.Destination{
		Sink: func(t testing.TB) sinks.Sink {
			return newSink(t, sqlite.Config{Config: settings, Path: path, BusyTimeout: busy})
		},
		Read: func(t testing.TB, ids ...string) map[string]sinktest.Row { return read(t, db, ids, policy) },
		Dump: func(t testing.TB) []byte {
			var dump []byte
			for _, suffix := range []string{"", "-wal"} {
				data, err := os.ReadFile(path + suffix)
				if err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
				dump = append(dump, data...)
			}
			return dump
		},
		Poison: func(u *schemas.User) { u.Locale = new("poison") },
	}
}

// escape makes a path fit for the driver's name of a file.
var escape = strings.NewReplacer("#", "%23", "?", "%3F")

// TestSink_Locked is the suite's outage: another program keeps the write lock.
func TestSink_Locked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.db")
	sink := openSink(t, sqlite.Config{Config: usertable.Config{CreateTable: true}, Path: path, BusyTimeout: 10 * time.Millisecond})
	other, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	lock, err := other.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	batch := []sinks.Record{sinktest.Change("user_1", 1)}
	if got := sinks.Classify(sink.Apply(t.Context(), batch)); got.Class != sinks.ClassRetry || got.Reason != sinks.ReasonConflict {
		t.Errorf("Apply while another writes: got %v, want a conflict to retry", got)
	}
	if err := lock.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := sink.Apply(t.Context(), batch); err != nil {
		t.Errorf("Apply when the other has ended: %v", err)
	}
}

// TestErase_WithReader shows that a program that reads for long delays neither
// an erasure nor anything else for more than the busy timeout.
func TestErase_WithReader(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "users.db")
	sink := openSink(t, sqlite.Config{Config: usertable.Config{CreateTable: true}, Path: path, BusyTimeout: 10 * time.Millisecond})
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	other, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	reader, err := other.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var held int
	if err := reader.QueryRow("SELECT count(*) FROM clerk_users").Scan(&held); err != nil {
		t.Fatal(err)
	}
	sinktest.MustApply(t, sink, sinks.Record{ClerkID: "user_1", Version: schemas.Version{Epoch: 1, Number: 2}})
	if gone, err := sink.Confirm(t.Context(), "user_1", nil); !gone || err != nil {
		t.Errorf("Confirm: got %v, %v, want true", gone, err)
	}
	if err := reader.Rollback(); err != nil {
		t.Fatal(err)
	}
	sinktest.MustApply(t, sink, sinktest.Change("user_2", 1))
	sinktest.MustApply(t, sink, sinks.Record{ClerkID: "user_2", Version: schemas.Version{Epoch: 1, Number: 2}})
	if info, err := os.Stat(path + "-wal"); err != nil || info.Size() != 0 {
		t.Errorf("write-ahead log after the reader has ended: got %v, %v, want it empty", info.Size(), err)
	}
}

func TestOpen_NoFolder(t *testing.T) {
	t.Parallel()
	sink := newSink(t, sqlite.Config{Path: filepath.Join(t.TempDir(), "none", "users.db")})
	if err := sink.Open(t.Context()); sinks.Classify(err).Class != sinks.ClassFatal {
		t.Errorf("Open: got %v, want a fatal error", err)
	}
}

// TestOwnColumns shows that what the application keeps beside our columns is
// never touched.
func TestOwnColumns(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "users.db")
	sink := openSink(t, sqlite.Config{Config: usertable.Config{CreateTable: true}, Path: path, BusyTimeout: time.Second})
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	exec(t, db, `ALTER TABLE clerk_users ADD COLUMN plan TEXT NOT NULL DEFAULT 'free'`)
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	exec(t, db, `UPDATE clerk_users SET plan = 'gold'`)
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 2), sinktest.Change("user_2", 1))
	var plans string
	if err := db.QueryRow(`SELECT group_concat(plan) FROM (SELECT plan FROM clerk_users ORDER BY id)`).Scan(&plans); err != nil {
		t.Fatal(err)
	}
	if plans != "gold,free" {
		t.Errorf("the application's column: got %s, want gold,free", plans)
	}
}

// TestReplayWritesNothing shows that only ids that moved touch the users table.
func TestReplayWritesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "users.db")
	sink := openSink(t, sqlite.Config{Config: usertable.Config{CreateTable: true}, Path: path, BusyTimeout: time.Second})
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 2))
	exec(t, db, `CREATE TRIGGER touched BEFORE UPDATE ON clerk_users BEGIN SELECT RAISE(ABORT, 'touched'); END`)
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 2), sinktest.Change("user_2", 1))
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
}

func TestFileMode(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "users.db")
	sink := openSink(t, sqlite.Config{Config: usertable.Config{CreateTable: true}, Path: path})
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	for _, suffix := range []string{"", "-wal"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("mode of users.db%s: got %o, want 600", suffix, info.Mode().Perm())
		}
	}
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	err := sqlite.Config{Config: usertable.Config{Table: strings.Repeat("x", 41)}, BusyTimeout: -1, TimeFormat: "julian"}.Validate()
	for _, variable := range []string{"PATH", "TABLE", "BUSY_TIMEOUT", "TIME_FORMAT"} {
		if err == nil || !strings.Contains(err.Error(), variable) {
			t.Errorf("Validate: got %v, want a word about %s", err, variable)
		}
	}
}

func newSink(t testing.TB, cfg sqlite.Config) *sqlite.Sink { return sinktest.New(t, sqlite.New, cfg) }

func openSink(t testing.TB, cfg sqlite.Config) *sqlite.Sink { return sinktest.Open(t, sqlite.New, cfg) }

func close(t testing.TB, sink *sqlite.Sink) {
	t.Helper()
	if err := sink.Close(); err != nil {
		t.Error(err)
	}
}

func exec(t testing.TB, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(context.Background(), statement); err != nil {
		t.Fatal(err)
	}
}

// read reads rows as the suite wants them.
func read(t testing.TB, db *sql.DB, ids []string, policy usertable.Deletion) map[string]sinktest.Row {
	t.Helper()
	columns := mapping.Fields()
	statement := "SELECT id, " + names(columns) + " FROM clerk_users WHERE id IN (''" + strings.Repeat(", ?", len(ids)) + ")"
	if policy != usertable.DeletionHard {
		statement += " AND deleted_at IS NULL"
	}
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	found, err := db.QueryContext(context.Background(), statement, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	rows := map[string]sinktest.Row{}
	for found.Next() {
		var id string
		values := make([]any, len(columns))
		targets := []any{&id}
		for i := range values {
			targets = append(targets, &values[i])
		}
		if err := found.Scan(targets...); err != nil {
			t.Fatal(err)
		}
		row := sinktest.Row{}
		for i, c := range columns {
			if values[i] == nil {
				continue
			}
			row[field(c)] = fromColumn(t, c.Kind, values[i])
		}
		rows[id] = row
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return rows
}

// field is the name in user.avsc of what a column holds.
func field(c mapping.Field) string {
	if c.Name == "email" {
		return "primary_email_address"
	}
	return c.Name
}

func fromColumn(t testing.TB, kind mapping.Kind, value any) any {
	switch kind {
	case mapping.Bool:
		return value == int64(1)
	case mapping.Time:
		parsed, err := time.Parse(time.RFC3339, fmt.Sprint(value))
		if err != nil {
			t.Fatal(err)
		}
		return parsed.UnixMilli()
	}
	return value
}
