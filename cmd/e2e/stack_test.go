package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	_ "modernc.org/sqlite"

	"clerkconnect/connector/clerk"
	"clerkconnect/connector/clerksim"
	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
	"clerkconnect/sinks/mapping"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "clerk-connect-e2e")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(folder, "clerk-connect")
	build := exec.Command("go", "build", "-o", binary, "clerkconnect/cmd/clerk-connect")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

const partitions = 4

// patience bounds every wait for something that is to happen, also on a machine
// that does much else; whatever happens ends the wait at once. Who comes after
// processes that were killed waits for sessions and rebalances of 10 s each, of
// which several may follow each other.
const patience = 3 * time.Minute

// stack is a deployment: a broker, a simulated Clerk, and the databases.
type stack struct {
	t       testing.TB
	cluster *kfake.Cluster // nil on a real Kafka
	brokers []string
	opts    []kgo.Opt
	topics  schemas.Topics
	sim     *clerksim.Instance
	api     *httptest.Server
	policy  *clerk.Policy
	folder  string
	schema  string // of PostgreSQL; "" without one
	webhook string // where the receivers are reached, over all of them
	// settings, if set, are further ones of the process of that name.
	settings func(name string) []string

	mu        sync.Mutex
	receivers []*url.URL
}

// newStack starts everything but our own processes.
func newStack(t testing.TB, kafka bool, users int) *stack {
	t.Helper()
	s := &stack{t: t, folder: t.TempDir(), topics: schemas.Topics{Prefix: "e2e-" + strings.ToLower(rand.Text()[:8])}}
	if kafka {
		s.brokers = strings.Split(required(t, "TEST_KAFKA_BROKERS"), ",")
	} else {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cluster.Close)
		s.cluster, s.brokers = cluster, cluster.ListenAddrs()
	}
	s.opts = []kgo.Opt{kgo.SeedBrokers(s.brokers...)}
	t.Cleanup(s.dropTopics)
	if os.Getenv("CI") == "true" || os.Getenv("TEST_POSTGRES_DSN") != "" {
		s.createSchema()
	}
	var err error
	if s.policy, err = clerk.NewPolicy(clerk.PolicyConfig{}); err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	s.sim, err = clerksim.New(clerksim.Config{
		Users: users, Seed: seed, Disorder: clerksim.DefaultDisorder(), Rate: 150, RateLimit: -1,
		RetrySchedule: []time.Duration{50 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.api = httptest.NewServer(s.sim.Handler())
	t.Cleanup(s.api.Close)
	s.balance()
	s.sim.SetWebhookURL(s.webhook)
	return s
}

func required(t testing.TB, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" && os.Getenv("CI") == "true" {
		t.Fatalf("%s is not set: make services", name)
	}
	if value == "" {
		t.Skipf("%s is not set", name)
	}
	return value
}

// balance is the load balancer before the receivers: to one that answers, in
// turn. 502 if there is none, as a real one does.
func (s *stack) balance() {
	var turn atomic.Uint64
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.receivers) > 0 {
				r.SetURL(s.receivers[turn.Add(1)%uint64(len(s.receivers))])
			}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := httptest.NewServer(proxy)
	s.t.Cleanup(server.Close)
	s.webhook = server.URL + "/webhooks/clerk"
}

func (s *stack) createSchema() {
	db := s.postgres()
	defer db.Close()
	s.schema = "e2e_" + strings.ToLower(rand.Text()[:10])
	if _, err := db.Exec("CREATE SCHEMA " + s.schema); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		db := s.postgres()
		defer db.Close()
		_, _ = db.Exec("DROP SCHEMA " + s.schema + " CASCADE")
	})
}

func (s *stack) postgres() *sql.DB {
	db, err := sql.Open("pgx", required(s.t, "TEST_POSTGRES_DSN"))
	if err != nil {
		s.t.Fatal(err)
	}
	return db
}

func (s *stack) dropTopics() {
	if s.cluster != nil {
		return
	}
	client, err := kgo.NewClient(s.opts...)
	if err != nil {
		return
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if found, err := admin.ListTopics(context.Background()); err == nil {
		for _, name := range found.Names() {
			if strings.HasPrefix(name, s.topics.Prefix+".") {
				_, _ = admin.DeleteTopics(context.Background(), name)
			}
		}
	}
}

// process is one running clerk-connect.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	admin string
	ended chan error
	log   *lockedBuffer
}

// lockedBuffer does not embed the buffer: io.Copy would use its ReadFrom,
// which locks nothing.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// freeAddress returns where a process can listen. Between now and then, and
// while it is killed and started again, others ask for free ports of 127.0.0.1,
// so it is a loopback address that nobody else uses, where the system has them.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+mathrand.IntN(254), mathrand.IntN(256), 1+mathrand.IntN(254)))
	if err != nil { // not Linux
		listener, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// sinks are the sinks of the deployment, as SINKS wants them.
func (s *stack) sinks() string {
	if s.schema == "" {
		return "sqlite"
	}
	return "sqlite,postgres"
}

// start runs the program with these roles under a name. address is where its
// receiver listens; "" picks one.
func (s *stack) start(name, roles, address string) *process {
	s.t.Helper()
	if address == "" {
		address = freeAddress(s.t)
	}
	p := &process{t: s.t, admin: freeAddress(s.t), ended: make(chan error, 1), log: &lockedBuffer{}}
	p.cmd = exec.Command(binary, "run", "--roles", roles)
	p.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "INSTANCE_NAME=" + name, "LOG_LEVEL=info", "ADMIN_ADDR=" + p.admin,
		"KAFKA_BROKERS=" + strings.Join(s.brokers, ","), "TOPIC_PREFIX=" + s.topics.Prefix, fmt.Sprint("TOPIC_PARTITIONS=", partitions),
		"CLERK_SECRET_KEY=" + s.sim.SecretKey(), "CLERK_WEBHOOK_SIGNING_SECRET=" + s.sim.SigningSecret(), "CLERK_API_URL=" + s.api.URL + "/v1",
		"WEBHOOK_ADDR=" + address, "SNAPSHOT_RETRY_PAUSE=2s", "SNAPSHOT_PAGE_SIZE=50",
		"SINKS=" + s.sinks(), "SINK_SQLITE_PATH=" + filepath.Join(s.folder, "users.db"),
	}
	if s.schema != "" {
		p.cmd.Env = append(p.cmd.Env, "SINK_POSTGRES_DSN="+os.Getenv("TEST_POSTGRES_DSN"), "SINK_POSTGRES_SCHEMA="+s.schema)
	}
	if s.settings != nil {
		p.cmd.Env = append(p.cmd.Env, s.settings(name)...)
	}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	s.t.Cleanup(func() {
		p.kill()
		if s.t.Failed() {
			s.t.Logf("%s:\n%s", name, tail(p.log.String()))
		}
	})
	if strings.Contains(roles, "receiver") {
		s.route(address)
	}
	return p
}

// route sends deliveries to a receiver, beside those that get them already.
func (s *stack) route(address string) {
	target := &url.URL{Scheme: "http", Host: address}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, known := range s.receivers {
		if known.Host == target.Host {
			return
		}
	}
	s.receivers = append(s.receivers, target)
}

func (p *process) signal(signal syscall.Signal) {
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Logf("signal %v: %v", signal, err)
	}
}

// kill ends the process at once, as a power cut would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	p.wait(patience)
}

// stop ends it in order, and fails if it does not, or says that it failed.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if err := p.wait(patience); err != nil {
		p.t.Errorf("process ended with %v:\n%s", err, tail(p.log.String()))
	}
}

func (p *process) wait(within time.Duration) error {
	select {
	case err := <-p.ended:
		p.ended <- err
		return err
	case <-time.After(within):
		return fmt.Errorf("still there after %s", within)
	}
}

func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// ready reports whether /readyz answers 200.
func (p *process) ready() bool {
	response, err := http.Get("http://" + p.admin + "/readyz")
	if err != nil {
		return false
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode == http.StatusOK
}

// load lets users come, change and go until the returned function is called.
func (s *stack) load() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.sim.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				s.t.Error(err)
			}
		})
	}
	s.t.Cleanup(stop)
	return stop
}

// settle delivers everything and waits until topic and databases equal the
// simulator's users; it fails with the differences if they do not in time.
func (s *stack) settle(within time.Duration) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := s.sim.Drain(ctx); err != nil {
		s.t.Fatalf("deliveries: %v", err)
	}
	var differences []string
	for deadline := time.Now().Add(within); ; time.Sleep(250 * time.Millisecond) {
		if differences = s.differences(); len(differences) == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not equal within %s, %d differences:\n%s", within, len(differences), strings.Join(differences[:min(20, len(differences))], "\n"))
		}
	}
}

// row is what is compared of a user everywhere.
type row struct {
	ExternalID, Username, FirstName, LastName, Email string
	Banned                                           bool
	PublicMetadata                                   any
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return strings.ReplaceAll(*s, "\x00", "")
}

// rowOf takes the row out of a record, as a database keeps it.
func rowOf(user *schemas.User) row {
	r := row{ExternalID: text(user.ExternalID), Username: text(user.Username), FirstName: text(user.FirstName), LastName: text(user.LastName), Email: text(user.PrimaryEmailAddress)}
	r.Banned = user.Banned != nil && *user.Banned
	for _, column := range mapping.Fields() {
		if column.Name == "public_metadata" {
			r.PublicMetadata = parse(column.Value(user))
		}
	}
	return r
}

// parse reads JSON text for comparing: numbers by value, of any size, since a
// jsonb column keeps their digits but not how they were written.
func parse(value any) any {
	text, ok := value.(string)
	if !ok || text == "" {
		return nil
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var parsed any
	if err := decoder.Decode(&parsed); err != nil {
		return err.Error()
	}
	return numbersByValue(parsed)
}

func numbersByValue(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			value[key] = numbersByValue(inner)
		}
	case []any:
		for i, inner := range value {
			value[i] = numbersByValue(inner)
		}
	case json.Number:
		if exact, ok := new(big.Rat).SetString(value.String()); ok {
			return exact.RatString()
		}
	}
	return value
}

// differences compares the topic and every database with the simulator.
func (s *stack) differences() (differences []string) {
	want := map[string]row{}
	for id, object := range s.sim.Truth() {
		event, err := s.policy.Row(object, clerk.ReadAt{Date: time.Now(), ReceivedAt: time.Now(), Origin: schemas.OriginRepair})
		if err != nil {
			s.t.Fatal(err)
		}
		want[id] = rowOf(event.User)
	}
	compare := func(place string, got map[string]row) {
		for id, w := range want {
			if g, ok := got[id]; !ok {
				differences = append(differences, fmt.Sprintf("%s: %s is missing", place, id))
			} else if !reflect.DeepEqual(g, w) {
				differences = append(differences, fmt.Sprintf("%s: %s is %+v, at Clerk %+v", place, id, g, w))
			}
		}
		for id := range got {
			if _, ok := want[id]; !ok {
				differences = append(differences, fmt.Sprintf("%s: %s is there, not at Clerk", place, id))
			}
		}
	}
	compare("topic", s.readTopic())
	compare("sqlite", s.readTable("sqlite", "file:"+filepath.Join(s.folder, "users.db")+"?mode=ro", "clerk_users"))
	if s.schema != "" {
		compare("postgres", s.readTable("pgx", os.Getenv("TEST_POSTGRES_DSN"), s.schema+".clerk_users"))
	}
	return differences
}

// readTopic reads <prefix>.users as a new consumer does. A version that falls
// fails the test at once: compaction could have kept the stale record.
func (s *stack) readTopic() map[string]row {
	table := map[string]row{}
	versions := map[string]schemas.Version{}
	var codec schemas.Codec
	for p := range int32(partitions) {
		err := compacted.Read(context.Background(), s.opts, s.topics.Users(), p, func(r *kgo.Record) error {
			if string(r.Key) == schemas.TickKey {
				return nil
			}
			headers, err := schemas.ParseChangeHeaders(r.Headers)
			if err != nil {
				return err
			}
			if headers.Version.Compare(versions[string(r.Key)]) <= 0 {
				return fmt.Errorf("%s: version %v after %v", r.Key, headers.Version, versions[string(r.Key)])
			}
			versions[string(r.Key)] = headers.Version
			delete(table, string(r.Key))
			if r.Value == nil {
				return nil
			}
			var change schemas.UserChange
			if err := codec.Decode(context.Background(), r.Value, &change); err != nil {
				return err
			}
			table[string(r.Key)] = rowOf(&change.User)
			return nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return table
}

func (s *stack) readTable(driver, dsn, table string) map[string]row {
	rows := map[string]row{}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	found, err := db.Query("SELECT id, external_id, username, first_name, last_name, email, banned, public_metadata FROM " + table)
	if err != nil {
		return rows // not created yet
	}
	defer found.Close()
	for found.Next() {
		var id string
		var external, username, first, last, email, metadata sql.NullString
		var banned sql.NullBool
		if err := found.Scan(&id, &external, &username, &first, &last, &email, &banned, &metadata); err != nil {
			s.t.Fatal(err)
		}
		rows[id] = row{external.String, username.String, first.String, last.String, email.String, banned.Bool, parse(metadata.String)}
	}
	if err := found.Err(); err != nil {
		return map[string]row{}
	}
	return rows
}

// eventually polls a condition until it holds or the time is up.
func eventually(t testing.TB, within time.Duration, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}
