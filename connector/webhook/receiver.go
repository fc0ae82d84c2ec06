package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"clerkconnect/connector"
	"clerkconnect/connector/clerk"
	"clerkconnect/connector/throttle"
)

// Times of the HTTP server. The body must arrive within Config.Timeout.
const (
	headerTimeout = 5 * time.Second
	idleTimeout   = 2 * time.Minute
	// drainMargin is added to Config.Timeout, within which every request that
	// was taken has its answer.
	drainMargin = 2 * time.Second
	maxHeader   = 32 << 10 // bytes; Svix sends less than 1 KiB
)

// Writer makes records durable: a [connector.Writer].
type Writer interface {
	// Write returns nil when all records are acknowledged.
	Write(ctx context.Context, records ...connector.SourceRecord) error
}

// Dependencies are what a [Receiver] works with. All are needed except Now and
// PinInstance, which Config.InstanceID makes superfluous.
type Dependencies struct {
	Writer     Writer
	Policy     *clerk.Policy
	Registerer prometheus.Registerer
	Logger     *slog.Logger
	// PinInstance pins Clerk's instance id if none is pinned, and returns the
	// pinned one. It is called until it succeeds, then never again.
	PinInstance func(ctx context.Context, instanceID string) (pinned string, err error)
	// HasKey says that there is a secret key of the Backend API, so that
	// somebody executes the re-reads that are asked for.
	HasKey bool
	// Now is the clock by which events are received; nil: time.Now.
	Now func() time.Time
}

// Receiver takes deliveries: a [connector.SourceTask], and an [http.Handler]
// for who has a server already. Safe for concurrent use.
type Receiver struct {
	cfg      Config
	deps     Dependencies
	verifier verifier
	senders  allowlist
	repeats  *repeats
	metrics  *metrics
	warnings *throttle.Logger

	slots    chan struct{}          // one for each verified request that is worked on
	large    chan struct{}          // one for each large body that is not verified yet
	pinning  chan struct{}          // held while the instance id is being pinned
	instance atomic.Pointer[string] // the pinned one; nil: not known yet
	draining atomic.Bool

	mu       sync.Mutex
	listener net.Listener
}

var _ connector.SourceTask = (*Receiver)(nil)

// New returns a receiver that does not listen yet. Its error lists every
// problem of cfg.
func New(cfg Config, deps Dependencies) (*Receiver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Writer == nil || deps.Policy == nil || deps.Registerer == nil || deps.Logger == nil {
		return nil, errors.New("webhook receiver: Writer, Policy, Registerer and Logger are needed")
	}
	if cfg.InstanceID == "" && deps.PinInstance == nil {
		return nil, errors.New("webhook receiver: InstanceID or PinInstance is needed")
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	verifier, err := newVerifier(cfg.SigningSecrets)
	if err != nil {
		return nil, err
	}
	allowed, _ := prefixes("", cfg.AllowedCIDRs)
	proxies, _ := prefixes("", cfg.TrustedProxies)
	r := &Receiver{
		cfg:      cfg,
		deps:     deps,
		verifier: verifier,
		senders:  allowlist{allowed, proxies},
		repeats:  newRepeats(),
		metrics:  newMetrics(deps.Registerer),
		warnings: throttle.New(deps.Logger),
		slots:    make(chan struct{}, cfg.MaxWaiting),
		large:    make(chan struct{}, largeBodies),
		pinning:  make(chan struct{}, 1),
	}
	if cfg.InstanceID != "" {
		r.instance.Store(&cfg.InstanceID)
	}
	return r, nil
}

// Listen opens the address, so that a wrong one is known before Run and a
// chosen port is known by Addr. Run does it if nobody has.
func (r *Receiver) Listen(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener != nil {
		return nil
	}
	var security *tls.Config
	if r.cfg.TLSCertFile != "" {
		files := r.cfg.certificate(r.deps.Logger)
		if _, err := files.get(nil); err != nil {
			return err
		}
		security = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: files.get, NextProtos: []string{"h2", "http/1.1"}}
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", r.cfg.Addr)
	if err != nil {
		return fmt.Errorf("listen on WEBHOOK_ADDR: %w", err)
	}
	if security != nil {
		listener = tls.NewListener(listener, security)
	}
	r.listener = listener
	return nil
}

// Addr returns the address that is listened on, host:port; empty before Listen.
func (r *Receiver) Addr() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener == nil {
		return ""
	}
	return r.listener.Addr().String()
}

// Ready returns nil, or why no delivery can be taken: nothing listens yet, or
// not any more.
func (r *Receiver) Ready() error {
	switch {
	case r.draining.Load():
		return errors.New("shutting down")
	case r.Addr() == "":
		return errors.New("not listening")
	}
	return nil
}

// Run serves until ctx is done, then answers the requests that are under way,
// within Config.Timeout and 2 s, and returns nil. It must be called once. Its
// error is that it cannot listen or accept.
func (r *Receiver) Run(ctx context.Context) error {
	if err := r.Listen(ctx); err != nil {
		return err
	}
	server := &http.Server{
		Handler:                      r.Handler(),
		ReadHeaderTimeout:            headerTimeout,
		ReadTimeout:                  r.cfg.Timeout,
		WriteTimeout:                 r.cfg.Timeout + drainMargin,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(r.deps.Logger.Handler(), slog.LevelDebug),
	}
	r.deps.Logger.Info("webhook receiver listening", "addr", r.Addr(), "path", r.cfg.Path, "tls", r.cfg.TLSCertFile != "")
	served := make(chan error, 1)
	go func() { served <- server.Serve(r.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve webhooks: %w", err)
	case <-ctx.Done():
	}
	r.drain(server)
	<-served
	r.deps.Logger.Info("webhook receiver stopped")
	return nil
}

// drain refuses new requests and waits for the ones under way, and for writes
// that go on behind a request that was given up.
func (r *Receiver) drain(server *http.Server) {
	r.draining.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), r.cfg.Timeout+drainMargin)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		r.deps.Logger.Warn("requests were cut off at shutdown; Svix delivers them again", "err", err)
		server.Close()
	}
	for range cap(r.slots) {
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			r.deps.Logger.Warn("writes were abandoned at shutdown; Svix delivers again what was not answered")
			return
		}
	}
}
