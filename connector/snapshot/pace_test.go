package snapshot

import (
	"testing"
	"testing/synctest"
	"time"

	"clerkconnect/connector"
)

// TestPace: a walk that goes on counts its rate from where it goes on.
func TestPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var pace Pace
		at := connector.SourceOffset{Snapshot: "s", Users: 1000, Total: 3000}
		if got, want := pace.Progress(at), (Progress{Phase: PhaseSnapshot, Snapshot: "s", Users: 1000, Total: 3000}); got != want {
			t.Errorf("first: got %+v, want %+v", got, want)
		}
		time.Sleep(2 * time.Second)
		at.Users = 2000
		want := Progress{Phase: PhaseSnapshot, Snapshot: "s", Users: 2000, Total: 3000, RatePerSecond: 500, Remaining: 2 * time.Second}
		if got := pace.Progress(at); got != want {
			t.Errorf("second: got %+v, want %+v", got, want)
		}
		at.Users, at.FinishedAt = 3000, 1
		if got, want := pace.Progress(at), (Progress{Phase: PhaseIdle, Snapshot: "s", Users: 3000, Total: 3000}); got != want {
			t.Errorf("end: got %+v, want %+v", got, want)
		}
	})
}
