package webhook

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"clerkconnect/connector"
)

// start runs b and returns a function that shuts it down and waits.
func (b *bench) start() (stop func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	if err := b.Listen(ctx); err != nil {
		b.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				b.t.Errorf("Run: %v", err)
			}
		case <-time.After(2 * time.Minute):
			b.t.Error("Run does not return")
		}
	}
	b.t.Cleanup(stop)
	return stop
}

// newClient returns a client of its own that leaves nothing behind.
func newClient(t *testing.T, security *tls.Config) *http.Client {
	transport := &http.Transport{TLSClientConfig: security, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// outgoing makes the delivery that signed describes one to send to base.
func outgoing(t *testing.T, ctx context.Context, base, id string) *http.Request {
	t.Helper()
	template := signed(t, secretA, id, good, time.Now())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+path, strings.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = template.Header
	return req
}

// eventually polls until done.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not happen", what)
		}
	}
}

func TestRun_DrainsAtShutdown(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	acknowledge, writing := make(chan error), make(chan struct{})
	b.broker.set(func(context.Context, []connector.SourceRecord) error {
		close(writing)
		return <-acknowledge
	})
	stop := b.start()
	client := newClient(t, nil)
	code := make(chan int, 1)
	req := outgoing(t, t.Context(), "http://"+b.Addr(), "msg_1")
	go func() {
		response, err := client.Do(req)
		if err != nil {
			t.Errorf("the request in flight: %v", err)
			code <- 0
			return
		}
		response.Body.Close()
		code <- response.StatusCode
	}()
	<-writing
	if err := b.Ready(); err != nil {
		t.Errorf("Ready: got %v while it serves", err)
	}
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	eventually(t, "draining", b.draining.Load)
	if b.Ready() == nil {
		t.Error("Ready: got nil during the shutdown")
	}
	if got := b.deliver("msg_2", good).Code; got != 503 {
		t.Errorf("a request during the shutdown: got %d, want 503", got)
	}
	b.wantCounted(shuttingDown, 1)
	select {
	case got := <-code:
		t.Errorf("answered %d before the acknowledgement", got)
	default:
	}
	acknowledge <- nil
	if got := <-code; got != 200 {
		t.Errorf("the request in flight: got %d, want 200", got)
	}
	<-stopped
}

// Who writes a body to its end before he reads the answer still reads 413.
func TestRun_TellsThatABodyIsTooLarge(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.start()
	body := strings.Repeat("x", 4<<20)
	for name, framing := range map[string]string{
		"length":  fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body),
		"chunked": fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body),
	} {
		conn, err := net.Dial("tcp", b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.(*net.TCPConn).SetWriteBuffer(4 << 10); err != nil { // else the system takes it, not the receiver
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: x\r\n"+framing); err != nil {
			t.Errorf("%s: the body cannot be written: %v", name, err)
			continue
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: the answer cannot be read: %v", name, err)
			continue
		}
		response.Body.Close()
		if response.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: got %d, want 413", name, response.StatusCode)
		}
	}
}

func TestRun_WaitsForWritesBehindGivenUpRequests(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	release, writing := make(chan struct{}), make(chan struct{})
	b.broker.set(func(context.Context, []connector.SourceRecord) error {
		close(writing)
		<-release
		return nil
	})
	stop := b.start()
	ctx, hangUp := context.WithCancel(t.Context())
	req := outgoing(t, ctx, "http://"+b.Addr(), "msg_1")
	client := newClient(t, nil)
	gone := make(chan struct{})
	go func() {
		if response, err := client.Do(req); err == nil {
			response.Body.Close()
			t.Errorf("answered %d", response.StatusCode)
		}
		close(gone)
	}()
	<-writing
	hangUp()
	<-gone
	eventually(t, "the client's leave", func() bool { return b.metrics()["requests_total{499,client_gone}"] == 1 })
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	eventually(t, "draining", b.draining.Load)
	select {
	case <-stopped:
		t.Error("Run returned before the write ended")
	default:
	}
	close(release)
	<-stopped
	if got := b.broker.events(); !slices.Equal(got, []string{"msg_1"}) {
		t.Errorf("events: got %v, want msg_1", got)
	}
}

// TestRun_NeverRedirects speaks raw HTTP, since clients clean paths.
func TestRun_NeverRedirects(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.start()
	for _, line := range []string{
		"POST //webhooks/clerk", "POST /webhooks/clerk/", "POST /webhooks//clerk", "POST /webhooks/./clerk", "POST /a/../webhooks/clerk",
		"GET /", "OPTIONS *", "POST http://other.example//webhooks/clerk/", "GET //evil.example/%2f..",
	} {
		conn, err := net.Dial("tcp", b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", line)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if body, _ := io.ReadAll(answer.Body); answer.StatusCode != 404 || len(body) != 0 || answer.Header.Get("Server") != "" || answer.Header.Get("Location") != "" {
			t.Errorf("%s: got %d %v %q", line, answer.StatusCode, answer.Header, body)
		}
		answer.Body.Close()
		conn.Close()
	}
}

func TestRun_SlowBodyIsCutOff(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config, _ *Dependencies) { c.Timeout = 200 * time.Millisecond })
	b.start()
	conn, err := net.Dial("tcp", b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", path)
	conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != 408 {
		t.Errorf("got %d, want 408", answer.StatusCode)
	}
}

func TestRun_CannotListen(t *testing.T) {
	t.Parallel()
	first := setup(t, nil)
	first.start()
	second := setup(t, func(c *Config, _ *Dependencies) { c.Addr = first.Addr() })
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "WEBHOOK_ADDR") {
		t.Errorf("Run: got %v", err)
	}
	if second.Addr() != "" {
		t.Errorf("Addr: got %s", second.Addr())
	}
}

func TestRun_TLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writeCertificate(t, certFile, keyFile, 1)
	b := setup(t, func(c *Config, _ *Dependencies) { c.TLSCertFile, c.TLSKeyFile = certFile, keyFile })
	b.start()
	deliver := func(id string) (serial int64) {
		client := newClient(t, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) // its serial number is what is tested
		response, err := client.Do(outgoing(t, t.Context(), "https://"+b.Addr(), id))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != 200 || response.ProtoMajor != 2 {
			t.Errorf("got %d over %s", response.StatusCode, response.Proto)
		}
		return response.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	if got := deliver("msg_1"); got != 1 {
		t.Errorf("certificate: got %d, want 1", got)
	}
	writeCertificate(t, certFile, keyFile, 2)
	if got := deliver("msg_2"); got != 2 {
		t.Errorf("certificate after a renewal: got %d, want 2", got)
	}
	if err := os.WriteFile(certFile, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := deliver("msg_3"); got != 2 || !strings.Contains(b.logs.String(), "keeping the last one") {
		t.Errorf("certificate while the files are unusable: got %d, want 2", got)
	}
}

func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyBytes, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: certificate}, keyFile: {Type: "PRIVATE KEY", Bytes: keyBytes}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, time.Time{}, time.Unix(1_700_000_000+serial, 0)); err != nil {
			t.Fatal(err)
		}
	}
}
