package sqlite_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/sqlite"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

func TestApplication(t *testing.T) {
	t.Parallel()
	usertabletest.Run(t, usertabletest.Bed{New: func(t testing.TB, emailRequired bool) usertabletest.Application {
		required := ""
		if emailRequired {
			required = " NOT NULL"
		}
		a := newApplication(t, `
			CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, clerk_id TEXT UNIQUE, email TEXT`+required+` UNIQUE,
				first_name TEXT, last_name TEXT, image_url TEXT, profile TEXT, bio TEXT, role TEXT NOT NULL DEFAULT 'member', deleted_at TEXT);
			CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL REFERENCES users (id));
			CREATE TABLE posts (id INTEGER PRIMARY KEY, author TEXT);`)
		return usertabletest.Application{
			Open: func(t testing.TB, settings usertable.Config) sinks.Sink { return a.open(t, settings) },
			Exec: func(t testing.TB, statement string) {
				t.Helper()
				exec(t, a.db, strings.ReplaceAll(statement, "%", ""))
			},
			Users: func(t testing.TB) map[string]usertabletest.Row {
				users := map[string]usertabletest.Row{}
				for _, row := range a.rows(t, "users") {
					if text := row["deleted_at"]; text != "" {
						at, err := time.Parse(time.RFC3339, text)
						if err != nil {
							t.Fatal(err)
						}
						row["deleted_at"] = fmt.Sprint(at.UnixMilli())
					}
					users[row["clerk_id"]] = row
				}
				return users
			},
			Dump: a.dump,
		}
	}})
}

// application is a database of an application's.
type application struct {
	path string
	db   *sql.DB // the application's own connection
}

func newApplication(t testing.TB, ddl string) application {
	t.Helper()
	a := application{path: filepath.Join(t.TempDir(), "app.db")}
	var err error
	if a.db, err = sql.Open("sqlite", "file:"+escape.Replace(a.path)+"?_pragma=busy_timeout(10000)&_pragma=foreign_keys(ON)"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.db.Close() })
	a.db.SetMaxOpenConns(1)
	exec(t, a.db, ddl)
	return a
}

func (a application) config(settings usertable.Config) sqlite.Config {
	return sqlite.Config{Config: settings, Path: a.path, BusyTimeout: 10 * time.Second}
}

func (a application) open(t testing.TB, settings usertable.Config) *sqlite.Sink {
	t.Helper()
	return openSink(t, a.config(settings))
}

// rows returns the rows of a table as text, without what is null.
func (a application) rows(t testing.TB, table string) (rows []map[string]string) {
	t.Helper()
	found, err := a.db.Query("SELECT * FROM " + usertable.Quote(table) + " ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	names, err := found.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for found.Next() {
		values, into := make([]sql.NullString, len(names)), make([]any, len(names))
		for i := range values {
			into[i] = &values[i]
		}
		if err := found.Scan(into...); err != nil {
			t.Fatal(err)
		}
		row := map[string]string{}
		for i, value := range values {
			if value.Valid {
				row[names[i]] = value.String
			}
		}
		rows = append(rows, row)
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return rows
}

// users returns the rows of the table users by clerk_id.
func (a application) users(t testing.TB) map[string]map[string]string {
	t.Helper()
	users := map[string]map[string]string{}
	for _, row := range a.rows(t, "users") {
		users[row["clerk_id"]] = row
	}
	return users
}

// dump returns every byte of the database's files.
func (a application) dump(t testing.TB) (dump []byte) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-journal"} {
		data, err := os.ReadFile(a.path + suffix)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		dump = append(dump, data...)
	}
	return dump
}
