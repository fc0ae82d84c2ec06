package sinktest

import (
	"bytes"
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

func eraseRemoves(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id, other := opened(t, d), newID(), newID()
	apply(t, sink, upsert(id, at(1), FullUser(1)), upsert(other, at(1), plainUser("other")))
	first, again := erasure(id, at(2), false), erasure(id, at(2), false)
	apply(t, sink, first)
	h.expect(t, d, id, nil)
	h.expect(t, d, other, plainUser("other"))
	apply(t, sink, again)
	if first.Result().Outcome != h.erased(false) || again.Result().Outcome != h.erased(true) {
		t.Errorf("outcome of the erasure and of its repetition: got %q and %q, want %s and %s",
			first.Result().Outcome, again.Result().Outcome, h.erased(false), h.erased(true))
	}
}

func eraseLeavesNoTrace(t testing.TB, h Harness) {
	if h.Erased == schemas.OutcomeSoftDeleted {
		t.Skip("the policy keeps the user's data")
	}
	d := h.New(t)
	sink, id := opened(t, d), newID()
	u := FullUser(1)
	secret, email, metadata := canary, canary+"@example.com", `{"note":"`+canary+`"}`
	u.PrimaryEmailAddress, u.FirstName, u.PublicMetadata, u.PrivateMetadata = &email, &secret, &metadata, &metadata
	(*u.EmailAddresses)[1].EmailAddress = canary
	first, second := upsert(id, at(1), u), upsert(id, at(2), u)
	for _, r := range []sinks.Record{first, second} { // what came with the change is the user's too
		r.Change.ClientIP, r.Change.UserAgent = &secret, &secret
	}
	apply(t, sink, first)
	if !bytes.Contains(d.Dump(t), []byte(canary)) {
		t.Fatalf("Dump does not show what the destination holds")
	}
	apply(t, sink, second, upsert(newID(), at(1), plainUser("other")))
	apply(t, sink, erasure(id, at(3), false))
	if bytes.Contains(d.Dump(t), []byte(canary)) {
		t.Errorf("Dump after the erasure: the user's data is still there")
	}
}

func eraseOfUnknown(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	erase := erasure(id, at(2), false)
	apply(t, sink, erase)
	if erase.Result().Outcome != schemas.OutcomeNotPresent || erase.Result().Superseded {
		t.Errorf("result: got %+v, want outcome NOT_PRESENT", erase.Result())
	}
	if h.Remembers {
		return // the runner drops what comes late
	}
	apply(t, sink, upsert(id, at(1), plainUser("late")))
	h.expect(t, d, id, nil)
}

// What an erasure does to a live user of version 5.
func eraseRules(t testing.TB, h Harness) {
	d := h.New(t)
	sink := opened(t, d)
	for name, test := range map[string]struct {
		erase   func(id string) sinks.Record
		applies bool
	}{
		"tombstone of a higher version":        {func(id string) sinks.Record { return tombstone(id, at(6)) }, true},
		"tombstone of the same version":        {func(id string) sinks.Record { return tombstone(id, at(5)) }, true},
		"tombstone without a version":          {func(id string) sinks.Record { return tombstone(id, schemas.Version{}) }, true},
		"withdrawn tombstone":                  {func(id string) sinks.Record { return tombstone(id, at(4)) }, false},
		"withdrawn inferred deletion":          {func(id string) sinks.Record { return erasure(id, at(4), true) }, false},
		"inferred deletion of a later version": {func(id string) sinks.Record { return erasure(id, at(6), true) }, true},
		"final demand of a lower version":      {func(id string) sinks.Record { return erasure(id, at(4), false) }, true},
		"final demand without a version":       {func(id string) sinks.Record { return erasure(id, schemas.Version{}, false) }, true},
	} {
		id := newID()
		apply(t, sink, upsert(id, at(5), plainUser("ada")))
		erase := test.erase(id)
		apply(t, sink, erase)
		want, outcome := plainUser("ada"), schemas.Outcome("")
		if test.applies {
			want, outcome = nil, h.erased(false)
		}
		h.expect(t, d, id, want)
		if got := erase.Result(); got.Superseded == test.applies || got.Outcome != outcome {
			t.Errorf("%s: got %+v, want superseded %v, outcome %q", name, got, !test.applies, outcome)
		}
	}
}

func staleUpsertDoesNotResurrect(t testing.TB, h Harness) {
	d := h.New(t)
	sink := opened(t, d)
	for _, erase := range []func(string) sinks.Record{
		func(id string) sinks.Record { return tombstone(id, at(3)) },
		func(id string) sinks.Record { return tombstone(id, schemas.Version{}) },
		func(id string) sinks.Record { return erasure(id, at(3), false) },
		func(id string) sinks.Record { return erasure(id, at(3), true) },
	} {
		id := newID()
		apply(t, sink, upsert(id, at(1), plainUser("ada")))
		apply(t, sink, erase(id))
		late := upsert(id, at(2), plainUser("late"))
		apply(t, sink, late)
		h.expect(t, d, id, nil)
		if !late.Result().Superseded {
			t.Errorf("Apply of a late change of an erased user: got no word, want superseded")
		}
	}
}

// A paused owner of a partition wakes up with an old batch in its hand, after
// another process has applied the erasure.
func zombieDoesNotResurrect(t testing.TB, h Harness) {
	d := h.New(t)
	zombie, owner := opened(t, d), opened(t, d)
	known, unseen := newID(), newID()
	apply(t, zombie, upsert(known, at(1), plainUser("ada")))
	apply(t, owner, erasure(known, at(3), false), tombstone(unseen, at(3)))
	apply(t, zombie, upsert(known, at(2), plainUser("late")), upsert(unseen, at(2), plainUser("late")))
	h.expect(t, d, known, nil)
	h.expect(t, d, unseen, nil)
}

// An inferred deletion that is taken back: the user returns with a higher
// version, and the old tombstone, delivered again, does nothing.
func revivalReturns(t testing.TB, h Harness) {
	d := h.New(t)
	sink := opened(t, d)
	for _, inferred := range []func(string) sinks.Record{
		func(id string) sinks.Record { return tombstone(id, at(3)) },
		func(id string) sinks.Record { return erasure(id, at(3), true) },
	} {
		id := newID()
		apply(t, sink, upsert(id, at(2), plainUser("ada")))
		apply(t, sink, inferred(id))
		h.expect(t, d, id, nil)
		apply(t, sink, upsert(id, at(4), plainUser("back")))
		h.expect(t, d, id, plainUser("back"))
		again := inferred(id)
		apply(t, sink, again)
		h.expect(t, d, id, plainUser("back"))
		if got := again.Result(); !got.Superseded || got.Outcome != "" {
			t.Errorf("Apply of a withdrawn deletion: got %+v, want superseded and no outcome", got)
		}
	}
}

// Clerk never reuses an ID, so nothing after a final erasure can be right.
func finalErasureIsForEver(t testing.TB, h Harness) {
	d := h.New(t)
	sink := opened(t, d)
	for _, final := range []func(string) sinks.Record{
		func(id string) sinks.Record { return erasure(id, at(3), false) },
		func(id string) sinks.Record { return tombstone(id, schemas.Version{}) },
	} {
		id := newID()
		apply(t, sink, upsert(id, at(2), plainUser("ada")))
		apply(t, sink, final(id))
		apply(t, sink, upsert(id, at(9), plainUser("back")))
		apply(t, sink, upsert(id, schemas.Version{Epoch: 2, Number: 1}, plainUser("back")))
		h.expect(t, d, id, nil)
		repeated := tombstone(id, at(1))
		apply(t, sink, repeated)
		if got := repeated.Result(); got.Superseded || got.Outcome != h.erased(true) {
			t.Errorf("Apply of an older tombstone of an erased user: got %+v, want outcome %s", got, h.erased(true))
		}
	}
}

func reopenRemembers(t testing.TB, h Harness) {
	d := h.New(t)
	live, gone := newID(), newID()
	first := opened(t, d)
	apply(t, first, upsert(live, at(3), plainUser("kept")), upsert(gone, at(1), plainUser("ada")))
	apply(t, first, erasure(gone, at(3), false))
	if err := first.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	second := opened(t, d)
	apply(t, second, upsert(live, at(2), plainUser("late")), upsert(gone, at(2), plainUser("late")))
	h.expect(t, d, live, plainUser("kept"))
	h.expect(t, d, gone, nil)
}
