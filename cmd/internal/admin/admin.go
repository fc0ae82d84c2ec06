// Package admin serves what operators ask a process: metrics, whether it
// lives, and whether it is ready.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config says where to serve. Its variables stand behind ADMIN_.
type Config struct {
	Addr string `env:"ADDR" envDefault:":9090" doc:"Where /metrics, /livez and /readyz are served, as :9090 or 10.0.0.5:9090; they hold no user data and no secrets. Keep it from the internet."`
}

// Validate reports every problem of the configuration.
func (c Config) Validate() error {
	if _, _, err := net.SplitHostPort(c.Addr); err != nil {
		return fmt.Errorf("ADMIN_ADDR is %q: give host:port, or :port for every interface", c.Addr)
	}
	return nil
}

// Bounds of a request: an operator's, never large.
const (
	headerTimeout = 5 * time.Second
	checkTimeout  = 3 * time.Second
	closeTimeout  = 5 * time.Second
)

// Check says whether one part of the process is ready, and some detail of it
// that can be written as JSON. Both are shown; a nil error means ready.
type Check func(ctx context.Context) (detail any, err error)

// Server serves an operator's questions. Checks may be added while it serves.
type Server struct {
	registry *prometheus.Registry
	version  string

	mu     sync.Mutex
	checks map[string]Check
}

// New returns a server without checks, which is ready.
func New(registry *prometheus.Registry, version string) *Server {
	return &Server{registry: registry, version: version, checks: map[string]Check{}}
}

// Add adds a check that /readyz makes, under a name in snake_case.
func (s *Server) Add(name string, check Check) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks[name] = check
}

// Part is what /readyz says of one part.
type Part struct {
	Ready  bool   `json:"ready"`
	Error  string `json:"error,omitempty"`
	Detail any    `json:"detail,omitempty"`
}

// Readiness is what /readyz says.
type Readiness struct {
	Ready bool            `json:"ready"`
	Parts map[string]Part `json:"parts"`
}

// Readiness makes all checks, side by side.
func (s *Server) Readiness(ctx context.Context) Readiness { return s.readiness(ctx, "") }

// readiness makes the check of that name alone, or all of them for "".
func (s *Server) readiness(ctx context.Context, only string) Readiness {
	ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, fmt.Errorf("no answer within %v", checkTimeout))
	defer cancel()
	s.mu.Lock()
	checks := make(map[string]Check, len(s.checks))
	for name, check := range s.checks {
		if only == "" || name == only {
			checks[name] = check
		}
	}
	s.mu.Unlock()

	result := Readiness{Ready: true, Parts: map[string]Part{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, check := range checks {
		wg.Go(func() {
			detail, err := check(ctx)
			part := Part{Ready: err == nil, Detail: detail}
			if err != nil {
				part.Error = err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			result.Parts[name] = part
			result.Ready = result.Ready && part.Ready
		})
	}
	wg.Wait()
	return result
}

// Handler serves /metrics, /livez and /readyz. /livez is 200 as long as the
// process answers: restarting it would mend nothing that it waits for.
// /readyz/<part> is for those who need that part alone: a load balancer must
// not take a receiver away because a sink's database is down.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{Registry: s.registry}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "alive", "version": s.version})
	})
	ready := func(w http.ResponseWriter, r *http.Request) {
		part := r.PathValue("part")
		readiness := s.readiness(r.Context(), part)
		status := http.StatusOK
		switch {
		case part != "" && len(readiness.Parts) == 0:
			http.NotFound(w, r) // not a part of this process, or not yet
			return
		case !readiness.Ready:
			status = http.StatusServiceUnavailable
		}
		writeJSON(w, status, readiness)
	}
	mux.HandleFunc("GET /readyz", ready)
	mux.HandleFunc("GET /readyz/{part}", ready)
	return mux
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(value) // the asker is gone
}

// Serve serves on listener until ctx is done, and returns nil then.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: headerTimeout}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve admin: %w", err)
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := server.Shutdown(closing); err != nil {
		err = errors.Join(err, server.Close())
		return fmt.Errorf("shut down admin: %w", err)
	}
	<-ended
	return nil
}
