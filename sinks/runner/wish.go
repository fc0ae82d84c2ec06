package runner

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Pause is a person's wish that the sink stands still.
type Pause struct {
	Since  time.Time
	By     string
	Reason string // that person's words
	// KeepErasing lets erasures go on. Otherwise their deadlines go on without
	// them.
	KeepErasing bool
}

// wish is what people want of a sink that runs. Safe for concurrent use; the
// zero value is a sink that just runs.
type wish struct {
	mu    sync.Mutex
	pause *Pause                  // nil: run
	end   context.CancelCauseFunc // ends the turn under way; nil: there is none
}

// errAnotherWish ends a turn.
var errAnotherWish = errors.New("a person wants something else of the sink")

// turn begins what lasts until ctx is done or people want something else.
func (w *wish) turn(ctx context.Context) (context.Context, context.CancelFunc, *Pause) {
	w.mu.Lock()
	defer w.mu.Unlock()
	turn, cancel := context.WithCancelCause(ctx)
	w.end = cancel
	return turn, func() { cancel(nil) }, w.pause
}

// SetPause has the sink stand still: calls under way finish, for at most
// DrainTimeout, and the sink is closed, unless it keeps erasing. Its partitions
// stay its own, so that its lag and what it owes are still known. nil lets it
// run. It may be called at any time and returns at once; the same wish again
// changes nothing. Safe for concurrent use.
func (r *Runner) SetPause(p *Pause) {
	w := &r.wish
	w.mu.Lock()
	defer w.mu.Unlock()
	same := p == nil && w.pause == nil || p != nil && w.pause != nil && *p == *w.pause
	if same {
		return
	}
	w.pause = p
	if w.end != nil {
		w.end(errAnotherWish)
	}
}

// Restart closes the sink and opens it again. It ends at once the wait after a
// fatal error, and that which the destination has asked for. It returns at once.
// Safe for concurrent use.
func (r *Runner) Restart() {
	w := &r.wish
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end != nil {
		w.end(errAnotherWish)
	}
}

// mode is how much a processor does.
type mode int

const (
	modeRun   mode = iota
	modeErase      // paused, but for erasures
	modeStill
)

func modeOf(p *Pause) mode {
	switch {
	case p == nil:
		return modeRun
	case p.KeepErasing:
		return modeErase
	}
	return modeStill
}

// debtsEvery is how often the topics are read for what a paused sink owes, since
// it reads no tombstones then; no more seldom than SlowRetry.
const debtsEvery = 30 * time.Second

// rereadDue returns when m is to be read again for what is owed; zero: not at
// all, because records tell. While they are read they do, unless an erasure waits
// for one that may be gone.
func (p *processor) rereadDue(m *memory) time.Time {
	every := min(debtsEvery, p.cfg.SlowRetry)
	switch {
	case p.feed, p.mode == modeRun && !p.anyWaits(m):
		return time.Time{}
	case p.mode == modeRun:
		every = p.cfg.SlowRetry
	}
	due := m.readAt.Add(every)
	if due.Before(m.nextAt) {
		due = m.nextAt
	}
	return due
}
