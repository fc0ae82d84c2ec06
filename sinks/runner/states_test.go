package runner

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"pgregory.net/rapid"

	"clerkconnect/schemas"
)

// TestStates_KeepsEverything: what is known of a user comes back whole, and is
// the caller's own.
func TestStates_KeepsEverything(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := newStates()
		if s.get("user_1") != nil {
			t.Fatal("an empty table knows a user")
		}
		want := known{
			version:   schemas.Version{Epoch: rapid.Int32().Draw(t, "epoch"), Number: rapid.Int64().Draw(t, "number")},
			unapplied: rapid.Bool().Draw(t, "unapplied"),
		}
		if rapid.Bool().Draw(t, "remembers") {
			want.state = rapid.SliceOfN(rapid.Byte(), 0, maxState).Draw(t, "state") // empty is not nothing
		}
		s.set("user_1", want)
		got := s.get("user_1")
		if !got.equal(&want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		clear(got.state)
		if !s.get("user_1").equal(&want) {
			t.Fatal("the table has changed with what it gave")
		}
		if s.delete("user_1"); s.get("user_1") != nil || s.len() != 0 {
			t.Fatal("a user who was forgotten is known")
		}
	})
}

// TestProcessor_ForgetGivesMemoryBack: a partition that was revoked costs
// nothing any more. It is not parallel: it looks at the memory of the process.
func TestProcessor_ForgetGivesMemoryBack(t *testing.T) {
	const users = 100_000
	p := bare(t, newScripted(t, nil))
	p.read = func(context.Context, int32) (*memory, error) {
		m := newMemory()
		for i := range users {
			m.states.set(fmt.Sprintf("user_%027d", i), known{state: remembers(i)})
		}
		return m, nil
	}
	before := heap()
	install, err := p.Restore(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	install()
	install = nil
	if grown := heap() - before; grown < users*100 || p.partitions[1].states.len() != users {
		t.Fatalf("%d users restored into %d bytes; want %d users, more than 100 bytes each", p.partitions[1].states.len(), grown, users)
	}
	p.Forget(1)
	if left := heap() - before; left > 10*users {
		t.Errorf("%d bytes are left of a partition that is not owned any more; want less than %d", left, 10*users)
	}
	runtime.KeepAlive(p)
}
