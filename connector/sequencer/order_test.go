package sequencer

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/schemas"
)

// permutations calls each with every order of 0..n-1.
func permutations(n int, each func([]int)) {
	order := make([]int, 0, n)
	used := make([]bool, n)
	var extend func()
	extend = func() {
		if len(order) == n {
			each(order)
			return
		}
		for i := range n {
			if !used[i] {
				used[i] = true
				order = append(order, i)
				extend()
				order = order[:len(order)-1]
				used[i] = false
			}
		}
	}
	extend()
}

// TestEveryOrder is G2 without chance: four statements about one user, with
// every choice of two contents, in every order, with a restart after each, end
// at the last. Histories in which a content comes back are where a position
// that only moves with the content is wrong.
func TestEveryOrder(t *testing.T) {
	t.Parallel()
	const statements = 4
	for name, updatedAt := range map[string]func(i int) int64{
		"rising updated_at": func(i int) int64 { return int64(1000 + i) },
		"equal updated_at":  func(int) int64 { return 1000 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for contents := range 1 << statements {
				permutations(statements, func(order []int) {
					h := newHarness()
					for _, i := range order {
						content := int64(1 + contents>>i&1)
						h.say("user_1", schemas.EventUpsert, schemas.OriginWebhook, truth{updatedAt: updatedAt(i), content: content}, int64(1000+i), nil)
						h.arrive(h.events[len(h.events)-1])
						out, err := h.seq.Process(t.Context(), h.input[len(h.input)-1:])
						if err != nil {
							t.Fatal(err)
						}
						for _, r := range out {
							if r.Topic == testTopics.SequencerState() {
								h.state = append(h.state, r)
							} else if r.Topic == testTopics.Users() {
								h.table = append(h.table, r)
							}
						}
						h.restart()
					}
					var last schemas.UserChange
					if err := h.seq.cfg.Codec.Decode(t.Context(), h.table[len(h.table)-1].Value, &last); err != nil {
						t.Fatal(err)
					}
					if want := fmt.Sprint(1 + contents>>(statements-1)&1); *last.User.FirstName != want {
						t.Errorf("contents %04b in order %v: topic ends at %s, want %s", contents, order, *last.User.FirstName, want)
					}
				})
			}
		})
	}
}

// TestDecide states each rule of the order by itself.
func TestDecide(t *testing.T) {
	t.Parallel()
	seven, eight := int64(7), int64(8)
	live := schemas.Position{UpdatedAt: 5, StatedAt: 5, Fingerprint: 3, Version: 7, Epoch: 1}
	gone := schemas.Position{UpdatedAt: 5, StatedAt: 6, Version: 8, Epoch: 1, Flags: schemas.FlagDeleted}
	presumed := gone
	presumed.Flags |= schemas.FlagInferred
	upsert := func(origin schemas.Origin, updatedAt, statedAt, fingerprint int64, ifVersion *int64) schemas.UserEvent {
		return schemas.UserEvent{Operation: schemas.EventUpsert, Origin: origin, UpdatedAt: updatedAt, StatedAt: statedAt, Fingerprint: fingerprint, IfVersion: ifVersion}
	}
	webhook, snapshot, repair := schemas.OriginWebhook, schemas.OriginSnapshot, schemas.OriginRepair
	remove := func(op schemas.EventOperation, statedAt int64, ifVersion *int64) schemas.UserEvent {
		return schemas.UserEvent{Operation: op, Origin: schemas.OriginReconcile, StatedAt: statedAt, IfVersion: ifVersion}
	}
	position := func(updatedAt, statedAt, fingerprint, version int64, flags int32) schemas.Position {
		return schemas.Position{UpdatedAt: updatedAt, StatedAt: statedAt, Fingerprint: fingerprint, Version: version, Epoch: 1, Flags: flags}
	}
	for _, c := range []struct {
		name    string
		at      schemas.Position
		unknown bool
		event   schemas.UserEvent
		outcome Outcome
		next    schemas.Position
		tie     bool
	}{
		{name: "first", unknown: true, event: upsert(webhook, 5, 5, 3, nil), outcome: OutcomeApplied, next: position(5, 5, 3, 5, 0)},
		{name: "later updated_at", at: live, event: upsert(webhook, 9, 1, 4, nil), outcome: OutcomeApplied, next: position(9, 1, 4, 9, 0)},
		{name: "version rises although the clock does not", at: live, event: upsert(webhook, 6, 6, 4, nil), outcome: OutcomeApplied, next: position(6, 6, 4, 8, 0)},
		{name: "later statement", at: live, event: upsert(snapshot, 5, 6, 4, nil), outcome: OutcomeApplied, next: position(5, 6, 4, 8, 0)},
		{name: "same content", at: live, event: upsert(webhook, 9, 9, 3, nil), outcome: OutcomeUnchanged, next: position(9, 9, 3, 9, 0)},
		{name: "earlier updated_at", at: live, event: upsert(webhook, 4, 9, 4, nil), outcome: OutcomeStale, next: live},
		{name: "earlier statement", at: live, event: upsert(snapshot, 5, 4, 4, nil), outcome: OutcomeStale, next: live},
		{name: "the same again", at: live, event: upsert(webhook, 5, 5, 3, nil), outcome: OutcomeDuplicate, next: live},
		{name: "tie, greater", at: live, event: upsert(webhook, 5, 5, 4, nil), outcome: OutcomeApplied, next: position(5, 5, 4, 8, 0), tie: true},
		{name: "tie, smaller", at: live, event: upsert(webhook, 5, 5, 2, nil), outcome: OutcomeStale, next: live, tie: true},

		{name: "repair steps back", at: live, event: upsert(repair, 2, 2, 4, &seven), outcome: OutcomeApplied, next: position(2, 5, 4, 8, 0)},
		{name: "repair confirms, and makes no room", at: live, event: upsert(repair, 5, 2, 3, &seven), outcome: OutcomeUnchanged, next: position(5, 5, 3, 8, 0)},
		{name: "repair of a user that has moved", at: live, event: upsert(repair, 2, 2, 4, &eight), outcome: OutcomeStale, next: live},
		{name: "repair of a user that has moved, and newer", at: live, event: upsert(repair, 9, 9, 4, &eight), outcome: OutcomeApplied, next: position(9, 9, 4, 9, 0)},
		{name: "repair does not undelete", at: gone, event: upsert(repair, 99, 99, 4, &eight), outcome: OutcomeFenced, next: gone},
		{name: "repair does not undelete what was inferred", at: presumed, event: upsert(repair, 99, 99, 4, &eight), outcome: OutcomeFenced, next: presumed},

		{name: "deletion of an unknown user", unknown: true, event: remove(schemas.EventDelete, 6, nil), outcome: OutcomeDeleted, next: position(0, 6, 0, 6, schemas.FlagDeleted)},
		{name: "deletion wins whatever its time", at: live, event: remove(schemas.EventDelete, 1, nil), outcome: OutcomeDeleted, next: position(5, 1, 0, 8, schemas.FlagDeleted)},
		{name: "deletion again", at: gone, event: remove(schemas.EventDelete, 9, nil), outcome: OutcomeDuplicate, next: gone},
		{name: "deletion makes an inferred one final", at: presumed, event: remove(schemas.EventDelete, 9, nil), outcome: OutcomeDeleted, next: position(5, 9, 0, 9, schemas.FlagDeleted)},
		{name: "deleted stays deleted", at: gone, event: upsert(webhook, 99, 99, 4, nil), outcome: OutcomeFenced, next: gone},
		{name: "no snapshot row undeletes", at: presumed, event: upsert(snapshot, 99, 99, 4, nil), outcome: OutcomeFenced, next: presumed},

		{name: "inferred deletion", at: live, event: remove(schemas.EventInferredDelete, 6, &seven), outcome: OutcomeDeleted, next: position(5, 6, 0, 8, schemas.FlagDeleted|schemas.FlagInferred)},
		{name: "inferred deletion of a user that has moved", at: live, event: remove(schemas.EventInferredDelete, 6, &eight), outcome: OutcomeSuperseded, next: live},
		{name: "inferred deletion without a version", at: live, event: remove(schemas.EventInferredDelete, 6, nil), outcome: OutcomeSuperseded, next: live},
		{name: "inferred deletion of an unknown user", unknown: true, event: remove(schemas.EventInferredDelete, 6, &seven), outcome: OutcomeSuperseded},
		{name: "inferred deletion again", at: presumed, event: remove(schemas.EventInferredDelete, 6, &eight), outcome: OutcomeDuplicate, next: presumed},
		{name: "signed event from after the confirmation revives", at: presumed, event: upsert(webhook, 7, 7, 4, nil), outcome: OutcomeRevived, next: position(7, 7, 4, 9, 0)},
		{name: "signed event from before the confirmation does not", at: presumed, event: upsert(webhook, 6, 9, 4, nil), outcome: OutcomeFenced, next: presumed},

		{name: "revocation", at: presumed, event: remove(schemas.EventRevoke, 9, nil), outcome: OutcomeRevived, next: position(0, 9, 0, 9, 0)},
		{name: "revocation of a signed deletion", at: gone, event: remove(schemas.EventRevoke, 9, nil), outcome: OutcomeFenced, next: gone},
		{name: "revocation of nothing", at: live, event: remove(schemas.EventRevoke, 9, nil), outcome: OutcomeSuperseded, next: live},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := decide(c.at, !c.unknown, 1, &c.event)
			if got.outcome != c.outcome || got.next != c.next || got.tie != c.tie || got.accepted != (c.next != c.at) {
				t.Errorf("decide: got %+v, want outcome %s, next %+v, tie %v", got, c.outcome, c.next, c.tie)
			}
		})
	}
}

// TestPositions_Memory holds the memory of a known user to 100 bytes. It measures
// in a process of its own: what other tests have left would be freed meanwhile.
func TestPositions_Memory(t *testing.T) {
	if os.Getenv("MEASURE_POSITIONS") == "" {
		alone := exec.Command(os.Args[0], "-test.run=^TestPositions_Memory$", "-test.v")
		alone.Env = append(os.Environ(), "MEASURE_POSITIONS=1")
		said, err := alone.CombinedOutput()
		if t.Logf("%s", said); err != nil || !strings.Contains(string(said), "bytes each") {
			t.Errorf("the process that measures: %v", err)
		}
		return
	}
	for _, users := range []int{100_000, 460_000} { // before and after the map's tables double
		perUser := measure(users)
		t.Logf("%d users: %.1f bytes each", users, perUser)
		if perUser > 100 {
			t.Errorf("%d users: %.1f bytes each, at most 100 are allowed", users, perUser)
		}
	}
}

// flags is a Writer that only notes what it is asked to store.
type flags struct{ stored map[string]any }

func (f flags) StoreState(_ context.Context, key string, value any) error {
	f.stored[key] = value
	return nil
}

func (flags) Tick(context.Context, string, int32) error { return nil }

// TestProcess_Records holds what the public contract says of the records of one
// user's life, headers and erasures included.
func TestProcess_Records(t *testing.T) {
	t.Parallel()
	h := newHarness()
	h.say("user_1", schemas.EventUpsert, schemas.OriginSnapshot, truth{updatedAt: 100, content: 1}, 100, nil)
	h.say("user_1", schemas.EventUpsert, schemas.OriginWebhook, truth{updatedAt: 200, content: 2}, 201, nil)
	version := int64(200)
	h.say("user_1", schemas.EventInferredDelete, schemas.OriginReconcile, truth{}, 300, &version)
	h.say("user_1", schemas.EventUpsert, schemas.OriginWebhook, truth{updatedAt: 400, content: 3}, 401, nil)
	h.say("user_1", schemas.EventDelete, schemas.OriginRequest, truth{}, 500, nil)
	for i, want := range []struct {
		headers schemas.ChangeHeaders
		change  schemas.ChangeOperation // empty: a tombstone
		erasure *schemas.Erasure        // nil: none
		lifted  bool                    // a tombstone among the erasures
	}{
		{headers: schemas.ChangeHeaders{Operation: "SNAPSHOT", Origin: schemas.OriginSnapshot, Snapshot: schemas.SnapshotTrue, Version: schemas.Version{Number: 100}, OccurredAt: 100}, change: schemas.ChangeSnapshot},
		{headers: schemas.ChangeHeaders{Operation: "UPDATE", Origin: schemas.OriginWebhook, Snapshot: schemas.SnapshotFalse, Version: schemas.Version{Number: 200}, OccurredAt: 201}, change: schemas.ChangeUpdate},
		{headers: schemas.ChangeHeaders{Operation: "DELETE", Origin: schemas.OriginReconcile, Snapshot: schemas.SnapshotFalse, Version: schemas.Version{Number: 300}, OccurredAt: 300},
			erasure: &schemas.Erasure{Version: 300, Origin: schemas.OriginReconcile, Inferred: true, RequestedAt: 300}},
		{headers: schemas.ChangeHeaders{Operation: "CREATE", Origin: schemas.OriginWebhook, Snapshot: schemas.SnapshotFalse, Version: schemas.Version{Number: 400}, OccurredAt: 401}, change: schemas.ChangeCreate, lifted: true},
		{headers: schemas.ChangeHeaders{Operation: "DELETE", Origin: schemas.OriginRequest, Snapshot: schemas.SnapshotFalse, Version: schemas.Version{Number: 500}, OccurredAt: 500},
			erasure: &schemas.Erasure{Version: 500, Origin: schemas.OriginRequest, RequestedAt: 500}},
	} {
		h.arrive(h.events[i])
		out, err := h.seq.Process(t.Context(), h.input[len(h.input)-1:])
		if err != nil {
			t.Fatal(err)
		}
		h.seq.Committed()
		id := fmt.Sprint("msg_", i)
		want.headers.EventID, want.headers.Version.Epoch = id, 1
		var erasure *schemas.Erasure
		lifted := false
		for _, r := range out {
			switch r.Topic {
			case testTopics.Users():
				if got, err := schemas.ParseChangeHeaders(r.Headers); err != nil || got != want.headers {
					t.Errorf("%s: headers are %+v, %v; want %+v", id, got, err, want.headers)
				}
				var change schemas.UserChange
				if r.Value != nil {
					err = h.seq.cfg.Codec.Decode(t.Context(), r.Value, &change)
				}
				if err != nil || change.Operation != want.change || want.change != "" && change.Version != want.headers.Version.Number {
					t.Errorf("%s: got %+v, %v; want operation %q", id, change, err, want.change)
				}
			case testTopics.Erasures():
				if lifted = r.Value == nil; !lifted {
					erasure = new(schemas.Erasure)
					if err := h.seq.cfg.Codec.Decode(t.Context(), r.Value, erasure); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if want.erasure != nil && erasure != nil {
			want.erasure.ClerkID, want.erasure.Epoch, want.erasure.EventID, want.erasure.SequencedAt = "user_1", 1, id, erasure.SequencedAt
		}
		if lifted != want.lifted || (erasure == nil) != (want.erasure == nil) || erasure != nil && *erasure != *want.erasure {
			t.Errorf("%s: erasure is %+v, lifted %v; want %+v", id, erasure, lifted, want.erasure)
		}
	}
}

// TestProcess_TieIsReadAgain: for as long as a replica may lag, Clerk's answer
// to a tie could be the loser.
func TestProcess_TieIsReadAgain(t *testing.T) {
	t.Parallel()
	h := newHarness()
	h.say("user_1", schemas.EventUpsert, schemas.OriginWebhook, truth{updatedAt: 100, content: 2}, 100, nil)
	h.say("user_1", schemas.EventUpsert, schemas.OriginWebhook, truth{updatedAt: 100, content: 1}, 100, nil)
	h.arrive(h.events[0])
	h.arrive(h.events[1])
	out, err := h.seq.Process(t.Context(), h.input)
	if err != nil {
		t.Fatal(err)
	}
	var asked connector.Reread
	if err := json.Unmarshal(out[len(out)-1].Value, &asked); err != nil {
		t.Fatal(err)
	}
	if asked.Reason != "tie" || asked.IfVersion == nil || *asked.IfVersion != 100 || asked.NotBefore != asked.RequestedAt+60_000 {
		t.Errorf("re-read: got %+v, want it 60 s later and for version 100 alone", asked)
	}
}

// TestForget: nothing of a partition that was lost, or of a transaction that was
// not committed, is left.
func TestForget(t *testing.T) {
	t.Parallel()
	h := newHarness()
	h.say("user_1", schemas.EventUpsert, schemas.OriginWebhook, truth{updatedAt: 5, content: 1}, 5, nil)
	h.say("user_2", schemas.EventUpsert, schemas.OriginWebhook, truth{updatedAt: 5, content: 1}, 5, nil)
	process := func(i int) {
		t.Helper()
		h.arrive(h.events[i])
		if _, err := h.seq.Process(t.Context(), h.input[len(h.input)-1:]); err != nil {
			t.Fatal(err)
		}
	}
	process(0)
	h.seq.Committed()
	process(1)
	h.seq.Forget(0)
	if known := h.seq.Status().Known; known != 0 || len(h.seq.overlay) != 0 || len(h.seq.pending) != 0 {
		t.Errorf("got %d known users, %d in the overlay, %d uncounted events; want none", known, len(h.seq.overlay), len(h.seq.pending))
	}
}

// TestNoticeLoss: events that retention took while the partition was owned are
// flagged; repetitions after a rollback are not a loss.
func TestNoticeLoss(t *testing.T) {
	t.Parallel()
	h := newHarness()
	writer := flags{map[string]any{}}
	h.seq.gaps.cfg.Writer = writer
	process := func(offset int64) {
		t.Helper()
		tick := &kgo.Record{Key: []byte(schemas.TickKey), Offset: offset}
		if _, err := h.seq.Process(t.Context(), []*kgo.Record{tick}); err != nil {
			t.Fatal(err)
		}
	}
	process(7)
	process(8)
	process(7)
	process(8)
	if len(writer.stored) != 0 {
		t.Fatalf("flagged %v without a loss", writer.stored)
	}
	process(12)
	gap, ok := writer.stored[connector.StateKeyGapPrefix+"0"].(connector.Gap)
	if !ok || gap.Committed != 9 || gap.LogStart != 12 {
		t.Errorf("got %+v, want a gap from 9 to 12", writer.stored)
	}
	if open := h.seq.Status().Gaps; len(open) != 1 {
		t.Errorf("open gaps: %v", open)
	}
	clear(writer.stored)
	h.seq.Forget(0)
	process(40) // another process has done what lies between
	if len(writer.stored) != 0 {
		t.Errorf("flagged %v after the partition was away", writer.stored)
	}
}
