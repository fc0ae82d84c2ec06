package intercom_test

import (
	"strings"
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/intercom"
	"clerkconnect/sinks/resttest"
	"clerkconnect/sinks/sinktest"
)

// written returns what is remembered of a user who was written.
func written(t *testing.T, sink *intercom.Sink, r sinks.Record) []byte {
	t.Helper()
	result, err := sinktest.Apply(t, sink, r)
	if err != nil {
		t.Fatal(err)
	}
	return result.State
}

// What people edit at Intercom stays until Clerk says something new of it.
func TestUpdate_OnlyWhatChanged(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	second := sinktest.ChangeEmail("user_1", 2, "ada@example.com")
	second.State = written(t, sink, sinktest.ChangeEmail("user_1", 1, "ada@example.com"))
	p := h.byExternal["user_1"]
	h.set(p, map[string]any{"email": "edited@example.com"})
	second.Change.User.FirstName = new("Grace")
	written(t, sink, second)
	if p.values["email"] != "edited@example.com" || !strings.HasPrefix(p.values["name"].(string), "Grace") {
		t.Errorf("after a change of the name: got %v, want the address as it was edited", p.values)
	}
}

// A contact that a person has removed, or put another in the place of, is written
// whole, though only one field has changed.
func TestUpdate_ContactRemoved(t *testing.T) {
	t.Parallel()
	for name, imported := range map[string]bool{"removed": false, "imported again": true} {
		h := newImitation(t, resttest.NewClock(fast))
		sink := openSink(t, config(h))
		second := sinktest.ChangeEmail("user_1", 2, "ada@example.com")
		second.State = written(t, sink, sinktest.ChangeEmail("user_1", 1, "ada@example.com"))
		removed := h.byExternal["user_1"]
		h.forget(removed)
		delete(h.people, removed.id)
		if imported {
			other := &person{id: "6064d5464b4a359d4df671e9", values: map[string]any{}, custom: map[string]any{}, tags: map[string]bool{}}
			h.people[other.id] = other
			h.set(other, map[string]any{"external_id": "user_1"})
		}
		second.Change.User.FirstName = new("Grace")
		state := written(t, sink, second)
		p := h.byExternal["user_1"]
		if len(h.people) != 1 || p == nil || p.values["email"] != "ada@example.com" || contact.Recall(state).RemoteID != p.id {
			t.Errorf("%s: %d contacts, %+v, want one with all fields", name, len(h.people), p)
		}
	}
}

// A user without an address has a contact all the same; an address that he has no
// more is cleared; custom attributes stand apart.
func TestWrite_Fields(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	cfg := config(h)
	cfg.Properties = "email = email, name = full_name, plan = public_metadata.plan, signed_up_at = created_at"
	sink := openSink(t, cfg)
	r := sinktest.Change("user_1", 1)
	r.Change.User.PrimaryEmailAddress, r.Change.User.PublicMetadata = nil, new(`{"plan":"pro"}`)
	r.Change.User.CreatedAt = new(int64(1700000000123))
	state := written(t, sink, r)
	p := h.byExternal["user_1"]
	if _, there := p.values["email"]; there || p.custom["plan"] != "pro" || p.values["signed_up_at"] != float64(1700000000) || p.values["role"] != "user" {
		t.Fatalf("got %v and %v", p.values, p.custom)
	}
	for version, email := range map[int64]*string{2: new("ada@example.com"), 3: nil} {
		next := sinktest.Change("user_1", version)
		next.State, next.Change.User = state, r.Change.User
		next.Change.User.PrimaryEmailAddress = email
		written(t, sink, next)
	}
	if p.values["email"] != "" && p.values["email"] != "ada@example.com" {
		t.Errorf("the address is %v", p.values["email"])
	}
}

// An archived contact comes back for whose it is or was nobody's; another user's
// stays in the archive.
func TestAdopt_Archived(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	written(t, sink, sinktest.ChangeEmail("user_1", 1, "ada@example.com"))
	p := h.byExternal["user_1"]
	p.archived = true
	if _, err := sinktest.Apply(t, sink, sinktest.ChangeEmail("user_2", 1, "ada@example.com")); sinks.Classify(err).HeldBy != "user_1" || !p.archived {
		t.Errorf("another user's: got %v, archived %v, want held by user_1, and as it was", err, p.archived)
	}
	if state := written(t, sink, sinktest.ChangeEmail("user_1", 2, "ada@example.com")); p.archived || contact.Recall(state).RemoteID != p.id {
		t.Errorf("the user's own: archived %v, remembered %+v", p.archived, contact.Recall(state))
	}
}

// What happens to the contact while it is adopted: it is looked for again.
func TestAdopt_Races(t *testing.T) {
	t.Parallel()
	for name, route := range map[string]string{"removed before it is read": "GET contacts", "removed before it is written": "PUT contacts"} {
		h := newImitation(t, resttest.NewClock(fast))
		sink := openSink(t, config(h))
		lead := &person{id: "6064d5464b4a359d4df671e9", values: map[string]any{}, custom: map[string]any{}, tags: map[string]bool{}}
		h.people[lead.id] = lead
		h.set(lead, map[string]any{"email": "ada@example.com", "role": "lead"})
		h.before = func(r string) {
			if r == route {
				h.forget(lead)
				delete(h.people, lead.id)
			}
		}
		result, err := sinktest.Apply(t, sink, sinktest.ChangeEmail("user_1", 1, "ada@example.com"))
		if got := sinks.Classify(err); err == nil || got.Class != sinks.ClassRetry || got.Reason != sinks.ReasonConflict || result.Remembered {
			t.Errorf("%s: got %v, remembered %v, want to try again", name, err, result.Remembered)
		}
		h.before = nil
		written(t, sink, sinktest.ChangeEmail("user_1", 1, "ada@example.com"))
	}
}

// A conflict that does not say with whom is one all the same.
func TestConflict_WithWhom(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	written(t, sink, sinktest.ChangeEmail("user_1", 1, "ada@example.com"))
	h.silent = true
	_, err := sinktest.Apply(t, sink, sinktest.ChangeEmail("user_2", 1, "ada@example.com"))
	if got := sinks.Classify(err); err == nil || got.Class != sinks.ClassRetry || got.Reason != sinks.ReasonConflict || got.HeldBy != "" {
		t.Errorf("got %v, want a conflict with nobody named", err)
	}
}

// The external id and all that the sink has written are gone before the contact is:
// Intercom keeps it for days. An archived contact keeps them.
func TestErase_Overwrites(t *testing.T) {
	t.Parallel()
	for erasure, want := range map[intercom.Erasure]schemas.Outcome{intercom.Delete: schemas.OutcomeDeleted, intercom.Archive: schemas.OutcomeSoftDeleted} {
		h := newImitation(t, resttest.NewClock(fast))
		cfg := config(h)
		cfg.Erasure = erasure
		sink := openSink(t, cfg)
		erase := sinktest.Erase("user_1", 2)
		erase.State = written(t, sink, sinktest.ChangeEmail("user_1", 1, "ada@example.com"))
		p := h.byExternal["user_1"]
		result, err := sinktest.Apply(t, sink, erase)
		kept := p.values["external_id"] == "user_1" && p.values["email"] == "ada@example.com"
		if err != nil || result.Outcome != want || !p.archived || p.deleted != (erasure == intercom.Delete) || kept != (erasure == intercom.Archive) {
			t.Errorf("%s: got %v, %q, %+v", erasure, err, result.Outcome, p)
		}
		if got := contact.Recall(result.State); got.RemoteID != p.id || !got.Erased {
			t.Errorf("%s: remembered %+v, want the id until it is read back", erasure, got)
		}
		again := sinktest.Erase("user_1", 3)
		again.State = result.State
		before := h.Requests()
		if result, err = sinktest.Apply(t, sink, again); err != nil || result.Outcome != schemas.OutcomeNotPresent || h.Requests()-before > 2 {
			t.Errorf("%s, again: got %v, %q, %d requests", erasure, err, result.Outcome, h.Requests()-before)
		}
		p.archived = false // brought back by a person
		if gone, err := sink.Confirm(t.Context(), "user_1", result.State); gone || err != nil {
			t.Errorf("%s: Confirm of a contact that is back: got %v, %v", erasure, gone, err)
		}
	}
}

// Nothing is remembered, and the contact is there by the Clerk ID.
func TestConfirm_ByTheClerkID(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	written(t, sink, sinktest.ChangeEmail("user_1", 1, "ada@example.com"))
	if gone, err := sink.Confirm(t.Context(), "user_1", nil); gone || err != nil {
		t.Errorf("Confirm of a contact that is there: got %v, %v, want false", gone, err)
	}
}
