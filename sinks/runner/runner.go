package runner

import (
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
	cfg      Config
	options  Options
	sink     sinks.Sink
	facts    sinks.Capabilities
	logger   *slog.Logger
	progress transact.Progress
	health   health
	status   status
	metrics  *metrics
}

// New returns a runner of sink. It does no I/O.
func New(cfg Config, sink sinks.Sink, options Options) (*Runner, error) {
	if err := errors.Join(cfg.Validate(), options.validate()); err != nil {
		return nil, err
	}
	facts := sink.Capabilities()
	if facts.Kind == "" || facts.MaxBatch < 1 || facts.MaxInFlight < 1 {
		return nil, fmt.Errorf("sink %s: capabilities %+v: Kind must be set, MaxBatch and MaxInFlight at least 1", cfg.Name, facts)
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
	}
	r.status.lag = -1
	r.metrics = newMetrics(r)
	if options.Registerer != nil {
		if err := r.metrics.register(options.Registerer, cfg.Name); err != nil {
			return nil, fmt.Errorf("sink %s: register metrics: %w", cfg.Name, err)
		}
	}
	return r, nil
}

// Group returns the name of the sink's consumer group.
func (r *Runner) Group() string { return r.options.Topics.Prefix + ".sink." + r.cfg.Name }

// Run opens the sink and applies <prefix>.users to it until ctx is done. Then
// it lets the calls under way finish for at most DrainTimeout, commits, closes
// the sink and returns nil. No error of the sink ends it. What does is an
// error that only another start can mend: [transact.ErrDuplicateInstance], or
// client options that are not valid. Run is called once.
func (r *Runner) Run(ctx context.Context) error {
	measuring, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { r.measureLag(measuring) })
	defer running.Wait()
	defer stop()
	for {
		err := r.open(ctx)
		if err == nil {
			err = r.own(ctx)
		}
		if closing := r.sink.Close(); closing != nil {
			r.logger.Warn("close", "err", closing)
		}
		r.status.closed()
		if ctx.Err() != nil && !errors.Is(err, transact.ErrDuplicateInstance) {
			return nil
		}
		marked := sinks.Classify(err)
		if marked.Class != sinks.ClassFatal {
			return fmt.Errorf("sink %s: %w", r.cfg.Name, err)
		}
		r.status.failed(marked, true)
		r.logger.Error("sink stopped, a person has to mend this", "reason", marked.Reason, "err", err, "next_attempt_in", r.cfg.SlowRetry)
		if sleep(ctx, r.cfg.SlowRetry) != nil {
			return nil
		}
	}
}

// open opens the sink, again and again until it is open, ctx is done or the
// error is fatal.
func (r *Runner) open(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		opening, cancel := context.WithTimeoutCause(ctx, r.cfg.ApplyTimeout, errApplyTimeout)
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
func (r *Runner) own(ctx context.Context) error {
	return transact.Run(ctx, transact.Config{
		Client:          r.options.Client,
		Topic:           r.options.Topics.Users(),
		Group:           r.Group(),
		TransactionalID: r.Group() + "." + r.options.InstanceName,
		MaxRecords:      r.cfg.BatchRecords,
		SessionTimeout:  r.options.SessionTimeout,
		Logger:          r.logger,
		OnOwned:         r.status.own,
		Progress:        &r.progress,
		CommitLock:      r.options.CommitLock,
	}, &processor{Runner: r, partitions: map[int32]*memory{}})
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
		lag, err := r.progress.Lag(ctx, admin, r.Group(), r.options.Topics.Users())
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
