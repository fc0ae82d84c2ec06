// Package sinks is the way out: the seam between the runner, which owns
// everything that all destinations have in common, and a sink, which does only
// what is particular to its own.
//
// To write a sink, see README.md in this folder and the example in
// example_test.go. Package sinktest is the contract as tests.
package sinks

import (
	"context"
	"time"

	"clerkconnect/schemas"
)

// Sink makes one destination reflect the latest change of each Clerk user.
//
// The runner owns fetching, decoding, batching, folding, retries, rate limits,
// dead letters, offsets, metrics and shutdown, so a Sink must not retry,
// sleep (but by [Pacer]), batch, start goroutines that outlive a call, or log and swallow an
// error.
//
// Delivery is at least once: any batch may be applied again, in whole or in
// part, after a crash or an error, and by a process that was paused and does
// not know yet that another has taken over. Apply must therefore converge: for
// each user the destination ends at the highest version ever applied, and at
// nothing once an erasure was applied, whatever the order and the number of
// calls. sinktest.Run checks this.
type Sink interface {
	// Capabilities reports fixed facts about the destination. It does no I/O
	// and returns the same value on every call.
	Capabilities() Capabilities

	// Open connects and checks that the destination is ready. The runner
	// repeats it until it returns nil, or an error marked Fatal. ctx bounds
	// this call, not the connection.
	Open(ctx context.Context) error

	// Apply writes batch and returns when the destination has acknowledged it.
	// The batch has 1 to Capabilities.MaxBatch records, no two of one user
	// unless Capabilities.EveryChange is set, and no two calls in flight share
	// a user unless Capabilities.Receipts is set. The sink must not keep batch or
	// anything in it after returning.
	//
	// nil: every record is applied or was superseded by a later version. A
	// *BatchError: exactly the records that it lists failed, all others are
	// applied. Any other error: nothing may be assumed of any record. An error
	// that is not marked with Permanent, RetryAfter or Fatal is retried.
	Apply(ctx context.Context, batch []Record) error

	// Close releases what Open acquired. It is safe to call twice and without
	// Open.
	Close() error
}

// Capabilities are fixed facts about a destination.
type Capabilities struct {
	Kind        string // what it is, as postgres: short, lower case, stable
	MaxBatch    int    // most records of one Apply, at least 1
	MaxInFlight int    // most concurrent Apply calls, at least 1
	// EveryChange asks for each change by itself, in order, instead of the
	// latest of each user, as an audit log needs.
	EveryChange bool
	// Receipts asks for every other sink's receipts of erasures besides, as
	// records of their own, in order per partition, each at least once. They
	// are read beside the changes: then, of two calls of Apply in flight, one may
	// have a change and the other a receipt of the same user. A receipt's record
	// has no State, and what is remembered with it is dropped.
	Receipts bool
	// ConfirmAfter is how long after an erasure a sink that is a [Confirmer] is
	// asked whether the user is gone. 0: at once, and an erasure that is not
	// confirmed is not done, so that it is repeated. More, for a destination
	// that takes its time: the erasure counts as done meanwhile, and is
	// repeated if the user is still there then.
	ConfirmAfter time.Duration
	// Limit is what the destination takes in requests, for a sink that is
	// [Paced]. The zero value is no limit.
	Limit Limit
}

// Limit is a destination's bound on requests, as its vendor states it: at most
// Requests in any Window.
type Limit struct {
	Requests int // 0: not limited
	Window   time.Duration
}

// Paced is implemented by a sink that makes requests which are counted: over
// HTTP, to a tool with a rate limit.
type Paced interface {
	// Pace is called once, before the first Open, with what every request must
	// go through.
	Pace(Pacer)
}

// Pacer spaces requests out, by Capabilities.Limit or what a person has set
// instead, and by what the destination says. Time that is spent in it does not
// count against APPLY_TIMEOUT. Safe for concurrent use.
type Pacer interface {
	// Wait returns when one more request may be made, or why ctx ended before.
	Wait(ctx context.Context) error
	// Heed takes over what an answer says of the limit: how many requests
	// remain until it is reset, which is that long from now. A destination that
	// says less than that says nothing.
	Heed(remaining int, reset time.Duration)
	// Sleep returns when d has passed, or why ctx ended before: for a destination
	// that takes a request in at once and carries it out later, until it is asked
	// what became of it. It is the only sleep of a sink.
	Sleep(ctx context.Context, d time.Duration) error
}

// Record is one change of one user, or the demand to erase one, or, for a sink
// that asked for them, another sink's word that it has erased one.
type Record struct {
	ClerkID string
	Version schemas.Version
	// Change is the state to write; nil means erase, see [Record.Erase]. An
	// erasure applies whatever its version.
	Change *schemas.UserChange
	// Erasure is what is known of the demand, nil for a change and for a
	// tombstone that was read before the sequencer's word of it.
	Erasure *schemas.Erasure
	// Receipt is a sink's word that it has paid an erasure; then Change and
	// Erasure are nil, and Version is that of the erasure. Only a sink with
	// Capabilities.Receipts is given any.
	Receipt *schemas.Receipt
	// State is what the sink last remembered of this user with
	// [Record.Remember]; nil if nothing.
	State []byte
	// New tells that this is the first change of a user who signed up while the
	// sink was there: it remembers nothing of the user, and Clerk created him
	// after the sink was first enabled. No snapshot, replay or import makes
	// anybody new who was there before. It is true again if the change is applied
	// again because nothing of it was committed. What is to be done once for a
	// new user must be harmless to repeat, or go through [ErrRememberFirst].
	New bool
	// Source is where the record was read: for logs and dead letters, never
	// for ordering.
	Source Source

	result *Result
}

// Source is the place of a record in Kafka.
type Source struct {
	Topic     string
	Partition int32
	Offset    int64
}

// Result is what a sink said of one record beside its error.
type Result struct {
	State      []byte          // new state, if Remembered
	Remembered bool            // Remember was called
	Outcome    schemas.Outcome // how an erasure was done; "" if the sink did not say
	Reason     string          // why it was done so, where there was a choice
	Superseded bool            // the destination already held a later version
	Unchanged  bool            // the destination has it already: nothing was sent
	Skipped    bool            // the destination does not take such a user: nothing was sent
}

// Erase reports whether r is the demand to erase its user.
func (r Record) Erase() bool { return r.Change == nil && r.Receipt == nil }

// Remember sets what the runner keeps of this user for this sink. nil forgets.
// It takes effect only if the record is applied, or with [ErrRememberFirst]. At
// most 4 KiB.
func (r Record) Remember(state []byte) {
	if r.result != nil {
		r.result.State, r.result.Remembered = state, true
	}
}

// Erased tells how the erasure was done.
func (r Record) Erased(outcome schemas.Outcome) {
	if r.result != nil {
		r.result.Outcome = outcome
	}
}

// ErasedBecause is Erased for a sink that had a choice: reason says in a few
// words, without personal data, what decided, as "rows of orders refer to it".
func (r Record) ErasedBecause(outcome schemas.Outcome, reason string) {
	if r.result != nil {
		r.result.Outcome, r.result.Reason = outcome, reason
	}
}

// Superseded tells that the destination already held a later version, so that
// nothing was written.
func (r Record) Superseded() {
	if r.result != nil {
		r.result.Superseded = true
	}
}

// Unchanged tells that nothing was sent, because what the destination is to
// have of the user is what was sent last.
func (r Record) Unchanged() {
	if r.result != nil {
		r.result.Unchanged = true
	}
}

// Skipped tells that nothing was sent, because the destination does not take
// such a user and never will, as an e-mail tool does not take one without an
// address. It is counted, and no dead letter.
func (r Record) Skipped() {
	if r.result != nil {
		r.result.Skipped = true
	}
}

// Result returns what the sink said of r since [Track].
func (r Record) Result() Result {
	if r.result == nil {
		return Result{}
	}
	return *r.result
}

// Track returns r with a place for the sink's word. The runner and tests call
// it before Apply; without it that word is dropped.
func Track(r Record) Record {
	r.result = &Result{}
	return r
}

// Lister is implemented by a sink that can enumerate the users it holds, so
// that one erased while the sink was away can still be found.
type Lister interface {
	// Keys returns up to limit Clerk IDs greater than after, ascending
	// bytewise. Fewer than limit means that there are no more.
	Keys(ctx context.Context, after string, limit int) ([]string, error)
}

// Confirmer is implemented by a sink that can read an erasure back.
type Confirmer interface {
	// Confirm reports whether nothing of the user is left but what the sink
	// says it leaves, as by [schemas.OutcomeAnonymized]. An error marked
	// Permanent may say why something is left. state is what was last
	// remembered; it is forgotten when this has returned true. Calls count
	// towards Capabilities.MaxInFlight.
	Confirm(ctx context.Context, clerkID string, state []byte) (gone bool, err error)
}

// Initializer is implemented by a sink that can create what it needs at its
// destination: tables, indexes, properties.
type Initializer interface {
	// InitScript returns what Init would do, in the destination's own language,
	// for a person to read or to run. It does no I/O.
	InitScript() string
	// Init creates what is not there yet. It is harmless to call it again. It
	// needs no Open.
	Init(ctx context.Context) error
}
