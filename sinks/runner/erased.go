package runner

import (
	"context"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
)

// erased is what was demanded since the partitions owned were restored: the rank
// of each erasure. Its tombstone stands behind what is being applied, which may
// take hours in an outage: until it is read nothing else would keep the users in
// hand from being sent. Safe for concurrent use; the zero value owns nothing.
type erased struct {
	mu    sync.Mutex
	owned map[int32]map[string]schemas.Version // by Clerk ID
}

// own sets which partitions are owned; it is called before they are restored.
func (e *erased) own(partitions []int32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	owned := make(map[int32]map[string]schemas.Version, len(partitions))
	for _, number := range partitions {
		if owned[number] = e.owned[number]; owned[number] == nil {
			owned[number] = map[string]schemas.Version{}
		}
	}
	e.owned = owned
}

// read takes over a record of <prefix>.erasures. One that cannot be read is
// left to its tombstone.
func (e *erased) read(r *Runner, k *kgo.Record) {
	var demand schemas.Erasure
	if k.Value != nil && r.options.Codec.Decode(context.Background(), k.Value, &demand) != nil || string(k.Key) == schemas.TickKey {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	users, ok := e.owned[k.Partition]
	switch {
	case !ok:
	case k.Value == nil: // withdrawn
		delete(users, string(k.Key))
	default:
		demand.ClerkID = string(k.Key)
		users[demand.ClerkID] = eraseRecord(demand, k.Partition).Rank()
	}
}

// covers reports whether an erasure was demanded that a change of that version
// does not outlast.
func (e *erased) covers(partition int32, id string, version schemas.Version) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	rank, ok := e.owned[partition][id]
	return ok && version.Compare(rank) <= 0
}

// forget drops an erasure that the partition's memory has by now, and none that
// was demanded later.
func (e *erased) forget(partition int32, id string, rank schemas.Version) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if demanded, ok := e.owned[partition][id]; ok && demanded.Compare(rank) <= 0 {
		delete(e.owned[partition], id)
	}
}

// dropErased takes out of a unit the changes of users whose erasure has been
// demanded since they were read: they are not sent any more, but to a sink that
// wants every change (ahead.go).
func (d *delivery) dropErased(u *unit) {
	if d.words == nil || d.feed || d.facts.EveryChange {
		return
	}
	u.items = slices.DeleteFunc(slices.Clone(u.items), func(it *item) bool {
		source := it.record.Source
		gone := it.record.Change != nil && d.words.erased.covers(source.Partition, it.record.ClerkID, it.record.Version)
		if gone && !u.probe {
			it.fate = superseded
		}
		return gone
	})
}
