package console

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"clerkconnect/connector/snapshot"
)

// LinesEvery is the interval of the lines that say how far a long command is.
const LinesEvery = 2 * time.Second

// barWidth in characters: fits a narrow terminal with the numbers beside it.
const barWidth = 30

// Bar shows how a snapshot goes on: a bar on a terminal, lines elsewhere. Make
// one with [NewBar]; it is safe for concurrent use.
type Bar struct {
	// Complete is closed when the snapshot task has nothing to do for the
	// first time.
	Complete chan struct{}

	say *Console

	mu    sync.Mutex
	open  bool // Complete is not closed yet
	began time.Time
	shown time.Time // when a line was last written
	phase snapshot.Phase
}

// NewBar returns a bar that is not shown yet.
func NewBar(say *Console) *Bar {
	return &Bar{Complete: make(chan struct{}), open: true, say: say}
}

// Progress is told how the snapshot goes on: each page and each change of
// phase. It says the end of a snapshot that it has seen, once.
func (b *Bar) Progress(p snapshot.Progress) {
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
		b.say.Line("Snapshot paused at %s of %s users: %v. It goes on by itself.", Number(p.Users), Number(p.Total), p.Err)
	case snapshot.PhaseIdle:
		if b.phase == snapshot.PhaseSnapshot {
			b.say.Line("Snapshot complete: %s users in %.1f s.", Number(p.Users), now.Sub(b.began).Seconds())
		}
		if b.open {
			b.open = false
			close(b.Complete)
		}
	}
	b.phase = p.Phase
}

func (b *Bar) show(p snapshot.Progress, now time.Time) {
	left := ""
	if p.Remaining > 0 {
		left = fmt.Sprintf(", %v left", p.Remaining.Round(time.Second))
	}
	numbers := fmt.Sprintf("%s of %s users, %.0f/s%s", Number(p.Users), Number(p.Total), p.RatePerSecond, left)
	share := 0.0
	if p.Total > 0 {
		share = min(1, float64(p.Users)/float64(p.Total))
	}
	done := int(share * barWidth)
	if b.say.Draw(fmt.Sprintf("Snapshot [%s%s] %s", strings.Repeat("=", done), strings.Repeat(" ", barWidth-done), numbers)) {
		return
	}
	if now.Sub(b.shown) >= LinesEvery {
		b.shown = now
		b.say.Line("Snapshot: %s", numbers)
	}
}
