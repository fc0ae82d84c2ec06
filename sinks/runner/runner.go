package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/transact"
	"clerkconnect/sinks"
)

// Runner runs one sink. Make one with [New].
type Runner struct {
	cfg       Config
	options   Options
	sink      sinks.Sink
	confirmer sinks.Confirmer // the sink, nil if it cannot
	facts     sinks.Capabilities
	logger    *slog.Logger
	slots     chan struct{}        // of calls: as many as the sink takes at once
	progress  [2]transact.Progress // in <prefix>.users and <prefix>.erasure-receipts
	heartbeat [2]transact.Heartbeat
	began     time.Time // when Run was called
	pacer     *pacer    // of a sink that is Paced, else nil
	status    status
	metrics   *metrics
	wish      wish
	retries   *retries
}

// New returns a runner of sink. It does no I/O.
func New(cfg Config, sink sinks.Sink, options Options) (*Runner, error) {
	if err := errors.Join(cfg.Validate(), options.validate()); err != nil {
		return nil, err
	}
	facts, err := capabilities(cfg, sink)
	if err != nil {
		return nil, fmt.Errorf("sink %s: %w", cfg.Name, err)
	}
	if options.Codec == nil {
		options.Codec = &schemas.Codec{}
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	r := &Runner{
		cfg: cfg, options: options, sink: sink, facts: facts,
		logger: options.Logger.With("component", "sink", "sink", cfg.Name),
		slots:  make(chan struct{}, facts.MaxInFlight), retries: newRetries(options.Retries),
	}
	r.confirmer, _ = sink.(sinks.Confirmer)
	if paced, ok := sink.(sinks.Paced); ok {
		r.pacer = newPacer(cmp.Or(cfg.RateLimit, facts.Limit))
		paced.Pace(r.pacer)
	}
	r.status.lag = -1
	r.wish.pause = options.Pause
	r.metrics = newMetrics(r)
	if options.Registerer != nil {
		if err := r.metrics.register(options.Registerer, cfg.Name); err != nil {
			return nil, fmt.Errorf("sink %s: register metrics: %w", cfg.Name, err)
		}
	}
	return r, nil
}

// capabilities returns those of the sink, within what a person has set.
func capabilities(cfg Config, sink sinks.Sink) (sinks.Capabilities, error) {
	facts := sink.Capabilities()
	if facts.Kind == "" || facts.MaxBatch < 1 || facts.MaxInFlight < 1 || facts.ConfirmAfter < 0 || facts.Limit.Validate() != nil {
		return facts, fmt.Errorf("capabilities %+v: Kind must be set, MaxBatch and MaxInFlight at least 1, ConfirmAfter not negative, of Limit both or neither", facts)
	}
	if _, paced := sink.(sinks.Paced); !paced && cfg.RateLimit != (sinks.Limit{}) {
		return facts, fmt.Errorf("RATE_LIMIT is %s, but %s has no rate limit: leave it out", cfg.RateLimit, facts.Kind)
	}
	if cfg.MaxInFlight > facts.MaxInFlight {
		return facts, fmt.Errorf("MAX_IN_FLIGHT is %d: %s takes at most %d calls at once, use 1 to that, or leave it out", cfg.MaxInFlight, facts.Kind, facts.MaxInFlight)
	}
	if cfg.MaxInFlight > 0 {
		facts.MaxInFlight = cfg.MaxInFlight
	}
	return facts, nil
}

// Group is the consumer group of the sink of that name. A sink that takes
// receipts has another, with .receipts behind it.
func Group(topics schemas.Topics, sink string) string { return topics.Prefix + ".sink." + sink }

// Group returns the name of the sink's consumer group.
func (r *Runner) Group() string { return Group(r.options.Topics, r.cfg.Name) }

// Run opens the sink and applies <prefix>.users to it until ctx is done. Then
// it lets the calls under way finish for at most DrainTimeout, commits, closes
// the sink and returns nil. No error of the sink ends it. What does is an
// error that only another start can mend: [transact.ErrDuplicateInstance], or
// client options that are not valid. Run is called once.
func (r *Runner) Run(ctx context.Context) error {
	r.began = time.Now()
	measuring, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { r.measureLag(measuring) })
	defer running.Wait()
	defer stop()
	for {
		turn, end, pause := r.wish.turn(ctx)
		err := r.take(turn, pause)
		r.status.closed()
		err = r.settle(ctx, turn, err)
		end()
		if ctx.Err() != nil || err != nil {
			return err
		}
	}
}

// take opens the sink and works until turn ends, or with an error.
func (r *Runner) take(turn context.Context, pause *Pause) error {
	r.status.begin(pause)
	if pause != nil {
		r.logger.Warn("sink paused", "by", pause.By, "reason", pause.Reason, "since", pause.Since, "keeps_erasing", pause.KeepErasing)
	}
	if modeOf(pause) == modeStill { // the destination may be away
		return r.own(turn, modeStill)
	}
	err := r.open(turn)
	if err == nil {
		err = r.own(turn, modeOf(pause))
	}
	if closing := r.sink.Close(); closing != nil {
		r.logger.Warn("close", "err", closing)
	}
	return err
}

// settle returns nil when another turn is to begin, after the wait that a fatal
// error asks for, or when ctx has ended; and otherwise what ends Run.
func (r *Runner) settle(ctx, turn context.Context, err error) error {
	if turn.Err() != nil && !errors.Is(err, transact.ErrDuplicateInstance) {
		if ctx.Err() == nil {
			r.logger.Info("sink begins anew, as a person wants it")
			if r.pacer != nil {
				r.pacer.forget()
			}
		}
		return nil
	}
	marked := sinks.Classify(err)
	if marked.Class != sinks.ClassFatal {
		return fmt.Errorf("sink %s: %w", r.cfg.Name, err)
	}
	r.status.failed(marked, true)
	r.logger.Error("sink stopped, a person has to mend this", "reason", marked.Reason, "err", err, "next_attempt_in", r.cfg.SlowRetry.String())
	_ = sleep(turn, r.cfg.SlowRetry)
	return nil
}

// open opens the sink, again and again until it is open, ctx is done or the
// error is fatal.
func (r *Runner) open(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		opening, cancel := r.timed(ctx)
		err := guarded(r.logger, func() error { return r.sink.Open(opening) })
		cancel()
		if err == nil {
			r.status.opened()
			r.logger.Info("sink opened", "kind", r.facts.Kind)
			return nil
		}
		marked := sinks.Classify(err)
		if ctx.Err() != nil || marked.Class == sinks.ClassFatal {
			return err
		}
		r.status.failed(marked, false)
		r.metrics.failed(marked)
		if attempt == 1 {
			r.logger.Warn("open, will retry", "reason", marked.Reason, "err", err)
		}
		if err := sleep(ctx, max(marked.After, r.backoff(attempt))); err != nil {
			return err
		}
	}
}

// own consumes until ctx is done or an error ends it.
func (r *Runner) own(ctx context.Context, m mode) error {
	topics := r.options.Topics
	words, err := r.listen(ctx, topics.ErasureReceipts(), topics.DeadLetters(r.cfg.Name), topics.Erasures())
	if err != nil {
		return nil // ctx has ended
	}
	defer words.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var owning sync.WaitGroup
	var errs [2]error
	own := func(i int, topic, group string, p *processor, owned func(transact.Ownership)) {
		owning.Go(func() {
			defer cancel() // neither goes on without the other
			errs[i] = transact.Run(ctx, transact.Config{
				Client:          r.options.Client,
				Topic:           topic,
				Group:           group,
				TransactionalID: group + "." + r.options.InstanceName,
				MaxRecords:      r.cfg.BatchRecords,
				SessionTimeout:  r.options.SessionTimeout,
				Logger:          r.logger,
				OnOwned:         owned,
				Progress:        &r.progress[i],
				Heartbeat:       &r.heartbeat[i],
				Limit:           p.size.limit,
				CommitLock:      r.options.CommitLock,
				Hold:            m != modeRun,
			}, p)
		})
	}
	if r.pacer != nil {
		r.pacer.setAlive(r.heartbeat[0].Fresh)
		defer r.pacer.setAlive(nil)
	}
	users := r.newProcessor(words)
	users.mode, users.alive = m, r.heartbeat[0].Fresh
	own(0, topics.Users(), r.Group(), users, func(has transact.Ownership) {
		if r.pacer != nil {
			r.pacer.share(float64(max(1, len(has.Owned))) / float64(words.partitions))
		}
		words.erased.own(has.Owned)
		r.status.own(has)
	})
	if r.facts.Receipts {
		heard, err := r.listen(ctx, topics.DeadLetters(r.cfg.Name))
		if err == nil {
			defer heard.close()
			feed := r.newFeed(heard)
			feed.mode, feed.alive = m, r.heartbeat[1].Fresh
			own(1, topics.ErasureReceipts(), r.receiptsGroup(), feed, nil)
		}
	}
	owning.Wait()
	return errors.Join(errs[:]...)
}

func (r *Runner) receiptsGroup() string { return r.Group() + ".receipts" }

func (r *Runner) newProcessor(w *words) *processor {
	p := &processor{
		Runner: r, words: w, size: r.newBatchSize(), partitions: map[int32]*memory{}, done: map[string]outcome{},
	}
	p.read = p.restore
	return p
}

// newFeed returns the processor of <prefix>.erasure-receipts, which remembers
// nothing but its dead letters.
func (r *Runner) newFeed(w *words) *processor {
	return &processor{
		Runner: r, feed: true, words: w, size: r.newBatchSize(), partitions: map[int32]*memory{},
		read: func(ctx context.Context, partition int32) (*memory, error) {
			m := newMemory()
			var err error
			m.letters, err = r.readLetters(ctx, partition, true)
			return m, err
		},
	}
}

// lagInterval is how often the lag is measured: a request to each broker.
const lagInterval = time.Second

func (r *Runner) measureLag(ctx context.Context) {
	client, err := kgo.NewClient(r.options.Client...)
	if err != nil {
		return // transact.Run reports it
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	for sleep(ctx, lagInterval) == nil {
		lag, err := r.progress[0].Lag(ctx, admin, r.Group(), r.options.Topics.Users())
		if err == nil && r.facts.Receipts {
			var receipts int64
			receipts, err = r.progress[1].Lag(ctx, admin, r.receiptsGroup(), r.options.Topics.ErasureReceipts())
			lag += receipts
		}
		if err == nil {
			r.status.setLag(lag)
		} else if ctx.Err() == nil {
			r.logger.Debug("measure lag", "err", err)
		}
	}
}

// backoff returns how long to wait after that many failures: exponential with
// full jitter, so that many instances do not come back at the same moment.
func (r *Runner) backoff(failures int) time.Duration {
	longest := r.cfg.BackoffMin
	for ; failures > 1 && longest < r.cfg.BackoffMax; failures-- {
		longest *= 2
	}
	return rand.N(min(longest, r.cfg.BackoffMax)) + 1
}

// sleep waits for d, or returns why ctx ended before.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
