package clerk

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"clerkconnect/schemas"
)

const (
	// MaxAhead is how far ahead an updated_at may be: clocks that differ by
	// more than Svix's 5 minutes of tolerance verify no signature, and twice
	// that cannot be honest.
	MaxAhead = 10 * time.Minute
	// ListingLag is taken off the Date of an answer of the Backend API to say
	// when Clerk stated what is in it: a listing may come from a replica that
	// lags, and must not win over a webhook of the same updated_at that is
	// younger than the replica.
	ListingLag = 60 * time.Second
)

// ReadAt is what is known of an answer of the Backend API besides its body.
type ReadAt struct {
	// Date is the answer's Date header: Clerk's clock.
	Date time.Time
	// ReceivedAt is our own clock.
	ReceivedAt time.Time
	// Origin is SNAPSHOT, REPAIR, RECONCILE or REQUEST.
	Origin schemas.Origin
	// Operation is UPSERT unless set.
	Operation schemas.EventOperation
	// InstanceID is the pinned instance; the Backend API does not state it.
	InstanceID string
	// Snapshot is the snapshot's id, for origin SNAPSHOT; else empty.
	Snapshot string
	// IfVersion is compared with the user's position; nil: no comparison.
	IfVersion *int64
	// EventID must be the same on every repetition. Empty: made of the
	// origin, the snapshot or the Date, and the Clerk ID.
	EventID string
}

// Event returns the record of a webhook. eventID is the svix-id, receivedAt
// our own clock. The record was stated at the envelope's timestamp; when Clerk
// sent none, at the user's updated_at, for a deletion at receivedAt; and never
// later than receivedAt, so that no wrong clock wins a tie for long.
//
// Errors: ErrUnsupportedType; ErrMissingID; ErrTooFarAhead, compared with
// receivedAt; *MalformedError.
func (p *Policy) Event(env Envelope, eventID string, receivedAt time.Time) (*schemas.UserEvent, error) {
	if !slices.Contains(Types(), env.Type) {
		return nil, ErrUnsupportedType
	}
	event := &schemas.UserEvent{
		Origin:     schemas.OriginWebhook,
		EventID:    eventID,
		EventType:  env.Type,
		InstanceID: env.InstanceID,
		StatedAt:   env.Timestamp,
	}
	if p.kept[fieldClientIP] {
		event.ClientIP = env.ClientIP
	}
	if p.kept[fieldUserAgent] {
		event.UserAgent = env.UserAgent
	}
	if err := p.fill(event, env.Data, receivedAt); err != nil {
		return nil, env.locate(err)
	}
	if event.StatedAt == 0 {
		event.StatedAt = event.UpdatedAt
	}
	if now := event.ReceivedAt; event.StatedAt == 0 || event.StatedAt > now {
		event.StatedAt = now
	}
	event.OccurredAt = event.StatedAt
	return event, nil
}

// locate makes the offset in a *MalformedError one of the whole body.
func (env Envelope) locate(err error) error {
	if malformed, ok := err.(*MalformedError); ok && malformed.Offset >= 0 {
		if at := position(env.body, "data"); at >= 0 {
			malformed.Offset += at
		} else {
			malformed.Offset = -1
		}
	}
	return err
}

// Row returns the record of a user object of the Backend API. It was stated
// [ListingLag] before at.Date, and occurred at the user's updated_at.
//
// Errors: ErrMissingID; ErrTooFarAhead, compared with at.Date;
// *MalformedError.
func (p *Policy) Row(row json.RawMessage, at ReadAt) (*schemas.UserEvent, error) {
	event := &schemas.UserEvent{
		Operation:  at.Operation,
		Origin:     at.Origin,
		EventID:    at.EventID,
		InstanceID: at.InstanceID,
		StatedAt:   at.Date.Add(-ListingLag).UnixMilli(),
		IfVersion:  at.IfVersion,
	}
	if at.Snapshot != "" {
		event.Snapshot = &at.Snapshot
	}
	if err := p.fill(event, row, at.Date); err != nil {
		return nil, err
	}
	event.OccurredAt = event.UpdatedAt
	event.ReceivedAt = at.ReceivedAt.UnixMilli()
	if event.EventID == "" {
		event.EventID = rowID(event)
	}
	return event, nil
}

func rowID(event *schemas.UserEvent) string {
	read := fmt.Sprint(event.StatedAt)
	if event.Snapshot != nil {
		read = *event.Snapshot
	}
	return strings.ToLower(string(event.Origin)) + "/" + read + "/" + event.ClerkID
}

// fill reads the user object text into event, which has its type set.
func (p *Policy) fill(event *schemas.UserEvent, text []byte, now time.Time) error {
	o, ok, err := parse(text)
	if err != nil {
		return named(err, readableID(text))
	}
	if !ok {
		return &MalformedError{Reason: ReasonUser, Want: wantObject}
	}
	malformed := func(field, want string) error {
		return &MalformedError{Reason: ReasonUser, Field: field, Want: want, Offset: position(text, field), ClerkID: event.ClerkID}
	}
	id, want := clerkID(o)
	if want != "" {
		return malformed(fieldID, want)
	}
	if id == "" {
		return ErrMissingID
	}
	event.ClerkID = id
	event.PolicyHash = p.hash
	event.ReceivedAt = now.UnixMilli()
	if event.EventType == TypeUserDeleted {
		event.Operation = schemas.EventDelete
		return nil
	}
	if event.Operation == "" {
		event.Operation = schemas.EventUpsert
	}
	user, field, want := p.minimise(o)
	if want != "" {
		return malformed(field, want)
	}
	if user.UpdatedAt == nil || *user.UpdatedAt <= 0 {
		return malformed("updated_at", "a time")
	}
	if *user.UpdatedAt > now.Add(MaxAhead).UnixMilli() {
		return &TooFarAheadError{ClerkID: id, UpdatedAt: *user.UpdatedAt}
	}
	event.UpdatedAt = *user.UpdatedAt
	event.Fingerprint = Fingerprint(user)
	event.User = user
	return nil
}

// minimise decodes what the policy keeps, and nothing else. If a field is not
// of Clerk's type it returns that field's name and what was expected.
func (p *Policy) minimise(o object) (user *schemas.User, field, want string) {
	user = new(schemas.User)
	members := reflect.ValueOf(user).Elem()
	for _, f := range p.user {
		if f.text {
			decodeText(o[f.name], f.of(members).(**string))
		} else if want := decode(o[f.name], f.of(members)); want != "" {
			return nil, f.name, want
		}
	}
	resolvePrimary(user)
	return user, "", ""
}

// resolvePrimary finds the primary e-mail address: the entry with the id that
// Clerk calls primary, not the first one. There is none if the policy leaves
// either of the two fields out, or if the id dangles, as in Clerk's own example.
func resolvePrimary(user *schemas.User) {
	if user.PrimaryEmailAddressID == nil || user.EmailAddresses == nil {
		return
	}
	for i, entry := range *user.EmailAddresses {
		if entry.ID != nil && *entry.ID == *user.PrimaryEmailAddressID {
			user.PrimaryEmailAddress = &(*user.EmailAddresses)[i].EmailAddress
			return
		}
	}
}
