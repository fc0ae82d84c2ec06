package sequencer

import (
	"testing"

	"pgregory.net/rapid"

	"clerkconnect/schemas"
)

// TestPositions_KeepsEveryField: what is set comes back whole.
func TestPositions_KeepsEveryField(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := newPositions()
		if _, ok := p.get("user_1"); ok {
			t.Fatal("an empty memory knows a user")
		}
		long, short := rapid.Int64(), rapid.Int32()
		for i := range rapid.IntRange(1, 3).Draw(t, "times") {
			at := schemas.Position{
				UpdatedAt: long.Draw(t, "updated"), StatedAt: long.Draw(t, "stated"), Fingerprint: long.Draw(t, "fingerprint"),
				Version: long.Draw(t, "version"), Epoch: short.Draw(t, "epoch"), Flags: short.Draw(t, "flags"),
			}
			p.set("user_1", at)
			if got, ok := p.get("user_1"); !ok || got != at || p.len() != 1 {
				t.Fatalf("set %d: %v, %t, %d users; want %v, true, 1", i, got, ok, p.len(), at)
			}
		}
	})
}
