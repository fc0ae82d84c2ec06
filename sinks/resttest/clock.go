package resttest

import "time"

// Clock is a virtual clock that runs faster than the real one, so that windows of
// rate limits pass within a test. Safe for concurrent use.
type Clock struct {
	start time.Time
	scale float64
}

// NewClock returns a clock that shows the real time now and goes on scale times
// as fast, at least 1.
func NewClock(scale float64) *Clock { return &Clock{time.Now(), max(1, scale)} }

// Now returns the virtual time. A nil clock shows the real one.
func (c *Clock) Now() time.Time {
	if c == nil {
		return time.Now()
	}
	return c.start.Add(time.Duration(float64(time.Since(c.start)) * c.scale))
}

// Real returns how long a virtual duration takes, at least a nanosecond unless it
// is 0.
func (c *Clock) Real(virtual time.Duration) time.Duration {
	if c == nil || virtual == 0 {
		return virtual
	}
	return max(1, time.Duration(float64(virtual)/c.scale))
}
