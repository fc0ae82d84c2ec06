package runner

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"clerkconnect/sinks"
)

// metrics of one sink; the label sink is added when they are registered.
type metrics struct {
	records   *prometheus.CounterVec
	errors    *prometheus.CounterVec
	retries   prometheus.Counter
	duration  prometheus.Histogram
	batch     prometheus.Histogram
	delivery  prometheus.Histogram
	observers []prometheus.Collector
}

const namespace, subsystem = "clerk_connect", "sink"

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
}

func newMetrics(r *Runner) *metrics {
	gauge := func(name, help string, value func(Status) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help},
			func() float64 { return value(r.Status()) })
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help, Buckets: buckets})
	}
	m := &metrics{
		records: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: "records_total",
			Help: "Records by what became of them, counted when committed: applied, unchanged and skipped (nothing was sent: the destination has it already, or takes no such user), superseded, erased, dead (to the dead letters), parked (an erasure put off, still owed), held (an erasure held back)."}, []string{"outcome"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: "apply_errors_total",
			Help: "Failed calls, and failed records of calls that failed in part."}, []string{"class", "reason"}),
		retries:  counter("retries_total", "Calls of the destination that repeat a failed one, whole or in part."),
		duration: histogram("apply_duration_seconds", "Time of one call of the destination.", prometheus.ExponentialBuckets(0.001, 2, 16)),
		batch:    histogram("batch_records", "Records of one call of the destination.", prometheus.ExponentialBuckets(1, 4, 7)),
		delivery: histogram("delivery_seconds", "From the event at Clerk to the commit after the destination's acknowledgement; rows of snapshots left out.",
			prometheus.ExponentialBuckets(0.01, 2, 20)),
		observers: []prometheus.Collector{
			gauge("lag_records", "Records of the owned partitions not applied yet; -1: not known yet.", func(s Status) float64 { return float64(s.LagRecords) }),
			gauge("lag_seconds", "How long the oldest record not applied yet has been in the topic, about.", func(s Status) float64 { return s.Lag.Seconds() }),
			gauge("erasures_owed", "Erasures of the owned partitions without a receipt.", func(s Status) float64 { return float64(s.ErasuresOwed) }),
			gauge("erasures_held", "Erasures owed that are held back until ERASE_AFTER has passed.", func(s Status) float64 { return float64(s.ErasuresHeld) }),
			gauge("erasures_unconfirmed", "Erasures of the owned partitions that are done and not read back yet.", func(s Status) float64 { return float64(s.ErasuresUnconfirmed) }),
			gauge("erasure_oldest_owed_seconds", "Age of the oldest erasure owed, since it was asked for.", func(s Status) float64 {
				if s.ErasuresOwed == 0 {
					return 0
				}
				return time.Since(s.OldestErasure).Seconds()
			}),
			gauge("dead_letters", "Dead letters of the owned partitions that are neither overtaken, nor applied later, nor discarded.", func(s Status) float64 { return float64(s.DeadLetters) }),
			gauge("dead_letters_parked", "Those that were tried again MAX_REPLAYS times in vain.", func(s Status) float64 { return float64(s.DeadLettersParked) }),
			gauge("paused", "1 if a person has paused the sink, else 0.", func(s Status) float64 {
				if s.Paused != nil {
					return 1
				}
				return 0
			}),
			gauge("circuit", "0: closed, calls go through. 1: half open, one call at a time tries a destination that failed. 2: open, no call before the wait after a failure is over, or before a person has mended what stopped the sink.",
				func(s Status) float64 { return float64(s.Circuit) }),
			gauge("stopped", "1 if a fatal error holds the sink up, else 0.", func(s Status) float64 {
				if s.Stopped {
					return 1
				}
				return 0
			}),
		},
	}
	if r.pacer != nil {
		m.observers = append(m.observers, r.pacer.requests, r.pacer.waited,
			gauge("request_limit", "Requests per second that this process may make now; 0: no limit is known.", func(Status) float64 { return r.pacer.perSecond() }))
	}
	for _, outcome := range []string{outcomeSuperseded, outcomeApplied, outcomeUnchanged, outcomeSkipped, outcomeErased, outcomeDead, outcomeParked, outcomeHeld} {
		m.records.WithLabelValues(outcome)
	}
	for _, class := range []sinks.Class{sinks.ClassRetry, sinks.ClassPermanent, sinks.ClassFatal} {
		for _, reason := range sinks.Reasons() {
			m.errors.WithLabelValues(class.String(), string(reason))
		}
	}
	return m
}

func (m *metrics) register(to prometheus.Registerer, sink string) error {
	to = prometheus.WrapRegistererWith(prometheus.Labels{"sink": sink}, to)
	for _, c := range append([]prometheus.Collector{m.records, m.errors, m.retries, m.duration, m.batch, m.delivery}, m.observers...) {
		if err := to.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// Values of the label outcome.
const (
	outcomeApplied    = "applied"
	outcomeUnchanged  = "unchanged"
	outcomeSkipped    = "skipped"
	outcomeSuperseded = "superseded"
	outcomeErased     = "erased"
	outcomeDead       = "dead"
	outcomeParked     = "parked"
	outcomeHeld       = "held"
)

// settled counts a committed item.
func (m *metrics) settled(it *item, now time.Time) {
	outcome := outcomeSuperseded
	switch it.fate {
	case applied:
		switch {
		case it.record.Erase():
			outcome = outcomeErased
		case it.result.Skipped:
			outcome = outcomeSkipped
		case it.result.Unchanged:
			outcome = outcomeUnchanged
		default:
			outcome = outcomeApplied
		}
		if it.occurred > 0 && !it.snapshot {
			m.delivery.Observe(now.Sub(time.UnixMilli(it.occurred)).Seconds())
		}
	case dead:
		outcome = outcomeDead
	case parked:
		outcome = outcomeParked
	case held:
		outcome = outcomeHeld
	}
	m.records.WithLabelValues(outcome).Inc()
}

func (m *metrics) called(a answer) {
	m.duration.Observe(a.took.Seconds())
	m.batch.Observe(float64(len(a.records)))
}

func (m *metrics) failed(problem sinks.Error) {
	m.errors.WithLabelValues(problem.Class.String(), string(problem.Reason)).Inc()
}
