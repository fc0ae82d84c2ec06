package snapshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/connector/clerk"
	"clerkconnect/connector/throttle"
	"clerkconnect/schemas"
)

// Times of the group. A process that dies is replaced after the session's
// timeout, one that stops at once.
const (
	sessionTimeout = 10 * time.Second
	heartbeat      = time.Second
	handOver       = 5 * time.Second // bound of the wait for the work to end
)

// Writer is where a task's records and state go: a [connector.Writer].
type Writer interface {
	Write(ctx context.Context, records ...connector.SourceRecord) error
	StoreState(ctx context.Context, key string, value any) error
}

var _ Writer = (*connector.Writer)(nil)

// Dependencies are what a [Task] needs besides its [Config].
type Dependencies struct {
	Writer     Writer
	Client     []kgo.Opt // brokers and security, for reading connect-state
	Topics     schemas.Topics
	Policy     *clerk.Policy
	Registerer prometheus.Registerer // nil: measure nothing
	Logger     *slog.Logger
	Progress   func(Progress)    // told of each page and each change of phase; must not block; nil: nobody
	Now        func() time.Time  // nil: time.Now
	Transport  http.RoundTripper // nil: a transport of the task's own
}

// Phase is what a task is doing.
type Phase string

// The phases of a task.
const (
	PhaseStandby  Phase = "standby"  // another process is at work, or none yet
	PhaseIdle     Phase = "idle"     // nothing to walk
	PhaseSnapshot Phase = "snapshot" // a walk is under way
	PhasePaused   Phase = "paused"   // a walk failed and goes on after a pause
)

// Progress is how far the current or last walk has come.
type Progress struct {
	Phase         Phase
	Snapshot      string        // id of the walk
	Users         int64         // read so far
	Total         int64         // that Clerk counted at the start
	RatePerSecond float64       // users, in this process
	Remaining     time.Duration // at that rate; 0: unknown or done
	Err           error         // why it is paused
}

// Task is the snapshot source task.
type Task struct {
	cfg     Config
	deps    Dependencies
	api     *api
	metrics *metrics
	log     *slog.Logger
	idle    func() // closes idle connections of the task's own transport

	mu       sync.Mutex
	progress Progress
	notReady error
	current  *owner // nil: the partition is not ours
}

var _ connector.SourceTask = (*Task)(nil)

// New returns a task. It does no I/O.
func New(cfg Config, deps Dependencies) (*Task, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Progress == nil {
		deps.Progress = func(Progress) {}
	}
	t := &Task{cfg: cfg, deps: deps, log: deps.Logger, metrics: newMetrics(deps.Registerer), idle: func() {}}
	if deps.Transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		deps.Transport, t.idle = own, own.CloseIdleConnections
	}
	t.api = &api{
		cfg: cfg, transport: deps.Transport, limiter: cfg.limiter(),
		metrics: t.metrics, log: t.log, warnings: throttle.New(t.log), retryWait: firstRetryWait,
	}
	t.progress.Phase = PhaseStandby
	return t, nil
}

// Ready returns nil, or why the deployment is not what it should be as far as
// this task knows: Clerk refuses the key, or events were lost to retention and
// the snapshot that makes up for them is not finished. It knows only while it
// is the one at work.
func (t *Task) Ready() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.notReady
}

// Progress returns how far the task has come.
func (t *Task) Progress() Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.progress
}

// Run works whenever this process owns the task, until ctx is done; then it
// returns nil. An error means that the client cannot be made.
func (t *Task) Run(ctx context.Context) error {
	defer t.idle()
	client, err := kgo.NewClient(append(t.deps.Client[:len(t.deps.Client):len(t.deps.Client)],
		kgo.ConsumerGroup(t.deps.Topics.Prefix+".snapshot"),
		kgo.ConsumeTopics(t.deps.Topics.ConnectState()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.SessionTimeout(sessionTimeout),
		kgo.RebalanceTimeout(sessionTimeout), // franz-go's minute is what a process killed while it joined would cost
		kgo.HeartbeatInterval(heartbeat),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, assigned map[string][]int32) { t.assigned(ctx, assigned) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) { t.unassigned(lost) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) { t.unassigned(lost) }),
	)...)
	if err != nil {
		return fmt.Errorf("snapshot task: %w", err)
	}
	defer t.unassigned(map[string][]int32{t.deps.Topics.ConnectState(): {0}}) // if the client did not
	defer client.Close()
	failing := false
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		var failed error
		fetches.EachError(func(_ string, _ int32, err error) {
			if !errors.Is(err, context.Canceled) {
				failed = errors.Join(failed, err)
			}
		})
		if failed != nil && !failing {
			t.log.Warn("connect-state cannot be read; trying again", "err", failed)
		}
		failing = failed != nil
		if owner := t.owner(); owner != nil {
			fetches.EachRecord(owner.state.live)
		}
	}
	return nil
}

func (t *Task) owner() *owner {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.current
}

// assigned begins to work when the partition has become ours.
func (t *Task) assigned(ctx context.Context, assigned map[string][]int32) {
	if len(assigned[t.deps.Topics.ConnectState()]) == 0 {
		return
	}
	t.log.Info("snapshot task is at work in this process")
	o := newOwner(t)
	ctx, o.cancel = context.WithCancel(ctx)
	t.mu.Lock()
	t.current = o
	t.mu.Unlock()
	t.metrics.owner.Set(1)
	go func() {
		defer close(o.done)
		o.run(ctx)
	}()
}

// unassigned ends the work and waits for its end, but not for ever: a group
// does not wait for ever either. What a walk still writes after that is
// repetition.
func (t *Task) unassigned(lost map[string][]int32) {
	if len(lost[t.deps.Topics.ConnectState()]) == 0 {
		return
	}
	t.mu.Lock()
	o := t.current
	t.current = nil
	t.mu.Unlock()
	if o == nil {
		return
	}
	o.cancel()
	select {
	case <-o.done:
	case <-time.After(handOver):
		t.log.Warn("snapshot task did not stop in time", "waited_ms", handOver.Milliseconds())
	}
	t.metrics.owner.Set(0)
	t.report(func(p *Progress) { p.Phase, p.Err = PhaseStandby, nil })
	t.setReady(nil)
}

// report changes the progress and tells it, if there is news.
func (t *Task) report(change func(*Progress)) {
	t.mu.Lock()
	before := t.progress
	change(&t.progress)
	now := t.progress
	t.mu.Unlock()
	if now == before {
		return
	}
	t.metrics.users.Set(float64(now.Users))
	t.metrics.expected.Set(float64(now.Total))
	t.deps.Progress(now)
}

func (t *Task) setReady(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.notReady = err
}
