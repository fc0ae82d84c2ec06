package runner

import (
	"testing"
	"time"

	"clerkconnect/sinks"
)

// What holds a sink up is a record that fails alone: of several the one that was
// tried most often, and not before the destination may be called.
func TestStatus_Held(t *testing.T) {
	t.Parallel()
	p := bare(t, newScripted(t, nil))
	at := time.Now()
	p.health.resting, p.health.limited = at.Add(time.Minute), at.Add(time.Second)
	failed := func(offset int64, attempts int) *unit {
		it := newItem(upsert("a", offset), "a")
		it.attempts = attempts
		return &unit{items: []*item{it}, attempts: attempts, due: at}
	}
	many, untried, debt := failed(1, 9), failed(2, 0), failed(3, 9)
	many.items = append(many.items, many.items[0])
	untried.items[0].attempts = 9 // in a batch that was halved
	debt.items[0].raw = nil
	d := &delivery{processor: p, queue: []*unit{many, untried, debt}}
	if d.tellHeld(); p.Status().Held != nil {
		t.Errorf("held up by %+v, want nothing", p.Status().Held)
	}
	d.queue = append(d.queue, failed(4, 2), failed(5, 3), failed(6, 2))
	d.tellHeld()
	want := Held{Source: sinks.Source{Topic: topics.Users(), Offset: 5}, Attempts: 3, Next: p.health.resting}
	if held := p.Status().Held; held == nil || *held != want {
		t.Errorf("held up by %+v, want %+v", held, want)
	}
	if p.Forget(0); p.Status().Held != nil {
		t.Error("a partition that is not owned any more holds the sink up")
	}
	p.feed = true
	if d.tellHeld(); p.Status().Held != nil {
		t.Error("a receipt holds up the users")
	}
}
