package snapshot

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Outcomes of a re-read.
const (
	rereadWritten    = "written"     // the answer is in the log
	rereadMissing    = "missing"     // Clerk does not have the user: dropped
	rereadClockAhead = "clock_ahead" // updated_at is still ahead: asked for again, later
	rereadMalformed  = "malformed"   // the answer could not be understood: dead-lettered
	rereadInvalid    = "invalid"     // not the id of a user: dropped
	rereadFailed     = "failed"      // Clerk did not answer: tried again
)

type metrics struct {
	owner       prometheus.Gauge
	users       prometheus.Gauge
	expected    prometheus.Gauge
	rows        *prometheus.CounterVec // outcome: written, clock_ahead, malformed
	lastSuccess prometheus.Gauge
	failures    prometheus.Counter
	requests    *prometheus.CounterVec // endpoint, code (0: no answer)
	throttled   prometheus.Counter
	rereads     *prometheus.CounterVec // outcome
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	with := promauto.With(registerer)
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "clerk_connect", Name: name, Help: help}
	}
	gauge := func(name, help string) prometheus.Gauge { return with.NewGauge(prometheus.GaugeOpts(opts(name, help))) }
	counter := func(name, help string) prometheus.Counter {
		return with.NewCounter(prometheus.CounterOpts(opts(name, help)))
	}
	vector := func(name, help string, labels ...string) *prometheus.CounterVec {
		return with.NewCounterVec(prometheus.CounterOpts(opts(name, help)), labels)
	}
	m := &metrics{
		owner:       gauge("snapshot_owner", "1 in the one process whose snapshot task is at work, else 0."),
		users:       gauge("snapshot_users", "Users that the current or last snapshot has read."),
		expected:    gauge("snapshot_expected_users", "Users that Clerk counted when that snapshot began."),
		rows:        vector("snapshot_rows_total", "Rows of snapshot pages by outcome.", "outcome"),
		lastSuccess: gauge("snapshot_last_success_timestamp_seconds", "When the last finished snapshot ended, by Clerk's clock."),
		failures:    counter("snapshot_failures_total", "Times that a snapshot could not go on and paused."),
		requests:    vector("clerk_requests_total", "Requests to Clerk's Backend API by endpoint and status; 0 is no answer.", "endpoint", "code"),
		throttled:   counter("clerk_throttled_seconds_total", "Seconds waited because Clerk answered 429."),
		rereads:     vector("rereads_total", "Re-reads of one user by outcome.", "outcome"),
	}
	for _, outcome := range []string{rowWritten, rowClockAhead, rowMalformed} {
		m.rows.WithLabelValues(outcome)
	}
	for _, outcome := range []string{rereadWritten, rereadMissing, rereadClockAhead, rereadMalformed, rereadInvalid, rereadFailed} {
		m.rereads.WithLabelValues(outcome)
	}
	return m
}
