package e2e

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// network is a path to a server that can be slow, break connections in the
// middle of a message, or swallow everything. What it swallows is delivered
// when it is mended, as TCP's repetitions are: also on connections that the
// other side has given up since, and behind what was sent later.
type network struct {
	latency atomic.Int64 // most that a read or a write waits, in nanoseconds
	cuts    atomic.Int64 // one in so many writes ends its connection half-way; 0: none
	held    atomic.Int64 // what the black hole has swallowed: reads and writes that wait

	mu   sync.Mutex
	open chan struct{} // closed unless the network is a black hole
}

func newNetwork() *network {
	n := &network{open: make(chan struct{})}
	close(n.open)
	return n
}

// swallow makes the network a black hole until the returned function is called.
func (n *network) swallow() (mend func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	hole := make(chan struct{})
	n.open = hole
	return sync.OnceFunc(func() { close(hole) })
}

// pass returns when what is to be sent on c may pass.
func (n *network) pass(c *link) error {
	n.mu.Lock()
	open := n.open
	n.mu.Unlock()
	if most := n.latency.Load(); most > 0 {
		time.Sleep(rand.N(time.Duration(most)))
	}
	n.held.Add(1)
	defer n.held.Add(-1)
	select {
	case <-open:
		return nil
	case <-c.closed:
		return net.ErrClosed
	}
}

// Listen is net.Listen on this network.
func (n *network) Listen(kind, address string) (net.Listener, error) {
	listener, err := net.Listen(kind, address)
	return &exit{listener, n}, err
}

type exit struct {
	net.Listener
	network *network
}

func (e *exit) Accept() (net.Conn, error) {
	c, err := e.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &link{Conn: c, network: e.network, closed: make(chan struct{})}, nil
}

// link is the server's end of a connection.
type link struct {
	net.Conn
	network *network
	once    sync.Once
	closed  chan struct{}
}

func (c *link) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if passing := c.network.pass(c); passing != nil {
		return 0, passing
	}
	return n, err
}

func (c *link) Write(p []byte) (int, error) {
	if err := c.network.pass(c); err != nil {
		return 0, err
	}
	if one := c.network.cuts.Load(); one > 0 && rand.Int64N(one) == 0 {
		n, _ := c.Conn.Write(p[:len(p)/2])
		_ = c.Close()
		return n, errors.New("cut")
	}
	return c.Conn.Write(p)
}

func (c *link) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// before returns an address that leads to target over this network.
func (n *network) before(t testing.TB, target string) string {
	t.Helper()
	listener, err := n.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer near.Close()
				far, err := net.Dial("tcp", target)
				if err != nil {
					return
				}
				defer far.Close()
				go func() {
					defer near.Close()
					_, _ = io.Copy(near, far)
				}()
				_, _ = io.Copy(far, near)
			}()
		}
	}()
	return listener.Addr().String()
}

// blackHole is longer than the sessions of 10 s and than every request's time.
const blackHole = 15 * time.Second

// misbehave makes the network slow, then broken, then a black hole, then well.
func (n *network) misbehave(t *testing.T) {
	t.Helper()
	n.latency.Store(int64(30 * time.Millisecond))
	time.Sleep(3 * time.Second)
	n.cuts.Store(20)
	time.Sleep(4 * time.Second)
	n.cuts.Store(0)
	mend := n.swallow()
	defer mend()
	time.Sleep(blackHole)
	n.latency.Store(0)
}

// deadLetters returns how many records the dead-letter topics hold.
func (s *stack) deadLetters() (total int64) {
	client, err := kgo.NewClient(s.opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	names := []string{s.topics.DeadLettersWebhook()}
	for sink := range strings.SplitSeq(s.sinks(), ",") {
		names = append(names, s.topics.DeadLetters(sink))
	}
	ends, err := admin.ListEndOffsets(context.Background(), names...)
	if err != nil {
		s.t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) { total += o.Offset })
	return total
}

// survives runs a deployment of two processes under load while the network
// misbehaves: both go on by themselves, nothing is lost, doubled or given up.
func survives(t *testing.T, s *stack, n *network) {
	t.Helper()
	stop := s.load()
	running := []*process{s.start("one", all, ""), s.start("two", all, "")}
	for _, p := range running {
		eventually(t, patience, "ready", p.ready)
	}
	n.misbehave(t)
	stop()
	s.settle(patience)
	if dead := s.deadLetters(); dead != 0 {
		t.Errorf("dead letters: %d, want none", dead)
	}
	for _, p := range running {
		select {
		case err := <-p.ended:
			p.ended <- err
			t.Errorf("a healthy process ended: %v\n%s", err, tail(p.log.String()))
		default:
			p.stop()
		}
	}
}

// TestNetwork_Kafka: between the processes and the broker.
func TestNetwork_Kafka(t *testing.T) {
	t.Parallel()
	s, n := newStack(t, false, 150), newNetwork()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ListenFn(n.Listen))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	s.cluster, s.brokers = cluster, cluster.ListenAddrs()
	s.opts = []kgo.Opt{kgo.SeedBrokers(s.brokers...)}
	survives(t, s, n)
}

// TestNetwork_PostgreSQL: between the sinks and their database. SQLite goes on.
func TestNetwork_PostgreSQL(t *testing.T) {
	t.Parallel()
	dsn, err := url.Parse(required(t, "TEST_POSTGRES_DSN"))
	if err != nil {
		t.Fatal(err)
	}
	s, n := newStack(t, false, 150), newNetwork()
	dsn.Host = n.before(t, dsn.Host)
	s.settings = func(string) []string { return []string{"SINK_POSTGRES_DSN=" + dsn.String()} }
	survives(t, s, n)
}

// TestNetwork_Clerk: between Clerk and the processes, both ways: deliveries on
// their way to the receivers, and Clerk's API.
func TestNetwork_Clerk(t *testing.T) {
	t.Parallel()
	s, n := newStack(t, false, 150), newNetwork()
	api := n.before(t, s.api.Listener.Addr().String())
	s.settings = func(string) []string { return []string{"CLERK_API_URL=http://" + api + "/v1"} }
	webhook, err := url.Parse(s.webhook)
	if err != nil {
		t.Fatal(err)
	}
	webhook.Host = n.before(t, webhook.Host)
	s.sim.SetWebhookURL(webhook.String())
	survives(t, s, n)
}

// TestPause_Alone: a process that was paused for longer than its sessions, and
// that nobody has replaced, goes on.
func TestPause_Alone(t *testing.T) {
	forEachBroker(t, func(t *testing.T, kafka bool) {
		s := newStack(t, kafka, 150)
		stop := s.load()
		p := s.start("alone", all, "")
		eventually(t, patience, "ready", p.ready)
		p.signal(syscall.SIGSTOP)
		time.Sleep(25 * time.Second)
		p.signal(syscall.SIGCONT)
		stop()
		s.settle(patience)
		p.stop()
	})
}

// TestKill_InARow: a process that is killed and started again at once, ten
// times, is neither taken for two nor held up by what it left.
func TestKill_InARow(t *testing.T) {
	forEachBroker(t, func(t *testing.T, kafka bool) {
		s := newStack(t, kafka, 150)
		stop := s.load()
		address := freeAddress(t)
		var killed []*process
		for range 10 {
			p := s.start("one", all, address)
			time.Sleep(rand.N(1500 * time.Millisecond)) // any moment of its start
			p.kill()
			killed = append(killed, p)
		}
		s.bury()
		last := s.start("one", all, address)
		eventually(t, patience, "ready", last.ready)
		stop()
		s.settle(patience)
		last.stop()
		if slices.ContainsFunc(append(killed, last), func(p *process) bool { return strings.Contains(p.log.String(), "same instance name") }) {
			t.Error("a process took its predecessor for a second one of its name")
		}
	})
}
