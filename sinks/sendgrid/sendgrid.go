package sendgrid

import (
	"context"
	"net/http"
	"slices"
	"strings"
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

// maxBatch is what one search by address takes; SendGrid would take 30,000
// contacts of one upsert.
const maxBatch = 100

// maxInFlight is as many as wait for their jobs while the limit is used: what
// BATCH_RECORDS lets in by default.
const maxInFlight = 10

// limit is what SendGrid's answers say of contacts: 200 requests in a minute.
var limit = sinks.Limit{Requests: 200, Window: time.Minute}

// Sink writes contacts. Safe for concurrent use after Open.
type Sink struct {
	cfg     Config
	client  *rest.Client
	mapping contact.Mapping
	fields  map[string]string // ids of custom fields, by name; set by Open
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
	client, err := cfg.Client(rest.Config{Header: http.Header{"Authorization": {"Bearer " + cfg.APIKey}}})
	if err != nil {
		return nil, err
	}
	return &Sink{cfg: cfg, client: client, mapping: contact.NewMapping(properties, contact.Form{Time: contact.ISO8601})}, nil
}

// Capabilities implements [sinks.Sink].
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{
		Kind: "sendgrid", MaxBatch: maxBatch, MaxInFlight: maxInFlight, ConfirmAfter: s.cfg.ConfirmAfter, Limit: limit,
	}
}

// Pace implements [sinks.Paced].
func (s *Sink) Pace(p sinks.Pacer) { s.client.Pace(p) }

// Close implements [sinks.Sink].
func (s *Sink) Close() error {
	s.client.Close()
	return nil
}

// step is a change under way.
type step struct {
	contact.Step
	record  sinks.Record
	index   int    // in the batch of Apply
	address string // as Clerk has it
	email   string // in lower case, as SendGrid keeps it
	whole   bool   // all of it is written: there is no contact, or one that is nobody's

	left []string // addresses that he has left, where no contact of his was seen
}

// previous is under what a memory keeps the addresses that are to be left.
const previous = "previous"

// Apply implements [sinks.Sink].
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	if err := ctx.Err(); err != nil {
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, err)
	}
	var failed sinks.BatchError
	var steps []*step
	var erasures []*erasure
	for i, r := range batch {
		if r.Erase() {
			erasures = append(erasures, &erasure{record: r, memory: contact.Recall(r.State)})
			continue
		}
		address := contact.Email(&r.Change.User)
		st := &step{Step: s.mapping.Plan(r), record: r, index: i, address: address, email: strings.ToLower(address)}
		switch stays := st.Memory.Email == st.email; {
		case st.email == "":
			r.Skipped()
		case !canBeFound(st.email):
			failed.Fail(i, sinks.Permanent(sinks.ReasonInvalidRecord, errNoAddress))
		case stays && st.Nothing():
			r.Unchanged()
		case !stays:
			st.note()
			failed.Fail(i, sinks.ErrRememberFirst)
		default:
			steps = append(steps, st)
		}
	}
	if err := s.change(ctx, steps, &failed); err != nil {
		return err
	}
	if err := s.erase(ctx, erasures); err != nil {
		return err
	}
	return failed.Err()
}

// note remembers the address at which the user is about to have a contact, and
// those that he is about to leave.
func (st *step) note() {
	left := slices.DeleteFunc(emails(st.Memory), func(email string) bool { return email == st.email })
	m := contact.Memory{Email: st.email, Creating: true, Welcomed: st.Memory.Welcomed}
	if len(left) > 0 {
		m.Extra = map[string]string{previous: strings.Join(left, " ")}
	}
	m.Remember(st.record)
}

// change writes contacts, and lists in failed what became of those that failed. An
// error is of all of the batch. It looks first, at each address: whose contact is
// there, or whether a person has deleted it.
func (s *Sink) change(ctx context.Context, steps []*step, failed *sinks.BatchError) error {
	emails := make([]string, len(steps))
	for i, st := range steps {
		emails[i] = st.email
	}
	there, err := s.find(ctx, emails)
	if err != nil {
		return err
	}
	var free []*step
	for _, st := range steps {
		f := there[st.email]
		if f.anothers(st.record.ClerkID) {
			failed.Fail(st.index, sinks.HeldBy(f.owner, errHeld))
			continue
		}
		st.whole = f.owner != st.record.ClerkID
		there[st.email] = found{owner: st.record.ClerkID} // for the others of this batch
		free = append(free, st)
	}
	written, err := s.upsert(ctx, free, failed)
	if err != nil {
		return err
	}
	if err := s.welcome(ctx, written); err != nil {
		return err
	}
	if err := s.leave(ctx, written); err != nil {
		return err
	}
	for _, st := range written {
		m := st.Sent(st.email, st.email)
		if len(st.left) > 0 {
			m.Extra = map[string]string{previous: strings.Join(st.left, " ")}
		}
		m.Remember(st.record)
	}
	return nil
}

// leave deletes the contacts at addresses that users have left. Where there is none
// to be seen, one may come to light: that address stays remembered.
func (s *Sink) leave(ctx context.Context, steps []*step) error {
	var emails []string
	for _, st := range steps {
		emails = append(emails, strings.Fields(st.Memory.Extra[previous])...)
	}
	there, err := s.find(ctx, emails)
	if err != nil {
		return err
	}
	var ids []string
	for _, st := range steps {
		for _, email := range strings.Fields(st.Memory.Extra[previous]) {
			switch f, seen := there[email]; {
			case !seen:
				st.left = append(st.left, email)
			case !f.anothers(st.record.ClerkID):
				ids = append(ids, f.id)
			}
		}
	}
	jobs, err := s.remove(ctx, ids)
	if err != nil {
		return err
	}
	for _, taken := range jobs {
		if err := s.awaitAll(ctx, taken, 0, "delete contacts that users have left"); err != nil {
			return err
		}
	}
	return nil
}
