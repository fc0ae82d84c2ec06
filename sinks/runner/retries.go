package runner

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Bounds of the retries of a process: what Finagle and gRPC take, a fifth of the
// calls, and as many as maxRetries at once after a quiet time. What each sink
// may do in any case keeps a sink that fails from taking the retries of all.
const (
	retryShare    = 0.2
	maxRetries    = 100
	ownRetries    = 10                     // of one sink at once, in any case
	ownRetryEvery = 100 * time.Millisecond // and one more each
	retryInterval = 100 * time.Millisecond // how often it is asked again whether there is one
)

// RetryBudget bounds how much of what the sinks of a process do is repetition,
// so that a partial outage of several destinations is not answered by a multiple
// of the usual calls. A retry that the budget has no room for waits. The zero
// value is a full budget. Safe for concurrent use.
type RetryBudget struct {
	mu    sync.Mutex
	spent float64 // 0 to maxRetries
}

// earn makes room for a share of a retry: a first call was made.
func (b *RetryBudget) earn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spent = max(0, b.spent-retryShare)
}

// spend takes a retry, if there is one.
func (b *RetryBudget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.spent+1 > maxRetries {
		return false
	}
	b.spent++
	return true
}

// retries are those of one sink.
type retries struct {
	budget *RetryBudget
	own    *rate.Limiter
}

func newRetries(budget *RetryBudget) *retries {
	if budget == nil {
		budget = &RetryBudget{}
	}
	return &retries{budget: budget, own: rate.NewLimiter(rate.Every(ownRetryEvery), ownRetries)}
}

// allow reports whether a call may be made now: a first one always.
func (r *retries) allow(again bool) bool {
	if !again {
		r.budget.earn()
		return true
	}
	return r.own.Allow() || r.budget.spend()
}
