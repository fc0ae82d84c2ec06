package postgres_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/postgres"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable/usertabletest"
)

// TestTLS connects in each mode to a server with a certificate of an authority
// of the test's own, for localhost.
func TestTLS(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, ownTable(""))
	front := newTLSFront(t, s.address)
	_, port, _ := net.SplitHostPort(front.address)
	byName, byNumber := "localhost:"+port, front.address
	trusted := "sslrootcert=" + front.authority
	for _, test := range []struct {
		name, address, option string
		encrypted             bool
		want                  string // in the error, "": none
	}{
		{"disable", byName, "sslmode=disable", false, ""},
		{"prefer", byName, "sslmode=prefer", true, ""},
		{"require", byName, "sslmode=require", true, ""},
		{"verify-ca", byNumber, "sslmode=verify-ca&" + trusted, true, ""},
		{"verify-full", byName, "sslmode=verify-full&" + trusted, true, ""},
		{"verify-full, another name", byNumber, "sslmode=verify-full&" + trusted, true, "for another name"},
		{"verify-full, nobody trusts it", byName, "sslmode=verify-full", true, "sslrootcert"},
		{"verify-full, another authority", byName, "sslmode=verify-full&sslrootcert=" + newTLSFront(t, s.address).authority, true, "signed by nobody"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			before := front.encrypted()
			cfg := s.config()
			cfg.DSN = strings.Replace(s.through(test.address, test.option), "sslmode=disable&", "", 1)
			sink := newSink(t, cfg)
			defer sink.Close() //nolint:errcheck // it may not be open
			err := sink.Open(t.Context())
			if test.want == "" {
				if err != nil {
					t.Fatalf("Open: %v", err)
				}
				sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
				if test.encrypted && front.encrypted() == before {
					t.Error("the connection was not encrypted")
				}
				return
			}
			sinktest.ExpectClass(t, "Open", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
			if err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("Open: got %v, want a word about %q", err, test.want)
			}
		})
	}
}

// TestTLS_ServerHasNone has TLS asked of a server without.
func TestTLS_ServerHasNone(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.config()
	cfg.DSN = strings.Replace(s.dsn, "sslmode=disable", "sslmode=require", 1)
	if s.text(t, "SELECT current_setting('ssl')") == "on" {
		t.Skip("this server has TLS")
	}
	err := newSink(t, cfg).Open(t.Context())
	sinktest.ExpectClass(t, "Open", err, sinks.ClassRetry, sinks.ReasonUnavailable)
	if err == nil || !strings.Contains(err.Error(), "sslmode") {
		t.Errorf("Open: got %v, want a word about sslmode", err)
	}
}

// TestTLS_NobodyAnswers: whoever asked for no TLS is not sent looking for it.
func TestTLS_NobodyAnswers(t *testing.T) {
	t.Parallel()
	for mode, asked := range map[string]bool{"": false, "?sslmode=prefer": false, "?sslmode=disable": false, "?sslmode=require": true} {
		err := newSink(t, postgres.Config{DSN: "postgres://ada@127.0.0.1:1/users" + mode}).Open(t.Context())
		sinktest.ExpectClass(t, "Open", err, sinks.ClassRetry, sinks.ReasonUnavailable)
		if err == nil || strings.Contains(err.Error(), "sslmode") != asked {
			t.Errorf("Open with %q: got %v, want a word about sslmode: %v", mode, err, asked)
		}
	}
}

// tlsFront is a server with TLS: it ends the encryption, and passes on to one
// that may have none.
type tlsFront struct {
	address, authority string // authority is the file of a certificate
	mu                 *sync.Mutex
	count              *int
}

func (f tlsFront) encrypted() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *f.count
}

func newTLSFront(t *testing.T, target string) tlsFront {
	t.Helper()
	certificate, authority := certify(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := tlsFront{address: listener.Addr().String(), authority: filepath.Join(t.TempDir(), "ca.crt"), mu: &sync.Mutex{}, count: new(int)}
	if err := os.WriteFile(f.authority, authority, 0o600); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			wait.Go(func() { f.serve(client, target, certificate) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		wait.Wait()
	})
	return f
}

// serve answers the request for TLS, 80877103, as PostgreSQL does.
func (f tlsFront) serve(client net.Conn, target string, certificate tls.Certificate) {
	defer client.Close()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	first := make([]byte, 8)
	if _, err := io.ReadFull(client, first); err != nil {
		return
	}
	if string(first) == "\x00\x00\x00\x08\x04\xd2\x16\x2f" {
		if _, err := client.Write([]byte("S")); err != nil {
			return
		}
		encrypted := tls.Server(client, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12})
		if encrypted.Handshake() != nil {
			return
		}
		f.mu.Lock()
		*f.count++
		f.mu.Unlock()
		client = encrypted
	} else if _, err := server.Write(first); err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(server, client) //nolint:errcheck // either side may hang up
		server.Close()
	}()
	io.Copy(client, server) //nolint:errcheck // either side may hang up
	client.Close()
	<-done
}

// certify returns a certificate for localhost, and that of who signed it.
func certify(t *testing.T) (certificate tls.Certificate, authority []byte) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, NotBefore: root.NotBefore, NotAfter: root.NotAfter}
	rootKey, leafKey := key(), key()
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: leafKey}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER})
}

// TestSearchPath shows that the sink writes where SCHEMA says although the
// search_path leads elsewhere, and that the application's triggers find what
// they look for by the search_path of the connection string.
func TestSearchPath(t *testing.T) {
	t.Parallel()
	s, trap := newServer(t), newServer(t)
	trap.exec(t, ownTable(""))
	trap.exec(t, "CREATE TABLE %.seen (id text)")
	s.exec(t, ownTable(""))
	s.exec(t, `CREATE FUNCTION %.note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO seen VALUES (NEW.id); RETURN NEW; END$$;
		CREATE TRIGGER note AFTER INSERT ON %.clerk_users FOR EACH ROW EXECUTE FUNCTION %.note(); CREATE UNIQUE INDEX ON %.clerk_users (email)`)
	cfg := s.config()
	cfg.DSN = s.through(s.address, "search_path="+trap.schema)
	sink := open(t, cfg)
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	sinktest.MustApply(t, sink, sinktest.Change("user_2", 2)) // the same address: settles
	if got := s.text(t, "SELECT count(*)::text FROM %.clerk_users WHERE email IS NULL OR id = 'user_2'"); got != "2" {
		t.Errorf("rows in the schema: got %s, want 2", got)
	}
	if got := trap.text(t, "SELECT (SELECT count(*) FROM %.clerk_users) || ', ' || (SELECT string_agg(id, ' ' ORDER BY id) FROM %.seen)"); got != "0, user_1 user_2" {
		t.Errorf("elsewhere: got %s, want no user and two notes", got)
	}
}

// TestSearchPath_Changes has later connections look for names elsewhere, as
// those of a pooler may: what was read from the catalogue means the same there.
func TestSearchPath_Changes(t *testing.T) {
	t.Parallel()
	s := newServer(t).database(t)
	s.exec(t, `CREATE TYPE %.mood AS ENUM ('fine', 'bad'); CREATE FUNCTION %.fold(text) RETURNS text IMMUTABLE LANGUAGE sql RETURN lower($1)`)
	s.exec(t, "ALTER DATABASE %_db SET search_path = %, public")
	cfg := s.accounts(t, "ALTER TABLE %.accounts ADD mood %.mood; CREATE UNIQUE INDEX ON %.accounts (%.fold(email))", "")
	cfg.Columns += ", mood = public_metadata.mood"
	cfg.MaxConnections = 1
	sink := open(t, cfg)
	s.exec(t, "ALTER DATABASE %_db SET search_path = public")
	s.exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '%'")
	first := account("user_1", 1, "a@example.com")
	first.Change.User.PublicMetadata = new(`{"mood":"bad"}`)
	for _, r := range []sinks.Record{first, account("user_2", 2, "A@example.com")} {
		usertabletest.Deliver(t, sink, []sinks.Record{r}, false) // the connections are dead at first
	}
	if got := s.rows(t, "accounts", "clerk_id"); got["user_1"]["mood"] != "bad" || got["user_1"]["email"] != "" || got["user_2"]["email"] != "A@example.com" {
		t.Errorf("got %v", got)
	}
}

// TestOpen_Rights shows that every right that lacks is named at once, and that
// those that the README names are enough.
func TestOpen_Rights(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.accounts(t, "CREATE UNIQUE INDEX ON %.accounts (lower(email)); CREATE TABLE %.orders (owner text REFERENCES %.accounts)", "auto")
	s.exec(t, "CREATE TABLE %.clerk_connect_versions_accounts (id text PRIMARY KEY, epoch integer NOT NULL, version bigint NOT NULL, deleted boolean NOT NULL)")
	role := s.schema + "_role"
	s.exec(t, "CREATE ROLE "+role+" LOGIN PASSWORD 's3cret'")
	t.Cleanup(func() { s.exec(t, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	cfg.DSN = "postgres://" + role + ":s3cret@" + s.address + "/" + s.pool.Config().ConnConfig.Database + "?sslmode=disable"
	expect := func(words ...string) {
		t.Helper()
		err := newSink(t, cfg).Open(t.Context())
		for _, want := range words {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Open: got %v, want a word about %q", err, want)
			}
		}
	}
	expect("USAGE")
	s.exec(t, "GRANT USAGE ON SCHEMA % TO "+role)
	expect("GRANT SELECT", "GRANT INSERT", "GRANT UPDATE", "GRANT DELETE", "clerk_connect_versions_accounts")
	s.exec(t, "GRANT SELECT, INSERT (clerk_id, email, username, deleted_at), UPDATE (email, username, deleted_at), DELETE ON %.accounts TO "+role)
	s.exec(t, "GRANT SELECT, INSERT, UPDATE ON %.clerk_connect_versions_accounts TO "+role)
	expect("orders", "grant SELECT")
	s.exec(t, "GRANT SELECT ON %.orders TO "+role)
	sink := open(t, cfg)
	sinktest.MustApply(t, sink, account("user_1", 1, "a@example.com"))
	sinktest.MustApply(t, sink, account("user_2", 2, "a@example.com"), sinktest.Erase("user_1", 2))
	s.exec(t, "CREATE TABLE %.bills (owner text REFERENCES %.accounts ON DELETE CASCADE)")
	closed := sink.Apply(t.Context(), []sinks.Record{usertabletest.Erasure("user_2", 3, 5, false)})
	sinktest.ExpectClass(t, "a new table that may not be read", closed, sinks.ClassFatal, sinks.ReasonMisconfigured)
	if closed != nil && !strings.Contains(closed.Error(), "bills.owner, which may refer to users, cannot be read") {
		t.Errorf("Apply: got %v, want a word about bills", closed)
	}
	s.exec(t, "DROP TABLE %.bills; REVOKE UPDATE ON %.clerk_connect_versions_accounts FROM "+role)
	late := sink.Apply(t.Context(), []sinks.Record{account("user_1", 3, "a@example.com")})
	sinktest.ExpectClass(t, "a right taken away", late, sinks.ClassFatal, sinks.ReasonUnauthorized)
	if late != nil && !strings.Contains(late.Error(), "GRANT UPDATE") {
		t.Errorf("Apply: got %v, want a word about GRANT UPDATE", late)
	}
	own := s.config()
	own.DSN = cfg.DSN
	refused := newSink(t, own).Init(t.Context())
	sinktest.ExpectClass(t, "Init", refused, sinks.ClassFatal, sinks.ReasonUnauthorized)
	if refused != nil && !strings.Contains(refused.Error(), "GRANT CREATE ON SCHEMA") {
		t.Errorf("Init: got %v, want a word about GRANT CREATE", refused)
	}
	s.exec(t, "ALTER TABLE %.accounts ENABLE ROW LEVEL SECURITY")
	expect("row level security")
}
