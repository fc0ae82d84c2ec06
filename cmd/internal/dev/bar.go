package dev

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"clerkconnect/connector/snapshot"
)

// linesEvery is the interval of progress lines where there is no terminal.
const linesEvery = 2 * time.Second

// barWidth in characters: fits a narrow terminal with the numbers beside it.
const barWidth = 30

// bar shows how a snapshot goes on: a bar on a terminal, lines elsewhere.
type bar struct {
	// complete is closed when the snapshot task has nothing to do for the
	// first time.
	complete chan struct{}

	say *voice

	mu    sync.Mutex
	open  bool // complete is not closed yet
	began time.Time
	shown time.Time // when a line was last written
	phase snapshot.Phase
}

func newBar(say *voice) *bar {
	return &bar{complete: make(chan struct{}), open: true, say: say}
}

// progress is told by the snapshot task.
func (b *bar) progress(p snapshot.Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	switch p.Phase {
	case snapshot.PhaseSnapshot:
		if b.phase != snapshot.PhaseSnapshot {
			b.began, b.shown = now, now
		}
		b.show(p, now)
	case snapshot.PhasePaused:
		b.say.line("Snapshot paused at %s of %s users: %v. It goes on by itself.", number(int(p.Users)), number(int(p.Total)), p.Err)
	case snapshot.PhaseIdle:
		if b.phase == snapshot.PhaseSnapshot {
			b.say.line("Snapshot complete: %s users in %.1f s.", number(int(p.Users)), now.Sub(b.began).Seconds())
		}
		if b.open {
			b.open = false
			close(b.complete)
		}
	}
	b.phase = p.Phase
}

func (b *bar) show(p snapshot.Progress, now time.Time) {
	left := ""
	if p.Remaining > 0 {
		left = fmt.Sprintf(", %v left", p.Remaining.Round(time.Second))
	}
	numbers := fmt.Sprintf("%s of %s users, %.0f/s%s", number(int(p.Users)), number(int(p.Total)), p.RatePerSecond, left)
	share := 0.0
	if p.Total > 0 {
		share = min(1, float64(p.Users)/float64(p.Total))
	}
	done := int(share * barWidth)
	if b.say.draw(fmt.Sprintf("Snapshot [%s%s] %s", strings.Repeat("=", done), strings.Repeat(" ", barWidth-done), numbers)) {
		return
	}
	if now.Sub(b.shown) >= linesEvery {
		b.shown = now
		b.say.line("Snapshot: %s", numbers)
	}
}
