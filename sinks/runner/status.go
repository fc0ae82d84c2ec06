package runner

import (
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas/transact"
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
	// Joined: the group has told what is owned, nothing perhaps.
	Joined bool
	// Owned are the partitions assigned, Ready those of them that are restored.
	Owned, Ready []int32
	// LagRecords lie before the sink in the owned partitions; -1: not known
	// yet. 0 means that everything is applied and committed.
	LagRecords int64
	// Lag is how long the oldest of them, about, has been in the topic.
	Lag time.Duration
	// Circuit is whether calls go through.
	Circuit Circuit
	// LastReason is why the last call failed, "" if it succeeded.
	LastReason sinks.Reason
	// ErasuresOwed of the owned partitions, and when the oldest was asked for.
	ErasuresOwed  int
	OldestErasure time.Time
	// ErasuresHeld of those owed are held back until ERASE_AFTER has passed.
	ErasuresHeld int
	// ErasuresUnconfirmed are done, with a receipt, and not read back yet.
	ErasuresUnconfirmed int
	// DeadLetters of the owned partitions that nobody has answered, of whom
	// DeadLettersParked were tried again often enough.
	DeadLetters, DeadLettersParked int
	// Paused is who has the sink stand still, and since when; nil: nobody.
	Paused *Pause
	// Held is the record that holds up the owned partitions; nil: none does.
	Held *Held
}

// Held is a record that fails alone and is tried again, while nothing of its
// batch can be committed. It is not changed.
type Held struct {
	Source   sinks.Source
	Attempts int       // failed calls of it, also with others
	Next     time.Time // no other before
}

// Circuit is whether a sink's calls go through.
type Circuit int

// The states of a circuit.
const (
	CircuitClosed   Circuit = iota // calls go through
	CircuitHalfOpen                // one call at a time tries a destination that failed
	CircuitOpen                    // no call is made before the wait after a failure is over
)

// String returns the state as people name it.
func (c Circuit) String() string { return [...]string{"closed", "half-open", "open"}[c] }

// debts is what a sink owes, in numbers.
type debts struct {
	owed, held, unconfirmed int
	letters, lettersParked  int
	oldest                  time.Time
}

// status is the place of the Status. Safe for concurrent use.
type status struct {
	mu       sync.Mutex
	open     bool
	stopped  bool
	has      transact.Ownership
	lag      int64
	position time.Time // when the records being applied, or applied last, were written
	next     time.Time // position after the batch under way
	reason   sinks.Reason
	tripped  bool      // nothing has succeeded since a failed call
	resting  time.Time // no call before
	debts    debts
	pause    *Pause
	held     *Held
}

// Status returns what the runner does now. Safe for concurrent use.
func (r *Runner) Status() Status {
	s := &r.status
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Status{
		Name: r.cfg.Name, Kind: r.facts.Kind, Opened: s.open, Stopped: s.stopped,
		Joined: s.has.Joined, Owned: slices.Clone(s.has.Owned), Ready: slices.Clone(s.has.Ready),
		LagRecords: s.lag, LastReason: s.reason,
		ErasuresOwed: s.debts.owed, ErasuresHeld: s.debts.held, ErasuresUnconfirmed: s.debts.unconfirmed, OldestErasure: s.debts.oldest,
		DeadLetters: s.debts.letters, DeadLettersParked: s.debts.lettersParked,
		Paused: s.pause, Held: s.held,
	}
	switch {
	case s.stopped || s.tripped && time.Now().Before(s.resting):
		out.Circuit = CircuitOpen
	case s.tripped:
		out.Circuit = CircuitHalfOpen
	}
	if s.lag > 0 && !s.position.IsZero() {
		out.Lag = time.Since(s.position)
	}
	return out
}

func (s *status) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// begin notes what people want of the turn that begins.
func (s *status) begin(pause *Pause) {
	s.set(func() {
		if s.pause = pause; pause != nil {
			s.stopped, s.reason = false, ""
		}
	})
}

func (s *status) opened() {
	s.set(func() { s.open, s.stopped, s.tripped, s.reason = true, false, false, "" })
}
func (s *status) closed() { s.set(func() { s.open = false }) }
func (s *status) healthy() {
	s.set(func() { s.reason, s.tripped = "", false })
}

func (s *status) failed(problem sinks.Error, fatal bool) {
	s.set(func() { s.reason, s.stopped = problem.Reason, fatal })
}

// trip notes that a call failed, and until when none is made.
func (s *status) trip(until time.Time) {
	s.set(func() { s.tripped, s.resting = true, until })
}

func (s *status) untrip() { s.set(func() { s.tripped = false }) }

func (s *status) own(has transact.Ownership) {
	slices.Sort(has.Owned)
	slices.Sort(has.Ready)
	s.set(func() { s.has = has })
}

func (s *status) hold(held *Held) { s.set(func() { s.held = held }) }

func (s *status) setLag(records int64) { s.set(func() { s.lag = records }) }

func (s *status) setDebts(sum debts) { s.set(func() { s.debts = sum }) }

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
		s.held = nil
		if !s.next.IsZero() {
			s.position = s.next
		}
	})
}
