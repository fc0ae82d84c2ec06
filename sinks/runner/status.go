package runner

import (
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/sinks"
)

// Status is what a runner does at one moment.
type Status struct {
	Name string
	Kind string
	// Opened: the destination is connected.
	Opened bool
	// Stopped: a fatal error holds the sink up until a person has mended it.
	Stopped bool
	// Owned are the partitions assigned, Ready those of them that are restored.
	Owned, Ready []int32
	// LagRecords lie before the sink in the owned partitions; -1: not known
	// yet. 0 means that everything is applied and committed.
	LagRecords int64
	// Lag is how long the oldest of them, about, has been in the topic.
	Lag time.Duration
	// LastReason is why the last call failed, "" if it succeeded.
	LastReason sinks.Reason
	// ErasuresOwed of the owned partitions, and when the oldest was asked for.
	ErasuresOwed  int
	OldestErasure time.Time
}

// status is the place of the Status. Safe for concurrent use.
type status struct {
	mu       sync.Mutex
	open     bool
	stopped  bool
	owned    []int32
	ready    []int32
	lag      int64
	position time.Time // when the records being applied, or applied last, were written
	next     time.Time // position after the batch under way
	reason   sinks.Reason
	owed     int
	oldest   int64
}

// Status returns what the runner does now. Safe for concurrent use.
func (r *Runner) Status() Status {
	s := &r.status
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Status{
		Name: r.cfg.Name, Kind: r.facts.Kind, Opened: s.open, Stopped: s.stopped,
		Owned: slices.Clone(s.owned), Ready: slices.Clone(s.ready),
		LagRecords: s.lag, LastReason: s.reason, ErasuresOwed: s.owed,
	}
	if s.lag > 0 && !s.position.IsZero() {
		out.Lag = time.Since(s.position)
	}
	if s.owed > 0 {
		out.OldestErasure = time.UnixMilli(s.oldest)
	}
	return out
}

func (s *status) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *status) opened() { s.set(func() { s.open, s.stopped, s.reason = true, false, "" }) }
func (s *status) closed() { s.set(func() { s.open = false }) }
func (s *status) healthy() {
	s.set(func() { s.reason = "" })
}

func (s *status) failed(problem sinks.Error, fatal bool) {
	s.set(func() { s.reason, s.stopped = problem.Reason, fatal })
}

func (s *status) own(owned, ready []int32) {
	slices.Sort(owned)
	slices.Sort(ready)
	s.set(func() { s.owned, s.ready = owned, ready })
}

func (s *status) setLag(records int64) { s.set(func() { s.lag = records }) }

func (s *status) setDebts(owed int, oldest int64) {
	s.set(func() { s.owed, s.oldest = owed, oldest })
}

// start notes the time span of a batch.
func (s *status) start(records []*kgo.Record) {
	if len(records) == 0 {
		return
	}
	first, last := records[0].Timestamp, records[0].Timestamp
	for _, k := range records {
		if k.Timestamp.Before(first) {
			first = k.Timestamp
		}
		if k.Timestamp.After(last) {
			last = k.Timestamp
		}
	}
	s.set(func() { s.position, s.next = first, last })
}

// finish notes that the batch is committed.
func (s *status) finish() {
	s.set(func() {
		if !s.next.IsZero() {
			s.position = s.next
		}
	})
}
