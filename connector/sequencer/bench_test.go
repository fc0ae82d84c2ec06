package sequencer

import (
	"fmt"
	"runtime"
	"testing"

	"clerkconnect/schemas"
)

// measure returns the bytes of heap that each of that many known users costs.
func measure(users int) float64 {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	p := newPositions()
	for i := range users {
		p.set(fmt.Sprintf("user_%027d", i), schemas.Position{Version: int64(i)})
	}
	after := heap()
	runtime.KeepAlive(p)
	return float64(after-before) / float64(users)
}

// BenchmarkPositions measures the memory of one known user; the limit is 100
// bytes (DESIGN, "Ordering").
func BenchmarkPositions(b *testing.B) {
	for _, users := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("users=%d", users), func(b *testing.B) {
			var perUser float64
			for b.Loop() {
				perUser = measure(users)
			}
			b.ReportMetric(perUser, "bytes/user")
			b.ReportMetric(perUser/100, "of-limit")
		})
	}
}

// BenchmarkDecide measures the judgement of one event.
func BenchmarkDecide(b *testing.B) {
	at := schemas.Position{UpdatedAt: 5, StatedAt: 5, Fingerprint: 3, Version: 7}
	e := &schemas.UserEvent{Operation: schemas.EventUpsert, Origin: schemas.OriginWebhook, UpdatedAt: 9, StatedAt: 9, Fingerprint: 4}
	b.ReportAllocs()
	for b.Loop() {
		decide(at, true, 1, e)
	}
}
