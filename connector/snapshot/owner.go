package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/schemas/compacted"
)

// Reasons for a walk that no person asked for, as SourceOffset.Request.
const (
	reasonInitial = "initial"
	reasonGap     = "gap"
	reasonPolicy  = "policy"
)

// clockDifference is how far the clock of the process that flags a gap may be
// from Clerk's: a gap is taken for older than a walk only if it is by more.
const clockDifference = time.Minute

// refusedPauses is how many pauses a refused key costs: a person has to act.
const refusedPauses = 5

// owner is the task's work while it owns the partition.
type owner struct {
	t      *Task
	state  *state
	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned

	offset  connector.SourceOffset // of the current or last walk; after the start only this owner moves it
	covered map[string]int64       // gaps that the current walk makes up for, by key
	failed  map[string]time.Time   // when to try failed re-reads again, by key
}

func newOwner(t *Task) *owner {
	return &owner{t: t, state: newState(t.log), done: make(chan struct{}), failed: map[string]time.Time{}}
}

// run works until ctx is done.
func (o *owner) run(ctx context.Context) {
	for err := o.restore(ctx); err != nil; err = o.restore(ctx) {
		if ctx.Err() != nil {
			return
		}
		o.pause(ctx, fmt.Errorf("read connect-state: %w", err))
	}
	for ctx.Err() == nil {
		if reason, due := o.due(); due {
			if err := o.walk(ctx, reason); err != nil && ctx.Err() == nil {
				o.pause(ctx, err)
			}
			continue
		}
		o.t.report(func(p *Progress) { p.Phase, p.Err = PhaseIdle, nil })
		next := o.rereads(ctx, len(o.state.keys(connector.StateKeyRereadPrefix)))
		select {
		case <-ctx.Done():
		case <-o.state.changed:
		case <-time.After(next):
		}
	}
}

// restore reads connect-state as it is.
func (o *owner) restore(ctx context.Context) error {
	var records []*kgo.Record
	err := compacted.Read(ctx, o.t.deps.Client, o.t.deps.Topics.ConnectState(), 0, func(r *kgo.Record) error {
		records = append(records, r)
		return nil
	})
	if err != nil {
		return err
	}
	o.state.restored(records)
	o.answered(nil)
	get(o.state, connector.StateKeySnapshotOffset, &o.offset)
	o.t.report(func(p *Progress) { p.Snapshot, p.Users, p.Total = o.offset.Snapshot, o.offset.Users, o.offset.Total })
	if o.offset.LastCompleted != 0 && o.offset.FinishedAt != 0 {
		o.t.metrics.lastSuccess.Set(float64(o.offset.FinishedAt) / 1000)
	}
	return nil
}

// due says whether a walk has to begin or go on, and who asked for it.
func (o *owner) due() (reason string, due bool) {
	hash := o.t.deps.Policy.Hash()
	var wish connector.SnapshotRequest
	if _, ok := get(o.state, connector.StateKeySnapshotRequest, &wish); ok && wish.ID == o.offset.Request {
		wish.ID = "" // fulfilled, or under way
	}
	gaps := len(o.state.gaps()) > 0
	if gaps {
		o.t.setReady(errGap)
	}
	switch {
	case o.offset.Snapshot == "":
		reason = reasonInitial
	case o.offset.FinishedAt == 0:
		return o.offset.Request, true
	case gaps:
		reason = reasonGap
	case o.offset.PolicyHash != hash:
		reason = reasonPolicy
	case wish.ID == "":
		return "", false
	}
	return cmp.Or(wish.ID, reason), true
}

// Why a task is not ready.
var (
	errGap     = errors.New("events were lost to retention, and the snapshot that makes up for them is not finished")
	errRefused = errors.New("CLERK_SECRET_KEY is refused by Clerk: set the secret key of this instance")
)

// answered notes what the end of a request to Clerk, or of a walk, means for
// being ready, and how much longer than others to wait if it failed.
func (o *owner) answered(err error) (longer time.Duration) {
	switch {
	case unauthorized(err):
		o.t.setReady(errRefused)
		return refusedPauses
	case err == nil && len(o.state.gaps()) > 0:
		o.t.setReady(errGap)
	case err == nil:
		o.t.setReady(nil)
	}
	return 1
}

// pause waits after a failure and says so.
func (o *owner) pause(ctx context.Context, err error) {
	wait := o.answered(err) * (o.t.cfg.RetryPause/2 + rand.N(o.t.cfg.RetryPause))
	o.t.metrics.failures.Inc()
	o.t.log.Error("snapshot task cannot go on; trying again after a pause", "pause_ms", wait.Milliseconds(), "err", err)
	o.t.report(func(p *Progress) { p.Phase, p.Err, p.RatePerSecond, p.Remaining = PhasePaused, err, 0, 0 })
	_ = sleep(ctx, wait)
}

// instance is the pinned instance id, empty if none is pinned yet.
func (o *owner) instance() string {
	var pins connector.Pins
	get(o.state, connector.StateKeyPins, &pins)
	return pins.InstanceID
}

// settle marks what a key asked for as done, and removes it unless it asks for
// something else by now.
func (o *owner) settle(ctx context.Context, key string, offset int64) error {
	if !o.state.retire(key, offset) {
		return nil
	}
	return o.t.deps.Writer.StoreState(ctx, key, nil)
}
