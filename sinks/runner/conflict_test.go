package runner

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/deadletters"
	"clerkconnect/schemas/transact"
	"clerkconnect/sinks"
)

var errHeld = errors.New("the address is another user's")

// addresses is a destination where a user can have what nobody else has: user
// "needs" wants what user "owner" has until his version 2.
type addresses struct {
	*scripted
	holder string // as the error tells it
	free   bool
}

func newAddresses(t *testing.T, holder string) *addresses {
	sink := &addresses{scripted: newScripted(t, nil), holder: holder}
	sink.apply = func(_ context.Context, batch []sinks.Record) error {
		sink.mu.Lock()
		defer sink.mu.Unlock()
		for _, r := range batch {
			if r.ClerkID == "owner" && r.Version.Number >= 2 {
				sink.free = true
			}
		}
		for _, r := range batch {
			switch {
			case r.ClerkID != "needs" || sink.free:
			case len(batch) > 1:
				return sinks.Permanent(sinks.ReasonConflict, errHeld)
			default:
				return sinks.HeldBy(sink.holder, errHeld)
			}
		}
		return nil
	}
	return sink
}

// What resolves a conflict stands behind it in another partition, and comes
// two seconds later.
func TestRunner_ConflictThatIsResolved(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		sink := newAddresses(t, "owner")
		if schemas.Partition("needs", partitions) == schemas.Partition("owner", partitions) {
			t.Fatal("the two users are in one partition")
		}
		patient := func(cfg *Config, _ *Options) { cfg.BackoffMin, cfg.BackoffMax = 200*time.Millisecond, 30*time.Second }
		r := b.run(sinkName, "a", sink, patient)
		b.write(upsert("owner", 1))
		eventually(t, "held", func() bool { return r.Status().LagRecords == 0 && sink.callCount() > 0 })
		b.write(upsert("needs", 1), upsert("else", 1))
		time.Sleep(2 * time.Second)
		b.write(upsert("owner", 2))
		eventually(t, "both applied", func() bool { return r.Status().LagRecords == 0 && slices.Contains(sink.sent("owner"), 2) })
		if dead := b.latest(topics.DeadLetters(sinkName)); len(dead) != 0 {
			t.Errorf("%d dead letters, want none", len(dead))
		}
		if got := sink.sent("else"); len(got) > 2 {
			t.Errorf("the record beside was sent %d times, want twice at most: in a batch that is halved, and alone", len(got))
		}
	})
}

func TestRunner_ConflictThatIsNot(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	sink := newAddresses(t, "owner")
	r := b.run(sinkName, "a", sink)
	b.write(upsert("owner", 1), upsert("needs", 1))
	eventually(t, "caught up", func() bool { return r.Status().LagRecords == 0 && len(sink.sent("needs")) > 1 })
	var headers []kgo.RecordHeader
	for _, k := range b.records(topics.DeadLetters(sinkName)) {
		if string(k.Key) != "needs" {
			t.Errorf("dead letter of %s", k.Key)
		}
		headers = k.Headers
	}
	for name, want := range map[string]string{deadletters.HeaderHeldBy: "owner", deadletters.HeaderReason: "conflict"} {
		if got := schemas.Header(headers, name); got != want {
			t.Errorf("header %s: %q, want %q", name, got, want)
		}
	}
	b.write(upsert("else", 1))
	eventually(t, "the next applied", func() bool { return len(sink.sent("else")) == 1 && r.Status().LagRecords == 0 })
}

// A conflict ends a Process after about a second, keeps its attempts and its
// waits, and what is applied beside it is not sent again.
func TestProcess_ConflictTakesInMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sink := newAddresses(t, "owner")
		p := bare(t, sink)
		records := []*kgo.Record{upsert("owner", 1), upsert("needs", 1)}
		var out []*kgo.Record
		started, calls := time.Now(), 0
		for {
			began := time.Now()
			var err error
			out, err = p.Process(t.Context(), records)
			if err == nil {
				break
			}
			if took := time.Since(began); !errors.Is(err, transact.ErrAgain) || took > 1100*time.Millisecond {
				t.Fatalf("Process: %v after %s, want ErrAgain after about a second", err, took)
			}
			calls++
			records = append(records, upsert(user(calls), 1))
			if time.Since(started) > 10*time.Minute {
				t.Fatal("no end")
			}
		}
		p.Committed()
		if len(out) != 1 || string(out[0].Key) != "needs" || schemas.Header(out[0].Headers, deadletters.HeaderHeldBy) != "owner" {
			t.Errorf("output %v, want the dead letter", out)
		}
		if n := len(sink.sent("needs")); n != p.cfg.MaxAttempts+1 || calls < 3 { // one with the other
			t.Errorf("tried %d times in %d calls, want %d", n, calls, p.cfg.MaxAttempts+1)
		}
		for i := range calls {
			if got := sink.sent(user(i + 1)); len(got) != 1 {
				t.Errorf("%s was sent %d times, want once", user(i+1), len(got))
			}
		}
		if len(sink.sent("owner")) != 2 {
			t.Errorf("the holder was sent %d times, want 2: once with the other", len(sink.sent("owner")))
		}
	})
}

// The holder's change makes the next attempt at once, also where it comes in
// the batch that is processed again; and a newer change of the user himself
// takes the place of the one that waits.
func TestProcess_ConflictEnds(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]*kgo.Record{"released": upsert("owner", 2), "changed": upsert("needs", 3)} {
		synctest.Test(t, func(t *testing.T) {
			sink := newAddresses(t, "owner")
			p := bare(t, sink)
			p.cfg.BackoffMin, p.cfg.BackoffMax = time.Hour, time.Hour
			records := []*kgo.Record{upsert("needs", 1)}
			if _, err := p.Process(t.Context(), records); !errors.Is(err, transact.ErrAgain) {
				t.Fatalf("Process: %v, want ErrAgain", err)
			}
			started := time.Now()
			if name == "changed" {
				sink.free = true
			}
			out, err := p.Process(t.Context(), append(records, more))
			if took := time.Since(started); err != nil || len(out) != 0 || took > 2*time.Second {
				t.Errorf("%s: output %v, %v after %s; want success at once", name, out, err, took)
			}
			if sent := sink.sent("needs"); name == "changed" && !slices.Equal(sent, []int64{1, 3}) {
				t.Errorf("sent %v, want 1 and 3", sent)
			}
		})
	}
}

// Where it is not known who holds it, it may be a lock on the whole table:
// nothing is given up before something else is applied.
func TestProcess_ConflictWithNobodyKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sink := newAddresses(t, "")
		p := bare(t, sink)
		records := []*kgo.Record{upsert("needs", 1)}
		for range 300 {
			if _, err := p.Process(t.Context(), records); !errors.Is(err, transact.ErrAgain) {
				t.Fatalf("Process of the lone record: %v, want ErrAgain", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		records = append(records, upsert("else", 1))
		out, err := p.Process(t.Context(), records)
		for errors.Is(err, transact.ErrAgain) {
			out, err = p.Process(t.Context(), records)
		}
		if err != nil || len(out) != 1 || string(out[0].Key) != "needs" || schemas.Header(out[0].Headers, deadletters.HeaderHeldBy) != "" {
			t.Errorf("output %v, %v; want the dead letter, which names nobody", out, err)
		}
	})
}

// A conflict does not slow the records beside it.
func TestProcess_ConflictSlowsNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sink := newAddresses(t, "owner")
		sink.facts.MaxBatch = 1
		p := bare(t, sink)
		p.cfg.BackoffMin, p.cfg.BackoffMax = time.Hour, time.Hour
		started := time.Now()
		_, err := p.Process(t.Context(), append([]*kgo.Record{upsert("needs", 1)}, upserts(100)...))
		if took := time.Since(started); !errors.Is(err, transact.ErrAgain) || took > 2*time.Second || sink.callCount() != 101 {
			t.Errorf("Process: %v after %s and %d calls, want ErrAgain after a second and 101 calls", err, took, sink.callCount())
		}
	})
}

// Several records of one batch that are refused one by one.
func TestProcess_ConflictsInABatchError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var free atomic.Bool // calls are made beside each other
		sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
			var failed sinks.BatchError
			for i, r := range batch {
				if r.ClerkID == "owner" {
					free.Store(true)
				} else if !free.Load() {
					failed.Fail(i, sinks.HeldBy("owner", errHeld))
				}
			}
			return failed.Err()
		})
		p := bare(t, sink)
		records := upserts(5)
		if _, err := p.Process(t.Context(), records); !errors.Is(err, transact.ErrAgain) {
			t.Fatalf("Process: %v, want ErrAgain", err)
		}
		if out, err := p.Process(t.Context(), append(records, upsert("owner", 1))); err != nil || len(out) != 0 {
			t.Errorf("output %v, %v; want all applied", out, err)
		}
	})
}

// TestMessage: a letter says in words why, unless nobody vouches for the words.
func TestMessage(t *testing.T) {
	t.Parallel()
	text := errors.New("column email takes no null")
	for _, test := range []struct {
		err  error
		want string
	}{
		{sinks.Permanent(sinks.ReasonInvalidRecord, text), "column email takes no null"},
		{sinks.HeldBy("user_2", text), "column email takes no null"},
		{text, ""},
		{sinks.Permanent(sinks.ReasonTooLarge, errors.New(strings.Repeat("é", deadletters.MaxMessage))), strings.Repeat("é", deadletters.MaxMessage/2)},
		{sinks.Permanent(sinks.ReasonTooLarge, errors.New("x"+strings.Repeat("é", deadletters.MaxMessage))), "x" + strings.Repeat("é", deadletters.MaxMessage/2-1)},
	} {
		if got := message(sinks.Classify(test.err)); got != test.want {
			t.Errorf("%v: got %q, want %q", test.err, got, test.want)
		}
	}
}
