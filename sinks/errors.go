package sinks

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"
)

// Class says what the runner does about an error.
type Class int

// The classes of an error. The zero value is the safe one: forgetting to
// classify may cost time but must not cost a user.
const (
	ClassRetry     Class = iota // try again, later
	ClassPermanent              // the record can never be applied: dead-letter it
	ClassFatal                  // the sink cannot work as it is configured: stop it
)

// String returns the class's name as it stands in logs and metrics.
func (c Class) String() string {
	return [...]string{"retry", "permanent", "fatal"}[c]
}

// Reason is why something failed: a metric label, hence a closed set.
type Reason string

// The reasons.
const (
	ReasonUnavailable   Reason = "unavailable"    // no connection, 5xx, shutting down
	ReasonTimeout       Reason = "timeout"        // no answer in time
	ReasonRateLimited   Reason = "rate_limited"   // 429 and its kin
	ReasonConflict      Reason = "conflict"       // deadlock, lock timeout, unique key held by another user
	ReasonInvalidRecord Reason = "invalid_record" // the destination refuses this record's content
	ReasonTooLarge      Reason = "too_large"      // the record is over a limit of the destination
	ReasonUnauthorized  Reason = "unauthorized"   // credentials or rights are missing
	ReasonMisconfigured Reason = "misconfigured"  // table missing, wrong type, bad setting
	ReasonUnknown       Reason = "unknown"        // not classified
)

// Reasons lists every reason, for metrics that start at zero.
func Reasons() []Reason {
	return []Reason{
		ReasonUnavailable, ReasonTimeout, ReasonRateLimited, ReasonConflict, ReasonInvalidRecord,
		ReasonTooLarge, ReasonUnauthorized, ReasonMisconfigured, ReasonUnknown,
	}
}

// Error is a classified error. Its text must quote no personal data: name an
// SQLSTATE or a status, not the server's message.
type Error struct {
	Class  Class
	Reason Reason
	After  time.Duration // for ClassRetry: not before; 0: the runner's own backoff
	HeldBy string        // for ReasonConflict: Clerk ID of the user who holds what this one needs; "": not known
	Err    error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s (%s): %v", e.Reason, e.Class, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Permanent marks err: this record can never be applied.
func Permanent(reason Reason, err error) error {
	return &Error{Class: ClassPermanent, Reason: reason, Err: err}
}

// RetryAfter marks err: try again, not before after has passed. 0 leaves the
// wait to the runner.
func RetryAfter(reason Reason, after time.Duration, err error) error {
	return &Error{Class: ClassRetry, Reason: reason, After: after, Err: err}
}

// HeldBy marks err: the record needs what the user clerkID still holds, an
// e-mail address that must be unique, say. Worth another try, for the other may
// let go; a dead letter names both. clerkID is "" if it is not known who it is.
func HeldBy(clerkID string, err error) error {
	return &Error{Class: ClassRetry, Reason: ReasonConflict, HeldBy: clerkID, Err: err}
}

// Fatal marks err: the sink cannot work until a person has changed something.
func Fatal(reason Reason, err error) error {
	return &Error{Class: ClassFatal, Reason: reason, Err: err}
}

// ErrRememberFirst is what a sink says of a record, in a [BatchError], when what
// it has given to [Record.Remember] must be acknowledged by Kafka before it goes
// on: the runner keeps it and applies the record once more, with that State, at
// once. It counts as no failure. So a sink whose destination creates a second
// contact when asked twice notes that it is about to create one; finding that
// note, after a crash, it looks first.
var ErrRememberFirst = errors.New("remember first")

// Classify returns the classification of err. An unmarked error is
// {ClassRetry, ReasonUnknown}.
func Classify(err error) Error {
	var marked *Error
	if errors.As(err, &marked) {
		return *marked
	}
	return Error{Class: ClassRetry, Reason: ReasonUnknown, Err: err}
}

// BatchError says which records of a batch failed; all others are applied. The
// zero value is ready to use. Not safe for concurrent use.
type BatchError struct {
	failed map[int]error
}

// Fail records that batch[i] failed with err, which must not be nil.
func (e *BatchError) Fail(i int, err error) {
	if e.failed == nil {
		e.failed = make(map[int]error)
	}
	e.failed[i] = err
}

// Failed returns why batch[i] failed, nil if it is applied.
func (e *BatchError) Failed(i int) error { return e.failed[i] }

// Len returns how many records failed.
func (e *BatchError) Len() int { return len(e.failed) }

// Err returns e, or nil if no record failed. Return this from Apply, never e
// itself, whose nil would not be a nil error.
func (e *BatchError) Err() error {
	if e.Len() == 0 {
		return nil
	}
	return e
}

// Error implements error. It names positions and reasons, no record.
func (e *BatchError) Error() string {
	positions := make([]int, 0, len(e.failed))
	for i := range e.failed {
		positions = append(positions, i)
	}
	sort.Ints(positions)
	texts := make([]string, 0, len(positions))
	for _, i := range positions {
		texts = append(texts, fmt.Sprintf("record %d: %v", i, e.failed[i]))
	}
	return strings.Join(texts, "; ")
}
