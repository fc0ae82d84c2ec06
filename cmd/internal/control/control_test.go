package control

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/runner"
)

// fake notes what it is told.
type fake struct {
	mu       sync.Mutex
	pause    *runner.Pause
	told     int
	restarts int
	status   runner.Status
}

func (f *fake) SetPause(p *runner.Pause) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pause, f.told = p, f.told+1
}

func (f *fake) Restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.restarts++
}

func (f *fake) Status() runner.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func (f *fake) seen() (*runner.Pause, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pause, f.restarts
}

var topics = schemas.Topics{Prefix: "clerk"}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within two minutes: %s", what)
		}
	}
}

// TestFollower: wishes of before are followed before the sinks begin, those of
// later at once, and a restart of before is no restart.
func TestFollower(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topics.ConnectState()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	opts := []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}
	client, err := kgo.NewClient(append(opts, connector.WriterOptions()...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	store := connector.NewWriter(client, &schemas.Codec{}, topics, 1)
	write := func(key string, value any) {
		t.Helper()
		if err := store.StoreState(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	run := func(sink *fake) (*Follower, func()) {
		f := NewFollower(opts, topics, slog.New(slog.DiscardHandler), map[string]Sink{"crm": sink})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = f.Run(ctx) })
		stop := func() { cancel(); running.Wait() }
		t.Cleanup(stop)
		return f, stop
	}

	// Nothing is there yet.
	first := &fake{}
	f, stop := run(first)
	if err := f.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if pause, _ := first.seen(); pause != nil {
		t.Errorf("paused by nobody: %+v", pause)
	}
	stop()

	write(connector.StateKeyPausePrefix+"crm", connector.Pause{Since: 1000, By: "me", Reason: "moving", KeepErasing: true})
	write(connector.StateKeyPausePrefix+"other", connector.Pause{})
	write(connector.StateKeyRestartPrefix+"crm", connector.Restart{RequestedAt: 1})
	sink := &fake{}
	f, _ = run(sink)
	if err := f.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	pause, restarts := sink.seen()
	if want := (runner.Pause{Since: time.UnixMilli(1000), By: "me", Reason: "moving", KeepErasing: true}); pause == nil || *pause != want || restarts != 0 {
		t.Errorf("at the start: %+v, %d restarts; want %+v, none", pause, restarts, want)
	}
	write(connector.StateKeyPausePrefix+"crm", nil)
	eventually(t, "resumed", func() bool { pause, _ := sink.seen(); return pause == nil })
	write(connector.StateKeyRestartPrefix+"crm", connector.Restart{RequestedAt: 2})
	eventually(t, "restarted", func() bool { _, restarts := sink.seen(); return restarts == 1 })
	write("offset/snapshot", map[string]string{"after": "x"})
	write(connector.StateKeyPausePrefix+"crm", connector.Pause{By: "you"})
	eventually(t, "paused", func() bool { pause, _ := sink.seen(); return pause != nil && pause.By == "you" })
	if _, restarts := sink.seen(); restarts != 1 {
		t.Errorf("%d restarts, want one: that is done", restarts)
	}
}

// storage notes what is stored.
type storage struct {
	mu     sync.Mutex
	stored map[string]any
	writes int
}

func (s *storage) StoreState(_ context.Context, key string, value any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writes++; value == nil {
		delete(s.stored, key)
	} else {
		s.stored[key] = value
	}
	return nil
}

// TestPublisher_IsCalm: a word a minute while nothing happens, one soon when
// something does, none for a lag that moves, and none left at the end.
func TestPublisher_IsCalm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &storage{stored: map[string]any{"status/here/old": 1, "status/gone/crm": 1, "status/live/crm": 1}}
		sink := &fake{status: runner.Status{Kind: "hubspot", Opened: true, LagRecords: 5}}
		ctx, cancel := context.WithCancel(t.Context())
		now := time.Now()
		p := &Publisher{Store: store, Instance: "here", Sinks: map[string]Sink{"crm": sink}, Logger: slog.New(slog.DiscardHandler), Said: func(context.Context) (*State, error) {
			return &State{Statuses: map[string]Status{
				"here/old": {At: now.UnixMilli()}, "gone/crm": {At: now.Add(-2 * goneAge).UnixMilli()}, "live/crm": {At: now.Add(-time.Hour).UnixMilli()},
			}}, nil
		}}
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		synctest.Wait()
		if _, old := store.stored["status/here/old"]; old || len(store.stored) != 2 {
			t.Errorf("after the start: %v", store.stored)
		}
		store.writes = 0
		for range 60 {
			time.Sleep(10 * time.Second)
			sink.mu.Lock()
			sink.status.LagRecords++
			sink.mu.Unlock()
		}
		synctest.Wait()
		if store.writes < 9 || store.writes > 11 {
			t.Errorf("%d words in ten minutes, want ten", store.writes)
		}
		sink.mu.Lock()
		sink.status.Stopped, sink.status.LastReason = true, sinks.ReasonUnauthorized
		sink.mu.Unlock()
		time.Sleep(LookEvery)
		synctest.Wait()
		if got := store.stored["status/here/crm"].(Status); got.State != StateStopped || got.Reason != "unauthorized" {
			t.Errorf("status: %+v, want it stopped at once", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, left := store.stored["status/here/crm"]; left {
			t.Error("the word of a process that has ended is still there")
		}
	})
}

// A record that holds a sink up is told of at once, each further attempt only
// when it is time to.
func TestOf_HeldUp(t *testing.T) {
	t.Parallel()
	held := runner.Held{Source: sinks.Source{Topic: "clerk.users", Partition: 3, Offset: 17}, Attempts: 1, Next: time.UnixMilli(7)}
	before, first := of(runner.Status{}, time.Now()), of(runner.Status{Held: &held}, time.Now())
	if first.HeldUpBy != "clerk.users/3/17" || first.Attempts != 1 || first.NextAt != 7 || !first.changed(before) {
		t.Errorf("status: %+v, changed %t; want it held up by clerk.users/3/17, changed", first, first.changed(before))
	}
	held.Attempts, held.Next = 2, time.UnixMilli(9)
	if second := of(runner.Status{Held: &held}, time.Now()); second.Attempts != 2 || second.changed(first) {
		t.Errorf("status: %+v, changed %t; want another attempt, not changed", second, second.changed(first))
	}
}

func TestOf_State(t *testing.T) {
	t.Parallel()
	for want, s := range map[string]runner.Status{
		StateWaiting: {}, StateRunning: {Opened: true}, StateStopped: {Stopped: true},
		StatePaused: {Paused: &runner.Pause{}, Stopped: true}, StateErasing: {Paused: &runner.Pause{KeepErasing: true}, Opened: true},
	} {
		if got := of(s, time.Now()); got.State != want {
			t.Errorf("%+v: got %s, want %s", s, got.State, want)
		}
	}
}

// What a sink owes is told by number and by the age of the oldest, which nobody
// has of none.
func TestOf_Erasures(t *testing.T) {
	t.Parallel()
	s := runner.Status{ErasuresOwed: 3, ErasuresHeld: 2, ErasuresUnconfirmed: 1, OldestErasure: time.UnixMilli(7), DeadLetters: 5, DeadLettersParked: 4}
	if got := of(s, time.Now()); got.Owed != 3 || got.Held != 2 || got.Unread != 1 || got.OldestAt != 7 || got.Letters != 5 || got.Parked != 4 {
		t.Errorf("status: %+v of %+v", got, s)
	}
	if got := of(runner.Status{OldestErasure: time.UnixMilli(7)}, time.Now()); got.OldestAt != 0 {
		t.Errorf("the oldest of none: got %d", got.OldestAt)
	}
}
