package snapshot

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"clerkconnect/connector"
	"clerkconnect/connector/clerk"
	"clerkconnect/schemas"
)

// idleWait is how long an idle task waits at most before it looks again. What
// comes wakes it; this only bounds the wait for a re-read's time.
const idleWait = time.Hour

// rereads does what is due of the re-reads asked for, at most so many, in the
// order in which they were asked for, and returns when the next one is due.
func (o *owner) rereads(ctx context.Context, most int) time.Duration {
	now, next := o.t.deps.Now(), idleWait
	open := o.state.keys(connector.StateKeyRereadPrefix)
	for _, key := range slices.SortedFunc(maps.Keys(open), func(a, b string) int { return cmp.Compare(open[a], open[b]) }) {
		var wish connector.Reread
		offset, ok := get(o.state, key, &wish)
		if !ok {
			continue
		}
		wish.ClerkID = strings.TrimPrefix(key, connector.StateKeyRereadPrefix)
		ripe := time.UnixMilli(wish.NotBefore)
		if again, failed := o.failed[key]; failed && again.After(ripe) {
			ripe = again
		}
		if wait := ripe.Sub(now); wait > 0 {
			next = min(next, wait)
			continue
		}
		if most--; most < 0 || ctx.Err() != nil {
			return 0
		}
		outcome, err := o.reread(ctx, key, offset, wish)
		if ctx.Err() != nil {
			return 0
		}
		o.t.metrics.rereads.WithLabelValues(outcome).Inc()
		delete(o.failed, key)
		longer := o.answered(err)
		if err != nil {
			pause := longer * o.t.cfg.RetryPause
			o.failed[key] = o.t.deps.Now().Add(pause)
			next = min(next, pause)
			o.t.log.Warn("user cannot be read again; trying later", "pause_ms", pause.Milliseconds(), "err", err)
			o.t.log.Debug("user cannot be read again; trying later", "key", wish.ClerkID)
		}
	}
	return next
}

// reread reads one user again and settles the wish. Nothing is deleted if there
// is no such user: only a signed event, or reconciliation, may do that.
func (o *owner) reread(ctx context.Context, key string, offset int64, wish connector.Reread) (outcome string, err error) {
	if !userID.MatchString(wish.ClerkID) {
		return rereadInvalid, o.settle(ctx, key, offset)
	}
	raw, date, found, err := o.t.api.user(ctx, wish.ClerkID)
	if err != nil {
		return rereadFailed, err
	}
	if !found {
		return rereadMissing, o.settle(ctx, key, offset)
	}
	record, outcome := o.record(raw, clerk.ReadAt{
		Date: date, ReceivedAt: o.t.deps.Now(), Origin: schemas.OriginRepair, InstanceID: o.instance(), IfVersion: wish.IfVersion,
	}, key)
	if record, err = o.writeOne(ctx, raw, record, key); err != nil {
		return rereadFailed, err
	}
	if record.Reread != nil { // it has taken this wish's place
		o.state.retire(key, offset)
		return rereadClockAhead, nil
	}
	if record.DeadLetter != nil {
		outcome = rereadMalformed
	}
	return outcome, o.settle(ctx, key, offset)
}
