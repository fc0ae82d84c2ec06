package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"clerkconnect/sinks/sinktest"
)

// bed is a database of the test's own.
type bed struct {
	cfg     Config
	alone   bool // as without transactions
	address string
	through func(address string) string // the URL with another address
	hands   hands
	once    *sync.Once
	log     **Log
}

// hands are those of somebody who may do everything to the database.
type hands interface {
	// unprotect takes away what the database has to protect the log.
	unprotect(t testing.TB)
	// set changes one field of a row, or of its client data.
	set(t testing.TB, client bool, chain string, seq int64, column string, value any)
	remove(t testing.TB, chain string, seq int64)
	// said returns action, user, epoch and version of the rows of users.
	said(t testing.TB, ids []string) []Row
	// dump returns all that is in the database, as raw as can be had.
	dump(t testing.TB) []byte
}

// databases are those that the log can be in.
var databases = []struct {
	name string
	bed  func(t testing.TB) bed
}{
	{"postgres", postgresBed},
	{"mysql", mysqlBed},
	{"sqlite", sqliteBed},
	{"mongodb", func(t testing.TB) bed { return mongoBed(t, false) }},
	{"mongodb alone", func(t testing.TB) bed { return mongoBed(t, true) }},
}

// everywhere runs a test on each database.
func everywhere(t *testing.T, test func(t *testing.T, b bed)) {
	t.Parallel()
	for _, database := range databases {
		t.Run(database.name, func(t *testing.T) {
			t.Parallel()
			test(t, database.bed(t))
		})
	}
}

// sink returns a new sink on the bed, not opened.
func (b bed) sink(t testing.TB, change ...func(*Config)) *Sink {
	t.Helper()
	cfg := b.cfg
	for _, change := range change {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if store, ok := s.store.(*mongoStore); ok {
		store.alone = b.alone
	}
	return s
}

func (b bed) open(t testing.TB) *Sink {
	t.Helper()
	s := b.sink(t)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// read opens the log as verification does, once.
func (b bed) read(t testing.TB) *Log {
	t.Helper()
	b.once.Do(func() {
		log, err := OpenLog(context.Background(), b.cfg)
		if err != nil {
			t.Fatal(err)
		}
		*b.log = log
		t.Cleanup(func() { log.Close() })
	})
	return *b.log
}

// rows returns every row of the log, chain by chain.
func (b bed) rows(t testing.TB) (all []stored) {
	t.Helper()
	log := b.read(t)
	chains, err := log.store.chains(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(chains)
	for _, chain := range chains {
		all = append(all, b.chain(t, chain)...)
	}
	return all
}

// chain returns every row of one chain.
func (b bed) chain(t testing.TB, name string) []stored {
	t.Helper()
	rows, err := b.read(t).store.rows(context.Background(), name, 0, 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// verify returns what verification finds.
func (b bed) verify(t testing.TB, expect ...Head) (Report, []Finding) {
	t.Helper()
	var findings []Finding
	report, err := b.read(t).Verify(context.Background(), VerifyOptions{Expect: expect, Found: func(f Finding) { findings = append(findings, f) }})
	if err != nil {
		t.Fatal(err)
	}
	if report.Findings != int64(len(findings)) || report.Intact != (len(findings) == 0) {
		t.Errorf("report: got %+v of %d findings", report, len(findings))
	}
	return report, findings
}

func (b bed) mustBeIntact(t testing.TB) Report {
	t.Helper()
	report, findings := b.verify(t)
	for _, f := range findings {
		t.Errorf("verify: %s: %s", f.Chain, f.Text)
	}
	return report
}

func unique() string { return "test_" + strings.ToLower(rand.Text()[:12]) }

// sqlHands work through a connection of their own.
type sqlHands struct {
	db      *sql.DB
	dialect *sqlStore
	disarm  []string
	dumped  func(t testing.TB) []byte
}

func (h *sqlHands) exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	if _, err := h.db.ExecContext(context.Background(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func (h *sqlHands) unprotect(t testing.TB) {
	t.Helper()
	for _, statement := range h.disarm {
		h.exec(t, statement)
	}
}

func (h *sqlHands) set(t testing.TB, ofClient bool, chain string, seq int64, column string, value any) {
	t.Helper()
	if at, ok := value.(time.Time); ok {
		value = h.dialect.time(at.UnixMilli())
	}
	p := h.dialect.placeholder
	where := fmt.Sprintf(" WHERE chain = %s AND seq = %s", p(2), p(3))
	if ofClient {
		h.exec(t, fmt.Sprintf("UPDATE %s SET %s = %s WHERE entry = (SELECT entry FROM %s%s)", h.dialect.names.client, column, p(1), h.dialect.names.log, where), value, chain, seq)
		return
	}
	h.exec(t, fmt.Sprintf("UPDATE %s SET %s = %s%s", h.dialect.names.log, column, p(1), where), value, chain, seq)
}

func (h *sqlHands) remove(t testing.TB, chain string, seq int64) {
	t.Helper()
	h.exec(t, fmt.Sprintf("DELETE FROM %s WHERE chain = %s AND seq = %s", h.dialect.names.log, h.dialect.placeholder(1), h.dialect.placeholder(2)), chain, seq)
}

func (h *sqlHands) said(t testing.TB, ids []string) (said []Row) {
	t.Helper()
	query := "SELECT clerk_id, action, epoch, version FROM " + h.dialect.names.log + " WHERE clerk_id IN " + h.dialect.in(1, len(ids))
	err := each(context.Background(), h.db, query, anys(ids), func(rows *sql.Rows) error {
		var row Row
		err := rows.Scan(&row.ClerkID, &row.Action, &row.Epoch, &row.Version)
		said = append(said, row)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return said
}

func (h *sqlHands) dump(t testing.TB) []byte {
	if h.dumped != nil {
		return h.dumped(t)
	}
	var dump bytes.Buffer
	for _, table := range []string{h.dialect.names.log, h.dialect.names.client} {
		rows, err := h.db.QueryContext(context.Background(), "SELECT * FROM "+table)
		if err != nil {
			t.Fatal(err)
		}
		names, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			values := make([]any, len(names))
			for i := range values {
				values[i] = new(any)
			}
			if err := rows.Scan(values...); err != nil {
				t.Fatal(err)
			}
			for _, v := range values {
				fmt.Fprintf(&dump, "%s|%v\n", *v.(*any), *v.(*any))
			}
		}
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return dump.Bytes()
}

func withHost(address *url.URL) func(string) string {
	return func(host string) string {
		u := *address
		u.Host = host
		return u.String()
	}
}

func connect(t testing.TB, cfg Config) *sqlStore {
	t.Helper()
	store, err := newStore(cfg.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	s := store.(*sqlStore)
	if err := s.connect(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	s.db.SetMaxOpenConns(1)
	return s
}

func postgresBed(t testing.TB) bed {
	t.Helper()
	address, err := url.Parse(sinktest.Server(t, "TEST_POSTGRES_DSN"))
	if err != nil {
		t.Fatal("TEST_POSTGRES_DSN is no URL")
	}
	b := bed{once: new(sync.Once), log: new(*Log), address: address.Host, through: withHost(address)}
	b.cfg = Config{URL: address.String(), Schema: unique(), CreateTables: true}.withDefaults()
	raw := connect(t, b.cfg)
	h := &sqlHands{db: raw.db, dialect: raw, disarm: []string{
		"ALTER TABLE " + raw.names.log + " DISABLE TRIGGER ALL", "ALTER TABLE " + raw.names.client + " DISABLE TRIGGER ALL",
		"ALTER TABLE " + raw.names.client + " DROP CONSTRAINT clerk_audit_log_client_entry_fkey",
	}}
	h.exec(t, "CREATE SCHEMA "+b.cfg.Schema)
	t.Cleanup(func() {
		h.exec(t, "DROP SCHEMA "+b.cfg.Schema+" CASCADE")
		raw.db.Close()
	})
	b.hands = h
	return b
}

func mysqlBed(t testing.TB) bed {
	t.Helper()
	address, err := url.Parse(sinktest.Server(t, "TEST_MYSQL_DSN"))
	if err != nil || address.Scheme != "mysql" {
		t.Fatal("TEST_MYSQL_DSN is no URL of the form mysql://user:password@host:port/database")
	}
	root := connect(t, Config{URL: address.String()})
	name := unique()
	if _, err := root.db.Exec("CREATE DATABASE " + name); err != nil {
		t.Fatal(err)
	}
	address.Path = "/" + name
	b := bed{once: new(sync.Once), log: new(*Log), address: address.Host, through: withHost(address)}
	b.cfg = Config{URL: address.String(), CreateTables: true}.withDefaults()
	raw := connect(t, b.cfg)
	t.Cleanup(func() {
		raw.db.Close()
		if _, err := root.db.Exec("DROP DATABASE " + name); err != nil {
			t.Error(err)
		}
		root.db.Close()
	})
	b.hands = &sqlHands{db: raw.db, dialect: raw, disarm: []string{
		"DROP TRIGGER clerk_audit_log_no_update", "DROP TRIGGER clerk_audit_log_no_delete", "DROP TRIGGER clerk_audit_log_client_no_update",
		"SET foreign_key_checks = 0",
	}}
	return b
}

func sqliteBed(t testing.TB) bed {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit #1?.db")
	b := bed{once: new(sync.Once), log: new(*Log), cfg: Config{URL: "sqlite:" + path, CreateTables: true}.withDefaults()}
	raw := newSQLite(b.cfg)
	db, err := sql.Open("sqlite", "file:"+strings.NewReplacer("#", "%23", "?", "%3F").Replace(path)+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	h := &sqlHands{db: db, dialect: raw, dumped: func(t testing.TB) []byte {
		var dump []byte
		for _, suffix := range []string{"", "-wal"} {
			data, err := os.ReadFile(path + suffix)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			dump = append(dump, data...)
		}
		return dump
	}}
	for _, name := range []string{"_no_update", "_no_delete", "_client_no_update"} {
		h.disarm = append(h.disarm, "DROP TRIGGER clerk_audit_log"+name)
	}
	b.hands = h
	return b
}

// proxied is b behind a proxy, and what cuts the connections.
func (b bed) proxied(t testing.TB) (bed, func() (restore func())) {
	t.Helper()
	if b.through == nil {
		return b, nil // a file
	}
	host, port, err := net.SplitHostPort(b.address)
	if err != nil {
		t.Fatal(err)
	}
	proxy := sinktest.NewProxy(t, net.JoinHostPort(host, port))
	b.cfg.URL = b.through(proxy.Address)
	return b, proxy.Cut
}
