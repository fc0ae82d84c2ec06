package webhook

import (
	"log/slog"
	"sync"
	"time"
)

// warningEvery is how often the same warning is logged: strangers can cause
// most of them, and the metrics count each.
const warningEvery = time.Minute

// throttle logs each warning once in warningEvery, with how often it was held
// back meanwhile.
type throttle struct {
	log  *slog.Logger
	mu   sync.Mutex
	last map[string]*warned
}

type warned struct {
	at   time.Time
	held int
}

func newThrottle(log *slog.Logger) *throttle {
	return &throttle{log: log, last: map[string]*warned{}}
}

// warn takes messages from a closed set.
func (t *throttle) warn(message string, args ...any) {
	now := time.Now()
	t.mu.Lock()
	w := t.last[message]
	if w == nil {
		w = &warned{}
		t.last[message] = w
	}
	held := w.held
	due := now.Sub(w.at) >= warningEvery
	if due {
		w.at, w.held = now, 0
	} else {
		w.held++
	}
	t.mu.Unlock()
	if due {
		t.log.Warn(message, append(args, "held_back", held)...)
	}
}
