package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"clerkconnect/schemas"
	"clerkconnect/schemas/transact"
	"clerkconnect/sinks"
)

// paced is a scripted sink with a rate limit.
type paced struct {
	*scripted
	pacer sinks.Pacer
}

func (p *paced) Pace(pacer sinks.Pacer) { p.pacer = pacer }

// created is an upsert of a user who signed up at that time.
func created(id string, version int64, at time.Time) *kgo.Record {
	r := upsert(id, version)
	var change schemas.UserChange
	if err := (&schemas.Codec{}).Decode(context.Background(), r.Value, &change); err != nil {
		panic(err)
	}
	change.User.CreatedAt = new(at.UnixMilli())
	r.Value, _ = (&schemas.Codec{}).Encode(&change)
	return r
}

// contacts is a destination that makes a second contact when asked twice, and a
// sink that notes first what it is about to do.
type contacts struct {
	mu      sync.Mutex
	made    map[string]int // by Clerk ID
	looked  int
	careful bool // it notes first
	crash   bool // what is made is made, but no answer comes
	before  func(r sinks.Record)
}

func (c *contacts) apply(_ context.Context, batch []sinks.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var failed sinks.BatchError
	for i, r := range batch {
		if c.before != nil {
			c.before(r)
		}
		switch state := string(r.State); {
		case state == "" && c.careful:
			r.Remember([]byte("creating"))
			failed.Fail(i, sinks.ErrRememberFirst)
			continue
		case c.crash && c.made[r.ClerkID] > 0:
			failed.Fail(i, errDown)
			continue
		case state == "creating" && c.made[r.ClerkID] > 0:
			c.looked++
		case state == "creating" || state == "":
			c.made[r.ClerkID]++
			if c.crash {
				failed.Fail(i, errDown)
				continue
			}
		}
		r.Remember([]byte("made"))
	}
	return failed.Err()
}

// Many records of a batch want something remembered first: all of it is
// written in one go, nothing counts as failed, nothing waits.
func TestProcess_RememberFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		destination := &contacts{made: map[string]int{}, careful: true}
		sink := newScripted(t, destination.apply)
		sink.facts.MaxBatch = 3
		p := bare(t, sink)
		records, started := upserts(10), time.Now()
		notes, err := p.Process(t.Context(), records)
		if !errors.Is(err, transact.ErrAgain) || count(notes, topics.SinkState(sinkName)) != 10 || len(destination.made) != 0 {
			t.Fatalf("Process: %d notes, %v, %d contacts; want 10, ErrAgain, none", len(notes), err, len(destination.made))
		}
		for _, k := range notes {
			if string(k.Value) != "creating" || schemas.Header(k.Headers, schemas.HeaderVersion) != "" {
				t.Errorf("note %s %v, want creating, without a version: nothing is applied", k.Value, k.Headers)
			}
		}
		out := process(t, p, records...)
		if len(destination.made) != 10 || destination.looked != 0 || count(out, topics.SinkState(sinkName)) != 10 || len(out) != 10 {
			t.Errorf("%d contacts, looked %d times, output %v; want 10, 0, ten states", len(destination.made), destination.looked, out)
		}
		if took := time.Since(started); took != 0 {
			t.Errorf("took %s, want no wait", took)
		}
		for _, class := range []sinks.Class{sinks.ClassRetry, sinks.ClassPermanent, sinks.ClassFatal} {
			if n := counted(t, p.metrics.errors.WithLabelValues(class.String(), string(sinks.ReasonUnknown))); n != 0 {
				t.Errorf("%v errors of class %s, want none", n, class)
			}
		}
	})
}

// A note says nothing new of what was applied: the version stays.
func TestProcess_NoteKeepsTheVersion(t *testing.T) {
	t.Parallel()
	sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
		batch[0].Remember([]byte("moving"))
		return sinks.ErrRememberFirst
	})
	p := bare(t, sink)
	p.partitions[0].states.set("a", known{state: []byte("made"), version: schemas.Version{Epoch: 1, Number: 3}})
	notes, err := p.Process(t.Context(), []*kgo.Record{upsert("a", 5)})
	if !errors.Is(err, transact.ErrAgain) || len(notes) != 1 || string(notes[0].Value) != "moving" {
		t.Fatalf("Process: %v, %v; want the note", notes, err)
	}
	if got := schemas.Header(notes[0].Headers, schemas.HeaderVersion); got != "3" || schemas.Header(notes[0].Headers, headerUnapplied) != "" {
		t.Errorf("note with version %q and headers %v, want 3, of an applied change", got, notes[0].Headers)
	}
}

// The rest of a batch is not kept waiting, nor is a note by an outage.
func TestProcess_RememberFirstBesideFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		destination := &contacts{made: map[string]int{}, careful: true}
		var up atomic.Bool
		sink := newScripted(t, func(ctx context.Context, batch []sinks.Record) error {
			if !up.Load() && (batch[0].ClerkID == "other" || batch[0].State != nil) {
				return sinks.RetryAfter(sinks.ReasonUnavailable, 0, errDown)
			}
			return destination.apply(ctx, batch)
		})
		sink.facts.MaxBatch, sink.facts.MaxInFlight = 1, 1
		p := bare(t, sink)
		records := []*kgo.Record{upsert("other", 1), upsert("a", 2)}
		started := time.Now()
		notes, err := p.Process(t.Context(), records)
		if !errors.Is(err, transact.ErrAgain) || len(notes) != 1 || time.Since(started) > p.cfg.BackoffMin {
			t.Fatalf("Process: %v, %v after %s; want the note of a at once", notes, err, time.Since(started))
		}
		time.AfterFunc(time.Hour, func() { up.Store(true) })
		for err = transact.ErrAgain; errors.Is(err, transact.ErrAgain); { // notes of the other one
			_, err = p.Process(t.Context(), records)
		}
		if err != nil || destination.made["a"] != 1 || destination.made["other"] != 1 {
			t.Errorf("Process: %v, made %v; want each once", err, destination.made)
		}
	})
}

// A sink that asks for the same again, or for nothing, is not heard for ever.
func TestProcess_RememberFirstWithoutNews(t *testing.T) {
	t.Parallel()
	for name, state := range map[string][]byte{"the same": []byte("x"), "nothing": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
					if batch[0].ClerkID == "good" {
						return nil
					}
					batch[0].Remember(state)
					return sinks.ErrRememberFirst // instead of a BatchError: it is understood
				})
				sink.facts.MaxBatch = 1
				p := bare(t, sink)
				records := []*kgo.Record{upsert("good", 1), upsert("loops", 2)}
				out, err := p.Process(t.Context(), records)
				for n := 0; errors.Is(err, transact.ErrAgain) && n < 5; n++ {
					out, err = p.Process(t.Context(), records)
				}
				if err != nil || count(out, topics.DeadLetters(sinkName)) != 1 {
					t.Errorf("Process: %v, %v; want the dead letter of the record", out, err)
				}
			})
		})
	}
}

// A crash between the call and the commit: the successor finds the note, and
// makes no second contact.
func TestRunner_SuccessorSeesTheNote(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		destination := &contacts{made: map[string]int{}, careful: true, crash: true}
		destination.before = func(r sinks.Record) { // whoever is given a note is given what Kafka has
			if r.State != nil && string(b.latest(topics.SinkState(sinkName))[r.ClerkID]) != string(r.State) {
				t.Errorf("applied with state %q, which is not acknowledged", r.State)
			}
		}
		b.write(upsert("a", 1), upsert("b", 1), upsert("c", 1))
		first := b.run(sinkName, "a", newScripted(t, destination.apply))
		eventually(t, "made, without an answer", func() bool {
			destination.mu.Lock()
			defer destination.mu.Unlock()
			return len(destination.made) == 3
		})
		first.stop()
		if states := b.latest(topics.SinkState(sinkName)); string(states["a"]) != "creating" {
			t.Fatalf("state %q, want the note", states["a"])
		}
		destination.crash = false
		second := b.run(sinkName, "a", newScripted(t, destination.apply))
		eventually(t, "caught up", func() bool { s := second.Status(); return len(s.Ready) == partitions && s.LagRecords == 0 })
		second.stop()
		for _, id := range []string{"a", "b", "c"} {
			if destination.made[id] != 1 || string(b.latest(topics.SinkState(sinkName))[id]) != "made" {
				t.Errorf("%s was made %d times, state %q; want once, made", id, destination.made[id], b.latest(topics.SinkState(sinkName))[id])
			}
		}
	})
}

// A process that has lost its partitions can commit no note: it would take the
// place of what the successor remembers.
func TestRunner_NoteThatIsNotCommitted(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	refused := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.IllegalGeneration, Count: 2})
	destination := &contacts{made: map[string]int{}, careful: true}
	given := []string{}
	destination.before = func(r sinks.Record) { given = append(given, string(r.State)) }
	b.write(upsert("a", 1))
	r := b.run(sinkName, "a", newScripted(t, destination.apply))
	eventually(t, "caught up", func() bool { s := r.Status(); return len(s.Ready) == partitions && s.LagRecords == 0 })
	r.stop()
	if refused.Hits() != 2 || !slices.Equal(given, []string{"", "", "", "creating"}) || destination.made["a"] != 1 {
		t.Errorf("%d commits refused, given %q, made %v; want 2, nothing three times and then the note, once", refused.Hits(), given, destination.made)
	}
}

// New is told of the first change of a user who signed up since the sink was
// first run, until that is committed.
func TestProcess_New(t *testing.T) {
	t.Parallel()
	var enabled = time.UnixMilli(1_800_000_000_000)
	late, early := enabled.Add(time.Second), enabled.Add(-time.Second)
	remembers := func(r sinks.Record) { r.Remember([]byte("x")) }
	nothing := func(sinks.Record) {}
	tests := []struct {
		name  string
		since time.Time // signed up; zero: not known
		known *known
		say   func(sinks.Record)
		want  bool // at first
		after bool // after a first committed result
	}{
		{name: "signed up since", since: late, say: remembers, want: true},
		{name: "the sink remembers nothing", since: late, say: nothing, want: true},
		{name: "there before", since: early, say: nothing},
		{name: "at the very moment", since: enabled, say: nothing},
		{name: "the policy leaves created_at out", say: nothing},
		{name: "remembered already", since: late, known: &known{state: []byte("x")}, say: remembers},
		{name: "a note from before a crash", since: late, known: &known{state: []byte("x"), unapplied: true}, say: remembers, want: true},
		{name: "known without a state", since: late, known: &known{version: schemas.Version{Epoch: 1, Number: 1}}, say: nothing},
		{name: "skipped, so not known yet", since: late, say: sinks.Record.Skipped, want: true, after: true},
		{name: "forgotten with the change", since: late, say: func(r sinks.Record) { r.Remember(nil) }, want: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var told []bool
			sink := &paced{scripted: newScripted(t, func(_ context.Context, batch []sinks.Record) error {
				told = append(told, batch[0].New)
				if batch[0].State != nil && string(batch[0].State) != "x" {
					t.Errorf("given the state %q, want x or nil", batch[0].State)
				}
				test.say(batch[0])
				return nil
			})}
			change := func(version int64) *kgo.Record {
				if test.since.IsZero() {
					return upsert("a", version)
				}
				return created("a", version, test.since)
			}
			p := bare(t, sink)
			p.partitions[0].enabled = enabled.UnixMilli()
			if test.known != nil {
				p.partitions[0].states.set("a", *test.known)
			}
			if _, err := p.Process(t.Context(), []*kgo.Record{change(1)}); err != nil { // and its commit fails
				t.Fatal(err)
			}
			out := process(t, p, change(1))
			for _, k := range out { // a successor knows what is committed, no more
				if k.Topic == topics.SinkState(sinkName) {
					restored := newMemory()
					restored.enabled = enabled.UnixMilli()
					if err := restored.readState(k); err != nil {
						t.Fatal(err)
					}
					p.partitions[0] = restored
				}
			}
			process(t, p, change(2))
			if want := []bool{test.want, test.want, test.after}; !slices.Equal(told, want) {
				t.Errorf("New was %v, want %v", told, want)
			}
		})
	}
}

// A user is new throughout the applications of his first change, also behind a
// note, and only once where every change is wanted.
func TestProcess_NewBehindANoteAndOnce(t *testing.T) {
	t.Parallel()
	var told []string
	sink := &paced{scripted: newScripted(t, func(_ context.Context, batch []sinks.Record) error {
		r := batch[0]
		told = append(told, fmt.Sprintf("%d %q %t", r.Version.Number, r.State, r.New))
		if r.State == nil {
			r.Remember([]byte("creating"))
			return sinks.ErrRememberFirst
		}
		r.Remember([]byte("made"))
		return nil
	})}
	sink.facts.EveryChange = true
	p := bare(t, sink)
	p.partitions[0].enabled = 1
	records := []*kgo.Record{created("a", 1, time.Now()), created("a", 2, time.Now())}
	if _, err := p.Process(t.Context(), records); !errors.Is(err, transact.ErrAgain) {
		t.Fatalf("Process: %v, want ErrAgain", err)
	}
	process(t, p, records...)
	if want := []string{`1 "" true`, `1 "creating" true`, `2 "made" false`}; !slices.Equal(told, want) {
		t.Errorf("applied %q, want %q", told, want)
	}
}

// Databases remember nothing and do not care who is new: nothing is kept.
func TestProcess_NewCostsDatabasesNothing(t *testing.T) {
	t.Parallel()
	p := bare(t, newScripted(t, nil))
	p.partitions[0].enabled = 1
	if out := process(t, p, created("a", 1, time.Now())); len(out) != 0 {
		t.Errorf("output %v, want none", out)
	}
}

// The moment that a sink was first run outlives it: who signed up while it was
// away is new, who was there before is not.
func TestRunner_MomentOfEnablingIsKept(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		before := time.Now().Add(-time.Minute)
		ready := func(r *running) func() bool {
			return func() bool {
				if len(r.Status().Ready) < partitions {
					return false // a broker may not know of the topics yet
				}
				n := 0
				for _, k := range b.records(topics.SinkState(sinkName)) {
					if string(k.Key) == enabledKey {
						n++
					}
				}
				return n == partitions
			}
		}
		first := b.run(sinkName, "a", newScripted(t, nil))
		eventually(t, "moment kept in each partition", ready(first))
		first.stop()
		away := time.Now()
		time.Sleep(5 * time.Millisecond) // so that the times differ
		sink := newScripted(t, nil)
		second := b.run(sinkName, "a", sink)
		b.write(created("came", 1, away), created("there", 1, before))
		eventually(t, "both applied", func() bool { return len(sink.sent("came")) > 0 && len(sink.sent("there")) > 0 })
		eventually(t, "moment kept once", ready(second))
		second.stop()
		for _, call := range sink.calls {
			for _, r := range call {
				if r.New != (r.ClerkID == "came") {
					t.Errorf("%s: New is %t", r.ClerkID, r.New)
				}
			}
		}
	})
}

// What is older than what was applied is not sent, whoever brings it; only a
// final demand to erase is stronger.
func TestProcess_OlderThanApplied(t *testing.T) {
	t.Parallel()
	for name, every := range map[string]bool{"latest": false, "every change": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
				for _, r := range batch {
					if r.ClerkID == "kept" && r.State == nil || r.ClerkID == "a" || r.ClerkID == "b" {
						r.Remember([]byte("x"))
					}
				}
				return nil
			})
			sink.facts.EveryChange = every
			p := bare(t, sink)
			restart := func(out []*kgo.Record) {
				for _, k := range out {
					if k.Topic == topics.SinkState(sinkName) {
						p.partitions[0].states.delete(string(k.Key))
						if err := p.partitions[0].readState(k); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			restart(process(t, p, upsert("a", 5), upsert("b", 5), upsert("kept", 3)))
			restart(process(t, p, upsert("kept", 5))) // the version moves also where the sink remembers nothing new
			restart(process(t, p, upsert("a", 4), upsert("kept", 4), tombstone("b", 4, schemas.OriginReconcile)))
			restart(process(t, p, upsert("a", 5)))
			restart(process(t, p, tombstone("a", 4, schemas.OriginWebhook)))
			want := map[string][]int64{"a": {5, 5, 4}, "b": {5}, "kept": {3, 5}}
			if every {
				want = map[string][]int64{"a": {5, 4, 5, 4}, "b": {5, 4}, "kept": {3, 5, 4}}
			}
			for id, versions := range want {
				if got := sink.sent(id); !slices.Equal(got, versions) {
					t.Errorf("sent versions of %s: %v, want %v", id, got, versions)
				}
			}
		})
	}
}

// A word about one partition has a batch begin anew; the notes of the others are
// committed all the same, and must not be taken for unsaid: who writes nothing
// over them leaves them in Kafka for ever.
func TestProcess_AWordLosesNoNote(t *testing.T) {
	t.Parallel()
	sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
		if !batch[0].Erase() && batch[0].State == nil {
			batch[0].Remember([]byte("about to"))
			return sinks.ErrRememberFirst
		}
		return nil
	})
	p := bare(t, sink)
	p.partitions[1] = newMemory()
	p.words = &words{last: map[int32]int64{}, letters: map[int32]int64{}}
	p.read = func(context.Context, int32) (*memory, error) { return newMemory(), nil }
	change := upsert("u", 1)
	if notes, err := p.Process(t.Context(), []*kgo.Record{change}); !errors.Is(err, transact.ErrAgain) || len(notes) != 1 {
		t.Fatalf("Process: %v, %v; want a note", notes, err)
	}
	p.words.last[1] = 7
	out := process(t, p, change, tombstone("u", 2, schemas.OriginWebhook))
	if n := count(out, topics.SinkState(sinkName)); n != 1 || p.partitions[0].states.len() != 0 {
		t.Errorf("output %v, %d states known; want the note forgotten with its user", out, p.partitions[0].states.len())
	}
}
