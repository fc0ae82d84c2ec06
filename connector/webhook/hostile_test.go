package webhook

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"clerkconnect/connector"
)

// dial connects to b without a client that knows better.
func (b *bench) dial() net.Conn {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.Addr())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		b.t.Fatal(err)
	}
	return conn
}

// answer reads the code of an answer; 0: the connection was closed without one.
func answer(conn net.Conn) int {
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

// rawHeader are the header lines of a delivery of body.
func rawHeader(t *testing.T, secret, body string) string {
	t.Helper()
	var lines strings.Builder
	if err := signed(t, secret, "msg_1", body, time.Now()).Header.Write(&lines); err != nil {
		t.Fatal(err)
	}
	return lines.String()
}

// TestRun_RawRequests speaks HTTP as no client of the standard library does.
func TestRun_RawRequests(t *testing.T) {
	t.Parallel()
	header := rawHeader(t, secretA, good)
	length := fmt.Sprintf("Content-Length: %d\r\n", len(good))
	var oneByOne strings.Builder
	for _, c := range []byte(good) {
		fmt.Fprintf(&oneByOne, "1;x=y\r\n%c\r\n", c)
	}
	forged := strings.Repeat("v1,AAAA ", 3000)
	for _, test := range []struct {
		name, request string
		want          int
	}{
		{"plain", "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + header + length + "\r\n" + good, 200},
		{"HTTP/1.0", "POST " + path + " HTTP/1.0\r\n" + header + length + "\r\n" + good, 200},
		{"HTTP/1.0 without a length", "POST " + path + " HTTP/1.0\r\n" + header + "\r\n" + good, 400},
		{"byte by byte, with extensions", "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + header + "Transfer-Encoding: chunked\r\n\r\n" + oneByOne.String() + "0\r\n\r\n", 200},
		{"chunked and shorter than said", "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + header + "Transfer-Encoding: chunked\r\n\r\nffff\r\n" + good, 503},
		{"chunk of a negative length", "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + header + "Transfer-Encoding: chunked\r\n\r\n-1\r\n" + good, 408},
		{"two lengths", "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + header + length + "Content-Length: 1\r\n\r\n" + good, 400},
		{"unknown transfer encoding", "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + header + "Transfer-Encoding: gzip\r\n\r\n" + good, 501},
		{"no host", "POST " + path + " HTTP/1.1\r\n" + header + length + "\r\n" + good, 400},
		{"another id behind the signed one", "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + header + "Svix-Id: msg_2\r\n" + length + "\r\n" + good, 200},
		{"another id before the signed one", "POST " + path + " HTTP/1.1\r\nHost: x\r\nSvix-Id: msg_2\r\n" + header + length + "\r\n" + good, 400},
		{"thousands of signatures of nobody", "POST " + path + " HTTP/1.1\r\nHost: x\r\nSvix-Signature: " + forged + "\r\n" + header + length + "\r\n" + good, 400},
		{"a header too large", "POST " + path + " HTTP/1.1\r\nHost: x\r\nX-Large: " + strings.Repeat("x", 64<<10) + "\r\n" + header + length + "\r\n" + good, 431},
		{"white label, and half of Svix's", "POST " + path + " HTTP/1.1\r\nHost: x\r\nSvix-Id: msg_2\r\n" + strings.ReplaceAll(header, "Svix-", "Webhook-") + length + "\r\n" + good, 200},
		{"absolute target", "POST http://other.example" + path + " HTTP/1.1\r\nHost: x\r\n" + header + length + "\r\n" + good, 200},
		{"query", "POST " + path + "?a=%zz HTTP/1.1\r\nHost: x\r\n" + header + length + "\r\n" + good, 200},
		{"path that cannot be decoded", "POST /webhooks%zzclerk HTTP/1.1\r\nHost: x\r\n" + header + length + "\r\n" + good, 400},
		{"NUL in the path", "POST " + path + "%00 HTTP/1.1\r\nHost: x\r\n" + header + length + "\r\n" + good, 404},
		{"encoded slash at the end", "POST " + path + "%2f HTTP/1.1\r\nHost: x\r\n" + header + length + "\r\n" + good, 404},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil)
			b.start()
			conn := b.dial()
			if _, err := io.WriteString(conn, test.request); err != nil {
				t.Fatal(err)
			}
			if test.want == 503 { // the end of the body, which else would be waited for
				if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			if got := answer(conn); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
			if got := b.broker.events(); (len(got) == 1) != (test.want == 200) {
				t.Errorf("events: got %v after %d", got, test.want)
			}
		})
	}
}

// TestRun_SlowHeaderIsCutOff: who never ends his header keeps no connection.
func TestRun_SlowHeaderIsCutOff(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.start()
	conn := b.dial()
	if _, err := io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: x\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("the connection is not closed: %v", err)
	}
}

// TestRun_SlowBodyOverHTTP2 has a stream whose body never ends.
func TestRun_SlowBodyOverHTTP2(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writeCertificate(t, certFile, keyFile, 1)
	b := setup(t, func(c *Config, _ *Dependencies) {
		c.TLSCertFile, c.TLSKeyFile, c.Timeout = certFile, keyFile, 200*time.Millisecond
	})
	b.start()
	body, never := io.Pipe()
	defer never.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	req := outgoing(t, ctx, "https://"+b.Addr(), "msg_1").WithContext(ctx)
	req.Body, req.ContentLength = body, int64(len(good))
	client := newClient(t, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	response, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.ProtoMajor != 2 || response.StatusCode != http.StatusRequestTimeout {
		t.Errorf("got %d over %s, want 408 over HTTP/2", response.StatusCode, response.Proto)
	}
}

// TestRun_LargeBodiesHaveFewPlaces: strangers who send much and sign nothing
// cost a bounded memory, and keep no delivery of usual size out.
func TestRun_LargeBodiesHaveFewPlaces(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config, _ *Dependencies) { c.Timeout = svixTimeout - time.Second })
	b.start()
	strangers := make([]net.Conn, largeBodies)
	for i := range strangers {
		strangers[i] = b.dial()
		fmt.Fprintf(strangers[i], "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, maxBodyBytes, strings.Repeat("x", smallBodyBytes+1))
	}
	eventually(t, "every place being taken", func() bool { return len(b.large) == largeBodies })
	large := good[:len(good)-1] + `,"padding":"` + strings.Repeat("x", smallBodyBytes) + `"}`
	refused := b.deliver("msg_1", large)
	if refused.Code != 503 || refused.Header().Get("Retry-After") == "" {
		t.Errorf("a large delivery: got %d, Retry-After %q", refused.Code, refused.Header().Get("Retry-After"))
	}
	b.wantCounted(tooMany, 1)
	if code := b.deliver("msg_2", good).Code; code != 200 {
		t.Errorf("a small delivery: got %d, want 200", code)
	}
	for _, conn := range strangers {
		conn.Close()
	}
	eventually(t, "every place being free", func() bool { return len(b.large) == 0 })
	if code := b.deliver("msg_1", large).Code; code != 200 {
		t.Errorf("the large delivery, repeated: got %d, want 200", code)
	}
	b.broker.set(func(context.Context, []connector.SourceRecord) error { return errBroker })
	b.deliver("msg_3", large)
	b.send(signed(t, secretB, "msg_4", large, time.Now()))
	if len(b.large) != 0 {
		t.Errorf("%d places are not given back", len(b.large))
	}
}

// TestHandler_HostileBodies are signed, and JSON to the letter.
func TestHandler_HostileBodies(t *testing.T) {
	t.Parallel()
	user := func(members string) string { return userBody("user.updated", `,"updated_at":1764100000000`+members) }
	nested := func(depth int) string {
		return user(`,"public_metadata":` + strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth))
	}
	const deepest = 10_000 - 2 // of encoding/json, less the envelope and the user
	for _, test := range []struct {
		name, body, metadata string
		want                 outcome
	}{
		{"the last of repeated names counts", strings.Replace(user(`,"public_metadata":{},"public_metadata":{"n":1,"n":2}`), "{", `{"type":"user.deleted",`, 1), `{"n":1,"n":2}`, accepted},
		{"a number beyond float64", user(`,"public_metadata":{"n":1e999,"m":-0.00000000000000000001e-999}`), `{"n":1e999,"m":-0.00000000000000000001e-999}`, accepted},
		{"NUL and half of a pair", user(`,"public_metadata":{"\u0000":"\ud800 \udc00\ud800"},"last_name":"\u0000\udfff"`), `{"\u0000":"\ud800 \udc00\ud800"}`, accepted},
		{"null for everything", user(`,"public_metadata":null,"email_addresses":null,"primary_email_address_id":null,"image_url":null,"banned":null`), "", accepted},
		{"no more nesting than JSON is read to", nested(deepest), strings.Repeat(`{"a":`, deepest) + "1" + strings.Repeat("}", deepest), accepted},
		{"one level more", nested(deepest + 1), "", malformedJSON},
		{"nothing but nesting", strings.Repeat("[", maxBodyBytes), "", malformedJSON},
		{"as many names as fit", user(`,"public_metadata":{` + strings.TrimSuffix(strings.Repeat(`"a":1,`, 160_000), ",") + "}"), "{" + strings.TrimSuffix(strings.Repeat(`"a":1,`, 160_000), ",") + "}", accepted},
		{"as many entries as fit", user(`,"email_addresses":[` + strings.TrimSuffix(strings.Repeat("{},", 340_000), ",") + "]"), "", malformedUser},
		{"metadata that is no object", user(`,"public_metadata":[1, "x"]`), `[1,"x"]`, accepted},
		{"a time beyond int64", user(`,"updated_at":1e999`), "", malformedUser},
		{"an array for an address", user(`,"email_addresses":[[]]`), "", malformedUser},
		{"a byte order mark", "\ufeff" + good, "", malformedJSON},
		{"two values", good + good, "", malformedJSON},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil)
			if len(test.body) > maxBodyBytes {
				t.Fatalf("%d bytes are more than may come", len(test.body))
			}
			if code := b.deliver("msg_1", test.body).Code; code != 200 {
				t.Errorf("got %d, want 200", code)
			}
			b.wantCounted(test.want, 1)
			if test.want != accepted {
				return
			}
			event := b.broker.taken()[0].Event
			if got := event.User.PublicMetadata; (got == nil) != (test.metadata == "") || got != nil && *got != test.metadata {
				t.Errorf("metadata is not as it was sent; %d bytes wanted", len(test.metadata))
			}
			if event.Operation != "UPSERT" {
				t.Errorf("operation: got %s", event.Operation)
			}
		})
	}
}

// FuzzSender: whatever X-Forwarded-For holds, a sender's address is taken from
// what a trusted proxy wrote, and from nothing left of that.
func FuzzSender(f *testing.F) {
	proxies, err := prefixes("", []string{"10.0.0.0/8", "2001:db8::/32"})
	if err != nil {
		f.Fatal(err)
	}
	list := allowlist{proxies: proxies}
	for _, seed := range [][2]string{
		{"10.1.1.1:1", "44.228.126.217"}, {"10.1.1.1:1", "1.1.1.1, 44.228.126.217:99,10.2.2.2"}, {"[2001:db8::1]:1", "[2600:1f24::5]:1, 2001:db8::2"},
		{"198.51.100.7:1", "10.0.0.1"}, {"@", ""}, {"10.1.1.1:1", ", ,"}, {"10.1.1.1:1", "fe80::1%eth0, ::ffff:10.0.0.1"}, {"10.1.1.1:1", "unknown\x00\n1.1.1.1"},
	} {
		f.Add(seed[0], seed[1], "44.228.126.217")
	}
	f.Fuzz(func(t *testing.T, remote, forwarded, another string) {
		sender := func(forwarded ...string) netip.Addr {
			return list.sender(&http.Request{RemoteAddr: remote, Header: http.Header{"X-Forwarded-For": forwarded}})
		}
		peer, got := parseAddr(remote), sender(forwarded)
		switch {
		case !contains(proxies, peer):
			if got != peer {
				t.Fatalf("sender: got %v of a header that a stranger sent, want %v", got, peer)
			}
		case got.IsValid() && !contains(proxies, got):
			if lied := sender(another, forwarded); lied != got {
				t.Fatalf("sender: got %v, and %v behind what anybody may write", got, lied)
			}
			if lied := sender(forwarded + ", " + another); lied == got && parseAddr(strings.TrimSpace(another[strings.LastIndexByte(another, ',')+1:])) != got {
				t.Fatalf("sender: got %v left of an untrusted %q", got, another)
			}
		}
		if got.Is4In6() || got.Zone() != "" {
			t.Fatalf("sender: got %v, which no network holds", got)
		}
	})
}

// FuzzPrefixes: a list of networks is refused or means what it says.
func FuzzPrefixes(f *testing.F) {
	for _, seed := range []string{"44.228.126.217", " 10.0.0.0/8 ", "::ffff:1.2.3.4", "2600:1f24:64:8000::/56", "1.2.3.4/33", "fe80::1%eth0", "", "10.0.0.0/08", "::/0", "0/0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := prefixes("WEBHOOK_ALLOWED_CIDRS", []string{text})
		if err != nil {
			if len(parsed) != 0 || !strings.Contains(err.Error(), "WEBHOOK_ALLOWED_CIDRS") {
				t.Fatalf("got %v and %v", parsed, err)
			}
			return
		}
		if blank := strings.TrimSpace(text) == ""; (len(parsed) == 0) != blank || len(parsed) > 1 {
			t.Fatalf("%q: got %v", text, parsed)
		}
		for _, network := range parsed {
			again, err := prefixes("", []string{network.String()})
			if err != nil || len(again) != 1 || again[0] != network || !contains(parsed, network.Addr()) {
				t.Fatalf("%q: got %v, which reads as %v, %v", text, network, again, err)
			}
		}
	})
}

// FuzzSigningSecrets: what is taken for a secret can sign, with a key that is
// too long to guess, and what is refused is not quoted.
func FuzzSigningSecrets(f *testing.F) {
	for _, seed := range []string{secretA, "whsec_", "", "whsec_CANARYAA", "sk_test_CANARY", "whsec_CANARYCANARYCANARYCANARY\n", "whsec_====", "whsec_whsec_" + secretA} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, secret string) {
		fault := secretFault(secret)
		if fault != "" {
			if strings.Contains(fault, "CANARY") {
				t.Fatalf("quoted: %s", fault)
			}
			return
		}
		if _, err := newVerifier([]string{secret}); err != nil || len(secret) < len(secretPrefix)+minSecretBytes {
			t.Fatalf("%q is taken for a secret: %v", secret, err)
		}
	})
}
