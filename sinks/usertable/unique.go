package usertable

import (
	"errors"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
)

// errTaken is why a record waits.
var errTaken = errors.New("another user holds a value that must be unique")

// Waits returns the failure of a record that waits for what the user holder
// has; "" if it is not known who that is.
func Waits(holder string) error { return sinks.HeldBy(holder, errTaken) }

// Claim is a change that is to be written and has a value in a unique key.
type Claim struct {
	ClerkID string
	Rank    schemas.Version // of the guard as it will be
	// Value is a number of the value. Claims and holders have the same number
	// if the database holds their values for equal, by its own collations.
	Value int
}

// Holder is a row that has a claimed value in the key.
type Holder struct {
	ClerkID string      // "": a row of the application's without a Clerk ID
	Guard   sinks.Guard // as it is, its row locked; zero: nothing is known of the user
	Value   int
}

// Settlement is who has what in one unique key.
type Settlement struct {
	// Waits has the claims that must wait, by Clerk ID, and for whom. Their
	// rows are written with [Column.Vacant] in the key, their guards stay, and
	// their records fail with [Waits].
	Waits map[string]string
	// Vacate are the holders whose column becomes vacant, before anything is
	// written.
	Vacate []Holder
}

// Settle decides by the rules of the package's documentation. written reports
// whether a user's row is written in this transaction after the vacating, so
// that what it holds now is of no account.
func Settle(claims []Claim, holders []Holder, written func(clerkID string) bool) Settlement {
	s := Settlement{Waits: map[string]string{}}
	winners := map[int]Claim{}
	for _, c := range claims {
		winner, contested := winners[c.Value]
		switch {
		case !contested:
			winners[c.Value] = c
		case c.newer(winner.Rank, winner.ClerkID):
			s.Waits[winner.ClerkID] = c.ClerkID
			winners[c.Value] = c
		default:
			s.Waits[c.ClerkID] = winner.ClerkID
		}
	}
	for _, h := range holders {
		claim, claimed := winners[h.Value]
		switch {
		case !claimed || h.ClerkID == claim.ClerkID:
		case h.ClerkID != "" && written(h.ClerkID), h.yields(claim):
			s.Vacate = append(s.Vacate, h)
		default:
			s.Waits[claim.ClerkID] = h.ClerkID
		}
	}
	return s
}

// newer reports whether c is newer than a claim of rank and id. Two claims of
// one version are settled by the ids, so that both sides see it alike.
func (c Claim) newer(rank schemas.Version, id string) bool {
	if order := c.Rank.Compare(rank); order != 0 {
		return order > 0
	}
	return c.ClerkID > id
}

// yields reports whether h gives way to claim. Of whom nothing is known,
// nothing can be taken.
func (h Holder) yields(claim Claim) bool {
	known := h.Guard != sinks.Guard{}
	return h.ClerkID != "" && known && (h.Guard.Deleted || claim.newer(h.Guard.Rank, h.ClerkID))
}

// Vacatable returns which of a unique key's columns is given up by a user who
// must wait: the first that can be vacant and is no constant, which says where a
// user belongs and not who he is, as tenant = 'acme'. ok is false if none can:
// then the users of such a key wait without settling.
func Vacatable(key []Column) (c Column, ok bool) {
	for _, c := range key {
		kind := c.Kind()
		if !c.Expression.Constant() && (!c.Required || kind == mapping.Text || kind == mapping.Part) {
			return c, true
		}
	}
	return Column{}, false
}
