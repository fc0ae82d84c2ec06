// Package process wires the roles of the pipeline into one process: it makes
// what they share, starts them, tells whether they are ready, and stops them
// in the order of the flow, so that nothing is taken in that cannot be passed
// on.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/cmd/internal/admin"
	"clerkconnect/cmd/internal/config"
	"clerkconnect/cmd/internal/control"
	"clerkconnect/cmd/internal/ledger"
	"clerkconnect/cmd/internal/telemetry"
	"clerkconnect/connector"
	"clerkconnect/connector/clerk"
	"clerkconnect/connector/sequencer"
	"clerkconnect/connector/snapshot"
	"clerkconnect/connector/throttle"
	"clerkconnect/connector/topics"
	"clerkconnect/connector/webhook"
	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/runner"
)

// Settings say what to run. Fields may be left out where it is said.
type Settings struct {
	Config   *config.Config
	Roles    []config.Role
	Logger   *slog.Logger
	Registry *prometheus.Registry
	Version  string
	// AdminListener is where metrics and health are served; nil: ADMIN_ADDR.
	AdminListener net.Listener
	// CommitLock is that of an embedded broker; nil with a real Kafka.
	CommitLock sync.Locker
	// Progress is told how a snapshot goes on; nil: the log is, now and then.
	Progress func(snapshot.Progress)
	// Observe, if set, may put something around a sink, to watch it.
	Observe func(name string, sink sinks.Sink) sinks.Sink
}

// Process is the roles of one process, wired. Make one with [New]; [Process.Run]
// it once, or [Process.Close] it.
type Process struct {
	// The roles; nil or empty where not chosen.
	Receiver  *webhook.Receiver
	Snapshot  *snapshot.Task
	Sequencer *sequencer.Sequencer
	Sinks     []*runner.Runner
	// Erasures watches the ledger, beside the sequencer, which every
	// deployment has.
	Erasures *ledger.Watch

	// Client are the options by which every client of the process is made.
	Client []kgo.Opt
	Codec  *schemas.Codec
	Topics schemas.Topics
	Pins   connector.Pins
	Policy *clerk.Policy
	Admin  *admin.Server

	settings Settings
	listener net.Listener // of Admin
	stop     context.CancelFunc
	served   chan error  // what ended Admin
	client   *kgo.Client // of writer
	writer   *connector.Writer
	wishes   *control.Follower // of sinks
}

// waitForKafka is the pause between attempts to reach a broker at the start.
const waitForKafka = 2 * time.Second

// New connects to Kafka, waiting for it if it cannot be reached, checks the
// topics and makes the roles. It begins to serve metrics and health at once.
func New(ctx context.Context, settings Settings) (_ *Process, err error) {
	p := &Process{settings: settings, Topics: settings.Config.Topics.Names()}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if err := p.listen(ctx); err != nil {
		return nil, err
	}
	if err := p.connect(ctx); err != nil {
		return nil, err
	}
	if p.Policy, err = clerk.NewPolicy(settings.Config.Policy); err != nil {
		return nil, err
	}
	if p.Codec, err = settings.Config.Registry.Codec(ctx, p.Topics); err != nil {
		return nil, err
	}
	if err := p.prepareTopics(ctx); err != nil {
		return nil, err
	}
	p.writer = connector.NewWriter(p.client, p.Codec, p.Topics, p.Pins.Partitions)
	for role, build := range map[config.Role]func() error{
		config.RoleReceiver: p.buildReceiver, config.RoleSnapshot: p.buildSnapshot,
		config.RoleSequencer: p.buildSequencer, config.RoleSinks: p.buildSinks,
	} {
		if slices.Contains(settings.Roles, role) {
			if err := build(); err != nil {
				return nil, err
			}
		}
	}
	// Not before the roles: without them a process that can do nothing yet
	// would be ready.
	p.Admin.Add("kafka", func(ctx context.Context) (any, error) { return nil, p.client.Ping(ctx) })
	return p, nil
}

// listen serves metrics and health from the start, when nothing is ready.
func (p *Process) listen(ctx context.Context) (err error) {
	p.Admin = admin.New(p.settings.Registry, p.settings.Version)
	p.Admin.Add("kafka", func(context.Context) (any, error) { return nil, errors.New("starting: the roles are not there yet") })
	if p.listener = p.settings.AdminListener; p.listener == nil {
		p.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", p.settings.Config.Admin.Addr)
		if err != nil {
			return fmt.Errorf("listen on ADMIN_ADDR: %w", err)
		}
	}
	ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	p.served = make(chan error, 1)
	go func() { p.served <- p.Admin.Serve(ctx, p.listener) }()
	return nil
}

// serve waits while metrics and health are served.
func (p *Process) serve(ctx context.Context) error {
	select {
	case <-ctx.Done():
		p.stop()
		return <-p.served
	case err := <-p.served:
		return err
	}
}

// AdminAddr is where metrics and health are served.
func (p *Process) AdminAddr() string { return p.listener.Addr().String() }

// connect makes the client that writes, and waits until it reaches a broker.
func (p *Process) connect(ctx context.Context) (err error) {
	if p.Client, err = p.settings.Config.Kafka.Options(telemetry.KafkaLogger(p.settings.Logger)); err != nil {
		return err
	}
	p.client, err = kgo.NewClient(append(append(slices.Clone(p.Client), connector.WriterOptions()...), kgo.ClientID("clerk-connect."+p.settings.Config.InstanceName))...)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	warnings := throttle.New(p.settings.Logger)
	for {
		err := p.settings.Config.Kafka.Reach(ctx, p.client)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, kerr.SaslAuthenticationFailed) {
			return fmt.Errorf("connect to Kafka: %w", err)
		}
		warnings.Warn("Kafka cannot be reached; trying again", "brokers", p.settings.Config.Kafka.Brokers, "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(waitForKafka):
		}
	}
	return nil
}

// prepareTopics checks the topics and pins what must not change.
func (p *Process) prepareTopics(ctx context.Context) (err error) {
	cfg := p.settings.Config
	var names []string
	if p.has(config.RoleSinks) {
		for _, sink := range cfg.Sinks {
			names = append(names, sink.Name)
		}
	}
	if p.Pins, err = topics.Ensure(ctx, p.Client, cfg.Topics, names, p.settings.Logger); err != nil {
		return err
	}
	if want := cfg.Clerk.InstanceID; want != "" {
		pinned, err := topics.PinInstance(ctx, p.Client, p.Topics, want)
		if err != nil {
			return err
		}
		if pinned != want {
			return fmt.Errorf("CLERK_INSTANCE_ID is %s, but the topics of prefix %s hold the users of %s: give that instance's keys, or another TOPIC_PREFIX", want, cfg.Topics.Prefix, pinned)
		}
		p.Pins.InstanceID = pinned
	}
	return nil
}

// CheckRetention compares the settings of the topics, as they are in Kafka,
// with ERASURE_DEADLINE. It returns [config.Problems] if a topic may keep an
// erased user for longer.
func (p *Process) CheckRetention(ctx context.Context) error {
	problems, err := topics.CheckRetention(ctx, p.Client, p.settings.Config.Topics, p.settings.Config.Erasure.Deadline)
	if err != nil {
		return fmt.Errorf("check the retention of the topics: %w", err)
	}
	if len(problems) > 0 {
		return config.Problems(problems)
	}
	return nil
}

func (p *Process) has(role config.Role) bool { return slices.Contains(p.settings.Roles, role) }

func (p *Process) logger(component string) *slog.Logger {
	return p.settings.Logger.With("component", component)
}

func (p *Process) buildReceiver() (err error) {
	p.Receiver, err = webhook.New(p.settings.Config.Webhook, webhook.Dependencies{
		Writer:     p.writer,
		Policy:     p.Policy,
		Registerer: p.settings.Registry,
		Logger:     p.logger("receiver"),
		PinInstance: func(ctx context.Context, instanceID string) (string, error) {
			return topics.PinInstance(ctx, p.Client, p.Topics, instanceID)
		},
		HasKey: true, // of some process: the role snapshot does not start without one
	})
	if err != nil {
		return err
	}
	p.Admin.Add("receiver", func(context.Context) (any, error) {
		return map[string]string{"addr": p.Receiver.Addr()}, p.Receiver.Ready()
	})
	return nil
}

// progressEvery is the interval of the log's lines about a snapshot.
const progressEvery = 10 * time.Second

// logProgress tells the log how a snapshot goes on.
func (p *Process) logProgress() func(snapshot.Progress) {
	var logged time.Time
	return func(at snapshot.Progress) {
		if at.Phase == snapshot.PhaseSnapshot && time.Since(logged) >= progressEvery {
			logged = time.Now()
			p.logger("snapshot").Info("snapshot under way", "users", at.Users, "total", at.Total,
				"users_per_second", int(at.RatePerSecond), "remaining_seconds", int(at.Remaining.Seconds()))
		}
	}
}

func (p *Process) buildSnapshot() (err error) {
	progress := p.settings.Progress
	if progress == nil {
		progress = p.logProgress()
	}
	p.Snapshot, err = snapshot.New(p.settings.Config.Snapshot, snapshot.Dependencies{
		Writer:     p.writer,
		Client:     p.Client,
		Topics:     p.Topics,
		Policy:     p.Policy,
		Registerer: p.settings.Registry,
		Logger:     p.logger("snapshot"),
		Progress:   progress,
	})
	if err != nil {
		return err
	}
	p.Admin.Add("snapshot", func(context.Context) (any, error) {
		progress := p.Snapshot.Progress()
		return map[string]any{"phase": progress.Phase, "users": progress.Users, "total": progress.Total}, p.Snapshot.Ready()
	})
	return nil
}

func (p *Process) buildSequencer() error {
	p.Sequencer = sequencer.New(sequencer.Config{
		Client:     p.Client,
		Codec:      p.Codec,
		Topics:     p.Topics,
		Pins:       p.Pins,
		Instance:   p.settings.Config.InstanceName,
		Writer:     p.writer,
		Registerer: p.settings.Registry,
		Logger:     p.logger("sequencer"),
		CommitLock: p.settings.CommitLock,
	})
	p.Erasures = ledger.NewWatch(&ledger.Ledger{
		Client: p.Client, Codec: p.Codec, Topics: p.Topics, Partitions: p.Pins.Partitions,
		Deadline: p.settings.Config.Erasure.Deadline, Sinks: p.settings.Config.LedgerSinks(),
	}, p.settings.Registry, p.logger("erasures"))
	p.Admin.Add("sequencer", func(context.Context) (any, error) { return sequencerReady(p.Sequencer.Status()) })
	return nil
}

func (p *Process) buildSinks() error {
	controlled := map[string]control.Sink{}
	p.wishes = control.NewFollower(p.Client, p.Topics, p.logger("wishes"), controlled)
	retries := &runner.RetryBudget{} // of all sinks
	for _, entry := range p.settings.Config.Sinks {
		sink, err := entry.Kind.New(entry.Settings)
		if err != nil {
			return fmt.Errorf("sink %s: %w", entry.Name, err)
		}
		if p.settings.Observe != nil {
			sink = p.settings.Observe(entry.Name, sink)
		}
		r, err := runner.New(entry.Runner, sink, runner.Options{
			Client:       p.Client,
			Codec:        p.Codec,
			Topics:       p.Topics,
			InstanceName: p.settings.Config.InstanceName,
			Registerer:   p.settings.Registry,
			Logger:       p.settings.Logger,
			CommitLock:   p.settings.CommitLock,
			Retries:      retries,
		})
		if err != nil {
			return err
		}
		p.Sinks = append(p.Sinks, r)
		controlled[entry.Name] = r
		p.Admin.Add("sink_"+entry.Name, func(context.Context) (any, error) { return sinkReady(r.Status()) })
	}
	return nil
}

// SequencerLag returns how many events are not sequenced yet.
func (p *Process) SequencerLag(ctx context.Context) (int64, error) {
	return p.Sequencer.Lag(ctx, kadm.NewClient(p.client))
}

// RequestSnapshot asks the live snapshot task, wherever it is, for a walk.
func (p *Process) RequestSnapshot(ctx context.Context) (connector.SnapshotRequest, error) {
	return snapshot.Request(ctx, p.writer)
}

// Close frees what New took. Run does it.
func (p *Process) Close() {
	if p.client != nil {
		p.client.Close()
	}
	if p.stop != nil {
		p.stop()
	}
}
