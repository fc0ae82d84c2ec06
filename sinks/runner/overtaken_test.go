package runner

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/deadletters"
	"clerkconnect/schemas/transact"
	"clerkconnect/sinks"
)

// commit runs one batch as the owner does, and returns the versions of the
// letters about u that are open then.
func commit(t *testing.T, p *processor, records ...*kgo.Record) (open []int64) {
	t.Helper()
	out, err := p.Process(t.Context(), records)
	if err != nil {
		t.Fatalf("Process: %v", err)
	}
	for i, k := range out {
		k.Offset = int64(i)
	}
	p.Committed()
	for _, l := range p.partitions[0].letters.fold.Of("u") {
		open = append(open, l.Version.Number)
	}
	return open
}

// A change is given up, and something newer of its user comes while its batch
// still waits for another record. No letter of it may stay open: tried again
// it would go over what is newer.
func TestReplay_GivenUpBeforeSomethingNewerInOneBatch(t *testing.T) {
	t.Parallel()
	for name, newer := range map[string]*kgo.Record{"a change": upsert("u", 2), "an erasure": tombstone("u", 2, schemas.OriginWebhook)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var up atomic.Bool
				p := bare(t, newScripted(t, func(_ context.Context, batch []sinks.Record) error {
					var failed sinks.BatchError
					for i, r := range batch {
						switch {
						case r.ClerkID == "waits" && !up.Load():
							failed.Fail(i, errDown)
						case r.ClerkID == "u" && r.Version.Number == 1:
							failed.Fail(i, sinks.Permanent(sinks.ReasonInvalidRecord, errPoison))
						}
					}
					return failed.Err()
				}))
				records := []*kgo.Record{upsert("u", 1), upsert("waits", 1)}
				if _, err := p.Process(t.Context(), records); !errors.Is(err, transact.ErrAgain) {
					t.Fatalf("Process: %v, want ErrAgain", err)
				}
				up.Store(true)
				if open := commit(t, p, append(records, newer)...); len(open) != 0 {
					t.Errorf("open letters of %v, want none: version 2 is at the destination", open)
				}
			})
		})
	}
}

// The same, of a change that could not be read.
func TestReplay_UnreadableBeforeSomethingNewerInOneBatch(t *testing.T) {
	t.Parallel()
	unread := upsert("u", 1)
	unread.Value = []byte("garbage")
	if open := commit(t, bare(t, newScripted(t, nil)), unread, upsert("u", 2)); len(open) != 0 {
		t.Errorf("open letters of %v, want none: version 2 is at the destination", open)
	}
	if open := commit(t, bare(t, newScripted(t, nil)), upsert("u", 0), unread); !slices.Equal(open, []int64{1}) {
		t.Errorf("open letters of %v, want that of 1: nothing newer is there", open)
	}
}

// Where every change counts each that is given up has its letter, and of the
// same change twice one: no letter is lost.
func TestReplay_GivenUpTwiceInOneBatch(t *testing.T) {
	t.Parallel()
	refuse := func(context.Context, []sinks.Record) error {
		return sinks.Permanent(sinks.ReasonInvalidRecord, errPoison)
	}
	for _, test := range []struct{ versions, want []int64 }{{[]int64{1, 2}, []int64{1, 2}}, {[]int64{1, 1}, []int64{1}}} {
		sink := newScripted(t, refuse)
		sink.facts.EveryChange = true
		if open := commit(t, bare(t, sink), upsert("u", test.versions[0]), upsert("u", test.versions[1])); !slices.Equal(open, test.want) {
			t.Errorf("given up %v: open letters of %v, want %v", test.versions, open, test.want)
		}
	}
}

// What closes a letter of version 3, and what does not: an erasure that was not
// made closes none.
func TestReplay_Overtakes(t *testing.T) {
	t.Parallel()
	p := bare(t, newScripted(t, nil))
	compared := sinks.Result{Superseded: true}
	for _, test := range []struct {
		record *kgo.Record
		fate   fate
		result sinks.Result
		want   deadletters.Answer
	}{
		{record: upsert("u", 4), fate: applied, want: deadletters.AnswerSuperseded},
		{record: upsert("u", 4), fate: dead, want: deadletters.AnswerSuperseded},
		{record: upsert("u", 4), fate: superseded, result: compared, want: deadletters.AnswerSuperseded},
		{record: upsert("u", 4), fate: superseded},
		{record: upsert("u", 2), fate: applied},
		{record: tombstone("u", 4, schemas.OriginReconcile), fate: applied, want: deadletters.AnswerErased},
		{record: tombstone("u", 4, schemas.OriginReconcile), fate: held, want: deadletters.AnswerErased},
		{record: tombstone("u", 4, schemas.OriginReconcile), fate: superseded},
		{record: tombstone("u", 4, schemas.OriginReconcile), fate: dead},
		{record: tombstone("u", 2, schemas.OriginReconcile), fate: applied},
	} {
		it, err := p.decode(t.Context(), test.record)
		if err != nil {
			t.Fatal(err)
		}
		it.fate, it.result = test.fate, test.result
		if got := p.overtakes(it, schemas.Version{Epoch: 1, Number: 3}); got != test.want {
			t.Errorf("version %d, erases %t, fate %d: %q, want %q", it.record.Version.Number, it.record.Erase(), test.fate, got, test.want)
		}
	}
}

// A letter of a user who is in the batch already comes later.
func TestReplay_ChoosesNobodyWhoIsInHand(t *testing.T) {
	t.Parallel()
	l := &letters{}
	for offset, id := range []string{"a", "b"} {
		k := upsert(id, 1)
		k.Offset = int64(offset)
		k.Headers = append(k.Headers, kgo.RecordHeader{Key: deadletters.HeaderOrigin, Value: []byte("clerk.users/0/1")})
		l.fold.Add(k)
		word := l.fold.Of(id)[0].Replay("t", "test", "")
		word.Offset = int64(offset + 10)
		l.fold.Add(word)
	}
	if chosen := l.choose(map[string]bool{"a": true}, 5); len(chosen) != 1 || chosen[0].ClerkID != "b" {
		t.Errorf("chosen %v, want that of b alone", chosen)
	}
}
