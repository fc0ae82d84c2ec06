package sequencer

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"clerkconnect/schemas"
)

// metrics are the sequencer's collectors.
type metrics struct {
	events       *prometheus.CounterVec
	ties         prometheus.Counter
	undecodable  prometheus.Counter
	latency      prometheus.Histogram
	transactions *prometheus.CounterVec
	commit       prometheus.Histogram
	restore      prometheus.Histogram
	known        prometheus.Gauge
	owned        prometheus.Gauge
	ready        prometheus.Gauge
	lag          prometheus.Gauge
	lagAge       prometheus.Gauge
	gaps         prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	const namespace, subsystem = "clerk_connect", "sequencer"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help, Buckets: buckets})
	}
	vector := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, labels)
	}
	m := &metrics{
		events:       vector("events_total", "Events by what became of them and the way they came in.", "outcome", "origin"),
		ties:         counter("ties_total", "Events that time alone could not order; each is re-read from Clerk."),
		undecodable:  counter("undecodable_total", "Records of the event log that could not be read; each user is re-read from Clerk."),
		latency:      histogram("latency_seconds", "From the receipt of a webhook to the commit of what follows from it.", prometheus.ExponentialBuckets(0.001, 2, 16)),
		transactions: vector("transactions_total", "Transactions by how they ended.", "committed"),
		commit:       histogram("commit_duration_seconds", "Time from the begin to the end of a transaction.", prometheus.ExponentialBuckets(0.001, 2, 14)),
		restore:      histogram("restore_duration_seconds", "Time to restore one partition.", prometheus.ExponentialBuckets(0.005, 2, 16)),
		known:        gauge("known_users", "Users with a position in the partitions owned, deleted ones included."),
		owned:        gauge("partitions_owned", "Partitions that this process owns."),
		ready:        gauge("partitions_ready", "Partitions owned that are restored."),
		lag:          gauge("lag_records", "Events not yet sequenced in the partitions owned."),
		lagAge:       gauge("lag_seconds", "How long the oldest event that is not sequenced has waited, about."),
		gaps:         gauge("gaps", "Partitions whose events were lost to retention and that wait for a snapshot."),
	}
	r.MustRegister(m.events, m.ties, m.undecodable, m.latency, m.transactions, m.commit, m.restore, m.known, m.owned, m.ready, m.lag, m.lagAge, m.gaps)
	for _, outcome := range Outcomes() {
		for _, origin := range []schemas.Origin{schemas.OriginWebhook, schemas.OriginSnapshot, schemas.OriginReconcile, schemas.OriginRepair, schemas.OriginRequest} {
			m.events.WithLabelValues(string(outcome), string(origin))
		}
	}
	m.transactions.WithLabelValues("true")
	m.transactions.WithLabelValues("false")
	return m
}

func (m *metrics) transaction(committed bool, took time.Duration) {
	m.transactions.WithLabelValues(ifElse(committed, "true", "false")).Inc()
	m.commit.Observe(took.Seconds())
}
