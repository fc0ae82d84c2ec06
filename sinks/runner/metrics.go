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
	duration  prometheus.Histogram
	batch     prometheus.Histogram
	delivery  prometheus.Histogram
	observers []prometheus.Collector
}

func newMetrics(r *Runner) *metrics {
	const namespace, subsystem = "clerk_connect", "sink"
	gauge := func(name, help string, value func(Status) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help},
			func() float64 { return value(r.Status()) })
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help, Buckets: buckets})
	}
	m := &metrics{
		records: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: "records_total",
			Help: "Records by what became of them, counted when committed: applied, superseded, erased, dead (to the dead letters), parked (an erasure put off, still owed)."}, []string{"outcome"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: "apply_errors_total",
			Help: "Failed calls, and failed records of calls that failed in part."}, []string{"class", "reason"}),
		duration: histogram("apply_duration_seconds", "Time of one call of the destination.", prometheus.ExponentialBuckets(0.001, 2, 16)),
		batch:    histogram("batch_records", "Records of one call of the destination.", prometheus.ExponentialBuckets(1, 4, 7)),
		delivery: histogram("delivery_seconds", "From the event at Clerk to the commit after the destination's acknowledgement; rows of snapshots left out.",
			prometheus.ExponentialBuckets(0.01, 2, 20)),
		observers: []prometheus.Collector{
			gauge("lag_records", "Records of the owned partitions not applied yet; -1: not known yet.", func(s Status) float64 { return float64(s.LagRecords) }),
			gauge("lag_seconds", "How long the oldest record not applied yet has been in the topic, about.", func(s Status) float64 { return s.Lag.Seconds() }),
			gauge("erasures_owed", "Erasures of the owned partitions without a receipt.", func(s Status) float64 { return float64(s.ErasuresOwed) }),
			gauge("erasure_oldest_owed_seconds", "Age of the oldest erasure owed, since it was asked for.", func(s Status) float64 {
				if s.ErasuresOwed == 0 {
					return 0
				}
				return time.Since(s.OldestErasure).Seconds()
			}),
			gauge("stopped", "1 if a fatal error holds the sink up, else 0.", func(s Status) float64 {
				if s.Stopped {
					return 1
				}
				return 0
			}),
		},
	}
	for _, outcome := range []string{outcomeSuperseded, outcomeApplied, outcomeErased, outcomeDead, outcomeParked} {
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
	for _, c := range append([]prometheus.Collector{m.records, m.errors, m.duration, m.batch, m.delivery}, m.observers...) {
		if err := to.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// Values of the label outcome.
const (
	outcomeApplied    = "applied"
	outcomeSuperseded = "superseded"
	outcomeErased     = "erased"
	outcomeDead       = "dead"
	outcomeParked     = "parked"
)

// settled counts a committed item.
func (m *metrics) settled(it *item, now time.Time) {
	outcome := outcomeSuperseded
	switch it.fate {
	case applied:
		outcome = outcomeApplied
		if it.record.Erase() {
			outcome = outcomeErased
		}
		if it.occurred > 0 && !it.snapshot {
			m.delivery.Observe(now.Sub(time.UnixMilli(it.occurred)).Seconds())
		}
	case dead:
		outcome = outcomeDead
	case parked:
		outcome = outcomeParked
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
