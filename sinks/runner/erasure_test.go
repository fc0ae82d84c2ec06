package runner

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	memorysink "clerkconnect/sinks/memory"
)

const hold = 72 * time.Hour

// holding is a processor that holds erasures back. again is what its partition
// holds when it is read again.
func holding(t *testing.T, sink sinks.Sink, again func() *memory) *processor {
	t.Helper()
	p := bare(t, sink)
	p.cfg.EraseAfter = hold
	p.partitions[0].readAt = time.Now()
	p.read = func(context.Context, int32) (*memory, error) {
		m := again()
		m.readAt = time.Now()
		return m, nil
	}
	return p
}

// owing is what is read where one erasure is asked for and receipts are there.
func owing(p *processor, e schemas.Erasure, receipts ...schemas.Receipt) *memory {
	m := newMemory()
	m.readAt = time.Now()
	for _, r := range receipts {
		m.receipts.set(r)
	}
	d := &debt{erasure: e, since: time.UnixMilli(e.RequestedAt)}
	m.erased.set(e.ClerkID, eraseRecord(e, 0).Rank())
	p.compare(m, e.ClerkID, d)
	return m
}

func TestHold_ErasureWaits(t *testing.T) {
	t.Parallel()
	for _, waives := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			asked := time.Now()
			erasure := schemas.Erasure{ClerkID: "a", Epoch: 1, Version: 5, Origin: schemas.OriginWebhook, RequestedAt: asked.UnixMilli()}
			var p *processor
			var receipts []schemas.Receipt
			sink := newScripted(t, nil)
			p = holding(t, sink, func() *memory { return owing(p, erasure, receipts...) })
			gone := tombstone("a", 5, schemas.OriginWebhook)
			if out := process(t, p, upsert("a", 4), upsert("b", 1), gone); len(out) != 0 {
				t.Fatalf("output %v, want nothing yet", out)
			}
			process(t, p, upsert("a", 3))
			if s := p.Status(); s.ErasuresOwed != 1 || s.ErasuresHeld != 1 || !s.OldestErasure.Equal(asked.Truncate(time.Millisecond)) || len(sink.sent("a")) != 0 || len(sink.sent("b")) != 1 {
				t.Fatalf("status %+v, sent %v; want one owed and held, nothing of its user sent", s, sink.sent("a"))
			}
			if due := p.Due(); due.Sub(asked).Round(time.Second) != hold {
				t.Fatalf("due after %s, want %s", due.Sub(asked), hold)
			}
			if waives { // written before the time, seen only now
				receipts = append(receipts, schemas.Receipt{ClerkID: "a", Sink: sinkName, Epoch: 1, Version: 5, WaivedAt: new(int64(1))})
			}
			time.Sleep(time.Until(p.Due()) + time.Second)
			out := process(t, p)
			if s := p.Status(); s.ErasuresOwed != 0 || s.ErasuresHeld != 0 || !p.Due().IsZero() {
				t.Errorf("waived %t: status %+v, due %s; want nothing owed", waives, s, p.Due())
			}
			if done := len(sink.sent("a")) == 1 && len(out) == 1; done == waives {
				t.Errorf("waived %t: sent %v, output %v", waives, sink.sent("a"), out)
			}
			before := len(sink.sent("a"))
			process(t, p, gone, upsert("a", 4)) // once more, from the topic
			if repeats := len(sink.sent("a")) > before; repeats == waives {
				t.Errorf("waived %t: sent %v after a repetition", waives, sink.sent("a"))
			}
			process(t, p, tombstone("a", 9, schemas.OriginWebhook)) // another demand is owed anew
			if waives && p.Status().ErasuresHeld != 1 {
				t.Errorf("status %+v, want the later demand held", p.Status())
			}
		})
	}
}

// An erasure is not done by what was known before its time.
func TestHold_ReadsBeforeItIsDone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sink := newScripted(t, nil)
		var p *processor
		reads := 0
		erasure := schemas.Erasure{ClerkID: "a", Epoch: 1, Version: 5, RequestedAt: time.Now().UnixMilli()}
		p = holding(t, sink, func() *memory {
			reads++
			return owing(p, erasure, schemas.Receipt{ClerkID: "a", Sink: sinkName, Epoch: 1, Version: 5, WaivedAt: new(int64(1))})
		})
		gone := tombstone("a", 5, schemas.OriginWebhook)
		time.Sleep(2 * hold) // the sink was away; its memory is older than the end of the hold
		process(t, p, gone)
		process(t, p)
		if len(sink.sent("a")) != 0 || reads != 1 {
			t.Errorf("sent %v after %d reads, want nothing after 1", sink.sent("a"), reads)
		}
	})
}

func TestHold_UserWhoCameBackOwesNothing(t *testing.T) {
	t.Parallel()
	sink := newScripted(t, nil)
	p := holding(t, sink, newMemory)
	process(t, p, tombstone("a", 5, schemas.OriginReconcile))
	process(t, p, upsert("a", 6))
	if s := p.Status(); s.ErasuresOwed != 0 || !slices.Equal(sink.sent("a"), []int64{6}) {
		t.Errorf("status %+v, sent %v; want nothing owed, 6 alone", s, sink.sent("a"))
	}
}

// A parked erasure keeps its wait when its partition is read again.
func TestHold_ReadingAgainKeepsWaits(t *testing.T) {
	t.Parallel()
	later := time.Now().Add(time.Hour)
	erasure := schemas.Erasure{ClerkID: "a", Epoch: 1, Version: 5}
	before, fresh := newMemory(), newMemory()
	before.debts["parked"], fresh.debts["parked"] = &debt{erasure: erasure, due: later}, &debt{erasure: erasure, held: true}
	before.debts["done"], fresh.unconfirmed["done"] = &debt{erasure: erasure, due: later}, &debt{erasure: erasure}
	before.unconfirmed["waits"], fresh.unconfirmed["waits"] = &debt{erasure: erasure, due: later}, &debt{erasure: erasure}
	before.debts["foreign"] = &debt{due: later} // of a tombstone without a version: it stands nowhere else
	before.erased.set("foreign", schemas.Version{Epoch: 7})
	before.debts["withdrawn"] = &debt{erasure: erasure, due: later}
	fresh.keepWaits(before)
	for _, d := range []*debt{fresh.debts["parked"], fresh.unconfirmed["done"], fresh.unconfirmed["waits"], fresh.debts["foreign"]} {
		if d == nil || !d.due.Equal(later) || d.held {
			t.Errorf("debt %+v, want it due at %s", d, later)
		}
	}
	if rank, _ := fresh.erased.get("foreign"); rank.Epoch != 7 {
		t.Errorf("rank %v of an erasure that no topic tells, want the one from before", rank)
	}
	if fresh.debts["withdrawn"] != nil {
		t.Error("a withdrawn erasure is owed again")
	}
}

func TestAskedFor(t *testing.T) {
	t.Parallel()
	written := time.UnixMilli(3)
	for want, e := range map[int64]schemas.Erasure{1: {RequestedAt: 1, SequencedAt: 2}, 2: {SequencedAt: 2}, 3: {}} {
		if got := askedFor(e, written).UnixMilli(); got != want {
			t.Errorf("%+v: asked for at %d, want %d", e, got, want)
		}
	}
}

// word is what a person's command writes: a receipt, or nil to take one back.
func word(id string, r *schemas.Receipt) *kgo.Record {
	k := &kgo.Record{Topic: topics.ErasureReceipts(), Key: []byte(schemas.ReceiptKey(id, sinkName))}
	if r != nil {
		k.Value, _ = (&schemas.Codec{}).Encode(r)
	}
	return k
}

func waiver(id string, version int64) *kgo.Record {
	return word(id, &schemas.Receipt{ClerkID: id, Sink: sinkName, Epoch: 1, Version: version, Outcome: schemas.OutcomeNotPresent, WaivedAt: new(time.Now().UnixMilli())})
}

// deletion is what the sequencer writes of a deleted user.
func deletion(id string, version int64) []*kgo.Record {
	return []*kgo.Record{tombstone(id, version, schemas.OriginWebhook), erasure(id, &schemas.Erasure{
		ClerkID: id, Epoch: 1, Version: version, Origin: schemas.OriginWebhook, RequestedAt: time.Now().UnixMilli(),
	})}
}

// Held erasures survive a restart; one is waived while the sink runs, the
// other is done when its time has come.
func TestRunner_HoldsWaivesErases(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		store := &memorysink.Store{}
		wait := time.Hour // until everything is as it is to be before its end
		holds := func(cfg *Config, _ *Options) { cfg.EraseAfter = wait }
		first := b.run(sinkName, "a", onStore(t, store), holds)
		b.write(upsert("kept", 1), upsert("goes", 2), upsert("else", 3))
		eventually(t, "three users held", func() bool { return len(store.Users()) == 3 })
		asked := time.Now()
		b.write(append(deletion("kept", 4), deletion("goes", 5)...)...)
		eventually(t, "both erasures held back, offsets committed", func() bool {
			s := first.Status()
			return s.ErasuresOwed == 2 && s.ErasuresHeld == 2 && s.LagRecords == 0
		})
		first.stop()
		second := b.run(sinkName, "a", onStore(t, store), holds)
		eventually(t, "held after the restart", func() bool { return second.Status().ErasuresHeld == 2 })
		b.write(waiver("kept", 4))
		eventually(t, "waived", func() bool { return second.Status().ErasuresOwed == 1 })
		second.stop()
		if n := len(store.Users()); n != 3 {
			t.Fatalf("%d users held, want 3 before the end of the hold", n)
		}
		wait = time.Since(asked) + 2*time.Second
		last := b.run(sinkName, "a", onStore(t, store), holds)
		eventually(t, "erased when the hold is over", func() bool { return len(store.Users()) == 2 && last.Status().ErasuresOwed == 0 })
		if early := wait - time.Since(asked); early > 0 {
			t.Errorf("erased %s too early", early)
		}
		if _, held := store.User("kept"); !held {
			t.Error("a waived erasure was done")
		}
		last.stop()
		third := b.run(sinkName, "a", onStore(t, store), holds)
		b.write(tombstone("kept", 4, schemas.OriginWebhook), upsert("new", 6)) // once more
		eventually(t, "caught up", func() bool { return len(store.Users()) == 3 && third.Status().LagRecords == 0 })
		if _, held := store.User("kept"); !held || third.Status().ErasuresOwed != 0 {
			t.Error("after a restart a waived erasure was done, or is owed")
		}
	})
}

// A backup of the destination was restored: the receipt is taken back, and the
// running sink erases again.
func TestRunner_ReceiptTakenBack(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		store := &memorysink.Store{}
		r := b.run(sinkName, "a", onStore(t, store))
		b.write(upsert("gone", 1))
		eventually(t, "held", func() bool { return len(store.Users()) == 1 })
		backup, _ := store.User("gone")
		b.write(deletion("gone", 2)...)
		key := schemas.ReceiptKey("gone", sinkName)
		receipt := func() schemas.Receipt {
			var receipt schemas.Receipt
			_ = (&schemas.Codec{}).Decode(t.Context(), b.latest(topics.ErasureReceipts())[key], &receipt)
			return receipt
		}
		eventually(t, "receipt", func() bool { return receipt().ConfirmedAt != nil })
		done := receipt().DoneAt
		for range 2 { // with a memory that knows of the erasure, and without one
			time.Sleep(10 * time.Millisecond)
			b.write(word("gone", nil))
			eventually(t, "a new receipt", func() bool { return receipt().DoneAt > done })
			eventually(t, "nothing owed", func() bool { return r.Status().ErasuresOwed == 0 })
			done = receipt().DoneAt
			store.Restore(backup)
		}
		b.write(word("gone", nil))
		eventually(t, "erased again", func() bool { return len(store.Users()) == 0 && receipt().DoneAt > done })
		if got := receipt(); got.Outcome != schemas.OutcomeDeleted {
			t.Errorf("receipt %+v, want DELETED", got)
		}
		eventually(t, "nothing owed", func() bool { return r.Status().ErasuresOwed == 0 })
		time.Sleep(2 * time.Second) // our own receipt comes by, and asks for nothing
		n := 0
		for _, k := range b.records(topics.ErasureReceipts()) {
			if k.Value != nil {
				n++
			}
		}
		if n != 4 {
			t.Errorf("%d receipts, want 4: one for each time", n)
		}
	})
}

// A receipt whose writer had not heard that it was taken back does not pay.
func TestRestore_ReceiptTakenBackUnheard(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.create(topics.SinkState(sinkName), topics.DeadLetters(sinkName))
	b.write(deletion("gone", 2)...)
	done := func(heard int) *kgo.Record {
		k := word("gone", &schemas.Receipt{ClerkID: "gone", Sink: sinkName, Epoch: 1, Version: 2, Outcome: schemas.OutcomeDeleted})
		k.Headers = []kgo.RecordHeader{{Key: HeaderHeard, Value: strconv.AppendInt(nil, int64(heard), 10)}}
		return k
	}
	r := bare(t, newScripted(t, nil))
	r.options.Client = b.client
	owed := func() int {
		m, err := r.restore(t.Context(), schemas.Partition("gone", partitions))
		if err != nil {
			t.Fatal(err)
		}
		return len(m.debts)
	}
	garbage := done(1000)
	garbage.Value = []byte("garbage")
	for i, step := range []struct {
		written *kgo.Record
		owed    int
	}{{done(0), 0}, {word("gone", nil), 1}, {done(0), 1}, {done(1000), 0}, {garbage, 1}} {
		b.write(step.written)
		if got := owed(); got != step.owed {
			t.Errorf("after step %d: %d owed, want %d", i, got, step.owed)
		}
	}
}

// A destination that is down for an hour does not keep a waiver waiting.
func TestRunner_WaivedDuringAnOutage(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	sink := newScripted(t, func(context.Context, []sinks.Record) error {
		return sinks.RetryAfter(sinks.ReasonUnavailable, time.Hour, errDown)
	})
	r := b.run(sinkName, "a", sink)
	b.write(deletion("gone", 1)...)
	eventually(t, "tried", func() bool { return sink.callCount() == 1 })
	b.write(waiver("gone", 1))
	eventually(t, "waived and committed", func() bool { s := r.Status(); return s.LagRecords == 0 && s.ErasuresOwed == 0 })
}

// Receipts of an earlier program, or of before a crash, wait for confirmation;
// not those of erasures that were withdrawn.
func TestRunner_ConfirmsAfterARestart(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		inferred := func(id string) *kgo.Record {
			return erasure(id, &schemas.Erasure{ClerkID: id, Epoch: 1, Version: 3, Origin: schemas.OriginReconcile, Inferred: true})
		}
		for _, id := range []string{"gone", "back"} {
			b.write(inferred(id), word(id, &schemas.Receipt{ClerkID: id, Sink: sinkName, Epoch: 1, Version: 3, Outcome: schemas.OutcomeDeleted, DoneAt: 7}))
		}
		b.write(erasure("back", nil), upsert("back", 4))
		store := &memorysink.Store{}
		r := b.run(sinkName, "a", onStore(t, store))
		receipt := func(id string) (receipt schemas.Receipt) {
			_ = (&schemas.Codec{}).Decode(t.Context(), b.latest(topics.ErasureReceipts())[schemas.ReceiptKey(id, sinkName)], &receipt)
			return receipt
		}
		eventually(t, "confirmed", func() bool { return receipt("gone").ConfirmedAt != nil })
		eventually(t, "caught up", func() bool {
			s := r.Status()
			return s.LagRecords == 0 && len(s.Ready) == partitions && s.ErasuresUnconfirmed == 0
		})
		if got := receipt("gone"); got.Outcome != schemas.OutcomeDeleted || got.DoneAt != 7 {
			t.Errorf("receipt %+v, want the first one, confirmed", got)
		}
		if _, held := store.User("back"); !held || receipt("back").ConfirmedAt != nil {
			t.Error("an erasure that was withdrawn was done, or confirmed")
		}
	})
}

// An audit log is given what the others have paid.
func TestRunner_ReceiptsFeed(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		audit, err := memorysink.New(memorysink.Config{EveryChange: true, Receipts: true})
		if err != nil {
			t.Fatal(err)
		}
		others := []string{"crm", "mail"}
		for _, name := range others {
			b.run(name, "a", onStore(t, &memorysink.Store{}))
		}
		first := b.run("audit", "a", audit)
		const users = 30
		var records []*kgo.Record
		for i := range users {
			records = append(records, deletion(user(i), int64(i))...)
		}
		b.write(records...)
		b.write(word("taken-back", nil), &kgo.Record{Topic: topics.ErasureReceipts(), Key: []byte(schemas.TickKey)},
			&kgo.Record{Topic: topics.ErasureReceipts(), Key: []byte("x/crm"), Value: []byte("garbage")})
		b.write(waiver("kept", 1))
		want := users*len(others) + 1
		given := func() map[string]int { // each at least once
			times := map[string]int{}
			for _, r := range audit.Store().Receipts() {
				times[fmt.Sprint(schemas.ReceiptKey(r.ClerkID, r.Sink), r.Version)]++
				if r.Sink == "audit" {
					t.Error("a sink was given its own receipt")
				}
			}
			return times
		}
		eventually(t, "all receipts of others", func() bool { return len(given()) == want && first.Status().LagRecords == 0 })
		first.stop()
		before := len(audit.Store().Receipts())
		second := b.run("audit", "a", audit)
		b.write(waiver("kept", 2))
		eventually(t, "the next after a restart", func() bool { return len(given()) == want+1 && second.Status().LagRecords == 0 })
		if n := len(audit.Store().Receipts()) - before; n > want/2 {
			t.Errorf("%d receipts after the restart, want the new one, and none of those committed", n)
		}
		if dead := b.latest(topics.DeadLetters("audit")); len(dead) != 1 || string(dead["x/crm"]) != "garbage" {
			t.Errorf("dead letters %v, want what cannot be understood", dead)
		}
		if len(b.latest(topics.ErasureReceipts())) < users*3+1 {
			t.Error("the sink that is given receipts has not written its own")
		}
	})
}

// receiptOf is a record of the feed.
func receiptOf(id, sink string, offset int64) *kgo.Record {
	value, err := (&schemas.Codec{}).Encode(&schemas.Receipt{ClerkID: id, Sink: sink, Epoch: 1, Version: offset, Outcome: schemas.OutcomeDeleted})
	if err != nil {
		panic(err)
	}
	return &kgo.Record{Topic: topics.ErasureReceipts(), Key: []byte(schemas.ReceiptKey(id, sink)), Value: value, Offset: offset}
}

// Receipts come in the order of their partition, none left out, one call at a
// time, and keep nothing in the sink's state.
func TestFeed_InOrder(t *testing.T) {
	t.Parallel()
	var got []string
	sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
		for _, r := range batch {
			got = append(got, r.ClerkID+"/"+r.Receipt.Sink)
			r.Remember([]byte("state"))
		}
		return nil
	})
	sink.facts.MaxBatch = 2
	r, err := New(DefaultConfig(sinkName), sink, Options{Topics: topics, InstanceName: "a", Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	feed := r.newFeed(nil)
	feed.partitions[0] = newMemory()
	out := process(t, feed, receiptOf("a", "s1", 1), receiptOf("b", "s1", 2), receiptOf("c", "s1", 3), receiptOf("a", "s2", 4),
		receiptOf("a", sinkName, 5), receiptOf("b", "s2", 6), receiptOf("a", "s1", 7))
	if want := []string{"a/s1", "b/s1", "c/s1", "a/s2", "b/s2", "a/s1"}; !slices.Equal(got, want) || sink.busiest != 1 {
		t.Errorf("given %v, %d at once; want %v, 1", got, sink.busiest, want)
	}
	if len(out) != 0 {
		t.Errorf("output %v, want nothing", out)
	}
}

// Both feeds together make no more calls at once than the sink takes.
func TestFeed_SharesMaxInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sink := newScripted(t, func(ctx context.Context, _ []sinks.Record) error { return sleep(ctx, time.Second) })
		sink.facts.MaxInFlight, sink.facts.MaxBatch = 1, 1
		p := bare(t, sink) // fails if two calls are made at once
		feed := p.newFeed(nil)
		feed.partitions[0] = newMemory()
		done := make(chan error)
		go func() {
			_, err := feed.Process(t.Context(), []*kgo.Record{receiptOf("a", "s1", 1), receiptOf("b", "s1", 2)})
			done <- err
		}()
		process(t, p, upsert("c", 1), upsert("d", 2))
		if err := <-done; err != nil || sink.callCount() != 4 {
			t.Errorf("Process: %v, %d calls, want 4", err, sink.callCount())
		}
	})
}
