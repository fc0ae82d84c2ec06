package runner

import (
	"sync"
	"time"
)

// longBatch is how long the work between two commits should take where calls
// are slow: what a crash repeats. What calls sleep ([sinks.Pacer]) does not
// count: it is as long for few records as for many.
const longBatch = 10 * time.Second

// firstBatch is the size of the first transaction of a sink whose rate limit is
// not known.
const firstBatch = 100

// batchSize is how many records are taken into one transaction. For a sink with
// a rate limit it is fitted to what longBatch was enough for; it begins with one
// request for each record. Safe for concurrent use.
type batchSize struct {
	most  int
	paced bool

	mu  sync.Mutex
	now int
}

func (r *Runner) newBatchSize() *batchSize {
	s := &batchSize{most: r.cfg.BatchRecords, now: r.cfg.BatchRecords}
	if r.pacer != nil {
		s.paced, s.now = true, firstBatch
		if rate := r.pacer.perSecond(); rate > 0 {
			s.now = max(1, int(rate*longBatch.Seconds()))
		}
		s.now = min(s.now, s.most)
	}
	return s
}

func (s *batchSize) limit() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// took fits the size to a batch of that many records. It moves by half and
// double at most, so that one outage does not decide.
func (s *batchSize) took(records int, d time.Duration) {
	if !s.paced || records == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch fits := int(float64(records) * longBatch.Seconds() / max(d.Seconds(), 1e-3)); {
	case d > longBatch:
		s.now = max(1, s.now/2, min(s.now, fits))
	case d < longBatch/2 && records >= s.now:
		s.now = min(s.most, 2*s.now)
	}
}
