package audit

import (
	"fmt"
	"strconv"
	"strings"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// The actions of a [Row].
const (
	ActionCreated  = "USER_CREATED"  // a sign-up, as a webhook told it
	ActionUpdated  = "USER_UPDATED"  // any other change
	ActionSnapshot = "USER_SNAPSHOT" // what a walk over the Backend API found

	ActionDeletionRequested = "USER_DELETION_REQUESTED" // Clerk, or a person, wants the user gone, for good
	ActionDeletionInferred  = "USER_DELETION_INFERRED"  // reconciliation found the user gone; may be taken back

	// Words of other sinks.
	ActionHardDeleted      = "USER_HARD_DELETED"
	ActionSoftDeleted      = "USER_SOFT_DELETED"
	ActionAnonymized       = "USER_ANONYMIZED"
	ActionNotPresent       = "USER_NOT_PRESENT"
	ActionErasureConfirmed = "USER_ERASURE_CONFIRMED" // a read-back has shown that nothing is left
	ActionErasureWaived    = "USER_ERASURE_WAIVED"    // a person decided that this sink keeps the user
)

// erasures are the actions that end what the log may hold of a user.
var erasures = []string{ActionDeletionRequested, ActionDeletionInferred}

// changes are the actions of a live user.
var changes = []string{ActionCreated, ActionUpdated, ActionSnapshot}

var operations = map[schemas.ChangeOperation]string{
	schemas.ChangeCreate: ActionCreated, schemas.ChangeUpdate: ActionUpdated, schemas.ChangeSnapshot: ActionSnapshot,
}

var outcomes = map[schemas.Outcome]string{
	schemas.OutcomeDeleted: ActionHardDeleted, schemas.OutcomeSoftDeleted: ActionSoftDeleted,
	schemas.OutcomeAnonymized: ActionAnonymized, schemas.OutcomeNotPresent: ActionNotPresent,
}

// rowsOf returns what a record says as rows, without their place in a chain.
// What it returns depends on the record alone, but for the names of changed
// fields, which follow from the state that it carries. held are the fields of a
// change.
func rowsOf(r sinks.Record, held values) []Row {
	row := Row{
		Chain: "users-" + strconv.Itoa(int(r.Source.Partition)), Format: Format,
		ClerkID: clean(r.ClerkID), Epoch: int64(r.Version.Epoch), Version: r.Version.Number,
	}
	if r.Source.Topic != "" && r.Source.Offset >= 0 {
		row.TopicOffset = &r.Source.Offset
	}
	switch {
	case r.Receipt != nil:
		return receiptRows(row, r.Receipt)
	case r.Change != nil:
		return []Row{changeRow(row, r, held)}
	}
	row.Action = ActionDeletionRequested
	if r.Rank() == r.Version {
		row.Action = ActionDeletionInferred
	}
	if e := r.Erasure; e != nil {
		row.Origin, row.EventID = said(string(e.Origin)), said(e.EventID)
		row.OccurredAt, row.SequencedAt = at(e.RequestedAt), at(e.SequencedAt)
	}
	return []Row{row.entered()}
}

func changeRow(row Row, r sinks.Record, held values) Row {
	c := r.Change
	row.Action = operations[c.Operation]
	if row.Action == "" {
		row.Action = ActionUpdated
	}
	row.EventID, row.EventType, row.Origin = said(c.EventID), said(c.EventType), said(string(c.Origin))
	row.InstanceID, row.PolicyHash = said(c.InstanceID), said(c.PolicyHash)
	row.OccurredAt, row.ReceivedAt, row.SequencedAt = at(c.OccurredAt), at(c.ReceivedAt), at(c.SequencedAt)
	names, known := held.changed(r.State)
	if !known && row.Action != ActionUpdated { // the user is new, or new to the log
		names, known = held.present(), true
	}
	if known {
		list := strings.Join(names, ",")
		row.ChangedFields = &list
	}
	return row.entered()
}

// receiptRows is one row for what a sink did, and one for its confirmation. A
// receipt that tells both makes both, so that it does not matter whether the
// first one, which told of one, was seen.
func receiptRows(row Row, r *schemas.Receipt) []Row {
	row.Chain = strings.Replace(row.Chain, "users", "receipts", 1)
	row.Sink = said(r.Sink)
	if r.WaivedAt != nil {
		row.Action, row.OccurredAt = ActionErasureWaived, at(*r.WaivedAt)
		return []Row{row.entered(*r.WaivedAt)}
	}
	done := row
	done.Action, done.OccurredAt = outcomes[r.Outcome], at(r.DoneAt)
	if done.Action == "" {
		done.Action = "USER_" + string(r.Outcome)
	}
	if r.Reason != nil {
		done.Reason = said(*r.Reason)
	}
	rows := []Row{done.entered(r.DoneAt)}
	if r.ConfirmedAt != nil {
		row.Action, row.OccurredAt = ActionErasureConfirmed, at(*r.ConfirmedAt)
		rows = append(rows, row.entered(*r.ConfirmedAt))
	}
	return rows
}

// entered returns the row with its entry. A word of another sink counts by when
// it was said, since an erasure may be asked for again, after a backup was
// restored.
func (r Row) entered(when ...int64) Row {
	r.Entry = fmt.Sprintf("%s/%d/%d/%s", r.ClerkID, r.Epoch, r.Version, r.Action)
	if r.Sink != nil {
		r.Entry += "/" + *r.Sink
	}
	for _, at := range when {
		r.Entry += "/" + strconv.FormatInt(at, 10)
	}
	return r
}

// rank returns where the change or erasure of a row stands, as [sinks.Record.Rank].
func (r Row) rank() schemas.Version {
	rank := schemas.Version{Epoch: int32(r.Epoch), Number: r.Version}
	if r.Action == ActionDeletionRequested {
		rank.Epoch = lastEpoch
	}
	return rank
}

// said returns nil for what was not said.
func said(s string) *string {
	if s == "" {
		return nil
	}
	s = clean(s)
	return &s
}

// at returns nil for a time that is not known, or that no database holds.
func at(millis int64) *int64 {
	if millis <= 0 || millis > lastMoment {
		return nil
	}
	return &millis
}
