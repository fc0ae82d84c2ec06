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
