package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/sqlite"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// TestInit shows that Init and the script make the same, may run again, and
// that Open finds with CREATE_TABLE=false what they have made.
func TestInit(t *testing.T) {
	t.Parallel()
	for _, unique := range []bool{false, true} {
		for _, policy := range usertable.Deletions() {
			t.Run(fmt.Sprintf("%v,%s", unique, policy), func(t *testing.T) {
				t.Parallel()
				var schemas []string
				for name, run := range map[string]func(*sqlite.Sink, string){
					"init": func(s *sqlite.Sink, _ string) {
						if err := s.Init(context.Background()); err != nil {
							t.Fatalf("Init: %v", err)
						}
					},
					"script": func(s *sqlite.Sink, path string) { runScript(t, path, s.InitScript()) },
				} {
					path := filepath.Join(t.TempDir(), name+".db")
					cfg := sqlite.Config{Path: path, Config: usertable.Config{Deletion: policy, UniqueEmail: unique}}
					for range 2 {
						run(newSink(t, cfg), path)
					}
					schemas = append(schemas, schemaOf(t, path))
					openSink(t, cfg)
					cfg.CreateTable = true
					openSink(t, cfg)
					if again := schemaOf(t, path); again != schemas[len(schemas)-1] {
						t.Errorf("%s: Open has changed %s to %s", name, schemas[len(schemas)-1], again)
					}
				}
				if schemas[0] != schemas[1] {
					t.Errorf("Init and the script differ:\n%s\n%s", schemas[0], schemas[1])
				}
			})
		}
	}
}

func runScript(t *testing.T, path, script string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	exec(t, db, script)
}

// schemaOf returns the statements by which everything in a file was made.
func schemaOf(t *testing.T, path string) string {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var schema string
	if err := db.QueryRow("SELECT group_concat(sql, '; ') FROM (SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name)").Scan(&schema); err != nil {
		t.Fatal(err)
	}
	return schema
}

// TestInit_UniqueEmail shows what UNIQUE_EMAIL makes: two users who are not
// deleted cannot share an address, and the sink settles who has it.
func TestInit_UniqueEmail(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "users.db")
	cfg := sqlite.Config{Path: path, Config: usertable.Config{Deletion: usertable.DeletionSoft, UniqueEmail: true, CreateTable: true}}
	sink := openSink(t, cfg)
	person := usertabletest.Person
	sinktest.MustApply(t, sink, person("user_1", 1, "a@x"), person("user_2", 1, "b@x"), person("user_4", 1, ""), person("user_5", 1, ""))
	usertabletest.Deliver(t, sink, []sinks.Record{person("user_1", 3, "b@x"), person("user_2", 2, "a@x")}, true)
	usertabletest.Deliver(t, sink, []sinks.Record{person("user_3", 5, "b@x"), usertabletest.Erasure("user_1", 4, 5, false)}, false)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	var got string
	if err := db.QueryRow("SELECT group_concat(id || ' ' || coalesce(email, '-'), ', ') FROM (SELECT * FROM clerk_users ORDER BY id)").Scan(&got); err != nil {
		t.Fatal(err)
	}
	if got != "user_1 -, user_2 a@x, user_3 b@x, user_4 -, user_5 -" {
		t.Errorf("addresses: got %s", got)
	}
	if _, err := db.Exec("UPDATE clerk_users SET email = 'a@x' WHERE id = 'user_4'"); err == nil {
		t.Error("two users who are not deleted share an address")
	}
}

// TestInit_Shared has users who share an address when UNIQUE_EMAIL is set.
func TestInit_Shared(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "users.db")
	cfg := sqlite.Config{Path: path, Config: usertable.Config{CreateTable: true}}
	sinktest.MustApply(t, openSink(t, cfg), usertabletest.Person("user_1", 1, "a@x"), usertabletest.Person("user_2", 1, "a@x"))
	cfg.UniqueEmail = true
	expectOpen(t, cfg, "set UNIQUE_EMAIL=false")
}

// TestInit_Application shows that the script for a table of the application's
// makes the side table alone, and gives the rest as advice.
func TestInit_Application(t *testing.T) {
	t.Parallel()
	a := newApplication(t, users(""))
	sink := newSink(t, a.config(usertabletest.Settings()))
	script := sink.InitScript()
	if !strings.Contains(script, "\n-- CREATE UNIQUE INDEX") || strings.Contains(script, `TABLE IF NOT EXISTS "users"`) || strings.Contains(script, "\nALTER") {
		t.Errorf("the script:\n%s", script)
	}
	before := len(a.rows(t, "sqlite_schema"))
	exec(t, a.db, script)
	if err := sink.Init(t.Context()); err != nil {
		t.Errorf("Init: %v", err)
	}
	if made := len(a.rows(t, "sqlite_schema")) - before; made != 1 {
		t.Errorf("things made: got %d, want the side table", made)
	}
}

// TestTimes shows the forms in which times are kept, that SQLite's functions
// take them, and that the view counts by weeks.
func TestTimes(t *testing.T) {
	t.Parallel()
	for format, want := range map[sqlite.TimeFormat]string{
		"": "text 2023-11-19T23:00:00.125Z", sqlite.TimeISO8601: "text 2023-11-19T23:00:00.125Z", sqlite.TimeSQL: "text 2023-11-19 23:00:00.125",
		sqlite.TimeUnix: "integer 1700434800", sqlite.TimeUnixMilli: "integer 1700434800125",
	} {
		path := filepath.Join(t.TempDir(), "users.db")
		sink := openSink(t, sqlite.Config{Config: usertable.Config{CreateTable: true}, Path: path, TimeFormat: format})
		const sunday, monday = 1700434800125, 1700438400000 // 2023-11-19 23:00:00.125 and 2023-11-20 00:00 UTC
		for i, created := range []int64{sunday, monday, monday + 1, monday + 7*86400000 - 1} {
			r := sinktest.Change(fmt.Sprint("user_", i), 1)
			r.Change.User.CreatedAt = &created
			sinktest.MustApply(t, sink, r)
		}
		none := sinktest.Change("user_9", 1)
		none.Change.User.CreatedAt = nil
		sinktest.MustApply(t, sink, none)
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		var got, weeks string
		if err := db.QueryRow("SELECT typeof(created_at) || ' ' || created_at FROM clerk_users WHERE id = 'user_0'").Scan(&got); err != nil {
			t.Fatal(err)
		}
		if err := db.QueryRow("SELECT group_concat(week || ' ' || signups, ', ') FROM clerk_users_signups_per_week").Scan(&weeks); err != nil {
			t.Fatal(err)
		}
		if got != want || weeks != "2023-11-13 1, 2023-11-20 3" {
			t.Errorf("%s: got %s, weeks %s, want %s", format, got, weeks, want)
		}
	}
}
