// Package dev runs the whole pipeline on one machine with one command: an
// embedded broker and a simulated Clerk, or the real ones if asked for.
//
// Without Options.Real it touches neither the real Clerk nor any outside
// Kafka, whatever the environment says, and simulated users never reach an
// outside broker: settings are made here, from nothing but the options.
package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"clerkconnect/cmd/internal/config"
	"clerkconnect/cmd/internal/console"
	"clerkconnect/cmd/internal/embedded"
	"clerkconnect/cmd/internal/process"
	"clerkconnect/cmd/internal/telemetry"
	"clerkconnect/connector/clerksim"
	"clerkconnect/sinks"
)

// Options are the flags of the command.
type Options struct {
	DataDir string        // kept between runs
	Users   int           // of a new simulated Clerk
	Rate    float64       // events per second of the simulated Clerk
	Seed    uint64        // of a new simulated Clerk
	For     time.Duration // how long to run; 0: until the context is done
	Real    bool          // use what Environment names
	JSON    bool          // the summary as JSON on Stdout, everything else on Stderr

	Environment    map[string]string
	Version        string
	Stdout, Stderr io.Writer
	// Terminal says that Stdout shows a bar.
	Terminal bool
}

// ErrNotConverged means that the table, the topic and Clerk were not equal at
// the end.
var ErrNotConverged = errors.New("not converged: the table, the topic and Clerk are not equal")

// Bounds of the end. Draining takes what is pending; a person who does not
// want to wait has a second Ctrl-C.
const (
	drainTimeout    = 60 * time.Second
	convergeTimeout = 60 * time.Second
	// snapshotTimeout bounds the wait for the first snapshot when Options.For
	// is shorter than that takes.
	snapshotTimeout = 10 * time.Minute
)

// table is the sink's, by its default name.
const table = "clerk_users"

// session is one run.
type session struct {
	options Options
	say     *voice
	sources sources
	cfg     *config.Config
	logger  *slog.Logger
	started time.Time

	folder   *folder
	broker   *embedded.Broker   // nil with a real Kafka
	sim      *clerksim.Instance // nil with a real Clerk
	api      *http.Server       // of sim
	process  *process.Process
	registry *prometheus.Registry
	latency  latency
	bar      *console.Bar
}

// Run runs until ctx is done or Options.For has passed, drains, and prints a
// summary. A configuration that cannot be used is a [config.Problems].
func Run(ctx context.Context, options Options) error {
	s := &session{options: options, say: newVoice(options), started: time.Now()}
	var err error
	if s.sources, err = choose(options); err != nil {
		return err
	}
	defer s.close()
	if err := s.prepare(ctx); err != nil {
		return err
	}
	return s.run(ctx)
}

// prepare makes everything, starting only what answers others.
func (s *session) prepare(ctx context.Context) (err error) {
	if s.folder, err = openFolder(s.options.DataDir, s.sources.clerk); err != nil {
		return err
	}
	environ := s.environment()
	logger := telemetry.Config{Level: environ["LOG_LEVEL"], Format: environ["LOG_FORMAT"]}
	if err := logger.Validate(); err != nil {
		return config.Problems{err}
	}
	s.logger = logger.Logger(s.say.Above(s.options.Stderr))
	if s.sources.kafka == inProcess {
		if s.broker, err = embedded.Start(ctx, filepath.Join(s.options.DataDir, "broker"), s.logger); err != nil {
			return err
		}
		environ["KAFKA_BROKERS"] = s.broker.Address
	}
	if s.sources.clerk == simulated {
		if err := s.simulate(ctx, environ); err != nil {
			return err
		}
	}
	if s.cfg, err = config.Load(environ, config.Roles()); err != nil {
		return err
	}
	s.say.introduce(s)
	s.registry = telemetry.Registry(s.options.Version)
	s.bar = console.NewBar(s.say.Console)
	listener, err := s.listen(ctx)
	if err != nil {
		return fmt.Errorf("metrics and health: %w", err)
	}
	settings := process.Settings{
		AdminListener: listener,
		Config:        s.cfg, Roles: config.Roles(), Logger: s.logger, Registry: s.registry, Version: s.options.Version,
		Progress: s.bar.Progress,
		Observe:  func(_ string, sink sinks.Sink) sinks.Sink { return s.latency.observe(sink) },
	}
	if s.broker != nil {
		settings.CommitLock = s.broker.CommitLock()
	}
	if s.process, err = process.New(ctx, settings); err != nil {
		return err
	}
	if err := s.process.Receiver.Listen(ctx); err != nil {
		return err
	}
	if s.sim != nil {
		s.sim.SetWebhookURL("http://" + s.process.Receiver.Addr() + s.cfg.Webhook.Path)
	}
	return nil
}

// environment returns the settings: those of a laptop, how to log, and in the
// real mode what the process's environment says of everything but the sink.
func (s *session) environment() map[string]string {
	environ := map[string]string{
		"INSTANCE_NAME": "dev",
		"WEBHOOK_ADDR":  "127.0.0.1:0",
		"ADMIN_ADDR":    "127.0.0.1:9090",
		"LOG_LEVEL":     "warn",
		"LOG_FORMAT":    "text",
	}
	if s.options.Real {
		environ["WEBHOOK_ADDR"] = "127.0.0.1:8787" // fixed: a tunnel has to know it
	}
	for name, value := range s.options.Environment {
		harmless := name == "LOG_LEVEL" || name == "LOG_FORMAT"
		wanted := s.options.Real && !strings.HasPrefix(name, "SINK")
		if value != "" && (harmless || wanted) {
			environ[name] = value
		}
	}
	environ["SINKS"], environ["SINK_SQLITE_PATH"] = "sqlite", s.database()
	return environ
}

// database is the file of the sink.
func (s *session) database() string { return filepath.Join(s.options.DataDir, "users.db") }

// listen listens for operators: where a person expects it, or on another port
// if that is taken. In the real mode a setting may say where.
func (s *session) listen(ctx context.Context) (net.Listener, error) {
	var config net.ListenConfig
	if listener, err := config.Listen(ctx, "tcp", s.cfg.Admin.Addr); err == nil || s.options.Environment["ADMIN_ADDR"] != "" && s.options.Real {
		return listener, err
	}
	return config.Listen(ctx, "tcp", "127.0.0.1:0")
}

// simulate makes the simulated Clerk and serves its Backend API.
func (s *session) simulate(ctx context.Context, environ map[string]string) (err error) {
	s.sim, err = clerksim.New(clerksim.Config{
		Users: s.options.Users, Rate: s.options.Rate, Seed: s.options.Seed,
		StateFile: filepath.Join(s.options.DataDir, "clerk.jsonl"),
		Disorder:  clerksim.DefaultDisorder(),
		Logger:    s.logger,
	})
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("simulated Clerk: %w", err)
	}
	s.api = &http.Server{Handler: s.sim.Handler(), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = s.api.Serve(listener) }() // ends with close
	environ["CLERK_API_URL"] = "http://" + listener.Addr().String() + "/v1"
	environ["CLERK_SECRET_KEY"] = s.sim.SecretKey()
	environ["CLERK_WEBHOOK_SIGNING_SECRET"] = s.sim.SigningSecret()
	environ["CLERK_INSTANCE_ID"] = s.sim.InstanceID()
	environ["CLERK_RATE_SHARE"] = "1" // nobody else uses it
	return nil
}

// run starts everything, waits for the end, drains and reports.
func (s *session) run(ctx context.Context) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx: draining needs all of it
	defer stop()
	s.say.lookAround(s)
	var beside sync.WaitGroup
	var pipeline, clerk error // what ended them, after beside.Wait
	beside.Go(func() {
		defer stop() // without the pipeline nothing can be drained
		pipeline = s.process.Run(running)
	})
	if s.broker != nil {
		beside.Go(func() { s.broker.Run(running) })
	}
	living, silence := context.WithCancel(running)
	defer silence()
	if s.sim != nil {
		beside.Go(func() {
			if clerk = s.sim.Run(living); clerk != nil {
				stop()
			}
		})
	}
	interrupted := s.watch(ctx, running)
	silence()
	summary, err := Summary{}, running.Err()
	if err == nil {
		summary, err = s.finish(running, interrupted)
	}
	stop()
	beside.Wait()
	switch {
	case pipeline != nil:
		return fmt.Errorf("the pipeline ended: %w", pipeline)
	case clerk != nil:
		return fmt.Errorf("the simulated Clerk ended: %w", clerk)
	case err != nil:
		return err
	}
	if err := s.say.summarize(summary); err != nil {
		return err
	}
	if !summary.Converged && !(interrupted && summary.SnapshotUnfinished) {
		return ErrNotConverged
	}
	return nil
}

// watch prints what happens until it is time to end: ctx is done, which is a
// person's wish, Options.For has passed, or running is over.
func (s *session) watch(ctx, running context.Context) (interrupted bool) {
	ticker := time.NewTicker(reportEvery)
	defer ticker.Stop()
	var over <-chan time.Time
	if s.options.For > 0 {
		over = time.After(s.options.For)
	}
	for {
		select {
		case <-ctx.Done():
			return true
		case <-over:
			return false
		case <-running.Done():
			return false
		case <-ticker.C:
			s.say.tick(s)
		}
	}
}

// close frees everything; what failed in it cannot be mended any more.
func (s *session) close() {
	if s.process != nil {
		s.process.Close()
	}
	if s.api != nil {
		_ = s.api.Close()
	}
	if s.broker != nil {
		s.broker.Close()
	}
	if s.folder != nil {
		s.folder.close()
	}
}
