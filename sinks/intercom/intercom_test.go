package intercom_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/intercom"
	"clerkconnect/sinks/resttest"
	"clerkconnect/sinks/runner/storm"
	"clerkconnect/sinks/sinktest"
)

// fast is so fast that the windows of the limit do not matter to the contract's
// tests, which have no runner to wait for them.
const fast = 1e6

func config(h *imitation) intercom.Config {
	return intercom.Config{Config: contact.Config{BaseURL: h.URL}, Token: token, NewUserTag: tag}
}

func openSink(t testing.TB, cfg intercom.Config) *intercom.Sink {
	return sinktest.Open(t, intercom.New, cfg)
}

func destination(h *imitation, change func(*intercom.Config)) sinktest.Destination {
	with := func(id string, do func(*person)) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if p := h.byExternal[id]; p != nil && !p.archived {
			do(p)
		}
	}
	return sinktest.Destination{
		Sink: func(t testing.TB) sinks.Sink {
			cfg := config(h)
			change(&cfg)
			return sinktest.New(t, intercom.New, cfg)
		},
		Read: func(_ testing.TB, ids ...string) map[string]sinktest.Row {
			rows := map[string]sinktest.Row{}
			for _, id := range ids {
				with(id, func(p *person) {
					rows[id] = sinktest.Row{}
					if email := p.values["email"]; email != nil && email != "" {
						rows[id]["primary_email_address"] = email
					}
				})
			}
			return rows
		},
		Dump: func(testing.TB) []byte {
			h.mu.Lock()
			defer h.mu.Unlock()
			var dump []byte
			for _, p := range h.people {
				if !p.archived || p.deleted { // or archived, as ERASURE says
					dump = fmt.Appendf(dump, "%+v\n", *p)
				}
			}
			return dump
		},
		Break:  func(testing.TB) func() { return h.Cut() },
		Poison: func(u *schemas.User) { u.PrimaryEmailAddress = new("no address") },
		Tool: sinktest.Tool{
			Requests: h.Requests,
			Contacts: func(testing.TB) (n int) {
				h.mu.Lock()
				defer h.mu.Unlock()
				for _, p := range h.people {
					if !p.archived {
						n++
					}
				}
				return n
			},
			Page:   func(testing.TB) func() { return h.Page() },
			Revoke: func(testing.TB) func() { return h.Revoke() },
			Delete: func(_ testing.TB, id string) { with(id, func(p *person) { p.archived = true }) },
			Edit: func(_ testing.TB, id string) {
				with(id, func(p *person) { h.set(p, map[string]any{"external_id": "edited", "email": "edited@example.com"}) })
			},
			Unsubscribe: func(_ testing.TB, id string) {
				with(id, func(p *person) { p.values["unsubscribed_from_emails"] = true })
			},
			Subscribed: func(_ testing.TB, id string) (subscribed bool) {
				with(id, func(p *person) { subscribed = p.values["unsubscribed_from_emails"] != true })
				return subscribed
			},
			Welcomes: func(_ testing.TB, id string) (welcomes int) {
				with(id, func(p *person) { // putting the tag on again does nothing
					if p.tags[tagID] {
						welcomes = 1
					}
				})
				return welcomes
			},
		},
	}
}

var fields = []string{"primary_email_address"}

func TestSink(t *testing.T) {
	for erasure, outcome := range map[intercom.Erasure]schemas.Outcome{
		intercom.Delete: schemas.OutcomeDeleted, intercom.Archive: schemas.OutcomeSoftDeleted,
	} {
		t.Run(string(erasure), func(t *testing.T) {
			sinktest.Run(t, sinktest.Harness{
				Remembers: true, Fields: fields, Erased: outcome,
				New: func(t testing.TB) sinktest.Destination {
					return destination(newImitation(t, resttest.NewClock(fast)), func(cfg *intercom.Config) { cfg.Erasure = erasure })
				},
			})
		})
	}
}

func TestStorm(t *testing.T) {
	clock := resttest.NewClock(1000)
	h := newImitationOf(t, clock, nil) // 50,000 requests of the kinds that TestSink holds against it
	storm.Run(t, storm.Config{
		Harness:     sinktest.Harness{Remembers: true, Fields: fields},
		Destination: destination(h, func(cfg *intercom.Config) { cfg.Clock, cfg.ConfirmAfter = clock.Now, 15*time.Minute }),
		Server:      h.Server, Clock: clock, CallsPerUser: 5,
	})
}

// A lead with the user's address becomes the user's contact; another user's
// contact does not, and is named.
func TestConflict(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	lead := &person{id: "6064d5464b4a359d4df671e9", values: map[string]any{}, custom: map[string]any{}, tags: map[string]bool{}}
	h.people[lead.id] = lead
	h.set(lead, map[string]any{"email": "ada@example.com", "role": "lead", "external_id": "e965ec0c-c362-43de-92eb-b578a4c64a9c"})
	result, err := sinktest.Apply(t, sink, sinktest.ChangeEmail("user_1", 1, "ada@example.com"))
	if err != nil || contact.Recall(result.State).RemoteID != lead.id || lead.values["role"] != "user" || len(h.people) != 1 {
		t.Errorf("a lead: got %v, %+v", err, lead.values)
	}
	if _, err := sinktest.Apply(t, sink, sinktest.ChangeEmail("user_2", 1, "ada@example.com")); sinks.Classify(err).HeldBy != "user_1" {
		t.Errorf("another user's contact: got %v, want held by user_1", err)
	}
	grace, err := sinktest.Apply(t, sink, sinktest.ChangeEmail("user_3", 1, "grace@example.com"))
	if err != nil {
		t.Fatal(err)
	}
	moved := sinktest.ChangeEmail("user_3", 2, "ada@example.com")
	moved.State = grace.State
	if _, err := sinktest.Apply(t, sink, moved); sinks.Classify(err).HeldBy != "user_1" || strings.Contains(err.Error(), "example.com") {
		t.Errorf("another user's address: got %v, want held by user_1, without the address", err)
	}
}

// Whoever deletes an account and signs up again with the same address has a
// contact at once, though Intercom keeps the deleted one for days.
func TestErasure_AddressIsFree(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	if _, err := sinktest.Apply(t, sink, sinktest.ChangeEmail("user_1", 1, "ada@example.com")); err != nil {
		t.Fatal(err)
	}
	// Nothing is remembered: first it notes whom it is about to delete.
	first, err := sinktest.ApplyOnce(t, sink, sinktest.Erase("user_1", 2))
	if !errors.Is(err, sinks.ErrRememberFirst) || h.byExternal["user_1"] == nil {
		t.Fatalf("an erasure of a contact that is not remembered: got %v, want it remembered first, and nothing done", err)
	}
	erase := sinktest.Erase("user_1", 2)
	erase.State = first.State
	if _, err := sinktest.Apply(t, sink, erase); err != nil {
		t.Fatal(err)
	}
	if _, err := sinktest.Apply(t, sink, sinktest.ChangeEmail("user_2", 1, "ada@example.com")); err != nil {
		t.Errorf("the same address again: %v", err)
	}
}

// A contact that Intercom is about to delete by somebody else's hand stands in the
// way until it is gone.
func TestConflict_MarkedForDeletion(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	if _, err := sinktest.Apply(t, sink, sinktest.ChangeEmail("user_1", 1, "ada@example.com")); err != nil {
		t.Fatal(err)
	}
	p := h.byExternal["user_1"]
	p.archived, p.deleted = true, true
	_, err := sinktest.Apply(t, sink, sinktest.ChangeEmail("user_1", 2, "ada@example.com"))
	if got := sinks.Classify(err); got.Reason != sinks.ReasonConflict || got.Class != sinks.ClassRetry {
		t.Errorf("got %v, want a conflict to wait for", err)
	}
	if err == nil || !strings.Contains(err.Error(), "up to 7 days") {
		t.Errorf("got %v, want it to say how long", err)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	cfg := config(h)
	cfg.Properties, cfg.NewUserTag = "email = email, plan = public_metadata.plan, seats = public_metadata.seats", "no such tag"
	sink, err := intercom.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = sink.Open(t.Context())
	sinktest.ExpectClass(t, "an attribute that is not declared", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
	if !strings.Contains(err.Error(), "seats") || strings.Contains(err.Error(), "plan") {
		t.Errorf("got %v, want seats named alone", err)
	}
	h.attributes = append(h.attributes, "seats")
	err = sink.Open(t.Context())
	sinktest.ExpectClass(t, "a tag that is not there", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
}

func TestInit(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	cfg := config(h)
	cfg.Properties = "email = email, seats = public_metadata.seats"
	sink, err := intercom.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // it may run twice
		if err := sink.Init(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(h.attributes, " "); got != "name email plan seats" {
		t.Errorf("attributes after Init: %s", got)
	}
	if script := sink.InitScript(); !strings.Contains(script, "seats") || !strings.Contains(script, tag) || strings.Contains(script, token) {
		t.Errorf("InitScript: got %s", script)
	}
	if err := sink.Open(t.Context()); err != nil {
		t.Errorf("Open after Init: %v", err)
	}
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	err := intercom.Config{
		Config: contact.Config{Properties: "unsubscribed_from_emails = true, external_id = id"}, APIVersion: "two", Erasure: "maybe",
	}.Validate()
	for _, text := range []string{"unsubscribed_from_emails", "external_id", "TOKEN", "API_VERSION", "ERASURE"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("Validate says nothing of %s: %v", text, err)
		}
	}
}
