package sinktest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// mostState is how much the runner keeps of a user.
const mostState = 4 << 10

// named returns a user with that name and that address.
func named(name, email string) *schemas.User {
	u := plainUser(name)
	email = address(email)
	u.PrimaryEmailAddress = &email
	(*u.EmailAddresses)[0].EmailAddress = email
	return u
}

func toolIsWhole(t testing.TB, h Harness) {
	d := h.New(t)
	sink := d.Sink(t)
	if _, ok := sink.(sinks.Confirmer); !ok {
		t.Errorf("the sink cannot read an erasure back: a tool's must")
	}
	if d.Requests == nil || d.Contacts == nil || d.Revoke == nil || d.Page == nil || d.Edit == nil {
		t.Fatalf("the harness lacks Requests, Contacts, Revoke, Page or Edit")
	}
	if limit := sink.Capabilities().Limit; limit.Requests < 1 || limit.Window <= 0 {
		t.Errorf("Capabilities.Limit: got %+v, want the vendor's", limit)
	}
}

func toolRemembers(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	apply(t, sink, upsert(id, at(1), FullUser(1)))
	if size := len(d.kept.state(id)); size == 0 || size > mostState {
		t.Errorf("after a change the sink remembers %d bytes, want 1 to %d", size, mostState)
	}
}

// What the tool has already costs nothing, however the user got a new version.
func toolUnchangedCostsNoCall(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	u := FullUser(1)
	apply(t, sink, upsert(id, at(1), u))
	other := *u
	moved := int64(1800000000000)
	other.LastActiveAt, other.LastSignInAt, other.UpdatedAt = &moved, &moved, &moved
	for i, same := range []*schemas.User{u, &other} {
		if i == 1 && h.row(u).diff(h.row(&other)) != "" {
			continue // the tool holds one of these fields
		}
		before, again := d.Requests(), upsert(id, at(int64(2+i)), same)
		apply(t, sink, again)
		if calls := d.Requests() - before; calls != 0 || !again.Result().Unchanged {
			t.Errorf("Apply of what the tool has: got %d requests, unchanged %v, want none and true", calls, again.Result().Unchanged)
		}
	}
	h.expect(t, d, id, u)
	changed := upsert(id, at(9), FullUser(2))
	apply(t, sink, changed)
	if changed.Result().Unchanged {
		t.Errorf("Apply of a change: got unchanged")
	}
	h.expect(t, d, id, FullUser(2))
}

// New, changed, unchanged, erased and unknown users in one batch.
func toolMixedBatch(t testing.TB, h Harness) {
	d := h.New(t)
	sink := opened(t, d)
	fresh, newer, same, erased, unknown := newID(), newID(), newID(), newID(), newID()
	apply(t, sink, upsert(newer, at(1), named("old", newer)), upsert(same, at(1), named("same", same)), upsert(erased, at(1), named("old", erased)))
	batch := []sinks.Record{
		upsert(same, at(2), named("same", same)), erasure(unknown, at(2), false), upsert(newer, at(2), named("newer", newer)),
		tombstone(erased, at(2)), upsert(fresh, at(1), named("fresh", fresh)),
	}
	apply(t, sink, batch...)
	for id, want := range map[string]*schemas.User{
		fresh: named("fresh", fresh), newer: named("newer", newer), same: named("same", same), erased: nil, unknown: nil,
	} {
		h.expect(t, d, id, want)
	}
	for i, want := range []sinks.Result{{Unchanged: true}, {Outcome: schemas.OutcomeNotPresent}, {}, {Outcome: h.erased(false)}, {}} {
		if got := batch[i].Result(); got.Unchanged != want.Unchanged || got.Outcome != want.Outcome || got.Superseded || got.Skipped {
			t.Errorf("result of record %d: got %+v, want %+v", i, got, want)
		}
	}
}

func toolEmailChange(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	apply(t, sink, upsert(id, at(1), named("ada", "first")))
	for i, email := range []string{"second", "third", "first"} {
		apply(t, sink, upsert(id, at(int64(2+i)), named("ada", email)))
		h.expect(t, d, id, named("ada", email))
		if n := d.Contacts(t); n != 1 {
			t.Fatalf("after a change of the address: %d contacts, want 1", n)
		}
	}
}

// Two users hold one address for a while. The second may have to wait, and
// nobody is lost or merged into another.
func toolAddressMoves(t testing.TB, h Harness) {
	d := h.New(t)
	sink, one, other := opened(t, d), newID(), newID()
	apply(t, sink, upsert(one, at(1), named("one", "shared")))
	taking := upsert(other, at(1), named("other", "shared"))
	if err := sink.Apply(t.Context(), []sinks.Record{taking}); err != nil {
		failure(t, err)
		if single := singleOf(err); single.Class == sinks.ClassFatal || single.Reason != sinks.ReasonConflict {
			t.Errorf("Apply of an address that another user holds: got %v, want a conflict", err)
		}
	}
	h.expect(t, d, one, named("one", "shared"))
	apply(t, sink, upsert(one, at(2), named("one", "own")))
	apply(t, sink, upsert(other, at(2), named("other", "shared")))
	h.expect(t, d, one, named("one", "own"))
	h.expect(t, d, other, named("other", "shared"))
	if n := d.Contacts(t); n != 2 {
		t.Errorf("after an address has moved: %d contacts, want 2", n)
	}
}

// singleOf classifies the error of a batch of one.
func singleOf(err error) sinks.Error {
	//nolint:errorlint // the contract is about the error itself
	if batch, ok := err.(*sinks.BatchError); ok {
		err = batch.Failed(0)
	}
	return sinks.Classify(err)
}

func toolSkipsWithoutEmail(t testing.TB, h Harness) {
	d := h.New(t)
	if !h.NeedsEmail {
		t.Skip("the tool takes users without an e-mail address")
	}
	sink, id := opened(t, d), newID()
	u := plainUser("ada")
	u.PrimaryEmailAddress = nil
	before, record := d.Requests(), upsert(id, at(1), u)
	apply(t, sink, record)
	if calls := d.Requests() - before; calls != 0 || !record.Result().Skipped {
		t.Errorf("Apply of a user without an address: got %d requests, skipped %v, want none and true", calls, record.Result().Skipped)
	}
	apply(t, sink, upsert(id, at(2), plainUser("ada")))
	h.expect(t, d, id, plainUser("ada"))
}

// The process dies after the tool has answered and before Kafka knows.
func toolCrashMakesNoSecondContact(t testing.TB, h Harness) {
	d := h.New(t)
	first, second, id := opened(t, d), opened(t, d), newID()
	d.kept.lose(true)
	apply(t, first, upsert(id, at(1), named("ada", "first")))
	d.kept.lose(false)
	apply(t, second, upsert(id, at(2), named("grace", "second")))
	h.expect(t, d, id, named("grace", "second"))
	if n := d.Contacts(t); n != 1 {
		t.Errorf("after a crash between the call and the commit: %d contacts, want 1", n)
	}
	apply(t, second, erasure(id, at(3), false))
	if n := d.Contacts(t); n != 0 {
		t.Errorf("after the erasure: %d contacts, want none", n)
	}
}

// The process dies as before, and what comes next, folded, is the erasure: of
// the contact that was created, and of the one whose address was changed.
func toolErasesAfterCrash(t testing.TB, h Harness) {
	d := h.New(t)
	sink, created, moved := opened(t, d), newID(), newID()
	apply(t, sink, upsert(moved, at(1), named("ada", "first")))
	d.kept.lose(true)
	apply(t, sink, upsert(moved, at(2), named("ada", "second")), upsert(created, at(1), named("grace", "grace")))
	d.kept.lose(false)
	apply(t, sink, erasure(moved, at(3), false), erasure(created, at(2), false))
	if n := d.Contacts(t); n != 0 {
		t.Errorf("erasures after a crash between the calls and the commit: %d contacts are left, want none", n)
	}
}

// Whom a person has deleted at the tool comes back whole when Clerk says something
// new of him, though only a part of it is new; also if the process dies before Kafka
// knows.
func toolDeletedByHand(t testing.TB, h Harness) {
	d := h.New(t)
	if d.Delete == nil {
		t.Skip("nobody can delete a contact at the tool")
	}
	sink, id := opened(t, d), newID()
	u := *FullUser(1)
	apply(t, sink, upsert(id, at(1), &u))
	d.Delete(t, id)
	if n := d.Contacts(t); n != 0 {
		t.Fatalf("Delete leaves %d contacts", n)
	}
	u.FirstName = new("Grace")
	for _, lost := range []bool{true, false} {
		d.kept.lose(lost)
		apply(t, sink, upsert(id, at(2), &u))
		h.expect(t, d, id, &u)
	}
	if n := d.Contacts(t); n != 1 {
		t.Errorf("after a change of a contact that was deleted by hand: %d contacts, want 1", n)
	}
	apply(t, sink, erasure(id, at(3), false))
	if n := d.Contacts(t); n != 0 {
		t.Errorf("after the erasure: %d contacts, want none", n)
	}
}

func toolKeepsConsent(t testing.TB, h Harness) {
	d := h.New(t)
	if d.Unsubscribe == nil {
		t.Skip("the tool knows no consent")
	}
	sink, id := opened(t, d), newID()
	apply(t, sink, upsert(id, at(1), named("ada", "first")))
	d.Unsubscribe(t, id)
	if d.Subscribed(t, id) {
		t.Fatalf("Unsubscribe does nothing")
	}
	d.kept.lose(true)
	apply(t, sink, upsert(id, at(2), named("grace", "first")))
	d.kept.lose(false)
	apply(t, sink, upsert(id, at(3), named("grace", "second")))
	if d.Subscribed(t, id) {
		t.Errorf("after changes: the person who had unsubscribed is subscribed")
	}
}

func toolWelcomesOnce(t testing.TB, h Harness) {
	d := h.New(t)
	if d.Welcomes == nil {
		t.Skip("the sink does nothing for new users")
	}
	sink, fresh, old := opened(t, d), newID(), newID()
	welcome := func(id string, version int64, isNew bool, name string) {
		r := upsert(id, at(version), named(name, id))
		r.New = isNew
		apply(t, sink, r)
	}
	d.kept.lose(true)
	welcome(fresh, 1, true, "ada")
	d.kept.lose(false)
	welcome(fresh, 1, true, "ada")
	welcome(fresh, 2, false, "grace")
	welcome(old, 1, false, "old")
	if n := d.Welcomes(t, fresh); n != 1 {
		t.Errorf("a new user, applied again after a crash: welcomed %d times, want once", n)
	}
	if n := d.Welcomes(t, old); n != 0 {
		t.Errorf("a user who is not new: welcomed %d times, want never", n)
	}
}

func toolErasesByRemoteID(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id, other := opened(t, d), newID(), newID()
	apply(t, sink, upsert(id, at(1), named("ada", "ada")), upsert(other, at(1), named("other", "other")))
	d.Edit(t, id)
	erase := erasure(id, at(2), false)
	apply(t, sink, erase)
	if n := d.Contacts(t); n != 1 || erase.Result().Outcome != h.erased(false) {
		t.Errorf("erasure of a contact that was edited at the tool: %d contacts and outcome %q, want 1 and %q", n, erase.Result().Outcome, h.erased(false))
	}
	h.expect(t, d, other, named("other", "other"))
}

// What was edited at the tool is still the user: it is not gone.
func toolConfirmsByRemoteID(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	apply(t, sink, upsert(id, at(1), named("ada", "ada")))
	d.Edit(t, id)
	if confirmer, ok := sink.(sinks.Confirmer); ok {
		if gone, err := confirmer.Confirm(t.Context(), id, nil); gone || err != nil {
			t.Errorf("Confirm of a contact that was edited at the tool: got %v, %v, want false", gone, err)
		}
	}
}

func toolReturnsAfterErasure(t testing.TB, h Harness) {
	d := h.New(t)
	sink, confirmed, not := opened(t, d), newID(), newID()
	for _, id := range []string{confirmed, not} {
		apply(t, sink, upsert(id, at(1), named("ada", id)))
		apply(t, sink, erasure(id, at(2), true))
	}
	if confirmer, ok := sink.(sinks.Confirmer); ok {
		if gone, err := confirmer.Confirm(t.Context(), confirmed, nil); !gone || err != nil {
			t.Errorf("Confirm: got %v, %v, want true", gone, err)
		}
	}
	for _, id := range []string{confirmed, not} {
		back := upsert(id, at(3), named("ada", id))
		apply(t, sink, back)
		h.expect(t, d, id, named("ada", id))
		if back.Result().Unchanged {
			t.Errorf("Apply of a user who is back: got unchanged")
		}
	}
	if n := d.Contacts(t); n != 2 {
		t.Errorf("after two users came back: %d contacts, want 2", n)
	}
}

// counter is a pacer that counts.
type counter struct{ waits atomic.Int64 }

func (c *counter) Wait(ctx context.Context) error {
	c.waits.Add(1)
	return ctx.Err()
}

func (c *counter) Heed(int, time.Duration) {}

func (c *counter) Sleep(ctx context.Context, _ time.Duration) error { return ctx.Err() }

func toolPacesEveryRequest(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := d.Sink(t), newID()
	paced, ok := sink.(interface{ inner() sinks.Sink }).inner().(sinks.Paced)
	if !ok {
		t.Fatalf("the sink is not Paced")
	}
	pacer := &counter{}
	paced.Pace(pacer)
	if err := sink.Open(t.Context()); err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { sink.Close() })
	apply(t, sink, upsert(id, at(1), FullUser(1)), upsert(newID(), at(1), plainUser("other")))
	apply(t, sink, upsert(id, at(2), FullUser(2)))
	apply(t, sink, erasure(id, at(3), false))
	if confirmer, ok := sink.(sinks.Confirmer); ok {
		if _, err := confirmer.Confirm(t.Context(), id, nil); err != nil {
			t.Errorf("Confirm: %v", err)
		}
	}
	if made := int64(d.Requests()); pacer.waits.Load() != made || made == 0 {
		t.Errorf("%d requests, of which %d were paced, want all", made, pacer.waits.Load())
	}
}

// A key that is refused stops the sink; it must not turn records into dead
// letters.
func toolStopsWithoutKey(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id, gone := opened(t, d), newID(), newID()
	apply(t, sink, upsert(gone, at(1), plainUser("gone")))
	restore := d.Revoke(t)
	for _, r := range []sinks.Record{upsert(id, at(1), plainUser(canary)), erasure(gone, at(2), false)} {
		err := sink.Apply(t.Context(), []sinks.Record{r})
		failure(t, err)
		class := singleOf(err)
		if class.Class != sinks.ClassFatal || class.Reason != sinks.ReasonUnauthorized {
			t.Errorf("Apply with a key that is refused: got %s, %s, want fatal, unauthorized", class.Class, class.Reason)
		}
	}
	restore()
	apply(t, sink, upsert(id, at(1), plainUser(canary)), erasure(gone, at(2), false))
	h.expect(t, d, id, plainUser(canary))
	h.expect(t, d, gone, nil)
}

// A web page with status 200 is no word of the tool's: nobody was written, nobody
// was erased, and nobody is gone.
func toolBelievesNoPage(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id, known := opened(t, d), newID(), newID()
	apply(t, sink, upsert(known, at(1), named("known", "known")))
	restore := d.Page(t)
	for name, r := range map[string]sinks.Record{
		"a new user": upsert(id, at(1), named(canary, "new")), "a change": upsert(known, at(2), named(canary, "known")),
		"a new address": upsert(known, at(2), named("known", canary)), "an erasure": erasure(known, at(3), false),
	} {
		err := sink.Apply(t.Context(), []sinks.Record{r})
		if err == nil {
			t.Errorf("Apply of %s, answered by a page: got nil", name)
			continue
		}
		failure(t, err)
		if class := singleOf(err).Class; class != sinks.ClassRetry {
			t.Errorf("Apply of %s, answered by a page: got %s, want retry", name, class)
		}
	}
	if confirmer, ok := sink.(sinks.Confirmer); ok {
		if gone, err := confirmer.Confirm(t.Context(), known, nil); gone {
			t.Errorf("Confirm, answered by a page: got %v, %v, want false", gone, err)
		}
	}
	restore()
	apply(t, sink, upsert(id, at(1), named("new", "new")), upsert(known, at(2), named("grace", "known")))
	h.expect(t, d, id, named("new", "new"))
	h.expect(t, d, known, named("grace", "known"))
}

// toolConverges applies random histories, each user's in its order, through two
// instances at random, with crashes between the tool's answer and the commit.
func toolConverges(t testing.TB, h Harness) {
	d := h.New(t)
	instances := []sinks.Sink{opened(t, d), opened(t, d)}
	rapid.Check(t, func(rt *rapid.T) {
		before := d.Contacts(t) // of other runs
		ids := []string{newID(), newID(), newID()}
		model := map[string]*schemas.User{}
		for version := range int64(rapid.IntRange(1, 8).Draw(rt, "batches")) {
			crashes := rapid.IntRange(0, 2).Draw(rt, "crashes")
			d.kept.lose(crashes > 0)
			for _, id := range ids {
				switch rapid.SampledFrom([]string{"", "", "change", "change", "change", "erase"}).Draw(rt, "kind") {
				case "change":
					name, email := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "name"), rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "email")
					model[id] = named(name, email+id)
				case "erase":
					model[id] = nil
				}
			}
			for attempt := range crashes + 1 {
				if attempt == crashes {
					d.kept.lose(false)
				}
				var batch []sinks.Record
				for _, id := range ids {
					if u, known := model[id]; known && u == nil {
						batch = append(batch, erasure(id, at(1+version), true))
					} else if known {
						batch = append(batch, upsert(id, at(1+version), u))
					}
				}
				if len(batch) == 0 {
					continue
				}
				instance := rapid.IntRange(0, 1).Draw(rt, "instance")
				if err := instances[instance].Apply(t.Context(), batch); err != nil {
					rt.Fatalf("Apply: %v", err)
				}
			}
			h.compareTool(rt, t, d, ids, model, before)
		}
	})
}

func (h Harness) compareTool(rt *rapid.T, t testing.TB, d Destination, ids []string, model map[string]*schemas.User, before int) {
	want := before
	rows := d.Read(t, ids...)
	for i, id := range ids {
		row, held := rows[id]
		if diff := h.Differs(model[id], row, held); diff != "" {
			rt.Fatalf("user %d: %s", i, diff)
		}
		if held {
			want++
		}
	}
	if n := d.Contacts(t); n != want {
		rt.Fatalf("%d contacts, want %d", n, want)
	}
}

// Differs returns in what a user at the destination is not as he must be, "" if
// in nothing. want nil: he must not be there.
func (h Harness) Differs(want *schemas.User, got Row, held bool) string {
	if h.NeedsEmail && want != nil && want.PrimaryEmailAddress == nil {
		want = nil
	}
	if held != (want != nil) {
		return fmt.Sprintf("held %v, want %v", held, want != nil)
	}
	if !held {
		return ""
	}
	return h.row(want).diff(got)
}
