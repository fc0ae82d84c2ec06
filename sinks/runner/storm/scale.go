package storm

import (
	"context"
	"errors"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/resttest"
)

var _ sinks.Paced = scaled{}

// scaled is a tool's sink in the time of a virtual clock: what it says of
// durations, and what it is told, is translated, so that the runner waits as
// long as the clock does.
type scaled struct {
	sinks.Sink
	clock *resttest.Clock
}

// onClock keeps the optional interfaces that sink has.
func onClock(sink sinks.Sink, clock *resttest.Clock) sinks.Sink {
	base := scaled{sink, clock}
	if confirmer, ok := sink.(sinks.Confirmer); ok {
		return struct {
			scaled
			sinks.Confirmer
		}{base, confirmer}
	}
	return base
}

// Capabilities implements [sinks.Sink].
func (s scaled) Capabilities() sinks.Capabilities {
	facts := s.Sink.Capabilities()
	facts.Limit.Window = s.clock.Real(facts.Limit.Window)
	facts.ConfirmAfter = s.clock.Real(facts.ConfirmAfter)
	return facts
}

// Pace implements [sinks.Paced].
func (s scaled) Pace(p sinks.Pacer) {
	if paced, ok := s.Sink.(sinks.Paced); ok {
		paced.Pace(pacer{p, s.clock})
	}
}

type pacer struct {
	sinks.Pacer
	clock *resttest.Clock
}

// Heed implements [sinks.Pacer].
func (p pacer) Heed(remaining int, reset time.Duration) {
	p.Pacer.Heed(remaining, p.clock.Real(reset))
}

// Sleep implements [sinks.Pacer].
func (p pacer) Sleep(ctx context.Context, d time.Duration) error {
	return p.Pacer.Sleep(ctx, p.clock.Real(d))
}

// Apply implements [sinks.Sink].
func (s scaled) Apply(ctx context.Context, batch []sinks.Record) error {
	err := s.Sink.Apply(ctx, batch)
	var listed *sinks.BatchError
	if !errors.As(err, &listed) {
		return s.scale(err)
	}
	var failed sinks.BatchError
	for i := range batch {
		if problem := listed.Failed(i); problem != nil {
			failed.Fail(i, s.scale(problem))
		}
	}
	return failed.Err()
}

func (s scaled) scale(err error) error {
	var marked *sinks.Error
	if !errors.As(err, &marked) || marked.After == 0 {
		return err
	}
	shorter := *marked
	shorter.After = s.clock.Real(marked.After)
	return &shorter
}
