package sendgrid_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/resttest"
	"clerkconnect/sinks/runner/storm"
	"clerkconnect/sinks/sendgrid"
	"clerkconnect/sinks/sinktest"
)

// fast is so fast that windows and delays do not matter to the contract's tests,
// which have no runner to wait for them.
const fast = 1e7

func config(h *imitation) sendgrid.Config {
	return sendgrid.Config{Config: contact.Config{BaseURL: h.URL}, APIKey: apiKey, NewUserList: newUsers}
}

func openSink(t testing.TB, h *imitation, change ...func(*sendgrid.Config)) *sendgrid.Sink {
	t.Helper()
	cfg := config(h)
	for _, c := range change {
		c(&cfg)
	}
	sink := sinktest.New(t, sendgrid.New, cfg)
	sink.Pace(pace{h.clock})
	if err := sink.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	return sink
}

// destination shows these fields of contacts.
func destination(h *imitation, shown []string, change func(*sendgrid.Config)) sinktest.Destination {
	with := func(id string, do func(*person)) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if p := h.byKey[id]; p != nil {
			do(p)
		}
	}
	return sinktest.Destination{
		Sink: func(t testing.TB) sinks.Sink {
			cfg := config(h)
			change(&cfg)
			sink, err := sendgrid.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			sink.Pace(pace{h.clock})
			return sink
		},
		Read: func(_ testing.TB, ids ...string) map[string]sinktest.Row {
			rows := map[string]sinktest.Row{}
			for _, id := range ids {
				with(id, func(p *person) { rows[id] = row(p, shown) })
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
		Tool: sinktest.Tool{
			Requests: h.Requests,
			Contacts: func(testing.TB) int {
				h.mu.Lock()
				defer h.mu.Unlock()
				return len(h.people)
			},
			Page:   func(testing.TB) func() { return h.Page() },
			Revoke: func(testing.TB) func() { return h.Revoke() },
			Delete: func(_ testing.TB, id string) { with(id, h.delete) },
			Edit: func(_ testing.TB, id string) { // the address cannot be edited there
				with(id, func(p *person) {
					h.change(p, func() { p.values, p.custom = map[string]any{"first_name": "Edited"}, map[string]any{} })
				})
			},
			Welcomes: func(_ testing.TB, id string) (n int) {
				with(id, func(p *person) {
					if p.lists[newUsers] {
						n = 1
					}
				})
				return n
			},
		},
	}
}

func row(p *person, shown []string) sinktest.Row {
	row := sinktest.Row{"primary_email_address": p.sent}
	for _, name := range shown {
		if value := p.values[name]; value != nil && value != "" {
			row[name] = value
		}
	}
	return row
}

var fields = []string{"primary_email_address", "first_name", "last_name"}

// suited are those that the suite compares: its first names are longer than
// SendGrid takes, see TestCut.
var suited = []string{"primary_email_address", "last_name"}

func TestSink(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{
		Remembers: true, NeedsEmail: true,
		Fields: suited,
		New: func(t testing.TB) sinktest.Destination {
			return destination(newImitation(t, resttest.NewClock(fast), true), suited, func(*sendgrid.Config) {})
		},
	})
}

func TestStorm(t *testing.T) {
	clock := resttest.NewClock(1000)
	h := newImitation(t, clock, false)
	storm.Run(t, storm.Config{
		Harness:     sinktest.Harness{Remembers: true, NeedsEmail: true, Fields: fields},
		Destination: destination(h, fields, func(cfg *sendgrid.Config) { cfg.Clock, cfg.ConfirmAfter = clock.Now, time.Hour }),
		Server:      h.Server, Clock: clock, CallsPerUser: 0.3,
	})
}

func named(id string, version int64, email string) sinks.Record {
	return sinks.Track(sinktest.ChangeEmail(id, version, email))
}

// settle applies a record of whose user state is remembered, as the runner does.
func settle(t *testing.T, sink *sendgrid.Sink, r sinks.Record, state []byte) (sinks.Result, error) {
	t.Helper()
	r.State = state
	return sinktest.Apply(t, sink, r)
}

// One address that SendGrid refuses costs the others nothing but a second request.
func TestUpsert_RefusedAddress(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast), true)
	sink := openSink(t, h)
	var batch []sinks.Record
	for i := range 10 {
		email := fmt.Sprintf("user%d@example.com", i)
		if i == 3 {
			email = "refused@nowhere"
		}
		r := named(fmt.Sprintf("user_%d", i), 1, email)
		state, err := settle(t, openSink(t, newImitation(t, resttest.NewClock(fast), true)), named(r.ClerkID, 1, fmt.Sprintf("user%d@example.com", i)), nil)
		if err != nil {
			t.Fatal(err)
		}
		memory := contact.Recall(state.State)
		memory.Email, memory.Creating, memory.Sent = strings.ToLower(email), true, nil
		memory.Remember(r)
		r.State = r.Result().State
		batch = append(batch, sinks.Track(r))
	}
	err := sink.Apply(t.Context(), batch)
	var listed *sinks.BatchError
	if !errors.As(err, &listed) || listed.Len() != 1 || sinks.Classify(listed.Failed(3)).Class != sinks.ClassPermanent || strings.Contains(err.Error(), "address") {
		t.Errorf("got %v, want the fourth refused for good, without its address", err)
	}
	if len(h.people) != 9 || h.puts != 2 {
		t.Errorf("got %d contacts by %d requests, want 9 by 2", len(h.people), h.puts)
	}
}

// An address of another user's is waited for, and both are told apart.
func TestChange_AddressOfAnother(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast), true)
	sink := openSink(t, h)
	if _, err := settle(t, sink, named("user_1", 1, "ada@example.com"), nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Millisecond) // of which the clock makes hours
	if _, err := settle(t, sink, named("user_2", 1, "Ada@example.com"), nil); sinks.Classify(err).HeldBy != "user_1" {
		t.Errorf("got %v, want held by user_1", err)
	}
	if h.people["ada@example.com"].custom["clerk_user_id"] != "user_1" {
		t.Errorf("the contact was taken over: %v", h.people["ada@example.com"].custom)
	}
}

// Of two users in one batch one has the address.
func TestChange_AddressOfTwoAtOnce(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast), true)
	var batch []sinks.Record
	for _, id := range []string{"user_1", "user_2"} {
		r := named(id, 1, "shared@example.com")
		contact.Memory{Email: "shared@example.com", Creating: true}.Remember(r)
		r.State = r.Result().State
		batch = append(batch, sinks.Track(r))
	}
	err := openSink(t, h).Apply(t.Context(), batch)
	var listed *sinks.BatchError
	if !errors.As(err, &listed) || listed.Len() != 1 || sinks.Classify(listed.Failed(1)).HeldBy != "user_1" || h.people["shared@example.com"].custom["clerk_user_id"] != "user_1" {
		t.Errorf("got %v, want the second held by the first", err)
	}
}

// What people edit stays until Clerk says something new, also what they have written
// over the Clerk ID.
func TestChange_WhatPeopleEdit(t *testing.T) {
	t.Parallel()
	for _, owner := range []any{"user_1", "edited"} {
		h := newImitation(t, resttest.NewClock(fast), true)
		sink := openSink(t, h)
		made, err := settle(t, sink, named("user_1", 1, "ada@example.com"), nil)
		if err != nil {
			t.Fatal(err)
		}
		p := h.people["ada@example.com"]
		h.change(p, func() { p.values["last_name"], p.custom["clerk_user_id"] = "Edited", owner })
		r := named("user_1", 2, "ada@example.com")
		r.Change.User.FirstName, r.Change.User.LastName = new("Grace"), named("user_1", 1, "").Change.User.LastName
		changed, err := settle(t, sink, r, made.State)
		if err != nil || p.values["first_name"] != "Grace" || p.custom["clerk_user_id"] != "user_1" {
			t.Fatalf("a change of one that is edited: %v, %v, %v", err, p.values, p.custom)
		}
		if kept := p.values["last_name"] == "Edited"; kept != (owner == "user_1") {
			t.Errorf("last name %v, of %v", p.values["last_name"], owner)
		}
		h.change(p, func() { p.custom["clerk_user_id"] = owner })
		if erased, err := settle(t, sink, sinktest.Erase("user_1", 3), changed.State); err != nil || erased.Outcome != schemas.OutcomeDeleted {
			t.Errorf("the erasure: %v, %v", erased.Outcome, err)
		}
	}
}

// A person deletes a contact, and another user gets one at its address. That one is
// not the first user's: it is left alone when he leaves the address, or is erased.
func TestContactOfAnother_IsLeftAlone(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast), true)
	sink := openSink(t, h)
	made, err := settle(t, sink, named("user_1", 1, "ada@example.com"), nil)
	if err != nil {
		t.Fatal(err)
	}
	h.delete(h.people["ada@example.com"])
	if _, err := settle(t, sink, named("user_2", 1, "ada@example.com"), nil); err != nil {
		t.Fatal(err)
	}
	if erased, err := settle(t, sink, sinktest.Erase("user_1", 2), made.State); err != nil || erased.Outcome != schemas.OutcomeNotPresent {
		t.Errorf("the erasure of the first: %v, %v", erased.Outcome, err)
	}
	if gone, err := sink.Confirm(t.Context(), "user_1", made.State); !gone || err != nil {
		t.Errorf("Confirm of the first: %v, %v", gone, err)
	}
	moved, err := settle(t, sink, named("user_1", 2, "own@example.com"), made.State)
	if p := h.people["ada@example.com"]; err != nil || p == nil || p.custom["clerk_user_id"] != "user_2" || contact.Recall(moved.State).Extra != nil {
		t.Errorf("the first leaves: %v, and the second's contact is %+v", err, p)
	}
}

// Two users take one address while SendGrid shows neither: the later one has it, and
// the other's next change says so instead of taking the contact back. When the
// address is free, his contact is written whole.
func TestChange_AddressOfTwoUnseen(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast), true)
	h.hidden = true
	sink := openSink(t, h)
	change := func(id string, version int64, name string) sinks.Record {
		r := named(id, version, "shared@example.com")
		r.Change.User.FirstName = &name
		return r
	}
	states := map[string][]byte{}
	for _, id := range []string{"user_1", "user_2"} {
		made, err := settle(t, sink, change(id, 1, "First"), nil)
		if err != nil {
			t.Fatal(err)
		}
		states[id] = made.State
	}
	p := h.people["shared@example.com"]
	p.visible = time.Time{} // half a minute later
	if len(h.people) != 1 || p.custom["clerk_user_id"] != "user_2" {
		t.Fatalf("%d contacts, of %v", len(h.people), p.custom["clerk_user_id"])
	}
	_, err := settle(t, sink, change("user_1", 2, "Second"), states["user_1"])
	if sinks.Classify(err).HeldBy != "user_2" || p.custom["clerk_user_id"] != "user_2" || p.values["first_name"] != "First" {
		t.Errorf("a change of the one who came first: got %v, and the contact is of %v", err, p.custom["clerk_user_id"])
	}
	changed, err := settle(t, sink, change("user_2", 2, "Grace"), states["user_2"])
	if err != nil || p.values["first_name"] != "Grace" || contact.Recall(changed.State).Extra != nil {
		t.Errorf("a change of the one who has it: got %v, %v, remembered %+v", err, p.values, contact.Recall(changed.State))
	}
	delete(h.people, "shared@example.com") // the other has left
	if _, err := settle(t, sink, change("user_1", 3, "Third"), states["user_1"]); err != nil {
		t.Fatal(err)
	}
	if p := h.people["shared@example.com"]; p == nil || p.custom["clerk_user_id"] != "user_1" || p.values["last_name"] == nil {
		t.Errorf("when the address is free: got %+v, want all fields", p)
	}
}

// A contact that cannot be seen yet is found when the erasure is read back.
func TestErasure_BeforeItIsSeen(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast), true)
	h.hidden = true
	sink := openSink(t, h)
	made, err := settle(t, sink, named("user_1", 1, "ada@example.com"), nil)
	if err != nil {
		t.Fatal(err)
	}
	erased, err := settle(t, sink, sinktest.Erase("user_1", 2), made.State)
	if err != nil || erased.Outcome != schemas.OutcomeNotPresent {
		t.Fatalf("an erasure at once: got %v, %v", erased.Outcome, err)
	}
	h.people["ada@example.com"].visible = time.Time{} // half a minute later
	if gone, err := sink.Confirm(t.Context(), "user_1", erased.State); gone || err != nil {
		t.Fatalf("Confirm: got %v, %v, want false", gone, err)
	}
	again, err := settle(t, sink, sinktest.Erase("user_1", 2), erased.State)
	if err != nil || again.Outcome != schemas.OutcomeDeleted || len(h.people) != 0 {
		t.Errorf("the erasure again: got %v, %v, %d contacts left", again.Outcome, err, len(h.people))
	}
}

func TestOpen_FieldsAndInit(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast), true)
	cfg := config(h)
	cfg.Properties = "first_name = first_name, plan = public_metadata.plan, seats = public_metadata.seats"
	sink, err := sendgrid.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = sink.Open(t.Context())
	sinktest.ExpectClass(t, "a field that is not there", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
	if !strings.Contains(err.Error(), "seats") || strings.Contains(err.Error(), "plan") {
		t.Errorf("got %v, want seats named alone", err)
	}
	for range 2 { // it may run twice
		if err := sink.Init(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.fields) != 4 || !strings.Contains(sink.InitScript(), "seats") {
		t.Errorf("fields after Init: %v", h.fields)
	}
	if err := sink.Open(t.Context()); err != nil {
		t.Errorf("Open after Init: %v", err)
	}
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	err := sendgrid.Config{Config: contact.Config{Properties: "email = email, unsubscribed = true"}, KeyField: "first_name"}.Validate()
	for _, text := range []string{"\"email\"", "unsubscribed", "API_KEY", "KEY_FIELD"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("Validate says nothing of %s: %v", text, err)
		}
	}
}

// A name that is longer than SendGrid takes is cut, by characters.
func TestCut(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast), true)
	r := named("user_1", 1, "ada@example.com")
	r.Change.User.FirstName = new(strings.Repeat("\U0001F984", 60))
	if _, err := settle(t, openSink(t, h), r, nil); err != nil {
		t.Fatal(err)
	}
	if got := h.people["ada@example.com"].values["first_name"]; got != strings.Repeat("\U0001F984", 50) {
		t.Errorf("got %q, want 50 characters", got)
	}
}

// A contact that could not be seen when its user left the address is deleted when it
// can: with his next change, or his erasure.
func TestLeave_BeforeItIsSeen(t *testing.T) {
	t.Parallel()
	for _, next := range []sinks.Record{named("user_1", 3, "new@example.com"), sinktest.Erase("user_1", 3)} {
		h := newImitation(t, resttest.NewClock(fast), true)
		h.hidden = true
		sink := openSink(t, h)
		made, err := settle(t, sink, named("user_1", 1, "old@example.com"), nil)
		if err != nil {
			t.Fatal(err)
		}
		moved, err := settle(t, sink, named("user_1", 2, "new@example.com"), made.State)
		if err != nil || len(h.people) != 2 {
			t.Fatalf("a new address: %v, %d contacts; want both, for the old one is not to be seen", err, len(h.people))
		}
		for _, p := range h.people {
			p.visible = time.Time{}
		}
		want := 0
		if next.Change != nil {
			next.Change.User.FirstName, want = new("Grace"), 1
		}
		last, err := settle(t, sink, next, moved.State)
		if err != nil || len(h.people) != want || h.people["old@example.com"] != nil {
			t.Errorf("what comes next: %v, %d contacts, want %d", err, len(h.people), want)
		}
		if memory := contact.Recall(last.State); want == 1 && memory.Extra != nil {
			t.Errorf("still remembered: %v", memory.Extra)
		}
	}
}

// What plainly is no address, or one that SendGrid cannot be asked for, is not sent.
// What it takes for none beside others, in an erasure too, nobody has.
func TestAddress_CannotBeFound(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast), true)
	sink := openSink(t, h)
	before := h.Requests()
	for _, email := range []string{"ada", "@example.com", "ada@", "a b@example.com", strings.Repeat("x", 89) + "@example.com"} {
		_, err := settle(t, sink, named("user_1", 1, email), nil)
		sinktest.ExpectClass(t, "an address that cannot be found", err, sinks.ClassPermanent, sinks.ReasonInvalidRecord)
	}
	if h.Requests() != before {
		t.Errorf("%d requests for them, want none", h.Requests()-before)
	}
	refused, err := settle(t, sink, named("user_1", 1, "ada@nowhere"), nil)
	sinktest.ExpectClass(t, "an address that SendGrid refuses", err, sinks.ClassPermanent, sinks.ReasonInvalidRecord)
	moved, err := settle(t, sink, named("user_1", 2, "ada@example.com"), refused.State)
	if err != nil || h.people["ada@example.com"] == nil {
		t.Fatalf("a right address after that: %v, %v", err, h.people)
	}
	if erased, err := settle(t, sink, sinktest.Erase("user_1", 3), moved.State); err != nil || erased.Outcome != schemas.OutcomeDeleted {
		t.Errorf("the erasure of one with a wrong address behind him: %v, %v", erased.Outcome, err)
	}
}
