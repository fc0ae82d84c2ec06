package sinks

import (
	"math"

	"clerkconnect/schemas"
)

// lastEpoch is after every epoch of a topic.
const lastEpoch = math.MaxInt32

// Rank is the place of r in the one order by which a destination that can
// compare settles everything it is given about a user: what ranks highest is
// what the destination ends at.
//
//   - A change, and a tombstone that may yet be taken back, rank by their
//     version.
//   - An erasure that is final ranks after every version, for ever: one that
//     Clerk or a person asked for, and a tombstone that carries no version, of
//     which nothing better can be assumed.
func (r Record) Rank() schemas.Version {
	final := r.Erase() && (r.Version == schemas.Version{} || r.Erasure != nil && !r.Erasure.Inferred)
	if final {
		return schemas.Version{Epoch: lastEpoch, Number: r.Version.Number}
	}
	return r.Version
}

// Guard is what a destination remembers of a user beside the user: the highest
// rank it was given, and whether that was an erasure. It holds no personal
// data and outlives the user. The zero value is a user never heard of.
//
// A database keeps it in a side table and advances it with a conditional
// statement; this is the same rule in Go.
type Guard struct {
	Rank    schemas.Version
	Deleted bool
}

// Advance returns the guard after r, and whether r moved it. What does not
// move it is superseded and must not touch the user.
//
// A change moves it if it ranks higher. An erasure moves it unless a live user
// ranks higher: a tombstone that was withdrawn in the meantime and is delivered
// again must not remove the user who came back.
func (g Guard) Advance(r Record) (Guard, bool) {
	rank := r.Rank()
	order := rank.Compare(g.Rank)
	if order <= 0 && !(r.Erase() && (g.Deleted || order == 0)) {
		return g, false
	}
	if order < 0 {
		rank = g.Rank
	}
	return Guard{Rank: rank, Deleted: r.Erase()}, true
}
