package snapshot

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
	"golang.org/x/time/rate"

	"clerkconnect/connector"
	"clerkconnect/connector/clerk"
	"clerkconnect/connector/clerksim"
	"clerkconnect/connector/topics"
	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	partitions = 3
	testKey    = "sk_live_test"
	patience   = 2 * time.Minute // bound of every wait
)

// direct is a transport that calls a handler without a network, and remembers
// the requests.
type direct struct {
	handler http.Handler

	mu       sync.Mutex
	requests []string // path and query
}

func (d *direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.requests = append(d.requests, r.URL.Path+"?"+r.URL.RawQuery)
	d.mu.Unlock()
	recorder := httptest.NewRecorder()
	d.handler.ServeHTTP(recorder, r)
	return recorder.Result(), nil
}

func (d *direct) seen(part string) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.requests {
		if strings.Contains(r, part) {
			n++
		}
	}
	return n
}

// hooked is a writer that asks before it stores a state.
type hooked struct {
	Writer
	before func(key string, value any) error
}

func (h *hooked) StoreState(ctx context.Context, key string, value any) error {
	if h.before != nil {
		if err := h.before(key, value); err != nil {
			return err
		}
	}
	return h.Writer.StoreState(ctx, key, value)
}

// harness is a broker, a simulated Clerk, and the tasks between them.
type harness struct {
	admin  *kadm.Client
	opts   []kgo.Opt
	names  schemas.Topics
	writer *connector.Writer
	sim    *clerksim.Instance
	policy *clerk.Policy
	codec  schemas.Codec
}

func newHarness(t *testing.T, cfg clerksim.Config) *harness {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return newHarnessOn(t, cfg, cluster.ListenAddrs(), "test")
}

// onBoth runs a test on the embedded broker and on the Kafka that
// TEST_KAFKA_BROKERS names, there with topics of its own.
func onBoth(t *testing.T, cfg clerksim.Config, test func(*testing.T, *harness)) {
	t.Parallel()
	t.Run("embedded", func(t *testing.T) { t.Parallel(); test(t, newHarness(t, cfg)) })
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		brokers := os.Getenv("TEST_KAFKA_BROKERS")
		switch {
		case brokers == "" && os.Getenv("CI") == "true":
			t.Fatal("TEST_KAFKA_BROKERS is not set: make services")
		case brokers == "":
			t.Skip("TEST_KAFKA_BROKERS is not set: not tried on Kafka")
		}
		test(t, newHarnessOn(t, cfg, strings.Split(brokers, ","), "test-snapshot-"+strings.ToLower(rand.Text())))
	})
}

func newHarnessOn(t *testing.T, cfg clerksim.Config, brokers []string, prefix string) *harness {
	t.Helper()
	h := &harness{opts: []kgo.Opt{kgo.SeedBrokers(brokers...)}, names: schemas.Topics{Prefix: prefix}}
	topicConfig := topics.Config{Prefix: prefix, Partitions: partitions, ReplicationFactor: -1, Create: true}
	if _, err := topics.Ensure(t.Context(), h.opts, topicConfig, nil, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(append(h.opts, connector.WriterOptions()...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, topic := range topics.Settings(topicConfig, nil) {
			_, _ = h.admin.DeleteTopic(ctx, topic.Name)
		}
	})
	h.admin = kadm.NewClient(client)
	h.writer = connector.NewWriter(client, &h.codec, h.names, partitions)
	h.policy = newPolicy(t, clerk.PolicyConfig{})
	h.sim = newSim(t, cfg)
	return h
}

func newPolicy(t *testing.T, cfg clerk.PolicyConfig) *clerk.Policy {
	t.Helper()
	policy, err := clerk.NewPolicy(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

func newSim(t testing.TB, cfg clerksim.Config) *clerksim.Instance {
	cfg.SecretKey, cfg.RateLimit = testKey, -1
	sim, err := clerksim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return sim
}

func testConfig() Config {
	return Config{
		SecretKey: testKey, APIURL: "https://clerk.test/v1", RateShare: 1, PageSize: 10,
		RequestTimeout: time.Minute, MaxAttempts: 4, RetryPause: 50 * time.Millisecond,
	}
}

// process is one task with what belongs to it.
type process struct {
	*Task
	api      *direct
	writer   *hooked
	registry *prometheus.Registry
	logs     *syncBuffer
	ctx      context.Context
	kill     context.CancelCauseFunc
	ended    chan error
}

func (h *harness) process(t *testing.T, change func(*process, *Config, *Dependencies)) *process {
	t.Helper()
	p := &process{
		api: &direct{handler: h.sim.Handler()}, writer: &hooked{Writer: h.writer},
		registry: prometheus.NewRegistry(), logs: &syncBuffer{}, ended: make(chan error, 1),
	}
	p.ctx, p.kill = context.WithCancelCause(t.Context())
	cfg, deps := testConfig(), Dependencies{
		Writer: p.writer, Client: h.opts, Topics: h.names, Policy: h.policy, Registerer: p.registry,
		Logger: slog.New(slog.NewTextHandler(p.logs, nil)), Transport: p.api,
	}
	if change != nil {
		change(p, &cfg, &deps)
	}
	task, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	p.Task = task
	task.api.limiter = rate.NewLimiter(rate.Inf, 1)
	task.api.retryWait = time.Millisecond
	return p
}

func (p *process) start(t *testing.T) *process {
	t.Helper()
	go func() { p.ended <- p.Run(p.ctx) }()
	t.Cleanup(func() { p.stop(t) })
	return p
}

func (p *process) stop(t *testing.T) {
	t.Helper()
	p.kill(nil)
	select {
	case err := <-p.ended:
		p.ended <- nil // for the next stop
		if err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
	case <-time.After(patience):
		t.Error("Run did not return")
	}
}

// run starts a task on the simulated Clerk as it is.
func (h *harness) run(t *testing.T) *process { return h.process(t, nil).start(t) }

// eventually waits until true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in %v", what, patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// finished waits until the n-th walk has finished that connect-state shows.
func (h *harness) finished(t *testing.T, request string) connector.SourceOffset {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var last connector.SourceOffset
	if err := Follow(ctx, h.opts, h.names, request, func(o connector.SourceOffset) { last = o }); err != nil {
		t.Fatalf("Follow %s: %v; last seen %+v", request, err, last)
	}
	return last
}

// log is what user-events holds.
type eventLog struct {
	events  map[string][]*schemas.UserEvent // by Clerk ID
	ticks   map[string]int                  // by snapshot id
	letters []*kgo.Record
}

func (h *harness) log(t *testing.T) eventLog {
	t.Helper()
	l := eventLog{events: map[string][]*schemas.UserEvent{}, ticks: map[string]int{}}
	for p := range int32(partitions) {
		err := compacted.Read(t.Context(), h.opts, h.names.UserEvents(), p, func(r *kgo.Record) error {
			if string(r.Key) == schemas.TickKey {
				l.ticks[schemas.Header(r.Headers, schemas.HeaderSnapshotID)]++
				return nil
			}
			event := &schemas.UserEvent{}
			if err := h.codec.Decode(t.Context(), r.Value, event); err != nil {
				return err
			}
			l.events[event.ClerkID] = append(l.events[event.ClerkID], event)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		err = compacted.Read(t.Context(), h.opts, h.names.DeadLettersWebhook(), p, func(r *kgo.Record) error {
			l.letters = append(l.letters, r)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// state returns the keys of connect-state that have a value.
func (h *harness) state(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := compacted.Read(t.Context(), h.opts, h.names.ConnectState(), 0, func(r *kgo.Record) error {
		found[string(r.Key)] = string(r.Value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(found, func(_, value string) bool { return value == "" })
	return found
}

// hasAll reports users of the truth that the log does not have.
func (h *harness) hasAll(t *testing.T, l eventLog) {
	t.Helper()
	missing := 0
	for id := range h.sim.Truth() {
		if len(l.events[id]) == 0 {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("log: %d of %d users are missing", missing, len(h.sim.Truth()))
	}
}

func (p *process) metric(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != "clerk_connect_"+name {
			continue
		}
		for _, m := range family.GetMetric() {
			if text := fmt.Sprint(m.GetLabel()); len(labels) > 0 && !strings.Contains(text, labels[0]) {
				continue
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}
