package usertable

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// Fate is what an erasure comes to for one user.
type Fate struct {
	// Deletion is what is done to the row: DeletionHard, DeletionSoft or
	// DeletionAnonymize; "" if there is none.
	Deletion Deletion
	Outcome  schemas.Outcome
	Reason   string // of [sinks.Record.ErasedBecause]; "" where there was no choice
}

// Fate decides about a user by the policy: whether there is a row, and which
// tables have rows that refer to it (for DeletionAuto; else nil).
func (d Deletion) Fate(present bool, referring []string) Fate {
	if !present {
		return Fate{Outcome: schemas.OutcomeNotPresent}
	}
	switch {
	case d == DeletionSoft:
		return Fate{Deletion: d, Outcome: schemas.OutcomeSoftDeleted}
	case d == DeletionAnonymize:
		return Fate{Deletion: d, Outcome: schemas.OutcomeAnonymized}
	case d == DeletionAuto && len(referring) > 0:
		return Fate{DeletionAnonymize, schemas.OutcomeAnonymized, because(referring)}
	}
	return Fate{Deletion: DeletionHard, Outcome: schemas.OutcomeDeleted}
}

func because(tables []string) string {
	tables = slices.Clone(tables)
	slices.Sort(tables)
	return "rows of " + strings.Join(slices.Compact(tables), ", ") + " refer to it"
}

// Report says to the runner how the erasure r was done.
func (f Fate) Report(r sinks.Record) {
	if f.Reason != "" {
		r.ErasedBecause(f.Outcome, f.Reason)
		return
	}
	r.Erased(f.Outcome)
}

// Kept returns why a row is not as the erasure of its user has left it, as far
// as its table's triggers tell; nil if it has none. A trigger may let a
// statement pass without doing what it says, which no error tells.
func Kept(table string, triggers []string) error {
	if len(triggers) == 0 {
		return nil
	}
	return sinks.Permanent(sinks.ReasonMisconfigured, fmt.Errorf(
		"the row of an erased user is not as DELETION leaves it; what may keep it so are triggers of %s (%s): have them let erasures pass, or take the columns that they write out of COLUMNS",
		table, strings.Join(triggers, ", ")))
}

// DeletedAt returns when the user of r was erased, for a row that does not say
// so yet: a time that is there stays.
func DeletedAt(r sinks.Record) time.Time {
	if r.Erasure != nil && r.Erasure.RequestedAt > 0 {
		return time.UnixMilli(r.Erasure.RequestedAt).UTC()
	}
	return time.Now().UTC().Truncate(time.Millisecond)
}
