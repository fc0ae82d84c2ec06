package webhook

import (
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"clerkconnect/connector/clerk"
)

// outcome is how a request ended: its answer, and the reason label. The set is
// closed.
type outcome struct {
	code   int
	reason string
}

var (
	verified = outcome{} // not an end

	accepted          = outcome{200, "accepted"}
	typeNotTaken      = outcome{200, "type_not_taken"}
	otherInstance     = outcome{200, "other_instance"}
	sampleEvent       = outcome{200, "sample"}
	deletionWithoutID = outcome{200, "deletion_without_id"}

	// Dead letters; the reason is the dead letter's.
	malformedJSON     = outcome{200, clerk.ReasonJSON}
	malformedEnvelope = outcome{200, clerk.ReasonEnvelope}
	malformedUser     = outcome{200, clerk.ReasonUser}
	missingID         = outcome{200, "missing_id"}
	tooFarAhead       = outcome{200, "too_far_ahead"}
	recordTooLarge    = outcome{200, "too_large"}

	missingHeader = outcome{400, "missing_header"}
	wrongClock    = outcome{400, "clock"}
	noMatch       = outcome{400, "no_match"}
	wrongAddress  = outcome{403, "address"}
	wrongPath     = outcome{404, "path"}
	wrongMethod   = outcome{405, "method"}
	bodyUnread    = outcome{408, "body"}
	bodyTooLarge  = outcome{413, "body"}
	clientGone    = outcome{499, "client_gone"} // nginx's code: nobody is there to be answered

	panicked     = outcome{500, "panic"}
	timedOut     = outcome{503, "timeout"}
	writeFailed  = outcome{503, "write"}
	pinFailed    = outcome{503, "instance"}
	tooMany      = outcome{503, "waiting"}
	shuttingDown = outcome{503, "shutting_down"}
)

var outcomes = []outcome{
	accepted, typeNotTaken, otherInstance, sampleEvent, deletionWithoutID,
	malformedJSON, malformedEnvelope, malformedUser, missingID, tooFarAhead, recordTooLarge,
	missingHeader, wrongClock, noMatch, wrongAddress, wrongPath, wrongMethod, bodyUnread, bodyTooLarge, clientGone,
	panicked, timedOut, writeFailed, pinFailed, tooMany, shuttingDown,
}

// typeOther stands for every type of event that is not taken.
const typeOther = "other"

type metrics struct {
	requests *prometheus.CounterVec
	duration prometheus.Histogram
	inFlight prometheus.Gauge
	repeated prometheus.Counter
	events   *prometheus.CounterVec
	age      prometheus.Histogram
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	const namespace, subsystem = "clerk_connect", "webhook"
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: "requests_total",
			Help: "Requests by the code of the answer and its reason; 499: the client did not wait."}, []string{"code", "reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Subsystem: subsystem, Name: "duration_seconds",
			Help:    "Time from a request's headers to its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 8, 15}}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: "in_flight",
			Help: "Requests being handled."}),
		repeated: prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: "repeated_total",
			Help: "Verified deliveries whose id was seen before by this process."}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: "events_total",
			Help: "Verified deliveries by the type of event; other: a type that is not taken, or none that can be read."}, []string{"type"}),
		age: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Subsystem: subsystem, Name: "event_age_seconds",
			Help:    "Time from an accepted event, as Clerk dates it, to its receipt.",
			Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 18000, 36000, 86400, 172800}}),
	}
	for _, o := range outcomes {
		m.requests.WithLabelValues(strconv.Itoa(o.code), o.reason)
	}
	for _, kind := range append(clerk.Types(), typeOther) {
		m.events.WithLabelValues(kind)
	}
	registerer.MustRegister(m.requests, m.duration, m.inFlight, m.repeated, m.events, m.age)
	return m
}

func (m *metrics) ended(o outcome, took time.Duration) {
	m.requests.WithLabelValues(strconv.Itoa(o.code), o.reason).Inc()
	m.duration.Observe(took.Seconds())
}

// boundedType is the label of a type of event.
func boundedType(kind string) string {
	if slices.Contains(clerk.Types(), kind) {
		return kind
	}
	return typeOther
}
