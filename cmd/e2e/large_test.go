package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestLargeUser: a user of a megabyte goes the whole way, by a delivery and by
// a snapshot, and holds nobody up.
func TestLargeUser(t *testing.T) {
	forEachBroker(t, func(t *testing.T, kafka bool) {
		s := newStack(t, kafka, 20)
		ids := s.sim.UserIDs()
		large := func(fill string) json.RawMessage {
			return json.RawMessage(`{"text":"` + strings.Repeat(fill, 500_000) + `"}`)
		}
		if err := s.sim.SetMetadata(ids[0], large("ab"), nil); err != nil { // before the snapshot
			t.Fatal(err)
		}
		p := s.start("one", all, "")
		eventually(t, patience, "ready", p.ready)
		s.settle(patience)
		for _, id := range ids[1:4] {
			if err := s.sim.SetMetadata(id, large("cd"), nil); err != nil {
				t.Fatal(err)
			}
		}
		s.settle(patience)
		if dead := s.deadLetters(); dead != 0 {
			t.Errorf("dead letters: %d, want none", dead)
		}
		p.stop()
	})
}
