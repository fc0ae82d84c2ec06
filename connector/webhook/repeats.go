package webhook

import (
	"hash/maphash"
	"sync"
)

// generationSize is how many ids a generation remembers; two are kept, so a
// repetition among the last 32,768 deliveries is always noticed. At 8 bytes
// and a map's overhead the two need about 2 MB.
const generationSize = 32_768

// repeats remembers the ids of deliveries to count those that come again.
// Nothing is decided by it.
type repeats struct {
	mu               sync.Mutex
	seed             maphash.Seed
	current, earlier map[uint64]struct{}
}

func newRepeats() *repeats {
	return &repeats{seed: maphash.MakeSeed(), current: map[uint64]struct{}{}}
}

// seen notes id and is true if it was noted before.
func (r *repeats) seen(id string) bool {
	hash := maphash.String(r.seed, id)
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.current[hash]; ok {
		return true
	}
	_, before := r.earlier[hash]
	if len(r.current) >= generationSize {
		r.earlier, r.current = r.current, make(map[uint64]struct{}, generationSize)
	}
	r.current[hash] = struct{}{}
	return before
}
