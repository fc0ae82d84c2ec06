package clerk

import (
	"errors"
	"fmt"
)

// Errors of [Policy.Event] and [Policy.Row] that callers decide by, with
// errors.Is. All other errors of this package are a [*MalformedError].
var (
	// ErrUnsupportedType: the event is not user.created, user.updated or
	// user.deleted.
	ErrUnsupportedType = errors.New("type of event is not taken")
	// ErrMissingID: the user object, or the deletion, has no id, so nothing
	// can be keyed by it.
	ErrMissingID = errors.New("user without an id")
	// ErrTooFarAhead: updated_at is more than [MaxAhead] ahead; it is always
	// a [*TooFarAheadError], which says whose and how far.
	ErrTooFarAhead = errors.New("updated_at is too far ahead")
)

// TooFarAheadError is an updated_at that no honest clock shows. Accepting it
// would let this state win over every later one until that time has come.
type TooFarAheadError struct {
	ClerkID   string
	UpdatedAt int64 // Unix milliseconds
}

// Error implements error.
func (e *TooFarAheadError) Error() string {
	return fmt.Sprintf("%v: %d", ErrTooFarAhead, e.UpdatedAt)
}

// Is makes errors.Is(err, ErrTooFarAhead) true.
func (e *TooFarAheadError) Is(target error) bool { return target == ErrTooFarAhead }

// Reasons of a [MalformedError]; they are also dead-letter reasons.
const (
	ReasonJSON     = "malformed_json"     // not JSON, or not UTF-8
	ReasonEnvelope = "malformed_envelope" // JSON, but no envelope of Clerk's
	ReasonUser     = "malformed_user"     // an envelope, but no user object of Clerk's
)

// MalformedError is JSON that cannot be understood. Its text holds nothing of
// that JSON.
type MalformedError struct {
	Reason  string // ReasonJSON, ReasonEnvelope or ReasonUser
	Field   string // the member that is wrong, one of Clerk's names; empty: none
	Want    string // what was expected there
	Offset  int64  // byte position of the error in what was decoded; -1: unknown
	ClerkID string // the user it is about, if that could be read; else empty
}

// Error implements error.
func (e *MalformedError) Error() string {
	text := e.Reason
	if e.Field != "" {
		text += ": " + e.Field
	}
	if e.Want != "" {
		text += ": expected " + e.Want
	}
	if e.Offset >= 0 {
		text += fmt.Sprintf(" at byte %d", e.Offset)
	}
	return text
}

// named says which user a *MalformedError is about.
func named(err *MalformedError, id string) error {
	err.ClerkID = id
	return err
}
