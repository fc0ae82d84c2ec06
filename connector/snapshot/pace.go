package snapshot

import (
	"time"

	"clerkconnect/connector"
)

// Pace turns the checkpoints of one walk into its progress, with the rate at
// which they come by. The zero value has seen none. It is not safe for
// concurrent use.
type Pace struct {
	begun   time.Time
	already int64 // users of the first checkpoint
}

// Progress returns how far the walk is at this checkpoint.
func (p *Pace) Progress(at connector.SourceOffset) Progress {
	if p.begun.IsZero() {
		p.begun, p.already = time.Now(), at.Users
	}
	now := Progress{Phase: PhaseSnapshot, Snapshot: at.Snapshot, Users: at.Users, Total: at.Total}
	if at.FinishedAt != 0 {
		now.Phase = PhaseIdle
		return now
	}
	if took, users := time.Since(p.begun).Seconds(), at.Users-p.already; users > 0 && took > 0 {
		now.RatePerSecond = float64(users) / took
		now.Remaining = time.Duration(float64(max(0, at.Total-at.Users)) / now.RatePerSecond * float64(time.Second))
	}
	return now
}
