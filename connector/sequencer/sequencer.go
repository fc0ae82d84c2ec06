package sequencer

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/connector/topics"
	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
	"clerkconnect/schemas/transact"
)

// Config is what a [Sequencer] needs. No field may be its zero value unless it
// says so.
type Config struct {
	// Client are the options that name the brokers and the security.
	Client []kgo.Opt
	Codec  *schemas.Codec
	Topics schemas.Topics
	// Pins are what the deployment has agreed on: partitions and epoch.
	Pins connector.Pins
	// Instance names this process among those of the deployment. It must be
	// stable over restarts and unique among live processes.
	Instance string
	// Writer stores gaps and ticks, outside of transactions.
	Writer     Writer
	Registerer prometheus.Registerer
	Logger     *slog.Logger
	// CommitLock is held during transactions; nil outside of the embedded
	// broker. See [transact.Config].
	CommitLock sync.Locker
	// SessionTimeout of the group and of transactions; 0 means 10 s.
	SessionTimeout time.Duration
	// TickInterval is how often every partition gets a tick; 0 means a day,
	// half of what keeps an erased record from outliving max.compaction.lag
	// for long.
	TickInterval time.Duration
}

// Writer is the part of [connector.Writer] that the sequencer uses.
type Writer interface {
	StoreState(ctx context.Context, key string, value any) error
	Tick(ctx context.Context, topic string, partition int32) error
}

// maxTransactionRecords bounds a transaction's size, and with it how long a
// read_committed consumer waits for its first record (DESIGN, "Exactly once").
const maxTransactionRecords = 5000

const (
	gaugeInterval = 2 * time.Second
	decodeRetry   = time.Second
	// rereadDelay lets Clerk's replicas catch up before a user is read again
	// to break a tie: a listing lags 60 s at most (DESIGN, "Ordering").
	rereadDelay = 60 * time.Second
)

// Sequencer orders events. Make one with [New]; its Run may be called once.
type Sequencer struct {
	cfg      Config
	metrics  *metrics
	progress transact.Progress
	gaps     *gaps
	// read is compacted.Read over cfg.Client, and the tests' own.
	read func(ctx context.Context, topic string, partition int32, each func(*kgo.Record) error) error

	// Only the goroutine of transact touches these.
	memory  map[int32]*positions
	next    map[int32]int64             // offset that follows what was read of a partition; absent: nothing yet
	overlay map[string]schemas.Position // positions of the transaction under way
	pending []observation               // for the metrics, counted when committed
	latest  time.Time                   // broker's time of the latest record of the transaction

	mu    sync.Mutex
	has   transact.Ownership
	known int
	left  bool
	// reached is the broker's time of the latest record that is sequenced; the
	// start of Run before there is one.
	reached time.Time
}

// observation is one event of the transaction under way.
type observation struct {
	outcome    Outcome
	origin     schemas.Origin
	receivedAt int64
	tie        bool
}

// New returns a sequencer. It does no I/O.
func New(cfg Config) *Sequencer {
	if cfg.TickInterval == 0 {
		cfg.TickInterval = topics.TickInterval
	}
	m := newMetrics(cfg.Registerer)
	return &Sequencer{
		cfg:     cfg,
		metrics: m,
		gaps:    newGaps(cfg, m.gaps),
		read: func(ctx context.Context, topic string, partition int32, each func(*kgo.Record) error) error {
			return compacted.Read(ctx, cfg.Client, topic, partition, each)
		},
		memory:  map[int32]*positions{},
		next:    map[int32]int64{},
		overlay: map[string]schemas.Position{},
	}
}

// Group is the sequencer's consumer group.
func Group(topics schemas.Topics) string { return topics.Prefix + ".sequencer" }

// Run sequences until ctx is done; then it finishes the transaction under way
// and returns nil. It returns an error if it cannot go on: the partition count
// has changed, or another live process has the same instance name.
func (s *Sequencer) Run(ctx context.Context) error {
	s.setReached(time.Now())
	working, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { s.tickForever(working) })
	beside.Go(func() { s.observeForever(working) })
	beside.Go(func() { s.gaps.watchForever(working) })
	defer beside.Wait()
	defer stop()
	err := transact.Run(ctx, transact.Config{
		Client:          s.cfg.Client,
		Topic:           s.cfg.Topics.UserEvents(),
		Group:           Group(s.cfg.Topics),
		TransactionalID: Group(s.cfg.Topics) + "." + s.cfg.Instance,
		MaxRecords:      maxTransactionRecords,
		SessionTimeout:  s.cfg.SessionTimeout,
		Logger:          s.cfg.Logger,
		OnTransaction:   func(_ int, committed bool, took time.Duration) { s.metrics.transaction(committed, took) },
		OnOwned:         s.setOwned,
		Progress:        &s.progress,
		CommitLock:      s.cfg.CommitLock,
	}, s)
	s.mu.Lock()
	s.left = true
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("sequencer: %w", err)
	}
	return nil
}

// Status is what a sequencer shows of itself.
type Status struct {
	Joined    bool    `json:"joined"` // the group has told what is owned, nothing perhaps
	Owned     []int32 `json:"owned"`
	Ready     []int32 `json:"ready"`
	Gaps      []int32 `json:"gaps"`       // partitions that wait for a snapshot
	GapsKnown bool    `json:"gaps_known"` // those that were flagged before this process are in Gaps
	Known     int     `json:"known_users"`
	Left      bool    `json:"left"` // Run has returned, or is about to
}

// Status returns the sequencer's state. Safe for concurrent use.
func (s *Sequencer) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	gaps, known := s.gaps.list()
	return Status{Joined: s.has.Joined, Owned: s.has.Owned, Ready: s.has.Ready, Gaps: gaps, GapsKnown: known, Known: s.known, Left: s.left}
}

// Lag returns how many events of the owned partitions are not sequenced yet.
func (s *Sequencer) Lag(ctx context.Context, admin *kadm.Client) (int64, error) {
	return s.progress.Lag(ctx, admin, Group(s.cfg.Topics), s.cfg.Topics.UserEvents())
}

func (s *Sequencer) setOwned(has transact.Ownership) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.has = has
	s.metrics.owned.Set(float64(len(has.Owned)))
	s.metrics.ready.Set(float64(len(has.Ready)))
}

// Restore implements [transact.Processor]: it looks whether events were lost
// before the partition's offset, and reads the positions of its users.
func (s *Sequencer) Restore(ctx context.Context, partition int32) (func(), error) {
	if err := s.gaps.check(ctx, partition); err != nil {
		return nil, err
	}
	return s.restorePositions(ctx, partition)
}

func (s *Sequencer) restorePositions(ctx context.Context, partition int32) (func(), error) {
	started := time.Now()
	restored := newPositions()
	err := s.read(ctx, s.cfg.Topics.SequencerState(), partition, func(r *kgo.Record) error {
		if string(r.Key) == schemas.TickKey {
			return nil
		}
		var at schemas.Position
		if err := s.cfg.Codec.Decode(ctx, r.Value, &at); err != nil {
			return fmt.Errorf("offset %d: %w", r.Offset, err)
		}
		restored.set(string(r.Key), at)
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.metrics.restore.Observe(time.Since(started).Seconds())
	return func() {
		s.memory[partition] = restored
		s.countKnown()
		s.cfg.Logger.Info("partition restored", "partition", partition, "users", restored.len(), "duration_ms", time.Since(started).Milliseconds())
	}, nil
}

// Forget implements [transact.Processor].
func (s *Sequencer) Forget(partition int32) {
	delete(s.memory, partition)
	delete(s.next, partition)
	clear(s.overlay)
	s.pending = s.pending[:0]
	s.countKnown()
}

// Committed implements [transact.Processor]: only now is the transaction's
// overlay part of the memory.
func (s *Sequencer) Committed() {
	for clerkID, at := range s.overlay {
		s.memory[schemas.Partition(clerkID, s.cfg.Pins.Partitions)].set(clerkID, at)
	}
	clear(s.overlay)
	now := time.Now().UnixMilli()
	for _, o := range s.pending {
		s.metrics.events.WithLabelValues(string(o.outcome), string(o.origin)).Inc()
		if o.tie {
			s.metrics.ties.Inc()
		}
		if o.origin == schemas.OriginWebhook {
			s.metrics.latency.Observe(float64(max(0, now-o.receivedAt)) / 1000)
		}
	}
	s.pending = s.pending[:0]
	s.setReached(s.latest)
	s.countKnown()
}

func (s *Sequencer) setReached(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reached = t
}

func (s *Sequencer) countKnown() {
	known := 0
	for _, p := range s.memory {
		known += p.len()
	}
	s.metrics.known.Set(float64(known))
	s.mu.Lock()
	s.known = known
	s.mu.Unlock()
}

// Process implements [transact.Processor].
func (s *Sequencer) Process(ctx context.Context, records []*kgo.Record) ([]*kgo.Record, error) {
	clear(s.overlay)
	s.pending = s.pending[:0]
	now := time.Now().UnixMilli()
	var out []*kgo.Record
	for _, r := range records {
		s.latest = r.Timestamp
		if err := s.noticeLoss(ctx, r, now); err != nil {
			return nil, err
		}
		produced, err := s.sequence(ctx, r, now)
		if err != nil {
			return nil, err
		}
		out = append(out, produced...)
	}
	return out, nil
}

// noticeLoss flags a gap where the log does not go on at the offset that
// follows. Nothing but retention leaves one: the event log is written outside
// of transactions and not compacted. A sequencer that stood still for longer
// than retention, without a restart, is told by nothing else.
func (s *Sequencer) noticeLoss(ctx context.Context, r *kgo.Record, now int64) error {
	expected, known := s.next[r.Partition]
	s.next[r.Partition] = r.Offset + 1
	if !known || r.Offset <= expected {
		return nil
	}
	return s.gaps.flag(ctx, r.Partition, connector.Gap{Committed: expected, LogStart: r.Offset, FlaggedAt: now})
}

// tickForever appends a tick to every owned partition of the compacted topics
// at every interval: max.compaction.lag.ms does nothing in a partition
// without traffic, and what was erased must really go. The first comes early,
// so that processes which are restarted daily tick as well.
func (s *Sequencer) tickForever(ctx context.Context) {
	timer := time.NewTimer(s.cfg.TickInterval / 24)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(s.cfg.TickInterval)
		}
		for _, partition := range s.Status().Owned {
			for _, topic := range []string{s.cfg.Topics.Users(), s.cfg.Topics.SequencerState(), s.cfg.Topics.Erasures(), s.cfg.Topics.ErasureReceipts()} {
				if err := s.cfg.Writer.Tick(ctx, topic, partition); err != nil && ctx.Err() == nil {
					s.cfg.Logger.Warn("tick", "topic", topic, "partition", partition, "err", err)
				}
			}
		}
	}
}

// lagAge is how long the oldest event that is not sequenced has waited, about:
// it came after the latest that is.
func (s *Sequencer) lagAge(lag int64) time.Duration {
	if lag == 0 {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, time.Since(s.reached))
}

// observeForever keeps the lag gauges.
func (s *Sequencer) observeForever(ctx context.Context) {
	client, err := kgo.NewClient(s.cfg.Client...)
	if err != nil {
		s.cfg.Logger.Warn("lag will not be measured", "err", err)
		return
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	ticker := time.NewTicker(gaugeInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if lag, err := s.Lag(ctx, admin); err == nil {
			s.metrics.lag.Set(float64(lag))
			s.metrics.lagAge.Set(s.lagAge(lag).Seconds())
		}
	}
}
