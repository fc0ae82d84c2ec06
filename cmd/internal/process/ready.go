package process

import (
	"errors"
	"fmt"

	"clerkconnect/connector/sequencer"
	"clerkconnect/sinks"
	"clerkconnect/sinks/runner"
)

// errNotJoined: who is asked at the start must not be told that all is well
// before it is known what there is to do.
var errNotJoined = errors.New("the group has not told yet which partitions are to be owned")

// sequencerReady says whether a sequencer does its work, and how far it is.
func sequencerReady(s sequencer.Status) (any, error) {
	detail := map[string]any{"owned": len(s.Owned), "ready": len(s.Ready), "gaps": s.Gaps, "known_users": s.Known}
	switch {
	case s.Left:
		return detail, errors.New("stopped")
	case !s.Joined:
		return detail, errNotJoined
	case len(s.Ready) < len(s.Owned):
		return detail, fmt.Errorf("%d of %d partitions are restored", len(s.Ready), len(s.Owned))
	case !s.GapsKnown:
		return detail, errors.New("it is not known yet whether events were lost to retention")
	case len(s.Gaps) > 0:
		return detail, fmt.Errorf("events of %d partitions were lost to retention; a snapshot has to make up for them", len(s.Gaps))
	}
	return detail, nil
}

func notOpen(reason sinks.Reason) error {
	if reason == "" {
		return errors.New("not open yet")
	}
	return fmt.Errorf("not open: %s", reason)
}

// sinkReady says whether a sink does its work, and how far it is.
func sinkReady(s runner.Status) (any, error) {
	detail := map[string]any{
		"kind": s.Kind, "owned": len(s.Owned), "ready": len(s.Ready), "lag_records": s.LagRecords,
		"lag_seconds": s.Lag.Seconds(), "erasures_owed": s.ErasuresOwed, "last_reason": s.LastReason,
		"dead_letters": s.DeadLetters, "paused": s.Paused != nil,
	}
	switch {
	case s.Paused != nil: // a person wants it: a rollout must not wait for it
		return detail, nil
	case s.Stopped:
		return detail, fmt.Errorf("stopped until a person has mended it: %s", s.LastReason)
	case !s.Opened:
		return detail, notOpen(s.LastReason)
	case !s.Joined:
		return detail, errNotJoined
	case len(s.Ready) < len(s.Owned):
		return detail, fmt.Errorf("%d of %d partitions are restored", len(s.Ready), len(s.Owned))
	}
	return detail, nil
}
