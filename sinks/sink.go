// Package sinks is the way out: the seam between the runner, which owns
// everything that all destinations have in common, and a sink, which does only
// what is particular to its own.
//
// To write a sink, see README.md in this folder and the example in
// example_test.go. Package sinktest is the contract as tests.
package sinks

import (
	"context"

	"clerkconnect/schemas"
)

// Sink makes one destination reflect the latest change of each Clerk user.
//
// The runner owns fetching, decoding, batching, folding, retries, rate limits,
// dead letters, offsets, metrics and shutdown, so a Sink must not retry,
// sleep, batch, start goroutines that outlive a call, or log and swallow an
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
	// a user. The sink must not keep batch or anything in it after returning.
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
}

// Record is one change of one user, or the demand to erase one.
type Record struct {
	ClerkID string
	Version schemas.Version
	// Change is the state to write; nil means erase. An erasure applies
	// whatever its version.
	Change *schemas.UserChange
	// Erasure is what is known of the demand, nil for a change and for a
	// tombstone that was read before the sequencer's word of it.
	Erasure *schemas.Erasure
	// State is what the sink last remembered of this user with
	// [Record.Remember]; nil if nothing.
	State []byte
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
	Superseded bool            // the destination already held a later version
}

// Erase reports whether r is the demand to erase its user.
func (r Record) Erase() bool { return r.Change == nil }

// Remember sets what the runner keeps of this user for this sink. nil forgets.
// It takes effect only if the record is applied. At most 4 KiB.
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

// Superseded tells that the destination already held a later version, so that
// nothing was written.
func (r Record) Superseded() {
	if r.result != nil {
		r.result.Superseded = true
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
	// Confirm reports whether nothing of the user is left. state is what was
	// last remembered.
	Confirm(ctx context.Context, clerkID string, state []byte) (gone bool, err error)
}
