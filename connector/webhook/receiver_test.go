package webhook

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	svix "github.com/svix/svix-webhooks/go"
	"go.uber.org/goleak"

	"clerkconnect/connector"
	"clerkconnect/connector/clerk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// canary is in every body: no log and no metric may show it.
const canary = "CANARY-77c1"

var (
	secretA = secretPrefix + base64.StdEncoding.EncodeToString([]byte("secret-a-of-24-bytes....."))
	secretB = secretPrefix + base64.StdEncoding.EncodeToString([]byte("secret-b-of-24-bytes....."))
	// receivedAt is the receiver's clock in these tests, a little after the
	// fixtures; signatures follow the real one, as the library does.
	receivedAt = time.UnixMilli(1_764_300_000_000)
)

const (
	path     = "/webhooks/clerk"
	instance = "ins_2xKq7PbVnR4mTzW8cYhLdFgJ1aE" // of the fixtures
)

// broker is a Writer that answers as told and keeps what was acknowledged.
type broker struct {
	mu      sync.Mutex
	records []connector.SourceRecord
	// write decides; nil: acknowledged at once.
	write func(ctx context.Context, records []connector.SourceRecord) error
}

func (b *broker) Write(ctx context.Context, records ...connector.SourceRecord) error {
	b.mu.Lock()
	write := b.write
	b.mu.Unlock()
	if write != nil {
		if err := write(ctx, records); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records = append(b.records, records...)
	return nil
}

func (b *broker) set(write func(ctx context.Context, records []connector.SourceRecord) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.write = write
}

func (b *broker) taken() []connector.SourceRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.records
}

// events returns the event ids of what was acknowledged.
func (b *broker) events() (ids []string) {
	for _, r := range b.taken() {
		if r.Event != nil {
			ids = append(ids, r.Event.EventID)
		}
	}
	return ids
}

// bench is a receiver under test with everything around it.
type bench struct {
	*Receiver
	t        testing.TB
	broker   *broker
	registry *prometheus.Registry
	logs     *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// setup returns a receiver; at the end of the test its logs, at every level,
// and its metrics are searched for the canary and the secrets (G7).
func setup(t testing.TB, change func(*Config, *Dependencies)) *bench {
	t.Helper()
	policy, err := clerk.NewPolicy(clerk.PolicyConfig{})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, broker: &broker{}, registry: prometheus.NewRegistry(), logs: &lockedBuffer{}}
	cfg := Config{Addr: "127.0.0.1:0", Path: path, Timeout: 8 * time.Second, MaxWaiting: 1024, SigningSecrets: []string{secretA}, InstanceID: instance}
	deps := Dependencies{
		Writer: b.broker, Policy: policy, Registerer: b.registry, HasKey: true,
		Logger: slog.New(slog.NewJSONHandler(b.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Now:    func() time.Time { return receivedAt },
	}
	if change != nil {
		change(&cfg, &deps)
	}
	if b.Receiver, err = New(cfg, deps); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.searchForLeaks)
	return b
}

func (b *bench) searchForLeaks() {
	for _, leak := range []string{"CANARY", strings.TrimPrefix(secretA, secretPrefix), strings.TrimPrefix(secretB, secretPrefix)} {
		if strings.Contains(b.logs.String(), leak) {
			b.t.Errorf("the log shows %q:\n%s", leak, b.logs)
		}
		for name := range b.metrics() {
			if strings.Contains(name, leak) {
				b.t.Errorf("a metric shows %q: %s", leak, name)
			}
		}
	}
}

// metrics returns each counter, gauge and histogram's count as name{labels}.
func (b *bench) metrics() map[string]float64 {
	families, err := b.registry.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetValue())
			}
			name := strings.TrimPrefix(family.GetName(), "clerk_connect_webhook_") + "{" + strings.Join(labels, ",") + "}"
			values[name] = valueOf(metric)
		}
	}
	return values
}

func valueOf(metric *dto.Metric) float64 {
	switch {
	case metric.Counter != nil:
		return metric.Counter.GetValue()
	case metric.Gauge != nil:
		return metric.Gauge.GetValue()
	}
	return float64(metric.Histogram.GetSampleCount())
}

func (b *bench) wantCounted(o outcome, times float64) {
	b.t.Helper()
	name := fmt.Sprintf("requests_total{%d,%s}", o.code, o.reason)
	if got := b.metrics()[name]; got != times {
		b.t.Errorf("%s: got %v, want %v", name, got, times)
	}
}

// signed returns a delivery as Svix makes it.
func signed(t testing.TB, secret, id, body string, at time.Time) *http.Request {
	t.Helper()
	return signedAs(t, "svix-", secret, id, body, at)
}

func signedAs(t testing.TB, prefix, secret, id, body string, at time.Time) *http.Request {
	t.Helper()
	webhook, err := svix.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := webhook.Sign(id, at, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	req.Header.Set(prefix+"id", id)
	req.Header.Set(prefix+"timestamp", strconv.FormatInt(at.Unix(), 10))
	req.Header.Set(prefix+"signature", signature)
	return req
}

// send has the receiver answer req.
func (b *bench) send(req *http.Request) *httptest.ResponseRecorder {
	recorder := httptest.NewRecorder()
	b.Handler().ServeHTTP(recorder, req)
	return recorder
}

// deliver signs and sends a body now.
func (b *bench) deliver(id, body string) *httptest.ResponseRecorder {
	b.t.Helper()
	return b.send(signed(b.t, secretA, id, body, time.Now()))
}

// userBody is an event of user_1 with canaries where the default policy does
// and does not look.
func userBody(kind, members string) string {
	return `{"type":"` + kind + `","timestamp":1764200000123,"instance_id":"` + instance + `","data":{"id":"user_1","first_name":"` + canary +
		`","private_metadata":"` + canary + `"` + members + `},"event_attributes":{"http_request":{"client_ip":"` + canary + `"}}}`
}

var good = userBody("user.updated", `,"updated_at":1764100000000`)

func fixtures(t testing.TB) string {
	t.Helper()
	root := os.Getenv("CLERK_CONNECT_SHARED")
	if root == "" {
		_, file, _, _ := runtime.Caller(0)
		root = filepath.Join(filepath.Dir(file), "..", "..", "..", "shared")
	}
	dir := filepath.Join(root, "fixtures")
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("fixtures are missing: %v; set CLERK_CONNECT_SHARED", err)
		}
		t.Skipf("fixtures are missing: %v; set CLERK_CONNECT_SHARED to run this test", err)
	}
	return dir
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	valid := Config{Addr: ":8080", Path: path, Timeout: time.Second, MaxWaiting: 1, SigningSecrets: []string{secretA}}
	if err := valid.Validate(); err != nil {
		t.Fatalf("Validate: %v", err)
	}
	for _, test := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no address", func(c *Config) { c.Addr = "" }, "WEBHOOK_ADDR"},
		{"address without port", func(c *Config) { c.Addr = "localhost" }, "WEBHOOK_ADDR"},
		{"relative path", func(c *Config) { c.Path = "webhooks" }, "WEBHOOK_PATH"},
		{"no timeout", func(c *Config) { c.Timeout = 0 }, "WEBHOOK_TIMEOUT"},
		{"timeout of Svix's", func(c *Config) { c.Timeout = 15 * time.Second }, "WEBHOOK_TIMEOUT"},
		{"nobody may wait", func(c *Config) { c.MaxWaiting = 0 }, "WEBHOOK_MAX_WAITING"},
		{"network", func(c *Config) { c.AllowedCIDRs = []string{"10.0.0.0/33"} }, "WEBHOOK_ALLOWED_CIDRS"},
		{"network that no address is in", func(c *Config) { c.AllowedCIDRs = []string{"::ffff:192.0.2.0/120"} }, "WEBHOOK_ALLOWED_CIDRS"},
		{"proxy", func(c *Config) { c.TrustedProxies = []string{"proxy"} }, "WEBHOOK_TRUSTED_PROXIES"},
		{"certificate without key", func(c *Config) { c.TLSCertFile = "x" }, "WEBHOOK_TLS_KEY_FILE"},
		{"certificate is not there", func(c *Config) { c.TLSCertFile, c.TLSKeyFile = "missing", "missing" }, "WEBHOOK_TLS_CERT_FILE"},
		{"no secret", func(c *Config) { c.SigningSecrets = nil }, "CLERK_WEBHOOK_SIGNING_SECRET is empty"},
		{"empty secret", func(c *Config) { c.SigningSecrets = []string{secretA, ""} }, "entry 2 of 2"},
		{"bare prefix", func(c *Config) { c.SigningSecrets = []string{"whsec_"} }, "is empty after whsec_"},
		{"short secret", func(c *Config) { c.SigningSecrets = []string{"whsec_CANARYAA"} }, "at least 16"},
		{"API key instead", func(c *Config) { c.SigningSecrets = []string{"sk_test_CANARY"} }, "does not begin with whsec_"},
		{"not base64", func(c *Config) { c.SigningSecrets = []string{"whsec_CANARY!"} }, "is not base64"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := valid
			test.change(&c)
			err := c.Validate()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Validate: got %v, want it to contain %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "CANARY") {
				t.Errorf("the error shows a secret: %v", err)
			}
			if _, err := New(c, Dependencies{}); err == nil {
				t.Error("New: got no error")
			}
		})
	}
}

func TestAllowlist_Sender(t *testing.T) {
	t.Parallel()
	proxies, err := prefixes("", []string{"10.0.0.0/8", "::ffff:192.0.2.1", "2001:db8::/32"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, remote string
		forwarded    []string
		want         string
	}{
		{"direct", "198.51.100.7:1234", nil, "198.51.100.7"},
		{"direct and lying", "198.51.100.7:1234", []string{"44.228.126.217"}, "198.51.100.7"},
		{"through a proxy", "10.1.1.1:1", []string{"44.228.126.217"}, "44.228.126.217"},
		{"through two, and lying", "10.1.1.1:1", []string{"1.1.1.1, 44.228.126.217, 10.2.2.2"}, "44.228.126.217"},
		{"several headers", "10.1.1.1:1", []string{"1.1.1.1", "44.228.126.217"}, "44.228.126.217"},
		{"with a port", "10.1.1.1:1", []string{"44.228.126.217:99"}, "44.228.126.217"},
		{"IPv6 with a port", "[2001:db8::1]:1", []string{"[2600:1f24:64:8000::5]:99"}, "2600:1f24:64:8000::5"},
		{"IPv4 in IPv6", "[::ffff:192.0.2.1]:1", []string{"::ffff:44.228.126.217"}, "44.228.126.217"},
		{"proxy alone", "10.1.1.1:1", nil, "10.1.1.1"},
		{"nothing but proxies", "10.1.1.1:1", []string{"10.3.3.3, 10.2.2.2"}, "10.3.3.3"},
		{"unreadable", "10.1.1.1:1", []string{"44.228.126.217, unknown"}, "invalid IP"},
		{"blank in a list", "10.1.1.1:1", []string{"44.228.126.217, "}, "invalid IP"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			req := httptest.NewRequest(http.MethodPost, path, nil)
			req.RemoteAddr = test.remote
			req.Header["X-Forwarded-For"] = test.forwarded
			if got := (allowlist{proxies: proxies}).sender(req).String(); got != test.want {
				t.Errorf("sender: got %s, want %s", got, test.want)
			}
		})
	}
}

func TestRepeats_Bounded(t *testing.T) {
	t.Parallel()
	r := newRepeats()
	for i := range 5 * generationSize {
		if r.seen(fmt.Sprint(i)) {
			t.Fatalf("id %d was not seen before", i)
		}
		if i >= generationSize && i%977 == 0 && !r.seen(fmt.Sprint(i-generationSize+1)) {
			t.Fatalf("id %d is forgotten", i-generationSize+1)
		}
		if n := len(r.current) + len(r.earlier); n > 2*generationSize {
			t.Fatalf("%d ids are remembered", n)
		}
	}
}

var errBroker = errors.New("broker says no")
