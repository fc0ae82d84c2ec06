package sinktest

import (
	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// model is what a destination must hold, said without any of the code that
// does it: of all that was ever applied to a user, in whatever order and
// however often, the strongest statement decides.
type model struct {
	said   map[string]statement
	rows   map[string]bool // users who have a row, be it that of one erased
	erased func(again bool) schemas.Outcome
}

func (h Harness) newModel() model {
	return model{map[string]statement{}, map[string]bool{}, h.erased}
}

type statement struct {
	final   bool // an erasure that nothing can take back
	version schemas.Version
	erase   bool
	user    *schemas.User
}

// stateOf reads a record as a statement.
func stateOf(r sinks.Record) statement {
	if !r.Erase() {
		return statement{version: r.Version, user: &r.Change.User}
	}
	unknown := r.Version == schemas.Version{}
	demanded := r.Erasure != nil && !r.Erasure.Inferred
	return statement{final: unknown || demanded, version: r.Version, erase: true}
}

// beats reports whether s decides against o: a final erasure against all else,
// then the higher version, and at the same version the erasure.
func (s statement) beats(o statement) bool {
	switch {
	case s.final != o.final:
		return s.final
	case s.final:
		return false // both erase, for ever
	case s.version.Epoch != o.version.Epoch:
		return s.version.Epoch > o.version.Epoch
	case s.version.Number != o.version.Number:
		return s.version.Number > o.version.Number
	default:
		return s.erase && !o.erase
	}
}

// apply takes r in and returns what the sink must say of it.
func (m model) apply(r sinks.Record) (superseded bool, outcome schemas.Outcome) {
	said := stateOf(r)
	held, known := m.said[r.ClerkID]
	live := known && !held.erase
	wins := !known || said.beats(held)
	if wins {
		m.said[r.ClerkID] = said
		m.rows[r.ClerkID] = m.rows[r.ClerkID] || !said.erase
	}
	switch {
	case !said.erase:
		return !wins, ""
	case live && wins:
		return false, m.erased(false)
	case live:
		return true, ""
	case m.rows[r.ClerkID]:
		return false, m.erased(true)
	default:
		return false, schemas.OutcomeNotPresent
	}
}

// user returns what the destination must show of a user, nil for nothing.
func (m model) user(id string) *schemas.User { return m.said[id].user }
