package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"clerkconnect/sinks"
)

var (
	_ sinks.Sink        = (*Sink)(nil)
	_ sinks.Lister      = (*Sink)(nil)
	_ sinks.Confirmer   = (*Sink)(nil)
	_ sinks.Initializer = (*Sink)(nil)
)

// Batches: 500 is where rows per second stop rising (see the benchmark);
// transactions of MongoDB are to be short.
const (
	maxBatch      = 500
	maxBatchMongo = 100
)

// Sink appends to an audit log. Safe for concurrent use; calls of Apply take
// turns, since each goes on where the one before has ended.
type Sink struct {
	cfg     Config
	store   store
	now     func() time.Time
	between func(paused) // for tests

	mu      sync.Mutex
	open    bool
	written map[string]Head // ends of chains as this sink has written them since Open
}

// New returns a sink for cfg, or what is wrong with cfg. It does no I/O. A
// setting that is zero has its default, but for CreateTables.
func New(cfg Config) (*Sink, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	store, err := newStore(cfg)
	if err != nil {
		return nil, err
	}
	return &Sink{cfg: cfg, store: store, now: time.Now, between: func(paused) {}}, nil
}

// Capabilities implements [sinks.Sink]. One call at a time: two would want the
// same places in the chains.
func (s *Sink) Capabilities() sinks.Capabilities {
	most := maxBatch
	if s.cfg.scheme() == "mongodb" {
		most = maxBatchMongo
	}
	return sinks.Capabilities{Kind: "audit", MaxBatch: most, MaxInFlight: 1, EveryChange: true, Receipts: true}
}

// Open implements [sinks.Sink]. It creates the tables and what protects them,
// if it may, and refuses a log that the database does not protect.
func (s *Sink) Open(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open {
		return nil
	}
	err := s.store.connect(ctx, s.cfg.CreateTables)
	if err == nil {
		// It looks first: databases ask for the right to create even where
		// there is nothing to do.
		if err = s.store.ready(ctx); err != nil && s.cfg.CreateTables {
			if err = s.store.create(ctx); err == nil {
				err = s.store.ready(ctx)
			}
		}
	}
	if err != nil {
		return errors.Join(s.store.classify("open the log", err), s.store.close())
	}
	s.open, s.written = true, map[string]Head{}
	return nil
}

// Close implements [sinks.Sink].
func (s *Sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		return nil
	}
	s.open = false
	if err := s.store.close(); err != nil {
		return s.store.classify("close", err)
	}
	return nil
}

var errNotOpen = sinks.RetryAfter(sinks.ReasonUnavailable, 0, errors.New("the sink is not open"))

// Apply implements [sinks.Sink].
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		return errNotOpen
	}
	var entries []*entry
	var ends map[string]Head
	err := s.store.within(ctx, func(ctx context.Context, log session) (err error) {
		entries = entries[:0]
		for _, r := range batch {
			entries = append(entries, newEntry(r))
		}
		ends, err = s.write(ctx, log, entries)
		return err
	})
	if err != nil {
		return s.store.classify(fmt.Sprintf("append %d records", len(batch)), err)
	}
	maps.Copy(s.written, ends)
	for _, e := range entries {
		e.report()
	}
	return nil
}

// Keys implements [sinks.Lister]: the users of whom the log holds personal
// data, which are their clients'.
func (s *Sink) Keys(ctx context.Context, after string, limit int) ([]string, error) {
	if !s.opened() {
		return nil, errNotOpen
	}
	keys, err := s.store.users(ctx, after, limit)
	if err != nil {
		return nil, s.store.classify("list keys", err)
	}
	return keys, nil
}

// Confirm implements [sinks.Confirmer]: whether no personal data of the user
// are left.
func (s *Sink) Confirm(ctx context.Context, clerkID string, _ []byte) (bool, error) {
	if !s.opened() {
		return false, errNotOpen
	}
	holds, err := s.store.holds(ctx, clean(clerkID))
	if err != nil {
		return false, s.store.classify("confirm an erasure", err)
	}
	return !holds, nil
}

func (s *Sink) opened() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// InitScript implements [sinks.Initializer].
func (s *Sink) InitScript() string { return s.store.script() }

// Init implements [sinks.Initializer].
func (s *Sink) Init(ctx context.Context) error {
	store, err := newStore(s.cfg) // its own connection: the sink may be open
	if err != nil {
		return err
	}
	if err = store.connect(ctx, true); err == nil {
		err = store.create(ctx)
	}
	if err != nil {
		err = store.classify("create the log", err)
	}
	return errors.Join(err, store.close())
}
