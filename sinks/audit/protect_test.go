package audit

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
)

// attempts are what the database must refuse to whoever owns the tables.
func attempts(b bed) []string {
	log, client := b.hands.(*sqlHands).dialect.names.log, b.hands.(*sqlHands).dialect.names.client
	list := []string{
		"UPDATE " + log + " SET action = 'x'", "UPDATE " + log + " SET action = 'x' WHERE seq = 2", "DELETE FROM " + log,
		"DELETE FROM " + log + " WHERE seq = 2", "UPDATE " + client + " SET client_ip = 'x'",
	}
	switch b.cfg.scheme() {
	case "sqlite":
		other := strings.Replace(strings.Join(columnNames(), ", "), "entry", "entry || 'x'", 1) // at the same place
		elsewhere := strings.Replace(strings.Join(columnNames(), ", "), "seq", "seq + 100", 1)  // with the same entry
		return append(list, "INSERT OR REPLACE INTO "+log+" SELECT * FROM "+log, "INSERT OR REPLACE INTO "+log+" SELECT "+elsewhere+" FROM "+log, "INSERT OR REPLACE INTO "+log+" SELECT "+other+" FROM "+log, "REPLACE INTO "+client+" SELECT * FROM "+client)
	case "mysql":
		return append(list, "TRUNCATE TABLE "+log, "REPLACE INTO "+log+" SELECT * FROM "+log,
			"INSERT INTO "+log+" SELECT * FROM "+log+" AS l ON DUPLICATE KEY UPDATE action = 'x'")
	}
	return append(list, "TRUNCATE "+log+" CASCADE", "INSERT INTO "+log+" SELECT * FROM "+log+" ON CONFLICT (entry) DO UPDATE SET action = 'x'",
		"SET session_replication_role = replica; DELETE FROM "+log)
}

// TestProtection: the database refuses, to the owner of the tables too.
func TestProtection(t *testing.T) {
	everywhere(t, func(t *testing.T, b bed) {
		hands, ok := b.hands.(*sqlHands)
		if !ok {
			t.Skip("MongoDB has no triggers: TestInit_Roles, and the chain")
		}
		filled(t, b)
		for _, attempt := range attempts(b) {
			if _, err := hands.db.Exec(attempt); err == nil {
				t.Errorf("%s: the database let it pass", attempt)
			}
		}
		b.mustBeIntact(t)
		if _, err := hands.db.Exec("DELETE FROM " + hands.dialect.names.client); err != nil {
			t.Errorf("remove client data: %v", err)
		}
		if report := b.mustBeIntact(t); report.ClientsRemoved != 5 {
			t.Errorf("report: got %+v, want the clients of 5 removed", report)
		}
	})
}

// TestOpen_Unprotected: the sink does not write to a log that anybody may edit.
func TestOpen_Unprotected(t *testing.T) {
	everywhere(t, func(t *testing.T, b bed) {
		b.open(t)
		b.hands.unprotect(t)
		err := b.sink(t, func(c *Config) { c.CreateTables = false }).Open(t.Context())
		sinktest.ExpectClass(t, "Open of an unprotected log", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
		if b.cfg.scheme() == "postgres" {
			return // its triggers are there, but disabled: a person did that
		}
		b.open(t)
		b.mustBeIntact(t)
	})
}

// TestOpen_UnprotectedInPart: one trigger that is gone, or that does not fire, is
// enough.
func TestOpen_UnprotectedInPart(t *testing.T) {
	for _, database := range databases {
		t.Run(database.name, func(t *testing.T) {
			t.Parallel()
			for n, all := 0, 1; n < all; n++ {
				b := database.bed(t)
				hands, ok := b.hands.(*sqlHands)
				if !ok {
					t.Skip("MongoDB has no triggers")
				}
				if all = len(hands.disarm); !strings.Contains(hands.disarm[n], "TRIGGER") {
					continue
				}
				b.open(t)
				hands.exec(t, hands.disarm[n])
				err := b.sink(t, func(c *Config) { c.CreateTables = false }).Open(t.Context())
				sinktest.ExpectClass(t, "Open after "+hands.disarm[n], err, sinks.ClassFatal, sinks.ReasonMisconfigured)
			}
		})
	}
}

func TestOpen_NothingThere(t *testing.T) {
	everywhere(t, func(t *testing.T, b bed) {
		err := b.sink(t, func(c *Config) { c.CreateTables = false }).Open(t.Context())
		sinktest.ExpectClass(t, "Open", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
		for range 2 {
			if err := b.sink(t).Init(t.Context()); err != nil {
				t.Errorf("Init: %v", err)
			}
		}
		s := b.sink(t, func(c *Config) { c.CreateTables = false })
		defer s.Close()
		if err := s.Open(t.Context()); err != nil {
			t.Errorf("Open after Init: %v", err)
		}
	})
}

// TestInit_Script: what a person runs is what Init does.
func TestInit_Script(t *testing.T) {
	everywhere(t, func(t *testing.T, b bed) {
		hands, ok := b.hands.(*sqlHands)
		if !ok {
			script := b.sink(t).InitScript()
			for _, want := range []string{`createIndex({"chain":1,"seq":1}, { name: "chain", unique: true })`, `"clerk_audit_log_client" }, actions: ["find", "insert", "remove"`} {
				if !strings.Contains(script, want) {
					t.Errorf("script: got %s, want %s in it", script, want)
				}
			}
			return
		}
		if b.cfg.scheme() == "sqlite" {
			b.sink(t).Init(t.Context()) //nolint:errcheck // makes the file
		}
		for range 2 { // it may run twice
			for _, statement := range strings.Split(b.sink(t).InitScript(), ";\n\n") {
				if _, err := hands.db.Exec(strings.TrimSuffix(statement, ";\n")); err != nil {
					t.Fatalf("%s: %v", statement, err)
				}
			}
		}
		s := b.sink(t, func(c *Config) { c.CreateTables = false })
		defer s.Close()
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		sinktest.MustApply(t, s, change("user_1", 1, schemas.ChangeCreate, "Ada"))
		b.mustBeIntact(t)
	})
}

// TestInit_Roles: who is granted what WRITER takes can append and erase, and
// nothing else, also without a trigger.
func TestInit_Roles(t *testing.T) {
	everywhere(t, func(t *testing.T, b bed) {
		hands, ok := b.hands.(*sqlHands)
		if !ok || b.cfg.scheme() == "sqlite" {
			t.Skip("WRITER is for PostgreSQL and MySQL")
		}
		writer := unique()
		create, drop := fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 's3cret'", writer), fmt.Sprintf("DROP OWNED BY %[1]s; DROP ROLE %[1]s", writer)
		if b.cfg.scheme() == "mysql" {
			create, drop = fmt.Sprintf("CREATE USER '%s'@'%%' IDENTIFIED BY 's3cret'", writer), fmt.Sprintf("DROP USER '%s'@'%%'", writer)
		}
		hands.exec(t, create)
		t.Cleanup(func() { hands.exec(t, drop) })
		if err := b.sink(t, func(c *Config) { c.Writer = writer }).Init(t.Context()); err != nil {
			t.Fatal(err)
		}
		hands.unprotect(t)
		address, err := url.Parse(b.cfg.URL)
		if err != nil {
			t.Fatal(err)
		}
		address.User = url.UserPassword(writer, "s3cret")
		as := b
		as.cfg.URL, as.cfg.CreateTables = address.String(), false
		s := as.open(t)
		sinktest.MustApply(t, s, change("user_1", 1, schemas.ChangeCreate, canary))
		sinktest.MustApply(t, s, erase("user_1", 2))
		if gone, err := s.Confirm(t.Context(), "user_1", nil); err != nil || !gone {
			t.Errorf("Confirm: got %v, %v, want true", gone, err)
		}
		db := connect(t, as.cfg)
		defer db.db.Close()
		for _, attempt := range attempts(b) {
			if _, err := db.db.ExecContext(context.Background(), attempt); err == nil {
				t.Errorf("%s: the database let it pass", attempt)
			}
		}
		b.mustBeIntact(t)
	})
}

// TestOpen_WrongPassword tells nobody what it was.
func TestOpen_WrongPassword(t *testing.T) {
	everywhere(t, func(t *testing.T, b bed) {
		if b.through == nil || b.cfg.scheme() == "mongodb" {
			t.Skip("no password here")
		}
		address, err := url.Parse(b.cfg.URL)
		if err != nil {
			t.Fatal(err)
		}
		address.User = url.UserPassword("nobody_"+unique(), "s3cret")
		err = b.sink(t, func(c *Config) { c.URL = address.String() }).Open(t.Context())
		sinktest.ExpectClass(t, "Open with a wrong password", err, sinks.ClassFatal, sinks.ReasonUnauthorized)
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the error quotes the password: %v", err)
		}
	})
}

// TestVerify_InSQL: the statement of the README finds what Verify finds, with
// nothing of this program.
func TestVerify_InSQL(t *testing.T) {
	t.Parallel()
	b := postgresBed(t)
	s := filled(t, b)
	deliver(t, s, erase("user_1", 7))
	hands := b.hands.(*sqlHands)
	query := strings.ReplaceAll(readmeQuery(t), "FROM clerk_audit_log", "FROM "+hands.dialect.names.log)
	wrong := func() (places []string) {
		rows, err := hands.db.Query(query)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var chain string
			var seq int64
			if err := rows.Scan(&chain, &seq); err != nil {
				t.Fatal(err)
			}
			places = append(places, fmt.Sprint(chain, " ", seq))
		}
		return places
	}
	if got := wrong(); len(got) > 0 {
		t.Errorf("of an intact log: got %v", got)
	}
	hands.unprotect(t)
	hands.set(t, false, "users-3", 2, "reason", "x")
	hands.remove(t, "users-3", 4)
	if got := fmt.Sprint(wrong()); got != "[users-3 2 users-3 5]" {
		t.Errorf("of a log that was tampered with: got %s", got)
	}
}

// readmeQuery is the statement of the README that verifies.
func readmeQuery(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```sql\n-- the rows at which")
	query, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("README.md has no such statement")
	}
	return "-- the rows at which" + query
}

// TestOpen_MongoDBForks: without the unique index two processes could fork a
// chain.
func TestOpen_MongoDBForks(t *testing.T) {
	everywhere(t, func(t *testing.T, b bed) {
		hands, ok := b.hands.(*mongoHands)
		if !ok {
			t.Skip("the primary key of SQL's tables is part of them")
		}
		b.open(t)
		log := hands.db.Collection(defaultTable)
		if err := log.Indexes().DropOne(t.Context(), "chain"); err != nil {
			t.Fatal(err)
		}
		if _, err := log.Indexes().CreateOne(t.Context(), mongo.IndexModel{Keys: mongoIndexes[0].keys, Options: options.Index().SetName("chain")}); err != nil {
			t.Fatal(err)
		}
		err := b.sink(t, func(c *Config) { c.CreateTables = false }).Open(t.Context())
		sinktest.ExpectClass(t, "Open", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
	})
}
