package resttest

import (
	"math/rand/v2"
	"sync"
)

// Weather is how often a request meets a failure, each 0 to 1.
type Weather struct {
	RateLimited float64 // answered as over the limit
	Unavailable float64 // answered 503, half of them after the request was carried out
	Reset       float64 // the connection is reset, half of them after that
	Seed        uint64  // the same seed draws the same failures
}

// fate is what becomes of one request.
type fate int

const (
	served fate = iota
	limited
	unavailable
	unavailableAfter
	reset
	resetAfter
)

// sky draws fates. The zero value is fair.
type sky struct {
	mu      sync.Mutex
	weather Weather
	random  *rand.Rand
}

func (s *sky) set(w Weather) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.weather, s.random = w, rand.New(rand.NewPCG(w.Seed, 0))
}

func (s *sky) draw() fate {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.random == nil {
		return served
	}
	dice, after := s.random.Float64(), s.random.IntN(2) == 1
	w := s.weather
	switch {
	case dice < w.RateLimited:
		return limited
	case dice < w.RateLimited+w.Unavailable && after:
		return unavailableAfter
	case dice < w.RateLimited+w.Unavailable:
		return unavailable
	case dice < w.RateLimited+w.Unavailable+w.Reset && after:
		return resetAfter
	case dice < w.RateLimited+w.Unavailable+w.Reset:
		return reset
	}
	return served
}
