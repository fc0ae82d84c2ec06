package resend_test

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/resend"
	"clerkconnect/sinks/resttest"
	"clerkconnect/sinks/runner/storm"
	"clerkconnect/sinks/sinktest"
)

// fast is so fast that the windows of the limit do not matter to the contract's
// tests, which have no runner to wait for them.
const fast = 1e6

func config(h *imitation) resend.Config {
	return resend.Config{Config: contact.Config{BaseURL: h.URL}, Key: key, NewContacts: resend.Subscribed, NewUserSegment: segment}
}

func openSink(t testing.TB, cfg resend.Config) *resend.Sink { return sinktest.Open(t, resend.New, cfg) }

// with does something to the contact of a user.
func (h *imitation) with(id string, do func(*person)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.byOwner[id]; p != nil && h.people[p.id] == p {
		do(p)
	}
}

func row(p *person) sinktest.Row {
	row := sinktest.Row{"primary_email_address": p.email}
	for name, value := range p.names {
		if value != "" {
			row[name] = value
		}
	}
	return row
}

func destination(h *imitation, change func(*resend.Config)) sinktest.Destination {
	return sinktest.Destination{
		Sink: func(t testing.TB) sinks.Sink {
			cfg := config(h)
			change(&cfg)
			sink, err := resend.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			return sink
		},
		Read: func(_ testing.TB, ids ...string) map[string]sinktest.Row {
			h.mu.Lock()
			defer h.mu.Unlock()
			all, rows := map[string]sinktest.Row{}, map[string]sinktest.Row{}
			for _, p := range h.people {
				all[fmt.Sprint(p.properties["clerk_user_id"])] = row(p)
			}
			for _, id := range ids {
				if row, ok := all[id]; ok {
					rows[id] = row
				}
			}
			return rows
		},
		Dump: func(testing.TB) []byte {
			h.mu.Lock()
			defer h.mu.Unlock()
			var dump []byte
			for _, p := range h.people {
				dump = fmt.Appendf(dump, "%+v\n", *p)
			}
			return dump
		},
		Break:  func(testing.TB) func() { return h.Cut() },
		Poison: func(u *schemas.User) { u.PrimaryEmailAddress = new("no address") },
		Tool:   tool(h),
	}
}

func tool(h *imitation) sinktest.Tool {
	return sinktest.Tool{
		Requests: h.Requests,
		Contacts: func(testing.TB) int {
			h.mu.Lock()
			defer h.mu.Unlock()
			return len(h.people)
		},
		Page:   func(testing.TB) func() { return h.Page() },
		Revoke: func(testing.TB) func() { return h.Revoke() },
		Delete: func(_ testing.TB, id string) { h.with(id, h.delete) },
		Edit: func(_ testing.TB, id string) {
			h.with(id, func(p *person) { // the address cannot be changed: another contact gets it
				delete(h.byEmail, strings.ToLower(p.email))
				p.email, p.properties = "edited@example.com", map[string]any{"clerk_user_id": "edited"}
				h.byEmail[p.email] = p
			})
		},
		Unsubscribe: func(_ testing.TB, id string) { h.with(id, func(p *person) { p.unsubscribed = true }) },
		Subscribed: func(_ testing.TB, id string) (subscribed bool) {
			h.with(id, func(p *person) { subscribed = !p.unsubscribed })
			return subscribed
		},
		Welcomes: func(_ testing.TB, id string) (welcomes int) {
			h.with(id, func(p *person) { welcomes = len(p.segments) })
			return welcomes
		},
	}
}

var fields = []string{"primary_email_address", "first_name", "last_name"}

func TestSink(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{
		Remembers: true, Fields: fields, NeedsEmail: true,
		New: func(t testing.TB) sinktest.Destination {
			return destination(newImitation(t, resttest.NewClock(fast)), func(*resend.Config) {})
		},
	})
}

func TestStorm(t *testing.T) {
	clock := resttest.NewClock(1000)
	h := newImitationOf(t, clock, nil) // requests of the kinds that TestSink holds against it
	storm.Run(t, storm.Config{
		Harness:     sinktest.Harness{Remembers: true, Fields: fields, NeedsEmail: true},
		Destination: destination(h, func(cfg *resend.Config) { cfg.Clock, cfg.ConfirmAfter = clock.Now, time.Hour }),
		Server:      h.Server, Clock: clock, CallsPerUser: 5,
	})
}

func mustApply(t *testing.T, sink *resend.Sink, r sinks.Record) []byte {
	t.Helper()
	result, err := sinktest.Apply(t, sink, r)
	if err != nil {
		t.Fatal(err)
	}
	return result.State
}

// Who changes his address keeps what he has agreed to, his segments, and what
// people have written to his contact.
func TestMove_TakesAllAlong(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	moved := sinktest.ChangeEmail("user_1", 2, "new@example.com")
	moved.State = mustApply(t, sink, sinktest.ChangeEmail("user_1", 1, "old@example.com"))
	h.with("user_1", func(p *person) {
		p.unsubscribed, p.segments, p.topics = true, []string{segment}, map[string]string{topic: "opt_out"}
		p.properties["plan"] = "gold"
	})
	mustApply(t, sink, moved)
	p := h.byEmail["new@example.com"]
	if p == nil || len(h.people) != 1 {
		t.Fatalf("after a change of the address: %d contacts, the new one there: %v", len(h.people), p != nil)
	}
	if !p.unsubscribed || p.topics[topic] != "opt_out" || !slices.Equal(p.segments, []string{segment}) || p.properties["plan"] != "gold" {
		t.Errorf("the new contact: got %+v, want all of the old one", p)
	}
}

// A crash between any two calls of a change of the address leaves nothing behind,
// whatever comes next.
func TestMove_CrashAnywhere(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]sinks.Record{
		"the same again":  sinktest.ChangeEmail("user_1", 2, "new@example.com"),
		"another address": sinktest.ChangeEmail("user_1", 3, "third@example.com"),
		"the old address": sinktest.ChangeEmail("user_1", 3, "old@example.com"),
		"the erasure":     sinktest.Erase("user_1", 3),
	} {
		for _, dies := range []string{"after creating", "before creating", "after all"} {
			t.Run(name+", "+dies, func(t *testing.T) {
				t.Parallel()
				h := newImitation(t, resttest.NewClock(fast))
				sink := openSink(t, config(h))
				moved := sinktest.ChangeEmail("user_1", 2, "new@example.com")
				moved.State = mustApply(t, sink, sinktest.ChangeEmail("user_1", 1, "old@example.com"))
				old := *h.byEmail["old@example.com"]
				result, err := sinktest.ApplyOnce(t, sink, moved)
				if !errors.Is(err, sinks.ErrRememberFirst) || len(h.people) != 1 {
					t.Fatalf("a change of the address: got %v and %d contacts, want it remembered first", err, len(h.people))
				}
				moved.State = result.State
				if dies != "before creating" {
					mustApply(t, sink, moved) // and what it remembers is lost
				}
				if dies == "after creating" { // and before the old one was deleted
					h.people[old.id], h.byEmail[old.email] = &old, &old
				}
				next := next // of this death: three share it
				next.State = moved.State
				mustApply(t, sink, next)
				want := 1
				if next.Erase() {
					want = 0
				}
				if len(h.people) != want {
					t.Errorf("%d contacts, want %d", len(h.people), want)
				}
				if want == 1 && h.byEmail[*next.Change.User.PrimaryEmailAddress] == nil {
					t.Errorf("no contact at the user's address")
				}
			})
		}
	}
}

// A contact that is nobody's becomes the user's, and what it has agreed to stays;
// another user's does not.
func TestAdoption(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	h.create(httptest.NewRecorder(), object{"email": "ada@example.com", "unsubscribed": true, "properties": object{"plan": "gold"}})
	mustApply(t, sink, sinktest.ChangeEmail("user_1", 1, "Ada@example.com"))
	if p := h.byEmail["ada@example.com"]; len(h.people) != 1 || !p.unsubscribed || p.properties["clerk_user_id"] != "user_1" || p.properties["plan"] != "gold" {
		t.Errorf("a contact that was nobody's: got %+v of %d", p, len(h.people))
	}
	_, err := sinktest.Apply(t, sink, sinktest.ChangeEmail("user_2", 1, "ada@example.com"))
	if got := sinks.Classify(err); got.HeldBy != "user_1" || got.Reason != sinks.ReasonConflict || strings.Contains(err.Error(), "example.com") {
		t.Errorf("another user's contact: got %v, want held by user_1, without the address", err)
	}
	if h.consents != 0 {
		t.Errorf("%d updates said something of consent, want none", h.consents)
	}
}

func TestNewContacts(t *testing.T) {
	t.Parallel()
	for setting, unsubscribed := range map[resend.Consent]bool{"": true, resend.Unsubscribed: true, resend.Subscribed: false} {
		h := newImitation(t, resttest.NewClock(fast))
		cfg := config(h)
		cfg.NewContacts = setting
		mustApply(t, openSink(t, cfg), sinktest.ChangeEmail("user_1", 1, "ada@example.com"))
		if got := h.byEmail["ada@example.com"].unsubscribed; got != unsubscribed {
			t.Errorf("NEW_CONTACTS=%q: unsubscribed %v, want %v", setting, got, unsubscribed)
		}
	}
}

// A contact that a person has deleted is created again, and only what changed is
// sent to one that is there.
func TestChange(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	state := mustApply(t, sink, sinktest.ChangeEmail("user_1", 1, "ada@example.com"))
	h.with("user_1", func(p *person) { p.names["last_name"] = "edited" })
	second := sinktest.ChangeEmail("user_1", 2, "ada@example.com")
	second.State, second.Change.User.FirstName = state, new("Grace")
	state = mustApply(t, sink, second)
	if p := h.byEmail["ada@example.com"]; p.names["first_name"] != "Grace" || p.names["last_name"] != "edited" {
		t.Errorf("after a change of the first name: got %v", p.names)
	}
	h.people, h.byEmail = map[string]*person{}, map[string]*person{}
	third := sinktest.ChangeEmail("user_1", 3, "ada@example.com")
	third.State = state
	mustApply(t, sink, third)
	if len(h.people) != 1 {
		t.Errorf("after a change of one that a person had deleted: %d contacts, want 1", len(h.people))
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	for problem, change := range map[string]func(*resend.Config){
		"color":            func(cfg *resend.Config) { cfg.Properties = "plan = public_metadata.plan, color = 'red'" },
		"seats":            func(cfg *resend.Config) { cfg.Properties = "seats = 'three'" },
		"NEW_USER_SEGMENT": func(cfg *resend.Config) { cfg.NewUserSegment = strings.Replace(segment, "7", "8", 1) },
	} {
		cfg := config(h)
		change(&cfg)
		sink, err := resend.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		err = sink.Open(t.Context())
		sinktest.ExpectClass(t, problem, err, sinks.ClassFatal, sinks.ReasonMisconfigured)
		if err != nil && (!strings.Contains(err.Error(), problem) || strings.Contains(err.Error(), "plan")) {
			t.Errorf("got %v, want %s named alone", err, problem)
		}
	}
}

func TestInit(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	cfg := config(h)
	cfg.Properties = "first_name = first_name, color = 'red'"
	sink, err := resend.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	before := len(h.declared)
	for range 2 { // it may run twice
		if err := sink.Init(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if h.declared["color"] != "string" || len(h.declared) != before+1 {
		t.Errorf("properties after Init: color is %q, %d more, want a string and 1", h.declared["color"], len(h.declared)-before)
	}
	if script := sink.InitScript(); !strings.Contains(script, "color") || !strings.Contains(script, "clerk_user_id") || strings.Contains(script, key) {
		t.Errorf("InitScript: got %s", script)
	}
	if err := sink.Open(t.Context()); err != nil {
		t.Errorf("Open after Init: %v", err)
	}
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	err := resend.Config{
		Config:      contact.Config{Properties: "unsubscribed = true, email = email, topics = 'x', \"a b\" = 'c'"},
		KeyProperty: "first_name", NewContacts: "maybe", NewUserSegment: "New",
	}.Validate()
	for _, text := range []string{`"unsubscribed"`, `"email"`, `"topics"`, `"a b"`, "API_KEY", "KEY_PROPERTY", "NEW_CONTACTS", "NEW_USER_SEGMENT"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("Validate says nothing of %s: %v", text, err)
		}
	}
	err = resend.Config{Config: contact.Config{Properties: "clerk_user_id = id"}, Key: key}.Validate()
	if err == nil || !strings.Contains(err.Error(), "KEY_PROPERTY") {
		t.Errorf("Validate of a mapping to KEY_PROPERTY: got %v", err)
	}
}

// An erasure that has a note alone finds the contact that was created, and one whose
// address is another user's by now leaves that one alone.
func TestErasure_ByAddress(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	created := sinktest.ChangeEmail("user_1", 1, "ada@example.com")
	result, _ := sinktest.ApplyOnce(t, sink, created)
	created.State = result.State
	first := mustApply(t, sink, created)
	if gone, err := sink.Confirm(t.Context(), "user_1", result.State); gone || err != nil {
		t.Errorf("Confirm of a contact that a note tells of: got %v, %v, want false", gone, err)
	}
	h.with("user_1", func(p *person) { p.properties["clerk_user_id"] = "user_2" })
	p := h.byEmail["ada@example.com"]
	delete(h.people, p.id)
	p.id = strings.Replace(p.id, "5", "6", 1) // the first was deleted, this one is another
	h.people[p.id] = p
	erase := sinktest.Erase("user_1", 2)
	erase.State = first
	if erased, err := sinktest.Apply(t, sink, erase); err != nil || erased.Outcome != schemas.OutcomeNotPresent || len(h.people) != 1 {
		t.Errorf("an erasure of one whose address another user has: got %v, %s and %d contacts", err, erased.Outcome, len(h.people))
	}
	if gone, err := sink.Confirm(t.Context(), "user_1", first); !gone || err != nil {
		t.Errorf("Confirm of it: got %v, %v, want true", gone, err)
	}
}

// Another process is quicker with the same address, between looking and creating:
// Resend answers with that one's contact, which is not taken for the user's own.
func TestCreate_AnotherIsQuicker(t *testing.T) {
	t.Parallel()
	race := func(t *testing.T) (*imitation, *resend.Sink, []byte) {
		h := newImitation(t, resttest.NewClock(fast))
		sink := openSink(t, config(h))
		h.before = func(route string) {
			if route != "POST" {
				return
			}
			h.before = nil
			h.create(httptest.NewRecorder(), object{"email": "shared@example.com", "properties": object{"clerk_user_id": "user_other"}})
			h.byEmail["shared@example.com"].properties["secret"] = "the other's"
		}
		return h, sink, mustApply(t, sink, sinktest.ChangeEmail("user_1", 1, "shared@example.com"))
	}
	owner := func(h *imitation) any { return h.byEmail["shared@example.com"].properties["clerk_user_id"] }

	h, sink, state := race(t)
	changed := sinktest.ChangeEmail("user_1", 2, "shared@example.com")
	changed.State, changed.Change.User.FirstName = state, new("Grace")
	if _, err := sinktest.Apply(t, sink, changed); sinks.Classify(err).HeldBy != "user_other" || owner(h) != "user_other" {
		t.Errorf("the next change: got %v, and the contact is of %v", err, owner(h))
	}
	erase := sinktest.Erase("user_1", 3)
	erase.State = state
	result, err := sinktest.Apply(t, sink, erase)
	if err != nil || result.Outcome != schemas.OutcomeNotPresent || h.byEmail["shared@example.com"] == nil {
		t.Fatalf("the erasure: got %v, %q, and of the other's contact %v", err, result.Outcome, h.byEmail["shared@example.com"])
	}
	if gone, err := sink.Confirm(t.Context(), "user_1", result.State); !gone || err != nil {
		t.Errorf("Confirm: got %v, %v, want true", gone, err)
	}

	h, sink, state = race(t)
	moved := sinktest.ChangeEmail("user_1", 2, "own@example.com")
	moved.State = state
	mustApply(t, sink, moved)
	if len(h.people) != 2 || owner(h) != "user_other" {
		t.Errorf("after a change of the address: %d contacts, that at the old one of %v", len(h.people), owner(h))
	}
	if p := h.byEmail["own@example.com"]; p != nil && p.properties["secret"] != nil {
		t.Errorf("what is the other user's was taken along: %v", p.properties)
	}
}

// A contact that was made is read once, before the first change, and then no more.
func TestChange_ReadsOnce(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	state := mustApply(t, sink, sinktest.ChangeEmail("user_1", 1, "ada@example.com"))
	for version, want := range []int{2, 1} {
		r := sinktest.ChangeEmail("user_1", int64(2+version), "ada@example.com")
		r.State, r.Change.User.FirstName = state, new(fmt.Sprint("Ada", version))
		before := h.Requests()
		if state = mustApply(t, sink, r); h.Requests()-before != want {
			t.Errorf("change %d: %d requests, want %d", version+1, h.Requests()-before, want)
		}
	}
}
