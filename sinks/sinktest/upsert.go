package sinktest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

func upsertInserts(t testing.TB, h Harness) {
	d := h.New(t)
	sink := opened(t, d)
	full, plain, empty := newID(), newID(), newID()
	apply(t, sink, upsert(full, at(1), FullUser(1)), upsert(plain, at(1), plainUser("ada")), upsert(empty, at(1), &schemas.User{}))
	h.expect(t, d, full, FullUser(1))
	h.expect(t, d, plain, plainUser("ada"))
	h.expect(t, d, empty, &schemas.User{})
}

func upsertReplaces(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	for seed := range 3 {
		apply(t, sink, upsert(id, at(int64(1+seed)), FullUser(seed)))
		h.expect(t, d, id, FullUser(seed))
	}
}

// What a newer change leaves null must not keep the older value.
func upsertClears(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	apply(t, sink, upsert(id, at(1), FullUser(1)))
	apply(t, sink, upsert(id, at(2), plainUser("ada")))
	h.expect(t, d, id, plainUser("ada"))
}

func replayIsNoOp(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id, gone := opened(t, d), newID(), newID()
	batch := func() []sinks.Record {
		return []sinks.Record{upsert(id, at(2), FullUser(1)), erasure(gone, at(2), false)}
	}
	apply(t, sink, batch()...)
	again := batch()
	apply(t, sink, again...)
	h.expect(t, d, id, FullUser(1))
	h.expect(t, d, gone, nil)
	if !again[0].Result().Superseded {
		t.Errorf("Apply of a version that the destination holds: got no word, want superseded")
	}
}

func staleVersionIsSuperseded(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	current, stale := upsert(id, at(5), plainUser("new")), upsert(id, at(4), FullUser(1))
	apply(t, sink, current)
	apply(t, sink, stale)
	h.expect(t, d, id, plainUser("new"))
	if current.Result().Superseded || !stale.Result().Superseded && !h.Log {
		t.Errorf("superseded: got %v for the current and %v for the stale change, want false and true",
			current.Result().Superseded, stale.Result().Superseded)
	}
}

func epochComesBeforeVersion(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	apply(t, sink, upsert(id, schemas.Version{Epoch: 1, Number: 9}, plainUser("first epoch")))
	apply(t, sink, upsert(id, schemas.Version{Epoch: 2, Number: 3}, plainUser("second epoch")))
	h.expect(t, d, id, plainUser("second epoch"))
	apply(t, sink, upsert(id, schemas.Version{Epoch: 1, Number: 10}, plainUser("first epoch")))
	h.expect(t, d, id, plainUser("second epoch"))
	apply(t, sink, upsert(id, schemas.Version{Epoch: 2, Number: 4}, plainUser("second epoch, later")))
	h.expect(t, d, id, plainUser("second epoch, later"))
}

// As many records as the sink says it takes, and none lost.
func fullBatch(t testing.TB, h Harness) {
	d := h.New(t)
	sink := opened(t, d)
	ids := make([]string, sink.Capabilities().MaxBatch)
	batch := make([]sinks.Record, len(ids))
	for i := range ids {
		ids[i] = newID()
		batch[i] = upsert(ids[i], at(1), plainUser(ids[i]))
	}
	apply(t, sink, batch...)
	rows := d.Read(t, ids...)
	for _, id := range ids {
		if diff := h.row(plainUser(id)).diff(rows[id]); diff != "" {
			t.Fatalf("Read of %s, one of %d: %s", id, len(ids), diff)
		}
	}
	for i, id := range ids {
		batch[i] = tombstone(id, at(2))
	}
	apply(t, sink, batch...)
	if left := d.Read(t, ids...); len(left) != 0 {
		t.Errorf("Read after erasing all of %d: got %d rows, want none", len(ids), len(left))
	}
}

// New, newer, stale, erased and unknown users in one batch.
func mixedBatch(t testing.TB, h Harness) {
	d := h.New(t)
	sink := opened(t, d)
	fresh, newer, stale, erased, unknown := newID(), newID(), newID(), newID(), newID()
	apply(t, sink, upsert(newer, at(1), plainUser("old")), upsert(stale, at(5), plainUser("kept")), upsert(erased, at(1), plainUser("old")))
	batch := []sinks.Record{
		upsert(stale, at(4), plainUser("stale")), erasure(unknown, at(2), false), upsert(newer, at(2), plainUser("newer")),
		tombstone(erased, at(2)), upsert(fresh, at(1), plainUser("fresh")),
	}
	apply(t, sink, batch...)
	for id, want := range map[string]*schemas.User{
		fresh: plainUser("fresh"), newer: plainUser("newer"), stale: plainUser("kept"), erased: nil, unknown: nil,
	} {
		h.expect(t, d, id, want)
	}
	got := []sinks.Result{batch[0].Result(), batch[1].Result(), batch[2].Result(), batch[3].Result(), batch[4].Result()}
	want := []sinks.Result{{Superseded: true}, {Outcome: schemas.OutcomeNotPresent}, {}, {Outcome: h.erased(false)}, {}}
	for i := range want {
		if !h.says(got[i], want[i].Superseded, want[i].Outcome) {
			t.Errorf("result of record %d: got %+v, want %+v", i, got[i], want[i])
		}
	}
}

// A sink that asks for every change gets several of one user in one batch.
func everyChange(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	if !sink.Capabilities().EveryChange {
		t.Skip("the sink takes the latest change of each user")
	}
	apply(t, sink, upsert(id, at(1), plainUser("a")), upsert(id, at(2), plainUser("b")))
	h.expect(t, d, id, plainUser("b"))
}

func concurrentBatches(t testing.TB, h Harness) {
	d := h.New(t)
	sink := opened(t, d)
	var wait sync.WaitGroup
	var ids []string
	for worker := range sink.Capabilities().MaxInFlight {
		own := make([]string, min(20, sink.Capabilities().MaxBatch))
		for i := range own {
			own[i] = newID()
		}
		ids = append(ids, own...)
		wait.Go(func() {
			for version := range int64(5) {
				batch := make([]sinks.Record, len(own))
				for i, id := range own {
					batch[i] = upsert(id, at(1+version), plainUser(fmt.Sprint(id, worker, version)))
				}
				if err := sink.Apply(t.Context(), batch); err != nil {
					t.Errorf("Apply: %v", err)
				}
			}
		})
	}
	wait.Wait()
	if rows := d.Read(t, ids...); len(rows) != len(ids) {
		t.Errorf("Read: got %d rows, want %d", len(rows), len(ids))
	}
	h.expect(t, d, ids[0], plainUser(fmt.Sprint(ids[0], 0, 4)))
}

// The runner reuses what it passes to Apply.
func keepsNothingOfBatch(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	batch := []sinks.Record{upsert(id, at(1), FullUser(1))}
	change := batch[0].Change
	apply(t, sink, batch...)
	*change.User.FirstName, *change.User.PublicMetadata = "scribble", `"scribble"`
	(*change.User.EmailAddresses)[0].EmailAddress = "scribble"
	*change, batch[0] = schemas.UserChange{}, sinks.Record{}
	apply(t, sink, upsert(newID(), at(1), plainUser("other")))
	h.expect(t, d, id, FullUser(1))
}

func changesNothingInBatch(t testing.TB, h Harness) {
	d := h.New(t)
	sink := opened(t, d)
	ids := []string{newID(), newID(), newID()}
	slices.Reverse(ids)
	var batch []sinks.Record
	for i, id := range ids {
		batch = append(batch, upsert(id, at(1), FullUser(i)))
	}
	apply(t, sink, batch...)
	for i, id := range ids {
		if batch[i].ClerkID != id || !reflect.DeepEqual(batch[i].Change.User, *FullUser(i)) {
			t.Errorf("record %d of the batch is not what was passed", i)
		}
	}
}

// Characters beyond the Basic Multilingual Plane take 4 bytes.
func wideUnicode(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	u := plainUser(strings.Repeat("\U0001F984\U00020BB7é", 60))
	metadata := `{"\ud83e\udd84":"\U0001F984"}`
	metadata = strings.ReplaceAll(metadata, `\U0001F984`, "\U0001F984")
	u.PublicMetadata = &metadata
	apply(t, sink, upsert(id, at(1), u))
	h.expect(t, d, id, u)
}

// U+0000 may be dropped or replaced, and nothing else.
func zeroCharacter(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	with := func(zero, escaped string) *schemas.User {
		u := plainUser("a" + zero + "b")
		metadata := `{"k` + escaped + `":"` + escaped + `","kept":"\\u0000"}`
		u.PublicMetadata = &metadata
		return u
	}
	apply(t, sink, upsert(id, at(1), with("\x00", `\u0000`)))
	expectOneOf(t, h, d, id, with("\x00", `\u0000`), with("\uFFFD", `\ufffd`), with("", ""))
}

// Half of a surrogate pair, as JavaScript writes it, is not Unicode.
func loneSurrogate(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	with := func(escaped string) *schemas.User {
		u, metadata := plainUser("ada"), `{"cut":"`+escaped+`"}`
		u.PublicMetadata = &metadata
		return u
	}
	apply(t, sink, upsert(id, at(1), with(`\ud83e`)))
	expectOneOf(t, h, d, id, with(`\ud83e`), with(`\ufffd`), with(""))
}

func expectOneOf(t testing.TB, h Harness, d Destination, id string, want ...*schemas.User) {
	t.Helper()
	row, held := d.Read(t, id)[id]
	if !held {
		t.Fatalf("Read of %s: got no row, want one", id)
	}
	if !slices.ContainsFunc(want, func(u *schemas.User) bool { return h.row(u).diff(row) == "" }) {
		t.Errorf("Read of %s: %s", id, h.row(want[0]).diff(row))
	}
}

// Numbers above 2^53 keep their digits.
func bigNumbers(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	u, metadata := plainUser("ada"), `{"n":9007199254740993,"m":-123456789012345678901234567890.123456789012345678901}`
	u.PublicMetadata = &metadata
	apply(t, sink, upsert(id, at(1), u))
	h.expect(t, d, id, u)
}

// Two users may hold one address for a while: deleted and signed up again, or
// swapped.
func sameEmail(t testing.TB, h Harness) {
	d := h.New(t)
	sink, one, other := opened(t, d), newID(), newID()
	apply(t, sink, upsert(one, at(1), plainUser("shared")))
	apply(t, sink, upsert(other, at(1), plainUser("shared")))
	h.expect(t, d, one, plainUser("shared"))
	h.expect(t, d, other, plainUser("shared"))
}
