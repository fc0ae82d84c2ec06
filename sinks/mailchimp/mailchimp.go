package mailchimp

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"time"

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

// maxInFlight leaves two of the 10 connections that an account may have at a time
// to others.
// https://mailchimp.com/developer/marketing/docs/fundamentals/#throttling
const maxInFlight = 8

// limit is no rule of Mailchimp's, which counts connections, not requests: it is
// what ten of them carry with answers that take a tenth of a second.
var limit = sinks.Limit{Requests: 100, Window: time.Second}

// form is how Mailchimp is given values: it reads a text in any merge field.
var form = contact.Form{Strings: true}

// Sink writes members. Safe for concurrent use.
type Sink struct {
	cfg     Config
	client  *rest.Client
	mapping contact.Mapping
	list    string // path of the audience
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
	basic := base64.StdEncoding.EncodeToString([]byte("clerk-connect:" + cfg.Key)) // any name
	client, err := cfg.Client(rest.Config{Header: http.Header{"Authorization": {"Basic " + basic}}, Classify: classify})
	if err != nil {
		return nil, err
	}
	return &Sink{
		cfg: cfg, client: client, mapping: contact.NewMapping(properties, form), list: "/3.0/lists/" + url.PathEscape(cfg.Audience),
	}, nil
}

// Capabilities implements [sinks.Sink].
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{Kind: "mailchimp", MaxBatch: 1, MaxInFlight: maxInFlight, ConfirmAfter: s.cfg.ConfirmAfter, Limit: limit}
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

// change changes the member that is remembered, or sees to it that there is one.
func (s *Sink) change(ctx context.Context, r sinks.Record) error {
	email := contact.Email(&r.Change.User)
	if email == "" {
		r.Skipped()
		return nil
	}
	step := s.mapping.Plan(r)
	memory := step.Memory
	switch {
	case memory.Email == email && step.Nothing():
		r.Unchanged()
		return nil
	case memory.Creating && memory.Email == email:
		id, err := s.place(ctx, r.ClerkID, step, email)
		if err != nil {
			return err
		}
		return s.finish(ctx, r, step, id, email)
	case memory.Creating:
		return s.settle(ctx, r, memory, email)
	case memory.RemoteID == "":
		return note(r, memory, email)
	}
	there, err := s.update(ctx, r.ClerkID, memory.RemoteID, address(memory.Email, email), step.Changed)
	switch {
	case exists(err):
		return s.giveWay(ctx, r, memory, email)
	case err != nil:
		return err
	case !there: // a person has removed or archived it
		return note(r, memory, email)
	}
	return s.finish(ctx, r, step, memory.RemoteID, email)
}

// address returns the new one if it differs from the old one, else "".
func address(old, email string) string {
	if old == email {
		return ""
	}
	return email
}

// note remembers at which address the user is about to have a member.
func note(r sinks.Record, m contact.Memory, email string) error {
	contact.Memory{Email: email, Creating: true, Welcomed: m.Welcomed}.Remember(r)
	return sinks.ErrRememberFirst
}

// settle ends what a note of another address is about: the member that there is
// now, if the note came to anything, is remembered.
func (s *Sink) settle(ctx context.Context, r sinks.Record, m contact.Memory, email string) error {
	found, err := s.find(ctx, hash(m.Email))
	if err != nil {
		return err
	}
	if found == nil || s.owner(found) != r.ClerkID || found.archived() {
		return note(r, m, email)
	}
	contact.Memory{RemoteID: found.ContactID, Email: m.Email, Welcomed: m.Welcomed}.Remember(r)
	return sinks.ErrRememberFirst
}

// finish has the effect for new users, and remembers what was written.
func (s *Sink) finish(ctx context.Context, r sinks.Record, step contact.Step, id, email string) error {
	if step.New && s.cfg.NewUserTag != "" {
		if err := s.tag(ctx, id); err != nil {
			return err
		}
	}
	step.Sent(id, email).Remember(r)
	return nil
}

// place returns the id of the user's member at an address: his own, one that was
// nobody's, one from the archive, or a new one.
func (s *Sink) place(ctx context.Context, clerkID string, step contact.Step, email string) (string, error) {
	found, err := s.find(ctx, hash(email))
	switch {
	case err != nil:
		return "", err
	case found == nil:
		return s.create(ctx, clerkID, step.All, email)
	case found.archived():
		return found.ContactID, s.bringBack(ctx, clerkID, found, step.All)
	}
	if owner := s.owner(found); owner != "" && owner != clerkID {
		return "", sinks.HeldBy(owner, errHeld)
	}
	there, err := s.update(ctx, clerkID, found.ContactID, address(found.Email, email), step.All)
	if err == nil && !there {
		err = sinks.RetryAfter(sinks.ReasonConflict, 0, errMoved)
	}
	return found.ContactID, err
}

// giveWay is for a user whose new address is on the list already. If that member is
// archived or nobody's, he becomes the user's, and the one that the user had is
// archived before: at no time are there two.
func (s *Sink) giveWay(ctx context.Context, r sinks.Record, m contact.Memory, email string) error {
	found, err := s.find(ctx, hash(email))
	if err != nil {
		return err
	}
	if found == nil || found.ContactID == m.RemoteID {
		return sinks.RetryAfter(sinks.ReasonConflict, 0, errMoved)
	}
	owner := s.owner(found)
	switch {
	case !found.archived() && owner != "" && owner != r.ClerkID:
		return sinks.HeldBy(owner, errHeld)
	case s.cfg.Erasure == DeletePermanent: // an archived one would outlive the erasure
		return sinks.HeldBy("", errTaken)
	}
	old, err := s.find(ctx, m.RemoteID)
	if err != nil {
		return err
	}
	if _, err := s.archive(ctx, old); err != nil {
		return err
	}
	return note(r, m, email)
}
