package runner

import "clerkconnect/schemas/compacted"

// states is what is known of the users of one partition, by Clerk ID. It is kept
// as bytes, since a tool's sink remembers every user: beside what the sink itself
// remembers, a user costs about 60 bytes (BenchmarkStates measures it).
type states struct{ table *compacted.Table }

func newStates() states { return states{compacted.NewTable()} }

// Flags of a state in the table.
const (
	hasState  byte = 1 << iota // the sink remembers something, be it empty
	unapplied                  // see known.unapplied
)

// stateHead is what stands before what the sink remembers: flags, and the
// version's epoch and number. It always has the same length, so that most
// changes of a user are written over what was there.
const stateHead = 1 + versionBytes

// get returns what is known of a user, the caller's own; nil if nothing.
func (s states) get(clerkID string) *known {
	value, ok := s.table.Get(clerkID)
	if !ok {
		return nil
	}
	of := &known{version: versionIn(value[1:]), unapplied: value[0]&unapplied != 0}
	if value[0]&hasState != 0 {
		of.state = append([]byte{}, value[stateHead:]...)
	}
	return of
}

func (s states) set(clerkID string, of known) {
	value := appendVersion(make([]byte, 1, stateHead+len(of.state)), of.version)
	if of.state != nil {
		value[0] |= hasState
	}
	if of.unapplied {
		value[0] |= unapplied
	}
	s.table.Set(clerkID, append(value, of.state...))
}

func (s states) delete(clerkID string) { s.table.Delete(clerkID) }

func (s states) len() int { return s.table.Len() }
