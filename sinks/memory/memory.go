package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"clerkconnect/sinks"
)

var (
	_ sinks.Sink      = (*Sink)(nil)
	_ sinks.Lister    = (*Sink)(nil)
	_ sinks.Confirmer = (*Sink)(nil)
)

// Config is the configuration of the sink. The zero value is valid.
type Config struct {
	// Store is where users are kept; nil: one of the sink's own.
	Store *Store `env:"-"`
	// EveryChange asks the runner not to fold.
	EveryChange bool `env:"EVERY_CHANGE" doc:"Take each change by itself instead of the latest of each user."`
	// Receipts asks the runner for the receipts of other sinks.
	Receipts bool `env:"RECEIPTS" doc:"Take the receipts of other sinks, too."`
	// ConfirmAfter is when the runner reads erasures back.
	ConfirmAfter time.Duration `env:"CONFIRM_AFTER" doc:"How long after an erasure it is read back."`
}

// Validate implements the configuration's check.
func (c Config) Validate() error {
	if c.ConfirmAfter < 0 {
		return fmt.Errorf("CONFIRM_AFTER is %s: use 0s or more", c.ConfirmAfter)
	}
	return nil
}

// Sink applies changes to a [Store]. Safe for concurrent use.
type Sink struct {
	store *Store
	cfg   Config
}

// New returns a sink on cfg.Store. It fails only if cfg is not valid.
func New(cfg Config) (*Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Store == nil {
		cfg.Store = &Store{}
	}
	return &Sink{store: cfg.Store, cfg: cfg}, nil
}

// Store returns the sink's destination.
func (s *Sink) Store() *Store { return s.store }

// Capabilities implements [sinks.Sink]. The limits are those of a middling
// database, so that tests of the runner meet them.
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{
		Kind: "memory", MaxBatch: 500, MaxInFlight: 4,
		EveryChange: s.cfg.EveryChange, Receipts: s.cfg.Receipts, ConfirmAfter: s.cfg.ConfirmAfter,
	}
}

// Open implements [sinks.Sink].
func (s *Sink) Open(ctx context.Context) error { return ctx.Err() }

// Close implements [sinks.Sink].
func (s *Sink) Close() error { return nil }

// Apply implements [sinks.Sink].
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.store.mu.Lock()
	intercept := s.store.intercept
	s.store.mu.Unlock()
	failed := &sinks.BatchError{}
	if intercept != nil {
		if err := intercept(batch); err != nil && !errors.As(err, &failed) {
			return err
		}
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	for i, r := range batch {
		if failed.Failed(i) == nil {
			if err := s.store.apply(r); err != nil {
				failed.Fail(i, err)
			}
		}
	}
	return failed.Err()
}

// Keys implements [sinks.Lister].
func (s *Sink) Keys(ctx context.Context, after string, limit int) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var keys []string
	for id := range s.store.Users() {
		if id > after {
			keys = append(keys, id)
		}
	}
	slices.Sort(keys)
	return keys[:min(limit, len(keys))], nil
}

// Confirm implements [sinks.Confirmer].
func (s *Sink) Confirm(ctx context.Context, clerkID string, _ []byte) (bool, error) {
	_, held := s.store.User(clerkID)
	return !held, ctx.Err()
}
