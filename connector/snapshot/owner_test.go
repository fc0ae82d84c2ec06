package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/connector/clerksim"
	"clerkconnect/connector/topics"
	"clerkconnect/schemas"
)

func topicsPin(t *testing.T, h *harness) (string, error) {
	return topics.PinInstance(t.Context(), h.opts, h.names, h.sim.InstanceID())
}

func (h *harness) store(t *testing.T, key string, value any) {
	t.Helper()
	if err := h.writer.StoreState(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

// TestRun_OneTaskAtATime has two processes; the second takes over when the
// first, in the middle of a walk, stops.
func TestRun_OneTaskAtATime(t *testing.T) {
	onBoth(t, clerksim.Config{Users: 60, Seed: 20}, oneTaskAtATime)
}

func oneTaskAtATime(t *testing.T, h *harness) {
	reached, release := make(chan struct{}), make(chan struct{})
	first := h.process(t, func(p *process, _ *Config, _ *Dependencies) {
		p.writer.before = func(_ string, value any) error {
			if offset, ok := value.(connector.SourceOffset); ok && offset.Users == 30 {
				close(reached)
				select {
				case <-release:
				case <-p.ctx.Done():
					return p.ctx.Err()
				}
			}
			return nil
		}
	}).start(t)
	<-reached
	second := h.run(t)
	eventually(t, "second process in the group", func() bool { return h.members(t) == 2 })
	if n := second.api.seen("/"); n != 0 || second.Progress().Phase != PhaseStandby {
		t.Errorf("second process: got %d requests, phase %s; want none while the first works", n, second.Progress().Phase)
	}
	first.stop(t)
	offset := h.finished(t, "initial")
	if offset.Users != 60 || second.api.seen("/count") != 0 {
		t.Errorf("after the take-over: got %+v, %d counts; want the walk of the first to go on", offset, second.api.seen("/count"))
	}
	h.hasAll(t, h.log(t))
	if first.Progress().Phase != PhaseStandby || first.metric(t, "snapshot_owner") != 0 || second.metric(t, "snapshot_owner") != 1 {
		t.Error("ownership is not with the second process alone")
	}
}

func TestRun_RequestedSnapshot(t *testing.T) {
	t.Parallel()
	h := newHarness(t, clerksim.Config{Users: 12, Seed: 21})
	p := h.run(t)
	h.finished(t, "initial")
	wish, err := Request(t.Context(), h.writer)
	if err != nil {
		t.Fatal(err)
	}
	h.sim.SignUp()
	if offset := h.finished(t, wish.ID); offset.Users != 13 {
		t.Errorf("requested snapshot: got %+v, want 13 users", offset)
	}
	eventually(t, "request settled", func() bool { _, open := h.state(t)[connector.StateKeySnapshotRequest]; return !open })
	eventually(t, "idle", func() bool { return p.Progress().Phase == PhaseIdle })
	if n := p.api.seen("/count"); n != 2 {
		t.Errorf("walks begun: got %d, want 2", n)
	}
}

// TestRun_GapNeedsAWalkThatBeganAfterIt flags one gap before a walk and one in
// the middle of it: the second must not be settled by that walk.
func TestRun_GapNeedsAWalkThatBeganAfterIt(t *testing.T) {
	t.Parallel()
	h := newHarness(t, clerksim.Config{Users: 25, Seed: 22})
	p := h.run(t)
	h.finished(t, "initial")
	p.stop(t)

	gap := func(p int) {
		h.store(t, fmt.Sprint(connector.StateKeyGapPrefix, p), connector.Gap{FlaggedAt: time.Now().UnixMilli()})
	}
	gap(0)
	var walks atomic.Int64
	again := h.process(t, func(p *process, _ *Config, _ *Dependencies) {
		p.writer.before = func(_ string, value any) error {
			offset, ok := value.(connector.SourceOffset)
			switch {
			case ok && offset.Users == 0:
				walks.Add(1)
			case ok && offset.Users == 20 && walks.Load() == 1:
				if !errors.Is(p.Ready(), errGap) {
					t.Errorf("Ready in the walk: got %v, want %v", p.Ready(), errGap)
				}
				gap(1)
			}
			return nil
		}
	}).start(t)
	eventually(t, "gaps settled", func() bool {
		for key := range h.state(t) {
			if strings.HasPrefix(key, connector.StateKeyGapPrefix) {
				return false
			}
		}
		return true
	})
	eventually(t, "idle and ready", func() bool { return again.Progress().Phase == PhaseIdle && again.Ready() == nil })
	if walks.Load() != 2 {
		t.Errorf("walks: got %d, want 2", walks.Load())
	}
}

func TestRun_Rereads(t *testing.T) {
	onBoth(t, clerksim.Config{Users: 12, Seed: 23}, rereads)
}

func rereads(t *testing.T, h *harness) {
	p := h.run(t)
	h.finished(t, "initial")
	var ids []string
	for id := range h.sim.Truth() {
		ids = append(ids, id)
	}
	plain, compare, gone, later := ids[0], ids[1], ids[2], ids[3]
	if err := h.sim.Delete(gone); err != nil {
		t.Fatal(err)
	}
	version := int64(77)
	reread := func(id string, r connector.Reread) {
		r.ClerkID = id
		if err := h.writer.Write(t.Context(), connector.SourceRecord{Reread: &r}); err != nil {
			t.Fatal(err)
		}
	}
	far := time.Now().Add(time.Hour)
	reread(later, connector.Reread{NotBefore: far.UnixMilli()})
	soon := time.Now().Add(300 * time.Millisecond)
	reread(plain, connector.Reread{NotBefore: soon.UnixMilli()})
	reread(compare, connector.Reread{IfVersion: &version})
	reread(gone, connector.Reread{})
	reread("../users", connector.Reread{})
	eventually(t, "re-reads settled", func() bool {
		open := 0
		for key := range h.state(t) {
			if strings.HasPrefix(key, connector.StateKeyRereadPrefix) {
				open++
			}
		}
		return open == 1
	})
	l := h.log(t)
	check := func(id string, want *int64) *schemas.UserEvent {
		events := l.events[id]
		if len(events) != 2 {
			t.Fatalf("%s: got %d events, want the snapshot's and the repair", id, len(events))
		}
		e := events[1]
		if e.Origin != schemas.OriginRepair || e.Operation != schemas.EventUpsert || (e.IfVersion == nil) != (want == nil) || want != nil && *e.IfVersion != *want || e.Snapshot != nil {
			t.Errorf("%s: got %+v", id, e)
		}
		return e
	}
	if e := check(plain, nil); e.ReceivedAt < soon.UnixMilli() {
		t.Errorf("re-read at %d, want it not before %d", e.ReceivedAt, soon.UnixMilli())
	}
	check(compare, &version)
	if len(l.events[gone]) != 1 || len(l.events[later]) != 1 {
		t.Error("a user that is gone, or not due, was written")
	}
	for outcome, want := range map[string]float64{rereadWritten: 2, rereadMissing: 1, rereadInvalid: 1} {
		if got := p.metric(t, "rereads_total", outcome); got != want {
			t.Errorf("rereads_total %s: got %v, want %v", outcome, got, want)
		}
	}
}

// TestRun_RereadAskedForAgainMeanwhile asks for a user again after the task has
// read it and before it removes the wish: the new wish must not be lost.
func TestRun_RereadAskedForAgainMeanwhile(t *testing.T) {
	t.Parallel()
	h := newHarness(t, clerksim.Config{Users: 3, Seed: 24})
	var id string
	for id = range h.sim.Truth() {
		break
	}
	key := connector.StateKeyRereadPrefix + id
	var asked atomic.Bool
	version := int64(5)
	p := h.process(t, func(p *process, _ *Config, _ *Dependencies) {
		p.writer.before = func(stored string, value any) error {
			if stored == key && value == nil && asked.CompareAndSwap(false, true) {
				h.store(t, key, connector.Reread{IfVersion: &version})
			}
			return nil
		}
	}).start(t)
	h.finished(t, "initial")
	h.store(t, key, connector.Reread{})
	eventually(t, "two repairs", func() bool { return p.metric(t, "rereads_total", rereadWritten) == 2 })
	if events := h.log(t).events[id]; len(events) != 3 || events[2].IfVersion == nil {
		t.Errorf("got %d events, want the snapshot's and two repairs, the second with a version", len(events))
	}
}

func TestState_OldRecordsAndTombstones(t *testing.T) {
	t.Parallel()
	s := newState(slog.New(slog.DiscardHandler))
	record := func(offset int64, key, value string) *kgo.Record {
		r := &kgo.Record{Key: []byte(key), Offset: offset}
		if value != "" {
			r.Value = []byte(value)
		}
		return r
	}
	get1 := func(key string) (value json.RawMessage) { get(s, key, &value); return value }

	s.live(record(0, "a", `"old"`)) // the group's consumer reads from the start, too
	s.live(record(5, "b", `"live"`))
	s.restored([]*kgo.Record{record(0, "a", `"old"`), record(3, "a", `"new"`), record(4, "c", `"gone"`)})
	s.live(record(3, "a", `"old"`))
	if string(get1("a")) != `"new"` || string(get1("b")) != `"live"` {
		t.Errorf("got a=%s b=%s, want new and live", get1("a"), get1("b"))
	}
	s.live(record(6, "c", ""))
	if get1("c") != nil {
		t.Error("a tombstone must remove its key")
	}
	if !s.retire("b", 5) || get1("b") != nil {
		t.Error("what is retired must not be seen")
	}
	s.live(record(7, "b", `"again"`))
	if s.retire("b", 5) {
		t.Error("retire must say that there is a newer wish")
	}
	s.live(record(8, "b", "")) // ours, for offset 5
	if string(get1("b")) != `"again"` {
		t.Errorf("got b=%s, want the wish that the tombstone met", get1("b"))
	}
}

func (h *harness) members(t *testing.T) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	groups, err := h.admin.DescribeGroups(ctx, h.names.Prefix+".snapshot")
	if err != nil {
		t.Fatal(err)
	}
	return len(groups[h.names.Prefix+".snapshot"].Members)
}
