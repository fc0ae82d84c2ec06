package sinktest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

var errTaken = errors.New("another contact has the address")

// person is a contact of a made-up tool, in which an address belongs to one
// contact.
type person struct {
	key, email, name string
	subscribed       bool
	welcomes         int
}

// crm is that tool.
type crm struct {
	mu       sync.Mutex
	serial   int
	requests int
	revoked  bool
	down     bool
	page     bool               // something before it answers
	people   map[string]*person // by its own id
}

func (c *crm) find(by func(*person) bool) (string, *person) {
	for id, p := range c.people {
		if by(p) {
			return id, p
		}
	}
	return "", nil
}

// toolState is what the sink remembers.
type toolState struct {
	ID, Email, Sent  string
	Creating, Erased bool
}

// toolMutant is a right sink of a crm with places at which it can be made wrong.
type toolMutant struct {
	c     *crm
	pacer sinks.Pacer

	fingerprint                      func(*schemas.User) string
	remember                         func(toolState) []byte
	sameAs                           func(held, next toolState) bool
	byEmail                          bool // finds contacts by the address alone
	blind                            bool // creates without looking if it remembers nothing
	first                            bool // the tool has no unique key: remember before creating
	resubscribe                      bool
	byKey                            bool // confirms by the key alone
	welcome                          func(r sinks.Record, p *person)
	eraseBy                          func(s toolState, key string, p *person, id string) bool
	afterErase                       func(toolState) toolState
	unauthorized, conflict           error
	steals, unpaced, unlimited, asks bool
	believes                         bool // a page
	partly                           bool // writes what has changed to a contact that is not there any more
	lets                             bool // lets whom a person has deleted be
	confirm                          func(gone bool) bool
}

func toolHarness(needsEmail bool, defect func(*toolMutant)) Harness {
	h := Harness{
		Remembers: true, NeedsEmail: needsEmail, Fields: []string{"first_name", "primary_email_address"},
		New: func(testing.TB) Destination {
			c := &crm{people: map[string]*person{}}
			locked := func(f func()) {
				c.mu.Lock()
				defer c.mu.Unlock()
				f()
			}
			edit := func(id string, f func(*person)) {
				locked(func() {
					_, p := c.find(func(p *person) bool { return p.key == id })
					f(p)
				})
			}
			return Destination{
				Sink: func(testing.TB) sinks.Sink { return newToolMutant(c, defect) },
				Read: func(_ testing.TB, ids ...string) map[string]Row { return c.read(ids) },
				Dump: func(testing.TB) (dump []byte) { locked(func() { dump = fmt.Append(nil, c.shown()) }); return dump },
				Break: func(testing.TB) func() {
					locked(func() { c.down = true })
					return func() { locked(func() { c.down = false }) }
				},
				Tool: Tool{
					Requests: func() (n int) { locked(func() { n = c.requests }); return n },
					Contacts: func(testing.TB) (n int) { locked(func() { n = len(c.people) }); return n },
					Revoke: func(testing.TB) func() {
						locked(func() { c.revoked = true })
						return func() { locked(func() { c.revoked = false }) }
					},
					Page: func(testing.TB) func() {
						locked(func() { c.page = true })
						return func() { locked(func() { c.page = false }) }
					},
					Delete: func(_ testing.TB, id string) {
						locked(func() {
							at, _ := c.find(func(p *person) bool { return p.key == id })
							delete(c.people, at)
						})
					},
					Edit:        func(_ testing.TB, id string) { edit(id, func(p *person) { p.key, p.email = "", "edited@example.com" }) },
					Unsubscribe: func(_ testing.TB, id string) { edit(id, func(p *person) { p.subscribed = false }) },
					Subscribed:  func(_ testing.TB, id string) (yes bool) { edit(id, func(p *person) { yes = p.subscribed }); return yes },
					Welcomes:    func(_ testing.TB, id string) (n int) { edit(id, func(p *person) { n = p.welcomes }); return n },
				},
			}
		},
	}
	return h.prepared()
}

func newToolMutant(c *crm, defect func(*toolMutant)) *toolMutant {
	m := &toolMutant{
		c:           c,
		fingerprint: func(u *schemas.User) string { return fmt.Sprint(value(u.FirstName), "|", value(u.PrimaryEmailAddress)) },
		remember: func(s toolState) []byte {
			text, err := json.Marshal(s)
			if err != nil {
				panic(err)
			}
			return text
		},
		sameAs: func(held, next toolState) bool { return held.Sent == next.Sent },
		welcome: func(r sinks.Record, p *person) {
			if r.New {
				p.welcomes = 1 // as a tag, which is set or is not
			}
		},
		eraseBy:      func(s toolState, key string, p *person, id string) bool { return id == s.ID || p.key == key },
		afterErase:   func(s toolState) toolState { return toolState{ID: s.ID, Erased: true} },
		unauthorized: sinks.Fatal(sinks.ReasonUnauthorized, errors.New("401")),
		conflict:     sinks.HeldBy("", errTaken),
		confirm:      func(gone bool) bool { return gone },
	}
	defect(m)
	return m
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// shown returns the contacts as values, which a dump shows.
func (c *crm) shown() (all []person) {
	for _, p := range c.people {
		all = append(all, *p)
	}
	return all
}

func (c *crm) read(ids []string) map[string]Row {
	c.mu.Lock()
	defer c.mu.Unlock()
	rows := map[string]Row{}
	for _, id := range ids {
		if _, p := c.find(func(p *person) bool { return p.key == id }); p != nil {
			row := Row{}
			for name, text := range map[string]string{"first_name": p.name, "primary_email_address": p.email} {
				if text != "" {
					row[name] = text
				}
			}
			rows[id] = row
		}
	}
	return rows
}

func (m *toolMutant) Capabilities() sinks.Capabilities {
	facts := sinks.Capabilities{Kind: "crm", MaxBatch: 4, MaxInFlight: 2, ConfirmAfter: time.Minute, Limit: sinks.Limit{Requests: 10, Window: time.Second}}
	if m.unlimited {
		facts.Limit = sinks.Limit{}
	}
	return facts
}

func (m *toolMutant) Pace(p sinks.Pacer)             { m.pacer = p }
func (m *toolMutant) Open(ctx context.Context) error { return ctx.Err() }
func (m *toolMutant) Close() error                   { return nil }

// request is one request to the tool, which is locked.
func (m *toolMutant) request(ctx context.Context) error {
	if m.pacer != nil && !m.unpaced {
		if err := m.pacer.Wait(ctx); err != nil {
			return err
		}
	}
	m.c.requests++
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case m.c.down:
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, errOutage)
	case m.c.page && !m.believes:
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, errOutage)
	case m.c.revoked:
		return m.unauthorized
	}
	return nil
}

func (m *toolMutant) Apply(ctx context.Context, batch []sinks.Record) error {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	var failed sinks.BatchError
	for i, r := range batch {
		var s toolState
		if r.State != nil {
			_ = json.Unmarshal(r.State, &s) // a mutant's own nonsense is no memory
		}
		var err error
		if r.Erase() {
			err = m.erase(ctx, r, s)
		} else {
			err = m.change(ctx, r, s)
		}
		switch {
		case err == nil:
		case errors.Is(err, errTaken), errors.Is(err, sinks.ErrRememberFirst):
			failed.Fail(i, err)
		default:
			return err
		}
	}
	return failed.Err()
}

func (m *toolMutant) change(ctx context.Context, r sinks.Record, s toolState) error {
	if s.Erased {
		s = toolState{}
	}
	u := &r.Change.User
	email := value(u.PrimaryEmailAddress)
	if m.asks {
		if err := m.request(ctx); err != nil {
			return err
		}
	}
	if email == "" && m.skips() {
		r.Skipped()
		return nil
	}
	next := toolState{Email: email, Sent: m.fingerprint(u)}
	if s.ID != "" && m.sameAs(s, next) {
		r.Unchanged()
		return nil
	}
	if err := m.request(ctx); err != nil {
		return err
	}
	if m.c.page { // and believed
		next.ID = "page"
		r.Remember(m.remember(next))
		return nil
	}
	id, p := m.find(r.ClerkID, email, s)
	taken, other := m.c.find(func(o *person) bool { return email != "" && o.email == email && o != p })
	switch {
	case other != nil && m.steals:
		id, p = taken, other
	case other != nil:
		return m.conflict
	case p == nil && m.first && !s.Creating:
		r.Remember(m.remember(toolState{Creating: true}))
		return sinks.ErrRememberFirst
	case p == nil && s.ID != "" && m.lets:
		return nil
	case p == nil && s.ID != "" && m.partly:
		email = ""
		fallthrough
	case p == nil:
		m.c.serial++
		id, p = fmt.Sprint(m.c.serial), &person{subscribed: true}
		m.c.people[id] = p
	}
	p.key, p.email, p.name = r.ClerkID, email, value(u.FirstName)
	p.subscribed = p.subscribed || m.resubscribe
	m.welcome(r, p)
	next.ID = id
	r.Remember(m.remember(next))
	return nil
}

// skips: the harness with NeedsEmail has this defect, so to say.
func (m *toolMutant) skips() bool { return strings.HasPrefix(m.fingerprint(&schemas.User{}), "skips") }

func (m *toolMutant) find(key, email string, s toolState) (string, *person) {
	switch {
	case m.byEmail:
		return m.c.find(func(p *person) bool { return p.email == email })
	case m.c.people[s.ID] != nil:
		return s.ID, m.c.people[s.ID]
	case m.blind && !s.Creating:
		return "", nil
	}
	return m.c.find(func(p *person) bool { return p.key == key })
}

func (m *toolMutant) erase(ctx context.Context, r sinks.Record, s toolState) error {
	if err := m.request(ctx); err != nil {
		return err
	}
	outcome := schemas.OutcomeNotPresent
	for id, p := range m.c.people {
		if m.eraseBy(s, r.ClerkID, p, id) {
			delete(m.c.people, id)
			outcome = schemas.OutcomeDeleted
		}
	}
	r.Erased(outcome)
	r.Remember(m.remember(m.afterErase(s)))
	return nil
}

func (m *toolMutant) Confirm(ctx context.Context, clerkID string, state []byte) (bool, error) {
	var s toolState
	_ = json.Unmarshal(state, &s) // nothing is no memory
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if err := m.request(ctx); err != nil {
		return false, err
	}
	if m.c.page { // and believed
		return true, nil
	}
	_, p := m.c.find(func(p *person) bool { return p.key == clerkID })
	if !m.byKey && p == nil {
		p = m.c.people[s.ID]
	}
	return m.confirm(p == nil), nil
}

// toolMutants have one defect each.
var toolMutants = []struct {
	name   string
	defect func(*toolMutant)
}{
	{"remembers nothing", func(m *toolMutant) { m.remember = func(toolState) []byte { return nil } }},
	{"remembers too much", func(m *toolMutant) {
		right := m.remember
		m.remember = func(s toolState) []byte { s.Sent += strings.Repeat("x", mostState); return right(s) }
	}},
	{"sends what the tool has", func(m *toolMutant) { m.sameAs = func(toolState, toolState) bool { return false } }},
	{"sends for fields that it does not send", func(m *toolMutant) {
		m.fingerprint = func(u *schemas.User) string {
			return fmt.Sprintf("%s|%s|%v", value(u.FirstName), value(u.PrimaryEmailAddress), *u.UpdatedAt)
		}
	}},
	{"takes a change for none", func(m *toolMutant) { m.sameAs = func(toolState, toolState) bool { return true } }},
	{"finds contacts by the address alone", func(m *toolMutant) { m.byEmail = true }},
	{"creates without looking", func(m *toolMutant) { m.blind = true }},
	{"lets a deleted contact be", func(m *toolMutant) { m.lets = true }},
	{"writes a part of a deleted contact", func(m *toolMutant) { m.partly = true }},
	{"subscribes again", func(m *toolMutant) { m.resubscribe = true }},
	{"welcomes again", func(m *toolMutant) {
		m.welcome = func(r sinks.Record, p *person) {
			if r.New {
				p.welcomes++
			}
		}
	}},
	{"welcomes everyone", func(m *toolMutant) { m.welcome = func(_ sinks.Record, p *person) { p.welcomes = 1 } }},
	{"welcomes nobody", func(m *toolMutant) { m.welcome = func(sinks.Record, *person) {} }},
	{"erases by the key alone", func(m *toolMutant) {
		m.eraseBy = func(_ toolState, key string, p *person, _ string) bool { return p.key == key }
	}},
	{"erases by the remembered id alone", func(m *toolMutant) {
		m.eraseBy = func(s toolState, _ string, _ *person, id string) bool { return id == s.ID }
	}},
	{"takes the erased for there", func(m *toolMutant) { m.afterErase = func(s toolState) toolState { return s } }},
	{"is unpaced", func(m *toolMutant) { m.unpaced = true }},
	{"states no limit", func(m *toolMutant) { m.unlimited = true }},
	{"drains the topic when the key is refused", func(m *toolMutant) {
		m.unauthorized = sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("401"))
	}},
	{"retries when the key is refused", func(m *toolMutant) { m.unauthorized = errors.New("401") }},
	{"takes another user's contact", func(m *toolMutant) { m.steals = true }},
	{"stops at an address that is taken", func(m *toolMutant) { m.conflict = sinks.Fatal(sinks.ReasonConflict, errTaken) }},
	{"does not say that an address is taken", func(m *toolMutant) { m.conflict = errTaken }},
	{"confirms without looking, at a tool", func(m *toolMutant) { m.confirm = func(bool) bool { return true } }},
	{"confirms by the key alone", func(m *toolMutant) { m.byKey = true }},
	{"never confirms, at a tool", func(m *toolMutant) { m.confirm = func(bool) bool { return false } }},
	{"believes a page", func(m *toolMutant) { m.believes = true }},
	{"asks before it knows that nothing is to be done", func(m *toolMutant) { m.asks = true }},
}

// skipping makes a sink one of a tool that needs an address.
func skipping(m *toolMutant) {
	right := m.fingerprint
	m.fingerprint = func(u *schemas.User) string {
		if u.FirstName == nil && u.PrimaryEmailAddress == nil {
			return "skips"
		}
		return right(u)
	}
}

// TestRun_NoToolMutant shows that what the mutants are made of is right, also
// with what must be remembered first and with users who are skipped.
func TestRun_NoToolMutant(t *testing.T) {
	for name, h := range map[string]Harness{
		"upsert":         toolHarness(false, func(*toolMutant) {}),
		"remember first": toolHarness(false, func(m *toolMutant) { m.first, m.blind = true, true }),
		"needs e-mail":   toolHarness(true, skipping),
	} {
		t.Run(name, func(t *testing.T) { runPrepared(t, h) })
	}
}

// runPrepared is Run of a harness that is prepared.
func runPrepared(t *testing.T, h Harness) {
	for _, test := range contract {
		if test.of != versions {
			t.Run(test.name, func(t *testing.T) { test.run(t, h) })
		}
	}
}

// TestRun_CatchesToolMutants shows that the suite fails for each mutant.
func TestRun_CatchesToolMutants(t *testing.T) {
	for _, mutant := range toolMutants {
		t.Run(mutant.name, func(t *testing.T) {
			expectCaught(t, toolHarness(false, mutant.defect))
		})
	}
	t.Run("skips nobody", func(t *testing.T) { expectCaught(t, toolHarness(true, func(*toolMutant) {})) })
	t.Run("skips with a call", func(t *testing.T) {
		expectCaught(t, toolHarness(true, func(m *toolMutant) { skipping(m); m.asks = true }))
	})
}

func expectCaught(t *testing.T, h Harness) {
	t.Helper()
	for _, test := range contract {
		if test.of != versions && len(observe(t, func(t testing.TB) { test.run(t, h) })) > 0 {
			t.Logf("caught by %s", test.name)
			return
		}
	}
	t.Errorf("no test of the suite fails")
}
