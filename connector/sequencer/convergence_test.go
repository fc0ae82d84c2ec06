package sequencer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"clerkconnect/connector"
	"clerkconnect/schemas"
)

// world is the model: Clerk's own truth, and everything that it says of it,
// each statement free to arrive at any time, any number of times. It knows
// nothing of how the sequencer decides; at the end the topic must equal it.
type world struct {
	now    int64
	users  map[string]truth
	events []*schemas.UserEvent // said, and still free to arrive
}

type truth struct {
	updatedAt int64
	content   int64
	deleted   bool
}

// replicaLag is how far a listing may lag behind, and what its date is put
// back by; a small stand-in for the 60 s of the real thing.
const replicaLag = 3

func (w *world) say(id string, op schemas.EventOperation, origin schemas.Origin, t truth, stated int64, ifVersion *int64) {
	e := &schemas.UserEvent{
		ClerkID: id, Operation: op, Origin: origin, StatedAt: stated, OccurredAt: stated, IfVersion: ifVersion,
		EventID: fmt.Sprintf("msg_%d", len(w.events)),
	}
	if op == schemas.EventUpsert {
		content := fmt.Sprint(t.content)
		e.UpdatedAt, e.Fingerprint, e.User = t.updatedAt, t.content, &schemas.User{FirstName: &content}
	}
	w.events = append(w.events, e)
}

// harness runs the real sequencer over logs in memory.
type harness struct {
	world
	seq     *Sequencer
	input   []*kgo.Record
	offset  int // committed position in input
	state   []*kgo.Record
	table   []*kgo.Record
	debts   []*kgo.Record
	rereads map[string]connector.Reread
}

var testTopics = schemas.Topics{Prefix: "t"}

func newHarness() *harness {
	h := &harness{world: world{now: 1000, users: map[string]truth{}}, rereads: map[string]connector.Reread{}}
	h.restart()
	return h
}

// restart is a new process: it knows what the state topic holds.
func (h *harness) restart() {
	h.seq = New(Config{
		Codec: &schemas.Codec{}, Topics: testTopics, Pins: connector.Pins{Partitions: 1, Epoch: 1},
		Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	h.seq.read = func(_ context.Context, _ string, _ int32, each func(*kgo.Record) error) error {
		for _, r := range h.state {
			if err := each(r); err != nil {
				return err
			}
		}
		return nil
	}
	h.restore()
}

func (h *harness) restore() {
	install, err := h.seq.restorePositions(context.Background(), 0)
	if err != nil {
		panic(err)
	}
	install()
}

func (h *harness) arrive(e *schemas.UserEvent) {
	value, err := h.seq.cfg.Codec.Encode(e)
	if err != nil {
		panic(err)
	}
	h.input = append(h.input, &kgo.Record{Key: []byte(e.ClerkID), Value: value, Offset: int64(len(h.input))})
}

// transact processes n input records and commits them, or not.
func (h *harness) transact(t *rapid.T, n int, commit bool) {
	n = min(n, len(h.input)-h.offset)
	if n == 0 {
		return
	}
	out, err := h.seq.Process(context.Background(), h.input[h.offset:h.offset+n])
	if err != nil {
		t.Fatal(err)
	}
	if !commit {
		h.seq.Forget(0)
		h.restore()
		return
	}
	h.seq.Committed()
	h.offset += n
	for _, r := range out {
		switch r.Topic {
		case testTopics.SequencerState():
			h.state = append(h.state, r)
		case testTopics.Users():
			h.table = append(h.table, r)
		case testTopics.Erasures():
			h.debts = append(h.debts, r)
		case testTopics.ConnectState():
			var asked connector.Reread
			if err := json.Unmarshal(r.Value, &asked); err != nil {
				t.Fatal(err)
			}
			h.rereads[string(r.Key[len(connector.StateKeyRereadPrefix):])] = asked
		}
	}
}

// reread reads a user from Clerk as the snapshot task does.
func (h *harness) reread(id string, ifVersion *int64) {
	if t, ok := h.users[id]; ok && !t.deleted {
		h.say(id, schemas.EventUpsert, schemas.OriginRepair, t, h.now-replicaLag, ifVersion)
	}
}

// settle lets everything arrive, and does the re-reads that come of it.
func (h *harness) settle(t *rapid.T) {
	for len(h.events) > 0 || len(h.rereads) > 0 || h.offset < len(h.input) {
		for len(h.events) > 0 {
			i := rapid.IntRange(0, len(h.events)-1).Draw(t, "arrives")
			h.arrive(h.events[i])
			h.events = slices.Delete(h.events, i, i+1)
		}
		h.transact(t, len(h.input), true)
		h.now += replicaLag + 1
		for _, id := range slices.Sorted(maps.Keys(h.rereads)) {
			h.reread(id, h.rereads[id].IfVersion)
		}
		clear(h.rereads)
	}
}

// check compares the topic with Clerk.
func (h *harness) check(t *rapid.T) {
	latest := map[string]*kgo.Record{}
	versions := map[string]schemas.Version{}
	for _, r := range h.table {
		headers, err := schemas.ParseChangeHeaders(r.Headers)
		if err != nil {
			t.Fatalf("headers: %v", err)
		}
		if headers.Version.Compare(versions[string(r.Key)]) <= 0 {
			t.Fatalf("%s: version %v after %v: the topic stepped back", r.Key, headers.Version, versions[string(r.Key)])
		}
		versions[string(r.Key)] = headers.Version
		latest[string(r.Key)] = r
	}
	owed := map[string]bool{}
	for _, r := range h.debts {
		owed[string(r.Key)] = r.Value != nil
	}
	for id, want := range h.users {
		got := latest[id]
		switch {
		case got == nil:
			t.Fatalf("%s: not in the topic, Clerk has %+v", id, want)
		case want.deleted != (got.Value == nil):
			t.Fatalf("%s: tombstone %v, deleted at Clerk %v", id, got.Value == nil, want.deleted)
		case want.deleted != owed[id]:
			t.Fatalf("%s: erasure owed %v, deleted at Clerk %v", id, owed[id], want.deleted)
		case !want.deleted:
			var change schemas.UserChange
			if err := h.seq.cfg.Codec.Decode(context.Background(), got.Value, &change); err != nil {
				t.Fatal(err)
			}
			if *change.User.FirstName != fmt.Sprint(want.content) {
				t.Fatalf("%s: content %s in the topic, %d at Clerk", id, *change.User.FirstName, want.content)
			}
		}
	}
}

// TestConverges is G2 and G3: whatever arrives in whatever order, how often
// and over however many aborted transactions and restarts, the topic ends at
// Clerk's truth, and never steps back on the way.
func TestConverges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := newHarness()
		id := func() string { return fmt.Sprintf("user_%d", rapid.IntRange(1, 2).Draw(t, "user")) }
		change := func(deltaTime int64, contents int64) {
			user := id()
			was, known := h.users[user]
			if was.deleted {
				return
			}
			h.now += deltaTime
			next := truth{updatedAt: h.now, content: was.content}
			if contents > 0 {
				next.content = rapid.Int64Range(1, contents).Draw(t, "content")
			}
			if !known && next.content == 0 {
				next.content = 1
			}
			h.users[user] = next
			h.say(user, schemas.EventUpsert, schemas.OriginWebhook, next, h.now, nil)
		}
		version := func(user string) *int64 {
			at, known := h.seq.memory[0].get(user)
			if !known {
				return nil
			}
			return &at.Version
		}
		t.Repeat(map[string]func(*rapid.T){
			"change":         func(*rapid.T) { change(1, 3) },
			"change at once": func(*rapid.T) { change(0, 3) },
			"sign in":        func(*rapid.T) { change(1, 0) },
			"delete": func(*rapid.T) {
				user := id()
				if was, ok := h.users[user]; ok && !was.deleted {
					h.now++
					was.deleted = true
					h.users[user] = was
					h.say(user, schemas.EventDelete, schemas.OriginWebhook, truth{}, h.now, nil)
				}
			},
			"snapshot row": func(*rapid.T) {
				user := id()
				if is, ok := h.users[user]; ok && !is.deleted {
					h.say(user, schemas.EventUpsert, schemas.OriginSnapshot, is, h.now-replicaLag, nil)
				}
			},
			"repair": func(*rapid.T) {
				user := id()
				if v := version(user); v != nil {
					h.reread(user, v)
				}
			},
			"inferred deletion": func(*rapid.T) {
				user := id()
				if v := version(user); v != nil && h.users[user].deleted {
					h.say(user, schemas.EventInferredDelete, schemas.OriginReconcile, truth{}, h.now, v)
				}
			},
			// Clerk did not show a user that it has; what he does next brings
			// him back.
			"mistaken deletion": func(*rapid.T) {
				user := id()
				if v := version(user); v != nil && !h.users[user].deleted {
					h.say(user, schemas.EventInferredDelete, schemas.OriginReconcile, truth{}, h.now, v)
					h.now++
					h.users[user] = truth{updatedAt: h.now, content: h.users[user].content}
					h.say(user, schemas.EventUpsert, schemas.OriginWebhook, h.users[user], h.now, nil)
				}
			},
			"arrive": func(t *rapid.T) {
				if len(h.events) == 0 {
					return
				}
				i := rapid.IntRange(0, len(h.events)-1).Draw(t, "event")
				h.arrive(h.events[i])
				if !rapid.Bool().Draw(t, "again") {
					h.events = slices.Delete(h.events, i, i+1)
				}
			},
			"transaction": func(t *rapid.T) {
				h.transact(t, rapid.IntRange(1, 5).Draw(t, "records"), rapid.IntRange(0, 3).Draw(t, "abort") > 0)
			},
			"restart":    func(*rapid.T) { h.restart() },
			"compaction": func(*rapid.T) { h.state = compact(h.state) },
			"time":       func(*rapid.T) { h.now += replicaLag + 1 },
		})
		h.settle(t)
		h.check(t)
	})
}

// compact keeps the last record of each key, as a broker does in the end.
func compact(log []*kgo.Record) []*kgo.Record {
	last := map[string]*kgo.Record{}
	for _, r := range log {
		last[string(r.Key)] = r
	}
	return slices.DeleteFunc(slices.Clone(log), func(r *kgo.Record) bool { return last[string(r.Key)] != r })
}
