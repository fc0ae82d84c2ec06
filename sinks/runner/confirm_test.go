package runner

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// confirming is a scripted sink that can read an erasure back.
type confirming struct {
	*scripted
	confirm func(id string, state []byte) (bool, error)
	asked   []string
}

func (c *confirming) Confirm(_ context.Context, id string, state []byte) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, id)
	return c.confirm(id, state)
}

func newConfirming(t *testing.T, after time.Duration) *confirming {
	sink := &confirming{scripted: newScripted(t, nil), confirm: func(string, []byte) (bool, error) { return true, nil }}
	sink.facts.ConfirmAfter = after
	return sink
}

// says is an Apply that reports an outcome of every erasure.
func says(outcome schemas.Outcome, reason string) func(context.Context, []sinks.Record) error {
	return func(_ context.Context, batch []sinks.Record) error {
		for _, r := range batch {
			if r.Erase() {
				r.ErasedBecause(outcome, reason)
			}
		}
		return nil
	}
}

// receiptIn returns the only receipt among records, nil if there is none.
func receiptIn(t *testing.T, records []*kgo.Record) *schemas.Receipt {
	t.Helper()
	var found *schemas.Receipt
	for _, r := range records {
		if r.Topic != topics.ErasureReceipts() {
			continue
		}
		if found != nil {
			t.Error("more than one receipt")
		}
		found = &schemas.Receipt{}
		if err := (&schemas.Codec{}).Decode(t.Context(), r.Value, found); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func TestConfirm_BeforeTheReceipt(t *testing.T) {
	t.Parallel()
	sink := newConfirming(t, 0)
	sink.apply = says(schemas.OutcomeAnonymized, "rows of orders refer to it")
	var state string
	sink.confirm = func(_ string, s []byte) (bool, error) { state = string(s); return true, nil }
	p := bare(t, sink)
	p.partitions[0].states.set("a", known{state: []byte("id at the destination")})
	out := process(t, p, tombstone("a", 5, schemas.OriginWebhook))
	receipt := receiptIn(t, out)
	if receipt == nil || receipt.ConfirmedAt == nil || receipt.Outcome != schemas.OutcomeAnonymized || receipt.Reason == nil || *receipt.Reason != "rows of orders refer to it" {
		t.Errorf("receipt %+v, want it confirmed, with outcome and reason", receipt)
	}
	if state != "id at the destination" || count(out, topics.SinkState(sinkName)) != 1 || p.partitions[0].states.len() != 0 {
		t.Errorf("asked with state %q, output %v; want it to be known until confirmed, and forgotten then", state, out)
	}
	if s := p.Status(); s.ErasuresUnconfirmed != 0 || !p.Due().IsZero() {
		t.Errorf("status %+v, due %s; want nothing left", s, p.Due())
	}
}

// What is not confirmed is not done: parked, and erased again, where the first
// outcome stands although nobody is found any more.
func TestConfirm_FailedErasureStaysOwed(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func() (bool, error){
		"not gone": func() (bool, error) { return false, nil },
		"error":    func() (bool, error) { return true, sinks.RetryAfter(sinks.ReasonUnavailable, 0, errDown) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				sink := newConfirming(t, 0)
				sink.apply = says(schemas.OutcomeDeleted, "")
				sink.confirm = func(string, []byte) (bool, error) { return answer() }
				p := bare(t, sink)
				p.partitions[0].states.set("a", known{state: []byte("state")})
				out := process(t, p, tombstone("a", 5, schemas.OriginWebhook), upsert("b", 6))
				if len(out) != 0 || p.Status().ErasuresOwed != 1 || p.partitions[0].states.len() != 1 {
					t.Fatalf("output %v, %d owed, states %v; want no receipt, one owed, the state kept", out, p.Status().ErasuresOwed, p.partitions[0].states)
				}
				first := time.Now()
				time.Sleep(p.cfg.SlowRetry)
				sink.apply = says(schemas.OutcomeNotPresent, "")
				sink.confirm = func(string, []byte) (bool, error) { return true, nil }
				receipt := receiptIn(t, process(t, p))
				if receipt == nil || receipt.Outcome != schemas.OutcomeDeleted || receipt.ConfirmedAt == nil || receipt.DoneAt != first.UnixMilli() {
					t.Errorf("receipt %+v, want DELETED at %d, confirmed", receipt, first.UnixMilli())
				}
				if p.Status().ErasuresOwed != 0 || p.partitions[0].states.len() != 0 || len(p.done) != 0 {
					t.Errorf("%d owed, states %v, %d outcomes kept; want none", p.Status().ErasuresOwed, p.partitions[0].states, len(p.done))
				}
			})
		})
	}
}

// A crash between the destination's acknowledgement and the commit, which the
// process survives.
func TestConfirm_FailedCommitKeepsTheOutcome(t *testing.T) {
	t.Parallel()
	sink := newScripted(t, says(schemas.OutcomeDeleted, ""))
	p := bare(t, sink)
	if _, err := p.Process(t.Context(), []*kgo.Record{tombstone("a", 5, schemas.OriginWebhook)}); err != nil {
		t.Fatal(err)
	}
	p.Forget(0)
	p.partitions[0] = newMemory()
	sink.apply = says(schemas.OutcomeNotPresent, "")
	if receipt := receiptIn(t, process(t, p, tombstone("a", 5, schemas.OriginWebhook))); receipt == nil || receipt.Outcome != schemas.OutcomeDeleted {
		t.Errorf("receipt %+v, want DELETED", receipt)
	}
	if receipt := receiptIn(t, process(t, p, tombstone("a", 6, schemas.OriginWebhook))); receipt == nil || receipt.Outcome != schemas.OutcomeNotPresent {
		t.Errorf("receipt of another demand %+v, want NOT_PRESENT", receipt)
	}
}

func TestConfirm_Later(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const after = 15 * time.Minute
		sink := newConfirming(t, after)
		sink.apply = says(schemas.OutcomeDeleted, "")
		p := bare(t, sink)
		p.partitions[0].states.set("a", known{state: []byte("state")})
		done := time.Now()
		first := receiptIn(t, process(t, p, tombstone("a", 5, schemas.OriginWebhook)))
		if first == nil || first.ConfirmedAt != nil || len(sink.asked) != 0 || p.partitions[0].states.len() != 1 {
			t.Fatalf("receipt %+v, %d questions; want one that is not confirmed, the state kept", first, len(sink.asked))
		}
		if s := p.Status(); s.ErasuresOwed != 0 || s.ErasuresUnconfirmed != 1 || !p.Due().Equal(done.Add(after)) {
			t.Fatalf("status %+v, due %s; want one unconfirmed, due in 15 min", s, p.Due())
		}
		time.Sleep(after)
		sink.confirm = func(string, []byte) (bool, error) { return false, errDown }
		for failures, wait := 1, p.cfg.BackoffMin; failures < 20; failures, wait = failures+1, min(2*wait, p.cfg.BackoffMax) {
			if out := process(t, p); len(out) != 0 || time.Until(p.Due()) > wait {
				t.Fatalf("output %v, due in %s: after %d questions without an answer it is asked again within %s", out, time.Until(p.Due()), failures, wait)
			}
			time.Sleep(time.Until(p.Due()))
		}
		sink.confirm = func(string, []byte) (bool, error) { return false, sinks.Permanent(sinks.ReasonUnavailable, errDown) }
		if out := process(t, p); len(out) != 0 || time.Until(p.Due()) != p.cfg.SlowRetry {
			t.Fatalf("output %v, due %s: what does not pass by itself is asked again later", out, p.Due())
		}
		time.Sleep(p.cfg.SlowRetry)
		sink.confirm = func(string, []byte) (bool, error) { return false, nil }
		sink.apply = says(schemas.OutcomeNotPresent, "")
		if out := process(t, p); len(out) != 0 || len(sink.sent("a")) != 2 || time.Until(p.Due()) != after || p.partitions[0].states.len() != 1 {
			t.Fatalf("output %v, erased %d times, due %s; want it erased again without another receipt", out, len(sink.sent("a")), p.Due())
		}
		time.Sleep(after)
		sink.confirm = func(string, []byte) (bool, error) { return true, nil }
		out := process(t, p)
		last := receiptIn(t, out)
		if last == nil || last.ConfirmedAt == nil || *last.ConfirmedAt != time.Now().UnixMilli() || last.Outcome != schemas.OutcomeDeleted || last.DoneAt != done.UnixMilli() {
			t.Errorf("receipt %+v, want the first one, confirmed now", last)
		}
		if count(out, topics.SinkState(sinkName)) != 1 || p.Status().ErasuresUnconfirmed != 0 || !p.Due().IsZero() {
			t.Errorf("output %v, status %+v; want the state forgotten, nothing left", out, p.Status())
		}
	})
}

// The user is back before his erasure was read back.
func TestConfirm_UserWhoCameBackIsNotErasedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sink := newConfirming(t, time.Minute)
		p := bare(t, sink)
		process(t, p, tombstone("a", 5, schemas.OriginReconcile), tombstone("b", 5, schemas.OriginReconcile))
		process(t, p, upsert("a", 6))
		time.Sleep(time.Minute)
		sink.confirm = func(string, []byte) (bool, error) { return false, nil }
		process(t, p, upsert("b", 6)) // in the batch in which the question is asked
		if len(sink.asked) != 1 || len(sink.sent("a")) != 2 || p.Status().ErasuresUnconfirmed != 0 {
			t.Errorf("%d questions, a sent %v, status %+v; want one of b, and nothing left", len(sink.asked), sink.sent("a"), p.Status())
		}
		if got := sink.sent("b"); got[len(got)-1] != 6 {
			t.Errorf("b was sent %v, want 6 last", got)
		}
	})
}

// One hanging destination does not make each question wait for its timeout.
func TestConfirm_OutageIsAskedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sink := newConfirming(t, 0)
		sink.confirm = func(string, []byte) (bool, error) { return false, errDown }
		sink.facts.MaxInFlight = 1
		var records []*kgo.Record
		for i := range 50 {
			records = append(records, tombstone(user(i), int64(i), schemas.OriginWebhook))
		}
		p := bare(t, sink)
		process(t, p, records...)
		if len(sink.asked) != 1 || p.Status().ErasuresOwed != 50 {
			t.Errorf("%d questions, %d owed; want 1, 50", len(sink.asked), p.Status().ErasuresOwed)
		}
	})
}

func TestConfirm_Shutdown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		sink := &hanging{newConfirming(t, 0)}
		p := bare(t, sink)
		time.AfterFunc(time.Second, cancel)
		started := time.Now()
		_, err := p.Process(ctx, []*kgo.Record{tombstone("a", 5, schemas.OriginWebhook)})
		if took := time.Since(started); !errors.Is(err, context.Canceled) || took != time.Second+p.cfg.DrainTimeout {
			t.Errorf("Process: %v after %s, want the end of the context after 11 s", err, took)
		}
	})
}

type hanging struct{ *confirming }

func (*hanging) Confirm(ctx context.Context, _ string, _ []byte) (bool, error) {
	<-ctx.Done()
	return false, ctx.Err()
}

// A user came back and was deleted again while the confirmation of his first
// erasure was due: the receipt of the second is the one that stays.
func TestConfirm_DoesNotReplaceALaterReceipt(t *testing.T) {
	t.Parallel()
	p := bare(t, newScripted(t, nil))
	first := sinks.Record{ClerkID: "u", Version: schemas.Version{Epoch: 1, Number: 5}}
	second := &item{fate: applied, done: time.Now(), record: sinks.Record{ClerkID: "u", Version: schemas.Version{Epoch: 1, Number: 7}}}
	out, err := p.render(&batch{
		checks: []*check{{id: "u", confirmed: time.Now(), receipt: p.newReceipt(first, outcome{at: time.Now()})}},
		items:  []*item{second},
	})
	if err != nil || len(out) != 2 {
		t.Fatalf("render: %v, %v; want two receipts", out, err)
	}
	var last schemas.Receipt
	if err := (&schemas.Codec{}).Decode(t.Context(), out[1].Value, &last); err != nil || last.Version != 7 {
		t.Errorf("the last receipt is of version %d, %v; want 7", last.Version, err)
	}
}
