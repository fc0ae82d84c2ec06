package runner

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// told is what a sink was given, in order: "id/version", "id/erase".
type told struct {
	mu   sync.Mutex
	list []string
}

func (s *told) apply(_ context.Context, batch []sinks.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range batch {
		if r.Erase() {
			s.list = append(s.list, r.ClerkID+"/erase")
		} else if r.Change != nil {
			s.list = append(s.list, fmt.Sprintf("%s/%d", r.ClerkID, r.Version.Number))
		}
	}
	return nil
}

// of is what was told of a user.
func (s *told) of(id string) (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, word := range s.list {
		if rest, ok := strings.CutPrefix(word, id+"/"); ok {
			list = append(list, rest)
		}
	}
	return list
}

// everyChange is a processor of a sink that wants every change, and owes an
// erasure of user a behind the offset.
func everyChange(t *testing.T, behind int64, apply func(context.Context, []sinks.Record) error) (*processor, *scripted) {
	t.Helper()
	sink := newScripted(t, apply)
	sink.facts.EveryChange = true
	p := bare(t, sink)
	p.partitions[0] = owing(p, schemas.Erasure{ClerkID: "a", Epoch: 1, Version: 4, Origin: schemas.OriginWebhook, RequestedAt: time.Now().UnixMilli()})
	p.partitions[0].debts["a"].behind = behind
	return p, sink
}

// Changes come first, and then the erasure, once: by its tombstone, or by the
// debt if the tombstone has been compacted away.
func TestAhead_ChangesComeBeforeTheErasure(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]*kgo.Record{"tombstone": tombstone("a", 4, schemas.OriginWebhook), "no tombstone": upsert("a", 4)} {
		synctest.Test(t, func(t *testing.T) {
			var s told
			p, _ := everyChange(t, 5, s.apply)
			if due, want := p.Due(), time.Now().Add(p.cfg.SlowRetry); !due.Equal(want) {
				t.Errorf("%s: due %s, want %s: nothing but another look", name, due, want)
			}
			out := process(t, p, upsert("a", 1), upsert("b", 2), upsert("a", 3))
			if count(out, topics.ErasureReceipts()) != 0 || len(p.partitions[0].debts) != 1 {
				t.Errorf("%s: %d receipts, owed %v before the last record; want none, and the erasure", name, count(out, topics.ErasureReceipts()), p.partitions[0].debts)
			}
			receipts := count(process(t, p, last), topics.ErasureReceipts())
			want := []string{"1", "3", "erase"}
			if last.Value != nil {
				want = []string{"1", "3", "4", "erase"}
				if due := p.Due(); due.IsZero() || due.After(time.Now()) {
					t.Errorf("%s: due %s, want now", name, due)
				}
				receipts += count(process(t, p), topics.ErasureReceipts())
			}
			if got := s.of("a"); !slices.Equal(got, want) || receipts != 1 || len(p.partitions[0].debts) != 0 {
				t.Errorf("%s: told %v, %d receipts, owed %v; want %v, 1, nothing", name, got, receipts, p.partitions[0].debts, want)
			}
		})
	}
}

// What an erasure waits for may be compacted away before it is read, and nothing
// come behind it: it does not wait for ever.
func TestAhead_LooksAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s told
		p, _ := everyChange(t, 5, s.apply)
		p.read = func(context.Context, int32) (*memory, error) {
			return owing(p, p.partitions[0].debts["a"].erasure), nil
		}
		time.Sleep(p.cfg.SlowRetry - time.Second)
		process(t, p)
		if got := s.of("a"); len(got) != 0 {
			t.Fatalf("told %v before it was time to look again", got)
		}
		time.Sleep(time.Second)
		process(t, p)
		if got := s.of("a"); !slices.Equal(got, []string{"erase"}) {
			t.Errorf("told %v, want the erasure", got)
		}
	})
}

// A person has the sink stand still but for its erasures: each brings its user's
// changes along, also one that fails, which holds up nothing. They come once more
// when the sink runs again, and nothing is kept of them.
func TestAhead_KeepErasing(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]error{"refused": sinks.Permanent(sinks.ReasonInvalidRecord, errPoison), "not classified": errPoison} {
		synctest.Test(t, func(t *testing.T) {
			var s told
			p, _ := everyChange(t, 5, func(ctx context.Context, batch []sinks.Record) error {
				for _, r := range batch {
					if r.Change != nil {
						r.Remember([]byte("personal"))
						if r.Version.Number == 3 {
							return refusal
						}
					}
				}
				return s.apply(ctx, batch)
			})
			p.mode = modeErase
			for version := int64(1); version <= 3; version++ {
				it, err := p.decode(t.Context(), upsert("a", version))
				if err != nil {
					t.Fatal(err)
				}
				it.raw = nil
				p.partitions[0].debts["a"].ahead = append(p.partitions[0].debts["a"].ahead, *it)
			}
			out := process(t, p)
			if count(out, topics.ErasureReceipts()) != 1 {
				t.Fatalf("%s: output %v, want a receipt", name, out)
			}
			p.mode = modeRun
			for _, k := range []*kgo.Record{upsert("a", 1), upsert("a", 2), upsert("b", 1), upsert("a", 3), tombstone("a", 4, schemas.OriginWebhook)} {
				if k.Offset == 3 && refusal == errPoison {
					continue // alone it would wait for another record
				}
				out = append(out, process(t, p, k)...)
				if of := p.partitions[0].states.get("a"); of != nil && of.state != nil {
					t.Errorf("%s: the sink remembers something of an erased user", name)
				}
			}
			if got, want := s.of("a"), []string{"1", "2", "erase", "1", "2", "erase"}; !slices.Equal(got, want) {
				t.Errorf("%s: told %v, want %v", name, got, want)
			}
			if count(out, topics.DeadLetters(sinkName)) != 0 || count(out, topics.ErasureReceipts()) != 1 {
				t.Errorf("%s: output %v, want neither a dead letter of an erased user nor a second receipt", name, out)
			}
			if _, erased := p.partitions[0].erased.get("a"); !erased {
				t.Errorf("%s: a change from before the erasure has undone it", name)
			}
		})
	}
}

// A person wants the user kept: what came before the erasure is remembered, and
// given up with a dead letter, as of any user.
func TestAhead_WaivedUserIsRemembered(t *testing.T) {
	t.Parallel()
	p, _ := everyChange(t, 0, func(_ context.Context, batch []sinks.Record) error {
		batch[0].Remember([]byte("id at the destination"))
		if batch[0].Version.Number == 2 {
			return sinks.Permanent(sinks.ReasonInvalidRecord, errPoison)
		}
		return nil
	})
	e := p.partitions[0].debts["a"].erasure
	p.partitions[0] = owing(p, e, schemas.Receipt{ClerkID: "a", Sink: sinkName, Epoch: e.Epoch, Version: e.Version, WaivedAt: new(int64(1))})
	out := process(t, p, upsert("a", 1), upsert("a", 2))
	if of := p.partitions[0].states.get("a"); of == nil || string(of.state) != "id at the destination" || count(out, topics.SinkState(sinkName)) != 1 {
		t.Errorf("remembered %v, output %v; want what the sink said of the change", of, out)
	}
	if n := count(out, topics.DeadLetters(sinkName)); n != 1 {
		t.Errorf("%d dead letters, want one", n)
	}
}

// An erasure that is demanded while changes are in hand does not take them.
func TestAhead_ErasedMeanwhileIsSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		up := time.Now().Add(time.Hour)
		var s told
		sink := newScripted(t, func(ctx context.Context, batch []sinks.Record) error {
			if time.Now().Before(up) {
				return errDown
			}
			return s.apply(ctx, batch)
		})
		sink.facts.EveryChange = true
		p := bare(t, sink)
		p.words = &words{}
		p.words.erased.own([]int32{0})
		time.AfterFunc(time.Minute, func() {
			p.words.erased.read(p.Runner, erasure("a", &schemas.Erasure{ClerkID: "a", Epoch: 1, Version: 9, Origin: schemas.OriginWebhook}))
		})
		throughOutage(t, p, upsert("a", 1), upsert("a", 2))
		if got := s.of("a"); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("told %v, want 1 2", got)
		}
	})
}

// Whatever a sink finds when it comes back, however often it comes back, and
// however what it reads is cut: each change comes, in order, before the erasure,
// and each erasure is done.
func TestAhead_AnyHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var s told
		sink := newScripted(t, s.apply)
		sink.facts.EveryChange = true
		p := bare(t, sink)
		var log []*kgo.Record
		want, demands := map[string][]string{}, map[string]schemas.Erasure{}
		for offset := range int64(rapid.IntRange(1, 30).Draw(rt, "records")) {
			id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "user")
			if _, gone := demands[id]; gone {
				continue
			}
			if rapid.IntRange(0, 3).Draw(rt, "deletion") > 0 {
				log, want[id] = append(log, upsert(id, offset)), append(want[id], fmt.Sprint(offset))
				continue
			}
			demands[id] = schemas.Erasure{ClerkID: id, Epoch: 1, Version: offset, Origin: schemas.OriginWebhook, RequestedAt: 1}
			want[id] = append(want[id], "erase")
			if rapid.Bool().Draw(rt, "tombstone") {
				log = append(log, tombstone(id, offset, schemas.OriginWebhook))
			}
		}
		receipts, at := newReceipts(), 0
		restart := func() {
			m := newMemory()
			m.readAt, m.receipts = time.Now(), receipts
			for id, e := range demands {
				m.erased.set(id, eraseRecord(e, 0).Rank())
				if _, paid := receipts.get(id); !paid {
					m.debts[id] = &debt{erasure: e}
				}
			}
			for _, k := range log[at:] {
				if d, ok := m.debts[string(k.Key)]; ok {
					d.behind = k.Offset + 1
				}
			}
			p.partitions[0] = m
		}
		restart()
		for at < len(log) || len(p.partitions[0].debts) > 0 {
			n := min(len(log)-at, rapid.IntRange(0, 5).Draw(rt, "batch"))
			process(t, p, log[at:at+n]...)
			at += n
			if rapid.IntRange(0, 4).Draw(rt, "restart") == 0 {
				restart()
			}
		}
		for id, words := range want {
			if got := s.of(id); !slices.Equal(got, words) {
				rt.Fatalf("told of %s: %v, want %v", id, got, words)
			}
		}
	})
}

// With a broker: the sink is away while users change and are erased.
func TestRunner_EveryChangeBeforeAnErasureAskedForMeanwhile(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		var s told
		newSink := func() *scripted {
			sink := newScripted(t, s.apply)
			sink.facts.EveryChange = true
			return sink
		}
		idle := func(r *running) func() bool {
			return func() bool {
				now := r.Status()
				return now.LagRecords == 0 && len(now.Ready) == partitions && now.ErasuresOwed == 0
			}
		}
		demand := func(id string, version int64) *kgo.Record {
			return erasure(id, &schemas.Erasure{ClerkID: id, Epoch: 1, Version: version, Origin: schemas.OriginWebhook})
		}
		r := b.run(sinkName, "a", newSink())
		b.write(upsert("gone", 1), upsert("compacted", 1), upsert("vanished", 1))
		eventually(t, "caught up", idle(r))
		r.stop()
		b.write(upsert("gone", 2), upsert("compacted", 2))
		b.write(upsert("gone", 3), tombstone("gone", 4, schemas.OriginWebhook), demand("gone", 4))
		b.write(demand("compacted", 3), demand("vanished", 2)) // their tombstones are gone, of one a change is left
		r = b.run(sinkName, "a", newSink())
		eventually(t, "caught up again", idle(r))
		r.stop()
		for id, want := range map[string][]string{"gone": {"1", "2", "3", "erase"}, "compacted": {"1", "2", "erase"}, "vanished": {"1", "erase"}} {
			if got := firsts(s.of(id)); !slices.Equal(got, want) {
				t.Errorf("told of %s: %v, want %v", id, s.of(id), want)
			}
			if b.latest(topics.ErasureReceipts())[schemas.ReceiptKey(id, sinkName)] == nil {
				t.Errorf("no receipt for %s", id)
			}
		}
	})
}

// What comes before an erasure is kept only where the partition is not read, and
// only up to the erasure.
func TestRestore_KeepsWhatComesBefore(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.write(upsert("before", 1))
	r := b.run(sinkName, "a", newScripted(t, nil)) // so that there is a group
	eventually(t, "applied and committed", func() bool { s := r.Status(); return len(s.Ready) == partitions && s.LagRecords == 0 })
	r.stop()
	b.write(upsert("gone", 1), upsert("back", 1))
	b.write(deletion("gone", 2)...)
	b.write(erasure("back", &schemas.Erasure{ClerkID: "back", Epoch: 1, Version: 2, Origin: schemas.OriginReconcile, Inferred: true}), upsert("back", 3))
	p, _ := everyChange(t, 0, nil)
	p.options.Client = b.client
	for mode, kept := range map[mode]int{modeRun: 0, modeErase: 1} {
		p.mode = mode
		for _, id := range []string{"gone", "back"} {
			m, err := p.restore(t.Context(), schemas.Partition(id, partitions))
			if err != nil {
				t.Fatal(err)
			}
			d := m.debts[id]
			if len(d.ahead) != kept || d.behind < 2 {
				t.Errorf("mode %d: %s waits behind %d, with %d changes; want its last record, with %d", mode, id, d.behind, len(d.ahead), kept)
			}
			for _, it := range d.ahead {
				if it.record.Version.Number != 1 || it.raw != nil {
					t.Errorf("%s: version %d is kept, raw %v; want 1, decoded alone", id, it.record.Version.Number, it.raw)
				}
			}
		}
	}
}

// With a broker: a person has paused the sink but for its erasures, and a user
// changes and is erased meanwhile.
func TestRunner_EveryChangeBeforeAnErasureInAPause(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		var s told
		sink := newScripted(t, s.apply)
		sink.facts.EveryChange = true
		r := b.run(sinkName, "a", sink)
		b.write(upsert("gone", 1), upsert("stays", 1))
		eventually(t, "applied", func() bool { return len(s.of("gone")) > 0 && len(s.of("stays")) > 0 && r.Status().LagRecords == 0 })
		r.SetPause(&Pause{By: "me", KeepErasing: true})
		eventually(t, "paused", func() bool { now := r.Status(); return now.Paused != nil && now.Opened && len(now.Ready) == partitions })
		b.write(upsert("gone", 2), upsert("stays", 2))
		b.write(append([]*kgo.Record{upsert("gone", 3)}, deletion("gone", 4)...)...)
		receipts := func() int { return len(b.records(topics.ErasureReceipts())) }
		eventually(t, "erased, with a receipt", func() bool { return receipts() == 1 })
		if got := firsts(s.of("gone")); !slices.Equal(got, []string{"1", "2", "3", "erase"}) || slices.Contains(s.of("stays"), "2") {
			t.Errorf("in the pause: told of the erased user %v, of the other %v; want 1 2 3 erase, and 1", s.of("gone"), s.of("stays"))
		}
		r.SetPause(nil)
		eventually(t, "caught up", func() bool { return slices.Contains(s.of("stays"), "2") && r.Status().LagRecords == 0 })
		if receipts() != 1 {
			t.Errorf("%d receipts, want one", receipts())
		}
	})
}

// firsts leaves each word where it stands first: what was applied and not committed,
// because the runner was stopped in between, is applied again.
func firsts(words []string) (kept []string) {
	for _, word := range words {
		if !slices.Contains(kept, word) {
			kept = append(kept, word)
		}
	}
	return kept
}
