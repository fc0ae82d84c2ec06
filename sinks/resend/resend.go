package resend

import (
	"context"
	"errors"
	"hash/fnv"
	"net/http"
	"strings"
	"sync"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

var (
	_ sinks.Sink        = (*Sink)(nil)
	_ sinks.Paced       = (*Sink)(nil)
	_ sinks.Confirmer   = (*Sink)(nil)
	_ sinks.Initializer = (*Sink)(nil)
)

// maxInFlight is enough to reach the limit with answers that take half a second.
const maxInFlight = 4

// limit is that of a team, unless Resend has raised it. Sending mail counts too.
// https://resend.com/docs/api-reference/rate-limit
var limit = sinks.Limit{Requests: 5, Window: time.Second}

// form is how Resend is given values: properties of type string.
var form = contact.Form{Strings: true}

// Sink writes contacts. Safe for concurrent use.
type Sink struct {
	cfg     Config
	client  *rest.Client
	mapping contact.Mapping
	// placing are held while it is looked whether an address is there and a contact
	// is created, one for all addresses of one hash: of two users with one address
	// in flight, Resend would let the second believe that it had created his.
	placing [64]sync.Mutex
}

// New returns a sink. It does no I/O. It fails only if cfg is not valid.
func New(cfg Config) (*Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	properties, err := contact.ParseProperties("PROPERTIES", cfg.Properties, defaults)
	if err != nil {
		return nil, err
	}
	client, err := cfg.Client(rest.Config{Header: http.Header{"Authorization": {"Bearer " + cfg.Key}}})
	if err != nil {
		return nil, err
	}
	return &Sink{cfg: cfg, client: client, mapping: contact.NewMapping(properties, form)}, nil
}

// Capabilities implements [sinks.Sink].
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{Kind: "resend", MaxBatch: 1, MaxInFlight: maxInFlight, ConfirmAfter: s.cfg.ConfirmAfter, Limit: limit}
}

// Pace implements [sinks.Paced].
func (s *Sink) Pace(p sinks.Pacer) { s.client.Pace(p) }

// Close implements [sinks.Sink].
func (s *Sink) Close() error {
	s.client.Close()
	return nil
}

// Apply implements [sinks.Sink].
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	return contact.One(ctx, batch, s.change, s.erase)
}

// change changes the user's contact, or sees to it that he has one at his address.
func (s *Sink) change(ctx context.Context, r sinks.Record) error {
	email := contact.Email(&r.Change.User)
	if email == "" {
		r.Skipped()
		return nil
	}
	step := s.mapping.Plan(r)
	id, stays := step.Memory.RemoteID, strings.EqualFold(step.Memory.Email, email)
	if stays && step.Nothing() {
		r.Unchanged()
		return nil
	}
	if id != "" && stays && !step.Memory.Creating {
		owner, err := s.other(ctx, r.ClerkID, step.Memory)
		if err != nil {
			return err
		}
		if owner != "" {
			return sinks.HeldBy(owner, errHeld)
		}
		there, err := s.update(ctx, id, s.body(r.ClerkID, step.Changed))
		if err != nil {
			return err
		}
		if there {
			return s.finish(ctx, r, step, id, email, false)
		}
	}
	if !step.Memory.Creating {
		return note(r, step.Memory, id, email)
	}
	if !stays { // the note is of another address: end what it is about, and make a new one
		id, err := s.settle(ctx, r.ClerkID, step.Memory)
		if err != nil {
			return err
		}
		return note(r, step.Memory, id, email)
	}
	id, made, err := s.place(ctx, r.ClerkID, step, email)
	if err != nil {
		return err
	}
	return s.finish(ctx, r, step, id, email, made)
}

// unread is under what a memory keeps that the contact was made and not read since.
// Resend answers a creation with the id of the contact that is there, if another
// process was quicker: then it is another user's.
const unread = "unread"

// other returns whose contact it is that a user is believed to have, "" if it is his
// own, nobody's, or not there. One that was read once is his.
func (s *Sink) other(ctx context.Context, clerkID string, m contact.Memory) (string, error) {
	if m.RemoteID == "" || m.Extra[unread] == "" {
		return "", nil
	}
	found, err := s.find(ctx, m.RemoteID)
	if found == nil || err != nil || !s.anothers(found, clerkID) {
		return "", err
	}
	return s.owner(found), nil
}

// anothers reports whether a contact is another user's, and not one of which a
// person has edited the property that says whose it is.
func (s *Sink) anothers(p *person, clerkID string) bool {
	return contact.Anothers(s.owner(p), clerkID)
}

// removeOwn deletes the contact that is remembered, unless it is another user's, and
// reports whether it was there.
func (s *Sink) removeOwn(ctx context.Context, clerkID string, m contact.Memory) (bool, error) {
	if owner, err := s.other(ctx, clerkID, m); owner != "" || err != nil {
		return false, err
	}
	return s.remove(ctx, m.RemoteID)
}

// note remembers where the user's contact is, "" if he has none, and the address
// at which he is about to have one.
func note(r sinks.Record, m contact.Memory, id, email string) error {
	next := contact.Memory{RemoteID: id, Email: email, Creating: true, Welcomed: m.Welcomed}
	if id == m.RemoteID {
		next.Extra = m.Extra
	}
	next.Remember(r)
	return sinks.ErrRememberFirst
}

// finish has the effect for new users, and remembers what was written. made: the
// contact was not there before.
func (s *Sink) finish(ctx context.Context, r sinks.Record, step contact.Step, id, email string, made bool) error {
	if step.New && s.cfg.NewUserSegment != "" {
		if err := s.join(ctx, id); err != nil {
			return err
		}
	}
	m := step.Sent(id, email)
	if made {
		m.Extra = map[string]string{unread: "yes"}
	}
	m.Remember(r)
	return nil
}

// errHeld is of an address that another user's contact has.
var errHeld = errors.New("create a contact: another user's has the address")

// errMoved is of a contact that was removed while it was written.
var errMoved = errors.New("write a contact: it was removed meanwhile")

// place returns the id of the user's contact at an address: his own, one that was
// nobody's, or a new one. One that he has had at another address is deleted when
// that is done. made: it is a new one.
func (s *Sink) place(ctx context.Context, clerkID string, step contact.Step, email string) (id string, made bool, err error) {
	lock := s.lock(email)
	lock.Lock()
	defer lock.Unlock()
	found, err := s.find(ctx, email)
	if err != nil {
		return "", false, err
	}
	switch {
	case found == nil:
		made = true
		id, err = s.create(ctx, clerkID, step, email)
	case s.owner(found) != "" && s.owner(found) != clerkID:
		return "", false, sinks.HeldBy(s.owner(found), errHeld)
	default:
		var there bool
		id = found.ID
		if there, err = s.update(ctx, id, s.body(clerkID, step.All)); err == nil && !there {
			err = sinks.RetryAfter(sinks.ReasonConflict, 0, errMoved)
		}
	}
	if old := step.Memory.RemoteID; err == nil && old != "" && old != id {
		_, err = s.removeOwn(ctx, clerkID, step.Memory)
	}
	return id, made, err
}

// lock returns what is held while a contact is placed at an address.
func (s *Sink) lock(email string) *sync.Mutex {
	hash := fnv.New32a()
	hash.Write([]byte(strings.ToLower(email))) //nolint:errcheck // it never fails
	return &s.placing[hash.Sum32()%uint32(len(s.placing))]
}

// settle ends what a note is about, without its address: of the contact that the
// user had and the one that was about to be, one stays. It returns its id.
func (s *Sink) settle(ctx context.Context, clerkID string, m contact.Memory) (string, error) {
	found, err := s.find(ctx, m.Email)
	if err != nil {
		return "", err
	}
	if found == nil || s.owner(found) != clerkID {
		return m.RemoteID, nil
	}
	if m.RemoteID != "" && m.RemoteID != found.ID {
		if _, err := s.removeOwn(ctx, clerkID, m); err != nil {
			return "", err
		}
	}
	return found.ID, nil
}

// erase erases by Resend's own id, and what is at the remembered address if it is
// the user's: a process may have died between creating it and remembering its id.
func (s *Sink) erase(ctx context.Context, r sinks.Record) error {
	memory := contact.Recall(r.State)
	there := false
	if memory.RemoteID != "" {
		var err error
		if there, err = s.removeOwn(ctx, r.ClerkID, memory); err != nil {
			return err
		}
	}
	if memory.Email != "" {
		found, err := s.find(ctx, memory.Email)
		if err != nil {
			return err
		}
		if found != nil && s.owner(found) == r.ClerkID {
			also, err := s.remove(ctx, found.ID)
			if err != nil {
				return err
			}
			there = there || also
		}
	}
	r.Erased(schemas.OutcomeNotPresent)
	if there {
		r.Erased(schemas.OutcomeDeleted)
	}
	memory.RememberErased(r)
	return nil
}

// Confirm implements [sinks.Confirmer]. It asks by Resend's id and by the address.
func (s *Sink) Confirm(ctx context.Context, clerkID string, state []byte) (bool, error) {
	memory := contact.Recall(state)
	if memory.RemoteID != "" {
		found, err := s.find(ctx, memory.RemoteID)
		if err != nil || found != nil && (memory.Extra[unread] == "" || !s.anothers(found, clerkID)) {
			return false, err
		}
	}
	if memory.Email != "" {
		found, err := s.find(ctx, memory.Email)
		if err != nil {
			return false, err
		}
		return found == nil || s.owner(found) != clerkID, nil
	}
	return true, nil
}
