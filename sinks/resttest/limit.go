package resttest

import (
	"regexp"
	"sync"
	"time"
)

// Limit is a rate limit of a tool: at most Requests in any Window.
type Limit struct {
	Requests int
	Window   time.Duration
	// Path says which requests count, matched against "METHOD /path"; nil: all.
	Path *regexp.Regexp
}

// meter counts the requests of one limit in a sliding window.
type meter struct {
	Limit
	mu      sync.Mutex
	taken   []time.Time // within the window, oldest first
	busiest int
}

// take counts a request, or returns how long it is until one may be made.
func (m *meter) take(now time.Time) (wait time.Duration, remaining int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.taken) > 0 && !m.taken[0].After(now.Add(-m.Window)) {
		m.taken = m.taken[1:]
	}
	if len(m.taken) >= m.Requests {
		return m.taken[0].Add(m.Window).Sub(now), 0
	}
	m.taken = append(m.taken, now)
	m.busiest = max(m.busiest, len(m.taken))
	return 0, m.Requests - len(m.taken)
}

// share returns how much of the limit the busiest window has used, 0 to 1.
func (m *meter) share() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return float64(m.busiest) / float64(m.Requests)
}
