package transact

import (
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var _ kgo.HookBrokerE2E = (*Heartbeat)(nil)

// Heartbeat knows when the group has last heard of an owner. A process that was
// paused, or cut off, finds out with it that others may have its partitions by
// now, before its client does. The zero value is ready to be put into a
// [Config]. Safe for concurrent use.
type Heartbeat struct {
	mu      sync.Mutex
	session time.Duration
	heard   time.Time // when the last request was sent that the group has answered
}

// Fresh reports whether the group will leave the owner its partitions for half
// a session timeout at least, unless it asks for them: it has answered a
// heartbeat that was sent less than half a session timeout ago.
func (h *Heartbeat) Fresh() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.heard) < h.session/2
}

// OnBrokerE2E implements [kgo.HookBrokerE2E]: a client calls it for each request
// that was answered.
func (h *Heartbeat) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e2e kgo.BrokerE2E) {
	if e2e.Err() != nil || key != int16(kmsg.Heartbeat) && key != int16(kmsg.SyncGroup) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard = time.Now().Add(-e2e.DurationE2E())
}

// begin forgets what was heard in another session.
func (h *Heartbeat) begin(session time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.session, h.heard = session, time.Time{}
}
