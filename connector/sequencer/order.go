package sequencer

import (
	"cmp"

	"clerkconnect/schemas"
)

// Outcome says what became of one event. It is a metric label, hence a closed
// set.
type Outcome string

// The outcomes of an event.
const (
	// OutcomeApplied: the content changed and is published.
	OutcomeApplied Outcome = "applied"
	// OutcomeUnchanged: newer, but the same content: the position moves and
	// nothing is published.
	OutcomeUnchanged Outcome = "unchanged"
	// OutcomeStale: older than what is known.
	OutcomeStale Outcome = "stale"
	// OutcomeDuplicate: exactly what is known already.
	OutcomeDuplicate Outcome = "duplicate"
	// OutcomeFenced: the user is deleted, and stays so.
	OutcomeFenced Outcome = "fenced"
	// OutcomeSuperseded: an inferred deletion whose user has moved since, or a
	// revocation with nothing to revoke.
	OutcomeSuperseded Outcome = "superseded"
	// OutcomeDeleted: the user is deleted now.
	OutcomeDeleted Outcome = "deleted"
	// OutcomeRevived: an inferred deletion was taken back.
	OutcomeRevived Outcome = "revived"
)

// Outcomes lists every outcome, for metrics that start at zero.
func Outcomes() []Outcome {
	return []Outcome{
		OutcomeApplied, OutcomeUnchanged, OutcomeStale, OutcomeDuplicate,
		OutcomeFenced, OutcomeSuperseded, OutcomeDeleted, OutcomeRevived,
	}
}

// decision is what an event means for its user.
type decision struct {
	outcome Outcome
	// next is the user's position from now on; equal to the position before
	// unless the event was accepted.
	next schemas.Position
	// accepted: next differs and is to be written.
	accepted bool
	// tie: the event and the position cannot be told apart by time, and only
	// Clerk knows which is right.
	tie bool
}

// publishes reports whether clerk.users gets a record.
func (d decision) publishes() bool { return d.accepted && d.outcome != OutcomeUnchanged }

// decide puts an event into the order of its user. It is pure: the whole of
// the sequencer's judgement is here, and what the property test compares with
// its model. known is false for a user without a position.
//
// The order is total (updated_at, stated_at, fingerprint), deletions stand
// outside of it. See DESIGN.md, "Ordering".
func decide(at schemas.Position, known bool, epoch int32, e *schemas.UserEvent) decision {
	switch {
	case e.Operation == schemas.EventDelete:
		return decideDelete(at, epoch, e)
	case e.Operation == schemas.EventInferredDelete:
		return decideInferredDelete(at, known, epoch, e)
	case e.Operation == schemas.EventRevoke:
		if !inferred(at) {
			return refuse(at, ifElse(deleted(at), OutcomeFenced, OutcomeSuperseded))
		}
		return accept(OutcomeRevived, state(at, epoch, e))
	case deleted(at):
		// Only a signed event from after the confirmation brings a user back.
		if inferred(at) && e.Origin == schemas.OriginWebhook && e.UpdatedAt > at.StatedAt {
			return accept(OutcomeRevived, state(at, epoch, e))
		}
		return refuse(at, OutcomeFenced)
	case known && e.IfVersion != nil && at.Version == *e.IfVersion:
		next := state(at, epoch, e)
		// A re-read is dated back for the lag of replicas. Its date must not
		// make room for what was said meanwhile and is already overtaken.
		next.StatedAt = max(at.StatedAt, next.StatedAt)
		return accept(content(at, e), next)
	case !known:
		return accept(OutcomeApplied, state(at, epoch, e))
	}
	// A repair whose user has moved since is still something that Clerk said:
	// it takes its place in the order. To drop it would lose the answer to a
	// tie when an older repair got in between.
	return decideByOrder(at, epoch, e)
}

func decideByOrder(at schemas.Position, epoch int32, e *schemas.UserEvent) decision {
	times := cmp.Or(cmp.Compare(e.UpdatedAt, at.UpdatedAt), cmp.Compare(e.StatedAt, at.StatedAt))
	order := cmp.Or(times, cmp.Compare(e.Fingerprint, at.Fingerprint))
	var d decision
	switch {
	case order == 0:
		d = refuse(at, OutcomeDuplicate)
	case order < 0:
		d = refuse(at, OutcomeStale)
	default:
		d = accept(content(at, e), state(at, epoch, e))
	}
	d.tie = times == 0 && order != 0
	return d
}

// decideDelete: a signed deletion, or one that a person asked for, wins over
// everything, for ever: Clerk never uses an ID again.
func decideDelete(at schemas.Position, epoch int32, e *schemas.UserEvent) decision {
	if deleted(at) && !inferred(at) {
		return refuse(at, OutcomeDuplicate)
	}
	next := gravestone(at, epoch, e)
	next.Flags = schemas.FlagDeleted
	return accept(OutcomeDeleted, next)
}

// decideInferredDelete: a conclusion of reconciliation holds only for the
// state that it was drawn from.
func decideInferredDelete(at schemas.Position, known bool, epoch int32, e *schemas.UserEvent) decision {
	switch {
	case deleted(at):
		return refuse(at, OutcomeDuplicate)
	case !known || e.IfVersion == nil || at.Version != *e.IfVersion:
		return refuse(at, OutcomeSuperseded)
	}
	next := gravestone(at, epoch, e)
	next.Flags = schemas.FlagDeleted | schemas.FlagInferred
	return accept(OutcomeDeleted, next)
}

// state is the position after e became the user's state.
func state(at schemas.Position, epoch int32, e *schemas.UserEvent) schemas.Position {
	return schemas.Position{
		UpdatedAt:   e.UpdatedAt,
		StatedAt:    e.StatedAt,
		Fingerprint: e.Fingerprint,
		Version:     max(at.Version+1, e.UpdatedAt),
		Epoch:       epoch,
	}
}

// gravestone is the position after a deletion, without its flags.
func gravestone(at schemas.Position, epoch int32, e *schemas.UserEvent) schemas.Position {
	return schemas.Position{
		UpdatedAt: at.UpdatedAt,
		StatedAt:  e.StatedAt,
		Version:   max(at.Version+1, e.StatedAt),
		Epoch:     epoch,
	}
}

func content(at schemas.Position, e *schemas.UserEvent) Outcome {
	return ifElse(at.Fingerprint == e.Fingerprint, OutcomeUnchanged, OutcomeApplied)
}

func accept(outcome Outcome, next schemas.Position) decision {
	return decision{outcome: outcome, next: next, accepted: true}
}

func refuse(at schemas.Position, outcome Outcome) decision {
	return decision{outcome: outcome, next: at}
}

func deleted(at schemas.Position) bool  { return at.Flags&schemas.FlagDeleted != 0 }
func inferred(at schemas.Position) bool { return at.Flags&schemas.FlagInferred != 0 }

func ifElse[T any](condition bool, yes, no T) T {
	if condition {
		return yes
	}
	return no
}
