package salesforce_test

import (
	"errors"
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/resttest"
	"clerkconnect/sinks/salesforce"
	"clerkconnect/sinks/sinktest"
)

// next is a change of the same user, with what was remembered of the one before.
func next(before sinks.Record, version int64) sinks.Record {
	r := sinks.Track(sinktest.Change(before.ClerkID, version))
	r.State = before.Result().State
	r.Change.User = before.Change.User
	return r
}

// user is a change of a user with an address of his own.
func user(id string) sinks.Record {
	r := sinks.Track(sinktest.Change(id, 1))
	r.Change.User.PrimaryEmailAddress = new(id + "@example.com")
	return r
}

func itemError(t *testing.T, err error, place int) sinks.Error {
	t.Helper()
	var listed *sinks.BatchError
	if !errors.As(err, &listed) || listed.Failed(place) == nil {
		t.Fatalf("got %v, want an error of record %d", err, place)
	}
	return sinks.Classify(listed.Failed(place))
}

// What people edit at Salesforce stays until Clerk says something new of it.
func TestUpsert_OnlyWhatChanged(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	first := sinks.Track(sinktest.Change("user_1", 1))
	sinktest.MustApply(t, sink, first)
	c := h.byKey("user_1")
	h.change(c, func() { c.fields["LastName"], c.fields["Email"] = "Edited", "edited@example.com" })
	second := next(first, 2)
	second.Change.User.FirstName = new("Grace")
	sinktest.MustApply(t, sink, second)
	if got := c.fields; got["FirstName"] != "Grace" || got["LastName"] != "Edited" || got["Email"] != "edited@example.com" {
		t.Errorf("after a change of the first name: got %v, want the rest as it was edited", got)
	}
}

// A removed record that one changed field is enough to create is written whole
// all the same.
func TestUpsert_RecordRemoved_OneFieldCreates(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	first := sinks.Track(sinktest.Change("user_1", 1))
	sinktest.MustApply(t, sink, first)
	removed := h.byKey("user_1")
	h.change(removed, func() { removed.deleted = true })
	second := next(first, 2)
	second.Change.User.LastName = new("Hopper") // which is all that a contact must have
	sinktest.MustApply(t, sink, second)
	if c := h.byKey("user_1"); c == nil || c.fields["LastName"] != "Hopper" || c.fields["Email"] != *second.Change.User.PrimaryEmailAddress {
		t.Errorf("after a change to a record that was removed: got %+v, want all fields", c)
	}
}

// So is one of which an attempt that died has written a part.
func TestUpsert_RecordRemoved_PartIsThere(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	first := sinks.Track(sinktest.Change("user_1", 1))
	sinktest.MustApply(t, sink, first)
	removed := h.byKey("user_1")
	h.change(removed, func() { removed.deleted = true })
	h.add("003part", map[string]any{keyField: "user_1", "LastName": "Hopper"})
	second := next(first, 2)
	second.Change.User.LastName = new("Hopper")
	sinktest.MustApply(t, sink, second)
	if c := h.records["003part"]; c.fields["Email"] != *second.Change.User.PrimaryEmailAddress {
		t.Errorf("got %v, want all fields", c.fields)
	}
}

// The record that is adopted is written whole, also in place of one that was removed.
func TestAdopt_Whole(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	first := sinks.Track(sinktest.Change("user_1", 1))
	first.Change.User.FirstName = new("Ada")
	sinktest.MustApply(t, sink, first)
	removed := h.byKey("user_1")
	h.change(removed, func() { removed.deleted = true })
	h.add("003form", map[string]any{"Email": "new@example.com", "LastName": "From a form"})
	second := next(first, 2)
	second.Change.User.PrimaryEmailAddress, second.Change.User.LastName = new("new@example.com"), new("Hopper")
	sinktest.MustApply(t, sink, second)
	if got := h.records["003form"].fields; got[keyField] != "user_1" || got["FirstName"] != "Ada" || got["LastName"] != "Hopper" {
		t.Errorf("the adopted record has %v, want all fields", got)
	}
}

// A user who has a record already cannot have a second: the key is unique. What
// Salesforce refuses of an adoption is not taken for done.
func TestAdopt_Refused(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	first := sinks.Track(sinktest.Change("user_1", 1))
	sinktest.MustApply(t, sink, first)
	h.add("003form", map[string]any{"Email": "new@example.com", "LastName": "From a form"})
	second := next(first, 2)
	second.Change.User.PrimaryEmailAddress = new("new@example.com")
	if got := itemError(t, sink.Apply(t.Context(), []sinks.Record{second}), 0); got.Class != sinks.ClassRetry || got.Reason != sinks.ReasonConflict {
		t.Errorf("a second record of one user: got %v, want a conflict", got.Err)
	}
	if second.Result().Remembered {
		t.Errorf("a refused adoption is remembered as %+v", contact.Recall(second.Result().State))
	}
	h.refuses["PATCH 003form"] = "INSUFFICIENT_ACCESS_OR_READONLY"
	err := sink.Apply(t.Context(), []sinks.Record{next(second, 3)})
	var listed *sinks.BatchError
	if errors.As(err, &listed) {
		t.Errorf("a right that is missing: got %v as the error of a record, want it of all", err)
	}
	sinktest.ExpectClass(t, "a right that is missing", err, sinks.ClassFatal, sinks.ReasonUnauthorized)
}

// An answer that lacks a result says nothing of anybody.
func TestUpsert_AnswerCutShort(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	h.short = true
	batch := []sinks.Record{user("user_1"), user("user_2")}
	sinktest.ExpectClass(t, "one result for two records", sink.Apply(t.Context(), batch), sinks.ClassRetry, sinks.ReasonUnavailable)
	for _, r := range batch {
		if r.Result().Remembered {
			t.Errorf("%s is remembered as written", r.ClerkID)
		}
	}
}

// An erasure that Salesforce refuses is still owed, one by one; the others count.
func TestErase_Refused(t *testing.T) {
	t.Parallel()
	for _, erasure := range []salesforce.Erasure{salesforce.Delete, salesforce.Scrub} {
		for _, method := range []string{"DELETE ", "PATCH "} {
			if method == "PATCH " && erasure == salesforce.Delete {
				continue
			}
			h := newImitation(t, resttest.NewClock(fast))
			cfg := config(h)
			cfg.Erasure = erasure
			sink := openSink(t, cfg)
			sinktest.MustApply(t, sink, user("user_1"), user("user_2"))
			locked := h.byKey("user_2")
			h.refuses[method+locked.id] = "UNABLE_TO_LOCK_ROW"
			erased, owed := sinks.Track(sinktest.Erase("user_1", 2)), sinks.Track(sinktest.Erase("user_2", 2))
			if got := itemError(t, sink.Apply(t.Context(), []sinks.Record{erased, owed}), 1); got.Class != sinks.ClassRetry {
				t.Errorf("%s, %s: got %v, want to try again", erasure, method, got.Err)
			}
			if owed.Result().Outcome != "" || erased.Result().Outcome == "" || h.byKey("user_1") != nil || locked.deleted {
				t.Errorf("%s, %s: outcomes %q and %q, the locked record deleted %v", erasure, method, erased.Result().Outcome, owed.Result().Outcome, locked.deleted)
			}
		}
	}
}

// A record whose id was lost is found by the Clerk ID, and its id kept until the
// erasure is read back: the Clerk ID may go with a scrub, or by hand.
func TestErase_KeepsTheFoundID(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	c := h.byKey("user_1")
	erase := sinks.Track(sinktest.Erase("user_1", 2))
	sinktest.MustApply(t, sink, erase)
	if got := erase.Result(); contact.Recall(got.State).RemoteID != c.id || got.Outcome != schemas.OutcomeSoftDeleted {
		t.Fatalf("got %q and memory %+v, want the id %s", got.Outcome, contact.Recall(got.State), c.id)
	}
	h.change(c, func() { c.deleted = false; delete(c.fields, keyField) }) // brought back by a person, without its key
	if gone, err := sink.Confirm(t.Context(), "user_1", erase.Result().State); gone || err != nil {
		t.Errorf("Confirm of a record that is back: got %v, %v, want false", gone, err)
	}
}

// Nothing is remembered, and the record is there by its Clerk ID.
func TestConfirm_ByTheClerkID(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	sinktest.MustApply(t, sink, user("user_1"))
	if gone, err := sink.Confirm(t.Context(), "user_1", nil); gone || err != nil {
		t.Errorf("Confirm of a record that is there: got %v, %v, want false", gone, err)
	}
}

// What somebody has typed stays a value in a query.
func TestAdopt_AddressWithQuotes(t *testing.T) {
	t.Parallel()
	for _, email := range []string{`o'hara@example.com`, `back\slash'@example.com`} {
		h := newImitation(t, resttest.NewClock(fast))
		sink := openSink(t, config(h))
		h.add("003form", map[string]any{"Email": email, "LastName": "From a form"})
		r := sinks.Track(sinktest.Change("user_1", 1))
		r.Change.User.PrimaryEmailAddress = &email
		sinktest.MustApply(t, sink, r)
		if got := h.records["003form"].fields[keyField]; got != "user_1" {
			t.Errorf("the record with the address %s has the Clerk ID %v", email, got)
		}
	}
}

// A token that is refused however often it is made anew stops the sink, after one
// login more; an answer without a token, or with a page, is tried again.
func TestLogin_Refused(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	h.stale = true
	sinktest.ExpectClass(t, "a token that is always refused", sink.Apply(t.Context(), []sinks.Record{user("user_1")}), sinks.ClassFatal, sinks.ReasonUnauthorized)
	if h.tokens != 2 {
		t.Errorf("got %d logins, want 2", h.tokens)
	}
	h.stale = false
	for name, grant := range map[string]object{
		"no token":    {"instance_url": h.URL},
		"no instance": {"access_token": "token-x"},
		"no address":  {"access_token": "token-x", "instance_url": "acme"},
	} {
		h.grant = grant
		sinktest.ExpectClass(t, name, sink.Apply(t.Context(), []sinks.Record{user("user_1")}), sinks.ClassRetry, sinks.ReasonUnavailable)
	}
	h.grant = nil
	sinktest.MustApply(t, sink, user("user_1"))
}
