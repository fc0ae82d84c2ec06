package ledger

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Times of the watch. What it measures moves in days.
const (
	watchEvery  = time.Minute
	watchLonger = time.Hour // where reading takes long: a tenth of the time at most
)

// Watch measures what is open in the ledger, whoever runs: a sink that no
// process runs, or that was removed from SINKS, owes still, and tells nobody.
// It reads the whole ledger every minute, or less often if that takes long.
type Watch struct {
	ledger *Ledger
	log    *slog.Logger

	mu    sync.Mutex
	sinks map[string]*owing
	read  time.Time // when it was read last; zero: never
}

// owing is what one sink has to do.
type owing struct {
	open, overdue int
	oldest        time.Time // request of the oldest open one
}

// NewWatch returns a watch whose metrics go to r.
func NewWatch(l *Ledger, r prometheus.Registerer, log *slog.Logger) *Watch {
	w := &Watch{ledger: l, log: log, sinks: map[string]*owing{}}
	r.MustRegister(w)
	return w
}

// Run reads the ledger until ctx is done. What fails is tried again.
func (w *Watch) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		begun := time.Now()
		err := w.look(ctx, begun)
		if err != nil && ctx.Err() == nil && !failing {
			w.log.Warn("read the erasure ledger, will retry", "err", err)
		}
		failing = err != nil
		timer.Reset(min(max(watchEvery, 10*time.Since(begun)), watchLonger))
	}
}

func (w *Watch) look(ctx context.Context, now time.Time) error {
	seen := map[string]*owing{}
	sinks, err := w.ledger.Read(ctx, now, func(e Entry) {
		for _, s := range e.Sinks {
			if !s.State.Open() {
				continue
			}
			o := seen[s.Sink]
			if o == nil {
				o = &owing{oldest: e.RequestedAt}
				seen[s.Sink] = o
			}
			o.open++
			if e.Overdue {
				o.overdue++
			}
			if e.RequestedAt.Before(o.oldest) {
				o.oldest = e.RequestedAt
			}
		}
	})
	if err != nil {
		return err
	}
	for _, s := range sinks {
		if seen[s.Name] == nil && (s.Configured || s.HasRun) {
			seen[s.Name] = &owing{}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sinks, w.read = seen, now
	return nil
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("clerk_connect", "erasure", name), help, labels, nil)
}

var (
	descOpen     = describe("open", "Erasures in the ledger that a sink has still to do, hold back or read back, also if no process runs it.", "sink")
	descOverdue  = describe("overdue", "Those of them that are older than ERASURE_DEADLINE.", "sink")
	descOldest   = describe("oldest_open_seconds", "Age of the oldest of them, since it was asked for; 0: none.", "sink")
	descDeadline = describe("deadline_seconds", "ERASURE_DEADLINE.")
	descRead     = describe("ledger_read_timestamp_seconds", "When the ledger was read last; 0: not yet.")
)

// Describe implements [prometheus.Collector].
func (w *Watch) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descOpen, descOverdue, descOldest, descDeadline, descRead} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (w *Watch) Collect(to chan<- prometheus.Metric) {
	w.mu.Lock()
	defer w.mu.Unlock()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for sink, o := range w.sinks {
		age := 0.0
		if o.open > 0 {
			age = time.Since(o.oldest).Seconds()
		}
		gauge(descOpen, float64(o.open), sink)
		gauge(descOverdue, float64(o.overdue), sink)
		gauge(descOldest, age, sink)
	}
	gauge(descDeadline, w.ledger.Deadline.Seconds())
	read := 0.0
	if !w.read.IsZero() {
		read = float64(w.read.UnixMilli()) / 1000
	}
	gauge(descRead, read)
}
