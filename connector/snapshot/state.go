package snapshot

import (
	"encoding/json"
	"log/slog"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
)

// state is the latest record of each key of connect-state, as its owner reads
// it: first the whole topic as it was, then what comes. Safe for concurrent use.
type state struct {
	log     *slog.Logger
	changed chan struct{} // holds one token when something came

	mu      sync.Mutex
	ready   bool          // restored; until then live records wait
	waiting []*kgo.Record // live records
	next    int64         // what lies before this offset is known
	entries map[string]entry
	retired map[string]int64 // offset up to which this owner has done what a key asked for
}

type entry struct {
	offset int64
	value  []byte
}

func newState(log *slog.Logger) *state {
	return &state{log: log, changed: make(chan struct{}, 1), entries: map[string]entry{}, retired: map[string]int64{}}
}

// live takes a record that the group's consumer has read. It may come before,
// while or after the topic is restored.
func (s *state) live(r *kgo.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ready {
		s.waiting = append(s.waiting, r)
		return
	}
	s.apply(r)
}

// restored takes the topic as it was, read from its start by restore.
func (s *state) restored(records []*kgo.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range append(records, s.waiting...) {
		s.apply(r)
	}
	s.ready, s.waiting = true, nil
}

func (s *state) apply(r *kgo.Record) {
	if r.Offset < s.next || r.Attrs.IsControl() {
		return
	}
	s.next = r.Offset + 1
	key := string(r.Key)
	if r.Value == nil {
		// A tombstone of ours is for what this owner has done. A newer wish that
		// it met in the log is gone there, but known here, and still owed.
		if done, ok := s.retired[key]; !ok || s.entries[key].offset <= done {
			delete(s.entries, key)
			delete(s.retired, key)
		}
	} else {
		s.entries[key] = entry{r.Offset, r.Value}
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// retire marks what a key asked for at offset as done, so that it is not seen
// any more, and says whether that is still the latest wish under the key.
func (s *state) retire(key string, offset int64) (latest bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired[key] = offset
	return s.entries[key].offset == offset
}

// get reads the value of a key into value, and leaves that alone if there is
// none or it has been retired.
func get[V any](s *state, key string, value *V) (offset int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.open(key)
	if !ok {
		return 0, false
	}
	if err := json.Unmarshal(e.value, value); err != nil {
		s.log.Error("connect-state holds a value that cannot be read; ignoring it", "offset", e.offset, "err", err)
		return 0, false
	}
	return e.offset, true
}

func (s *state) open(key string) (entry, bool) {
	e, ok := s.entries[key]
	done, retired := s.retired[key]
	return e, ok && !(retired && e.offset <= done)
}

// keys returns the keys with prefix that are not retired, with their offsets.
func (s *state) keys(prefix string) map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[string]int64{}
	for key := range s.entries {
		if e, ok := s.open(key); ok && strings.HasPrefix(key, prefix) {
			found[key] = e.offset
		}
	}
	return found
}

// gaps returns the gaps that are flagged, by key, with the offset of the flag.
func (s *state) gaps() map[string]int64 { return s.keys(connector.StateKeyGapPrefix) }
