package runner

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/deadletters"
	"clerkconnect/schemas/transact"
	"clerkconnect/sinks"
)

var errDown = errors.New("destination is down")

// process runs one batch as the owner does, and commits it.
func process(t *testing.T, p *processor, records ...*kgo.Record) []*kgo.Record {
	t.Helper()
	out, err := p.Process(t.Context(), records)
	if err != nil {
		t.Fatalf("Process: %v", err)
	}
	p.Committed()
	return out
}

func upserts(n int) (records []*kgo.Record) {
	for i := range n {
		r := upsert(user(i), 1)
		r.Offset = int64(i)
		records = append(records, r)
	}
	return records
}

func TestProcess_FoldsToTheLatest(t *testing.T) {
	t.Parallel()
	sink := newScripted(t, nil)
	process(t, bare(t, sink), upsert("a", 1), upsert("b", 2), upsert("a", 3), upsert("a", 2))
	if got := sink.sent("a"); !slices.Equal(got, []int64{3}) || sink.callCount() != 1 {
		t.Errorf("sent versions of a: %v in %d calls, want 3 alone in one", got, sink.callCount())
	}
}

func TestProcess_EveryChangeComesInOrder(t *testing.T) {
	t.Parallel()
	sink := newScripted(t, nil)
	sink.facts.EveryChange = true
	process(t, bare(t, sink), upsert("a", 1), upsert("b", 2), upsert("a", 3), tombstone("a", 4, schemas.OriginWebhook))
	if got := sink.sent("a"); !slices.Equal(got, []int64{1, 3, 4}) {
		t.Errorf("sent versions of a: %v, want 1 3 4", got)
	}
}

func TestProcess_TickAndUndecodable(t *testing.T) {
	t.Parallel()
	sink := newScripted(t, nil)
	foreign := upsert("b", 2)
	foreign.Key = []byte("c")
	out := process(t, bare(t, sink),
		&kgo.Record{Topic: topics.Users(), Key: []byte(schemas.TickKey)},
		&kgo.Record{Topic: topics.Users(), Key: []byte("x"), Value: []byte("garbage"), Offset: 7, Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("1")}}},
		foreign, upsert("a", 1))
	if sink.callCount() != 1 || len(sink.sent("a")) != 1 {
		t.Errorf("%d calls, want one with a alone", sink.callCount())
	}
	if len(out) != 2 || string(out[0].Value) != "garbage" || string(out[0].Key) != "x" || out[0].Topic != "clerk.dead-letters.crm" {
		t.Fatalf("output %v, want two dead letters as they were read", out)
	}
	want := map[string]string{"h": "1", deadletters.HeaderReason: "invalid_record", deadletters.HeaderClass: "permanent", deadletters.HeaderSink: sinkName, deadletters.HeaderOrigin: "clerk.users/0/7"}
	for name, value := range want {
		if got := schemas.Header(out[0].Headers, name); got != value {
			t.Errorf("header %s: got %q, want %q", name, got, value)
		}
	}
}

func TestProcess_PermanentRecordIsIsolated(t *testing.T) {
	t.Parallel()
	const n = 500
	for _, bad := range []int{0, 137, n - 1} {
		sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
			if slices.ContainsFunc(batch, func(r sinks.Record) bool { return r.ClerkID == user(bad) }) {
				return sinks.Permanent(sinks.ReasonTooLarge, errors.New("too large"))
			}
			return nil
		})
		out := process(t, bare(t, sink), upserts(n)...)
		if len(out) != 1 || string(out[0].Key) != user(bad) || schemas.Header(out[0].Headers, deadletters.HeaderReason) != "too_large" {
			t.Errorf("bad record %d: output %v, want its dead letter alone", bad, out)
		}
		if most := 1 + 2*bits.Len(n); sink.callCount() > most {
			t.Errorf("bad record %d: %d calls, want at most %d", bad, sink.callCount(), most)
		}
	}
}

func TestProcess_BatchErrorConcernsOnlyTheListed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tried := 0
		sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
			var failed sinks.BatchError
			for i, r := range batch {
				switch {
				case r.ClerkID == user(3):
					failed.Fail(i, sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("no")))
				case r.ClerkID == user(5) && tried < 3:
					tried++
					failed.Fail(i, sinks.RetryAfter(sinks.ReasonTimeout, 0, errors.New("locked")))
				}
			}
			return failed.Err()
		})
		out := process(t, bare(t, sink), upserts(10)...)
		if len(out) != 1 || string(out[0].Key) != user(3) || len(sink.sent(user(5))) != 4 || len(sink.sent(user(4))) != 1 {
			t.Errorf("output %v, user 5 sent %d times, user 4 %d times; want user 3 dead, 4 and 1", out, len(sink.sent(user(5))), len(sink.sent(user(4))))
		}
	})
}

func TestProcess_BatchErrorOutsideTheBatchIsFatal(t *testing.T) {
	t.Parallel()
	sink := newScripted(t, func(context.Context, []sinks.Record) error {
		var failed sinks.BatchError
		failed.Fail(99, errDown)
		return failed.Err()
	})
	if _, err := bare(t, sink).Process(t.Context(), upserts(2)); sinks.Classify(err).Class != sinks.ClassFatal {
		t.Errorf("Process: %v, want a fatal error: nothing is known of any record", err)
	}
}

// An outage of a day: nothing is given up, everything is applied after it, and
// the destination is asked no more often than the backoff allows.
func TestProcess_OutageGivesNothingUp(t *testing.T) {
	t.Parallel()
	for _, unmarked := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			const outage = 24 * time.Hour
			up := time.Now().Add(outage)
			done := map[string]bool{}
			sink := newScripted(t, nil)
			sink.facts.MaxBatch = 50
			probes := 0
			sink.apply = func(_ context.Context, batch []sinks.Record) error {
				sink.mu.Lock()
				defer sink.mu.Unlock()
				if time.Now().Before(up) {
					probes++
					if unmarked {
						return errDown
					}
					return sinks.RetryAfter(sinks.ReasonUnavailable, 0, errDown)
				}
				for _, r := range batch {
					done[r.ClerkID] = true
				}
				return nil
			}
			p := bare(t, sink)
			records := append(upserts(300), tombstone("gone", 1, schemas.OriginWebhook))
			out, err := p.Process(t.Context(), records)
			for errors.Is(err, transact.ErrAgain) {
				out, err = p.Process(t.Context(), records)
			}
			if err != nil || count(out, topics.DeadLetters(sinkName)) != 0 || len(done) != 301 {
				t.Errorf("after the outage: %v, %d dead letters, %d of 301 applied", err, count(out, topics.DeadLetters(sinkName)), len(done))
			}
			if most := int(outage/p.cfg.BackoffMax) * 3; probes > most {
				t.Errorf("%d calls during the outage, want at most %d", probes, most)
			}
			if after := time.Since(up); after > 5*time.Minute {
				t.Errorf("caught up %s after the outage", after)
			}
		})
	}
}

// A record that always fails, with an error that says "later".
func TestProcess_PoisonDressedAsRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n, bad = 400, 123
		sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
			if slices.ContainsFunc(batch, func(r sinks.Record) bool { return r.ClerkID == user(bad) }) {
				return errDown
			}
			return nil
		})
		p := bare(t, sink)
		out := process(t, p, upserts(n)...)
		if len(out) != 1 || string(out[0].Key) != user(bad) {
			t.Fatalf("output %v, want one dead letter of %s", out, user(bad))
		}
		if most := 2*p.cfg.MaxAttempts + 2*bits.Len(n); sink.callCount() > most {
			t.Errorf("%d calls, want at most %d", sink.callCount(), most)
		}
	})
}

// Alone in its batch, such a record waits for others to show whether the
// destination lives.
func TestProcess_LonePoisonWaitsForAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
			if batch[0].ClerkID == "bad" {
				return errDown
			}
			return nil
		})
		p := bare(t, sink)
		bad := upsert("bad", 1)
		for range 3 {
			if _, err := p.Process(t.Context(), []*kgo.Record{bad}); !errors.Is(err, transact.ErrAgain) {
				t.Fatalf("Process of the lone record: %v, want ErrAgain", err)
			}
		}
		if got := sink.callCount(); got != 3*p.cfg.MaxAttempts {
			t.Errorf("%d calls in three batches, want %d", got, 3*p.cfg.MaxAttempts)
		}
		out := process(t, p, bad, upsert("good", 2))
		if len(out) != 1 || string(out[0].Key) != "bad" {
			t.Errorf("output %v, want the dead letter of the bad record", out)
		}
	})
}

// Where a call takes one record, the others of the batch are applied before
// such a record has failed: one of them is sent again, to see.
func TestProcess_PoisonWhereACallTakesOneRecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
			if batch[0].ClerkID == user(9) {
				return errDown
			}
			return nil
		})
		sink.facts.MaxBatch, sink.facts.MaxInFlight = 1, 1
		p := bare(t, sink)
		out := process(t, p, upserts(10)...)
		if len(out) != 1 || string(out[0].Key) != user(9) || sink.callCount() != 9+p.cfg.MaxAttempts+2 {
			t.Errorf("output %v after %d calls, want the dead letter of %s after 21", out, sink.callCount(), user(9))
		}
	})
}

func TestProcess_RetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		started, n := time.Now(), 0
		sink := newScripted(t, func(context.Context, []sinks.Record) error {
			if n++; n <= 20 { // more often than MaxAttempts: a limit is no one's fault
				return sinks.RetryAfter(sinks.ReasonRateLimited, time.Minute, errors.New("429"))
			}
			return nil
		})
		sink.facts.MaxBatch, sink.facts.MaxInFlight = 5, 1 // two batches: the wait is the destination's, not one batch's
		out := process(t, bare(t, sink), upserts(10)...)
		if took := time.Since(started); took < 20*time.Minute || len(out) != 0 || sink.callCount() != 22 {
			t.Errorf("took %s with %d calls, output %v; want 20 min or more, 22 calls, nothing", took, sink.callCount(), out)
		}
	})
}

func TestProcess_ErasureIsParkedNeverDeadLettered(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]error{"permanent": sinks.Permanent(sinks.ReasonConflict, errors.New("rows refer to it")), "retry": errDown} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				refuses := true
				sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
					for _, r := range batch {
						if refuses && r.Erase() {
							return answer
						}
					}
					return nil
				})
				p := bare(t, sink)
				out := process(t, p, append(upserts(20), tombstone("gone", 5, schemas.OriginWebhook))...)
				if len(out) != 0 {
					t.Fatalf("output %v, want neither a receipt nor a dead letter", out)
				}
				status := p.Status()
				if due := p.Due(); status.ErasuresOwed != 1 || time.Until(due) != p.cfg.SlowRetry {
					t.Fatalf("%d erasures owed, next attempt in %s; want 1, %s", status.ErasuresOwed, time.Until(due), p.cfg.SlowRetry)
				}
				time.Sleep(p.cfg.SlowRetry)
				refuses = false
				out = process(t, p)
				if count(out, topics.ErasureReceipts()) != 1 || p.Status().ErasuresOwed != 0 || !p.Due().IsZero() {
					t.Errorf("output %v, owed %d; want the receipt, 0", out, p.Status().ErasuresOwed)
				}
			})
		})
	}
}

func TestProcess_ReceiptCarriesOutcomeAndVersion(t *testing.T) {
	t.Parallel()
	sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
		for _, r := range batch {
			if r.ClerkID == "b" {
				r.Erased(schemas.OutcomeNotPresent)
			}
		}
		return nil
	})
	p := bare(t, sink)
	p.partitions[0].debts["b"] = &debt{erasure: schemas.Erasure{ClerkID: "b", Epoch: 1, Version: 9}}
	out := process(t, p, tombstone("a", 5, schemas.OriginWebhook), tombstone("b", 6, schemas.OriginWebhook))
	want := map[string]schemas.Receipt{
		"a/crm": {ClerkID: "a", Sink: "crm", Epoch: 1, Version: 5, Outcome: schemas.OutcomeDeleted},
		"b/crm": {ClerkID: "b", Sink: "crm", Epoch: 1, Version: 9, Outcome: schemas.OutcomeNotPresent}, // pays the later demand too
	}
	if len(out) != len(want) {
		t.Fatalf("output %v, want two receipts", out)
	}
	for _, r := range out {
		var got schemas.Receipt
		if err := p.options.Codec.Decode(t.Context(), r.Value, &got); err != nil {
			t.Fatal(err)
		}
		got.DoneAt = 0
		if got != want[string(r.Key)] {
			t.Errorf("receipt %s: got %+v, want %+v", r.Key, got, want[string(r.Key)])
		}
	}
}

// A repeated erasure finds nobody. That must not replace the receipt that
// says how it was done.
func TestProcess_RepeatedErasureKeepsItsReceipt(t *testing.T) {
	t.Parallel()
	outcome := schemas.OutcomeAnonymized
	sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
		batch[0].Erased(outcome)
		return nil
	})
	p := bare(t, sink)
	p.partitions[0].debts["a"] = &debt{erasure: schemas.Erasure{ClerkID: "a", Epoch: 1, Version: 5, Origin: schemas.OriginWebhook}}
	if out := process(t, p); len(out) != 1 {
		t.Errorf("output %v, want the receipt", out)
	}
	outcome = schemas.OutcomeNotPresent
	if out := process(t, p, tombstone("a", 5, schemas.OriginWebhook)); len(out) != 0 || len(sink.sent("a")) != 2 {
		t.Errorf("output %v of %d calls, want none of 2", out, len(sink.sent("a")))
	}
	if out := process(t, p, tombstone("a", 6, schemas.OriginWebhook)); len(out) != 1 {
		t.Errorf("output %v, want a receipt of the later version", out)
	}
}

// An inferred deletion was withdrawn, and the destination knows better.
func TestProcess_ErasureThatTheDestinationSupersedes(t *testing.T) {
	t.Parallel()
	sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
		batch[0].Superseded()
		return nil
	})
	p := bare(t, sink)
	p.partitions[0].debts["a"] = &debt{erasure: schemas.Erasure{ClerkID: "a", Epoch: 1, Version: 5, Inferred: true}}
	if out := process(t, p); len(out) != 0 || !p.Due().IsZero() {
		t.Errorf("output %v, due %s; want no receipt, and nothing due", out, p.Due())
	}
}

func TestProcess_ErasureSupersedesOlderChanges(t *testing.T) {
	t.Parallel()
	sink := newScripted(t, nil)
	p := bare(t, sink)
	inferred := schemas.Erasure{ClerkID: "back", Epoch: 1, Version: 5, Inferred: true}
	p.partitions[0].debts["owed"] = &debt{erasure: schemas.Erasure{ClerkID: "owed", Epoch: 1, Version: 5, Inferred: true}}
	p.partitions[0].debts["back"] = &debt{erasure: inferred}
	p.partitions[0].erased.set("paid", schemas.Version{Epoch: 1, Number: 5})
	out := process(t, p, upsert("owed", 4), upsert("paid", 5), upsert("back", 6), tombstone("new", 3, schemas.OriginReconcile), upsert("new", 2))
	for id, want := range map[string][]int64{"owed": {5}, "paid": nil, "back": {6}, "new": {3}} {
		if got := sink.sent(id); !slices.Equal(got, want) {
			t.Errorf("sent versions of %s: %v, want %v", id, got, want)
		}
	}
	if receipts := count(out, topics.ErasureReceipts()); receipts != 2 || p.Status().ErasuresOwed != 0 {
		t.Errorf("%d receipts, %d owed; want 2 (owed, new), 0", receipts, p.Status().ErasuresOwed)
	}
	// A signed deletion holds for ever, an inferred one until something newer.
	process(t, p, tombstone("signed", 5, schemas.OriginWebhook), tombstone("inferred", 5, schemas.OriginReconcile))
	process(t, p, upsert("signed", 6), upsert("inferred", 6), upsert("new", 2))
	for id, want := range map[string][]int64{"signed": {5}, "inferred": {5, 6}, "new": {3}} {
		if got := sink.sent(id); !slices.Equal(got, want) {
			t.Errorf("sent versions of %s: %v, want %v", id, got, want)
		}
	}
}

func TestProcess_StateIsKeptOnlyIfCommitted(t *testing.T) {
	t.Parallel()
	var seen []string
	sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
		for _, r := range batch {
			seen = append(seen, string(r.State))
			if !r.Erase() {
				r.Remember(fmt.Appendf(nil, "s%d", r.Version.Number))
			}
		}
		return nil
	})
	p := bare(t, sink)
	out := process(t, p, upsert("a", 1))
	if len(out) != 1 || out[0].Topic != "clerk.sink-state.crm" || string(out[0].Value) != "s1" {
		t.Fatalf("output %v, want the state", out)
	}
	if _, err := p.Process(t.Context(), []*kgo.Record{upsert("a", 2)}); err != nil { // and the commit fails
		t.Fatal(err)
	}
	process(t, p, upsert("a", 3))
	out = process(t, p, tombstone("a", 4, schemas.OriginWebhook))
	if want := []string{"", "s1", "s1", "s3"}; !slices.Equal(seen, want) {
		t.Errorf("states seen: %q, want %q", seen, want)
	}
	if count(out, topics.SinkState(sinkName)) != 1 || count(out, topics.ErasureReceipts()) != 1 || p.partitions[0].states.len() != 0 {
		t.Errorf("after the erasure: output %v, %d states; want a tombstone and a receipt, 0", out, p.partitions[0].states.len())
	}
}

func TestProcess_StateOverTheLimitIsFatal(t *testing.T) {
	t.Parallel()
	sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
		batch[0].Remember(make([]byte, 4097))
		return nil
	})
	if _, err := bare(t, sink).Process(t.Context(), upserts(1)); sinks.Classify(err).Class != sinks.ClassFatal {
		t.Errorf("Process: %v, want a fatal error", err)
	}
}

func TestProcess_PanicIsAFailedCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
			for _, r := range batch {
				if r.ClerkID == user(1) {
					panic("canary@example.com")
				}
			}
			return nil
		})
		out := process(t, bare(t, sink), upserts(4)...)
		if len(out) != 1 || string(out[0].Key) != user(1) || strings.Contains(fmt.Sprint(out[0].Headers), "canary") {
			t.Errorf("output %v, want the dead letter of the record that panics", out)
		}
	})
}

func TestProcess_ApplyTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first := true
		sink := newScripted(t, func(ctx context.Context, _ []sinks.Record) error {
			if first {
				first = false
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		p := bare(t, sink)
		started := time.Now()
		process(t, p, upserts(2)...)
		if took := time.Since(started); took < p.cfg.ApplyTimeout || took > p.cfg.ApplyTimeout+time.Second {
			t.Errorf("took %s, want about %s", took, p.cfg.ApplyTimeout)
		}
	})
}

func TestProcess_Shutdown(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		cause   error // nil: a shutdown
		answers time.Duration
		fails   bool
		done    bool // the batch is finished
		within  time.Duration
	}{
		{name: "calls under way finish", answers: 8 * time.Second, done: true, within: 7 * time.Second},
		{name: "calls that take too long are ended", answers: time.Hour, within: 10 * time.Second},
		{name: "a wait for another attempt ends", fails: true, within: time.Second},
		{name: "a lost partition ends calls at once", cause: transact.ErrPartitionLost, answers: time.Hour},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				sink := newScripted(t, func(ctx context.Context, _ []sinks.Record) error {
					if test.fails {
						return sinks.RetryAfter(sinks.ReasonUnavailable, time.Hour, errDown)
					}
					return sleep(ctx, test.answers)
				})
				sink.facts.MaxBatch, sink.facts.MaxInFlight = 5, 2
				p := bare(t, sink)
				time.AfterFunc(time.Second, func() { cancel(test.cause) })
				var ended time.Time
				context.AfterFunc(ctx, func() { ended = time.Now() })
				_, err := p.Process(ctx, upserts(10))
				synctest.Wait()
				if took := time.Since(ended); (err == nil) != test.done || took > test.within {
					t.Errorf("Process: %v after %s; want done %t within %s", err, took, test.done, test.within)
				}
			})
		})
	}
}

// The destination goes down within a batch whose first records it took.
func TestProcess_OutageWithinABatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		down, up := false, time.Now().Add(24*time.Hour)
		sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
			down = down || batch[0].ClerkID == user(7)
			if down && time.Now().Before(up) {
				return errDown
			}
			return nil
		})
		sink.facts.MaxBatch, sink.facts.MaxInFlight = 1, 1
		out := process(t, bare(t, sink), append(upserts(10), tombstone("gone", 1, schemas.OriginWebhook))...)
		if len(out) != 1 || out[0].Topic != topics.ErasureReceipts() {
			t.Errorf("output %v, want the receipt alone", out)
		}
	})
}

// Whatever the destination answers, every record ends in exactly one way, and
// a dead letter is only what the destination can never take. Prints the seed.
func TestProcess_RandomAnswers(t *testing.T) {
	t.Parallel()
	for seed := range uint64(150) {
		synctest.Test(t, func(t *testing.T) { randomAnswers(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func randomAnswers(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	n := 1 + random.IntN(120)
	poison := map[string]bool{}
	for range random.IntN(4) {
		poison[user(random.IntN(n))] = true
	}
	held := map[string]bool{}
	sink := newScripted(t, nil)
	sink.facts.MaxBatch, sink.facts.MaxInFlight = 1+random.IntN(50), 1+random.IntN(4)
	sink.facts.EveryChange = random.IntN(4) == 0
	sink.apply = func(ctx context.Context, batch []sinks.Record) error {
		sink.mu.Lock()
		defer sink.mu.Unlock()
		listed := &sinks.BatchError{}
		lists := random.IntN(2) == 0
		if random.IntN(5) == 0 {
			return errDown
		}
		for i, r := range batch {
			if poison[r.ClerkID] && !r.Erase() {
				if !lists {
					return sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("poison"))
				}
				listed.Fail(i, sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("poison")))
			} else if lists && random.IntN(8) == 0 {
				listed.Fail(i, errDown)
			}
		}
		for i, r := range batch {
			if listed.Failed(i) == nil {
				held[r.ClerkID] = !r.Erase()
			}
		}
		return listed.Err()
	}
	p := bare(t, sink)
	p.cfg.MaxAttempts = 100 // no run of bad luck is that long
	records := upserts(n)
	erased := user(random.IntN(n))
	records = append(records, tombstone(erased, int64(n), schemas.OriginWebhook))
	out := process(t, p, records...)
	dead := map[string]bool{}
	for _, r := range out {
		if r.Topic == topics.DeadLetters(sinkName) {
			dead[string(r.Key)] = true
		}
	}
	for i := range n {
		id := user(i)
		switch {
		case id == erased && held[id]:
			t.Errorf("%s is erased and held", id)
		case id == erased:
		case held[id] == dead[id] || dead[id] != poison[id]:
			t.Errorf("%s: held %t, dead %t, poison %t", id, held[id], dead[id], poison[id])
		}
	}
	if count(out, topics.ErasureReceipts()) != 1 {
		t.Errorf("%d receipts, want 1", count(out, topics.ErasureReceipts()))
	}
}
