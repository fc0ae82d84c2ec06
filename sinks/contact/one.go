package contact

import (
	"context"
	"errors"

	"clerkconnect/sinks"
)

// One is Apply of a sink whose tool takes one contact a call (MaxBatch 1): it
// changes or erases, returns an error as that of the call, so that an outage is told
// from a record that is refused, and lists what must be remembered first.
func One(ctx context.Context, batch []sinks.Record, change, erase func(context.Context, sinks.Record) error) error {
	if err := ctx.Err(); err != nil {
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, err)
	}
	for _, r := range batch {
		apply := change
		if r.Erase() {
			apply = erase
		}
		err := apply(ctx, r)
		if errors.Is(err, sinks.ErrRememberFirst) {
			var first sinks.BatchError
			first.Fail(0, err)
			return first.Err()
		}
		if err != nil {
			return err
		}
	}
	return nil
}
