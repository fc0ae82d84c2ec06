package runner

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"clerkconnect/sinks"
)

// A paused sink applies nothing and erases nobody; its lag and what it owes
// grow in sight. Then it goes on where it was.
func TestPause_StandsStill(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		destination := newPicky()
		sink := newScripted(t, destination.apply)
		r := b.run(sinkName, "a", sink)
		b.write(upsert("u", 1), upsert("gone", 1))
		eventually(t, "applied", func() bool { return destination.version("u") == 1 && destination.version("gone") == 1 })
		since := time.Now()
		r.SetPause(&Pause{Since: since, By: "me", Reason: "migration"})
		eventually(t, "paused, with its partitions", func() bool {
			s := r.Status()
			return s.Paused != nil && !s.Opened && len(s.Ready) == partitions
		})
		if p := r.Status().Paused; p.By != "me" || !p.Since.Equal(since) || p.Reason != "migration" {
			t.Errorf("paused: %+v", p)
		}
		b.write(upsert("u", 2))
		b.write(deletion("gone", 2)...)
		eventually(t, "lag and debt in sight", func() bool { s := r.Status(); return s.LagRecords > 0 && s.ErasuresOwed == 1 })
		if destination.version("u") != 1 || destination.version("gone") != 1 {
			t.Errorf("held: %d, %d; want 1, 1 while it is paused", destination.version("u"), destination.version("gone"))
		}
		r.SetPause(&Pause{Since: since, By: "me", Reason: "migration"}) // the same again
		opened := sink.opened
		r.SetPause(nil)
		eventually(t, "caught up", func() bool {
			s := r.Status()
			return s.Paused == nil && destination.version("u") == 2 && destination.version("gone") == 0 && s.LagRecords == 0 && s.ErasuresOwed == 0
		})
		r.stop()
		if sink.opened != opened+1 || sink.closed != sink.opened {
			t.Errorf("opened %d times, before the pause %d, closed %d times", sink.opened, opened, sink.closed)
		}
	})
}

// Paused from the start: nothing is opened.
func TestPause_FromTheStart(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	destination := newPicky("poison")
	before := b.run(sinkName, "a", newScripted(t, destination.apply))
	b.write(upsert("poison", 1))
	letter := b.letter(sinkName, "poison", 1)
	before.stop()
	destination.mend("poison")

	sink := newScripted(t, destination.apply)
	b.write(upsert("u", 1))
	r := b.run(sinkName, "a", sink, func(_ *Config, o *Options) { o.Pause = &Pause{By: "me"} })
	eventually(t, "paused", func() bool { s := r.Status(); return s.Paused != nil && len(s.Ready) == partitions && s.LagRecords > 0 })
	b.replay(sinkName, letter)
	eventually(t, "a dead letter counted", func() bool { return r.Status().DeadLetters == 1 })
	if sink.opened != 0 || destination.version("u")+destination.version("poison") != 0 {
		t.Errorf("opened %d times, held %v", sink.opened, destination.held)
	}
	r.SetPause(nil)
	b.answered(sinkName, "poison", 1, "applied")
	eventually(t, "applied", func() bool { return destination.version("u") == 1 })
}

// Erasures may go on in a pause, those also that are asked for in it.
func TestPause_KeepsErasing(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	destination := newPicky()
	r := b.run(sinkName, "a", newScripted(t, destination.apply))
	b.write(upsert("u", 1), upsert("gone", 1))
	eventually(t, "applied", func() bool { return destination.version("u") == 1 && destination.version("gone") == 1 })
	r.SetPause(&Pause{By: "me", KeepErasing: true})
	eventually(t, "paused", func() bool { s := r.Status(); return s.Paused != nil && s.Opened && len(s.Ready) == partitions })
	b.write(upsert("u", 2), upsert("gone", 2))
	b.write(deletion("gone", 3)...)
	eventually(t, "erased", func() bool { return destination.version("gone") == 0 })
	eventually(t, "with a receipt", func() bool { return len(b.records("clerk.erasure-receipts")) == 1 })
	if destination.version("u") != 1 {
		t.Errorf("held %d of u, want 1", destination.version("u"))
	}
	r.SetPause(nil)
	eventually(t, "the change applied", func() bool { return destination.version("u") == 2 && r.Status().LagRecords == 0 })
	if destination.version("gone") != 0 {
		t.Error("what was read late has brought an erased user back")
	}
}

// A pause also ends the retries at a destination that is down.
func TestPause_DuringAnOutage(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	sink := newScripted(t, func(context.Context, []sinks.Record) error { return errDown })
	b.write(upsert("u", 1))
	r := b.run(sinkName, "a", sink)
	eventually(t, "tried", func() bool { return sink.callCount() > 2 })
	r.SetPause(&Pause{By: "me"})
	eventually(t, "paused", func() bool { s := r.Status(); return s.Paused != nil && len(s.Ready) == partitions })
	calls := sink.callCount()
	b.write(upsert("u", 2))
	eventually(t, "lag in sight", func() bool { return r.Status().LagRecords >= 2 })
	if got := sink.callCount(); got != calls {
		t.Errorf("%d calls while paused", got-calls)
	}
}

// A restart ends the wait after a fatal error at once, and opens the sink anew.
func TestRestart_EndsTheWait(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	var mended atomic.Bool
	sink := newScripted(t, func(context.Context, []sinks.Record) error {
		if mended.Load() {
			return nil
		}
		return sinks.Fatal(sinks.ReasonMisconfigured, errDown)
	})
	b.write(upsert("u", 1))
	r := b.run(sinkName, "a", sink, func(c *Config, _ *Options) { c.SlowRetry = time.Hour })
	eventually(t, "stopped", func() bool { return r.Status().Stopped })
	mended.Store(true)
	r.Restart()
	eventually(t, "applied", func() bool { s := r.Status(); return !s.Stopped && s.LagRecords == 0 && len(s.Ready) == partitions })
	r.Restart()
	eventually(t, "opened once more", func() bool {
		sink.mu.Lock()
		defer sink.mu.Unlock()
		return sink.opened == 3 && sink.closed == 2
	})
}

// A restart also ends the wait that a destination has asked for, however long: it
// may be a mistake.
func TestRestart_EndsTheWaitForTheLimit(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	var refused atomic.Int64
	var sink *paced
	sink = &paced{scripted: newScripted(t, func(ctx context.Context, _ []sinks.Record) error {
		if err := sink.pacer.Wait(ctx); err != nil {
			return err
		}
		if refused.Add(1) == 1 {
			return sinks.RetryAfter(sinks.ReasonRateLimited, time.Hour, errDown)
		}
		return nil
	})}
	sink.facts.Limit = sinks.Limit{Requests: 1000, Window: time.Second}
	b.write(upsert("u", 1))
	r := b.run(sinkName, "a", sink)
	eventually(t, "told to wait", func() bool { // not only by the sink: by who waits
		r.Runner.pacer.mu.Lock()
		defer r.Runner.pacer.mu.Unlock()
		return time.Until(r.Runner.pacer.until) > time.Minute
	})
	r.Restart()
	eventually(t, "applied", func() bool { s := r.Status(); return s.LagRecords == 0 && len(s.Ready) == partitions })
}
