package process

import (
	"testing"

	"clerkconnect/connector/sequencer"
	"clerkconnect/sinks"
	"clerkconnect/sinks/runner"
)

func TestSequencerReady(t *testing.T) {
	t.Parallel()
	whole := sequencer.Status{Joined: true, Owned: []int32{0, 1}, Ready: []int32{0, 1}, GapsKnown: true}
	for name, test := range map[string]struct {
		change func(*sequencer.Status)
		ready  bool
	}{
		"whole":          {func(*sequencer.Status) {}, true},
		"stands by":      {func(s *sequencer.Status) { s.Owned, s.Ready = nil, nil }, true},
		"not joined":     {func(s *sequencer.Status) { s.Joined, s.Owned, s.Ready = false, nil, nil }, false},
		"restoring":      {func(s *sequencer.Status) { s.Ready = s.Ready[:1] }, false},
		"gaps not known": {func(s *sequencer.Status) { s.GapsKnown = false }, false},
		"gap":            {func(s *sequencer.Status) { s.Gaps = []int32{1} }, false},
		"has left":       {func(s *sequencer.Status) { s.Left = true }, false},
	} {
		s := whole
		test.change(&s)
		if _, err := sequencerReady(s); (err == nil) != test.ready {
			t.Errorf("%s: got %v, want ready %t", name, err, test.ready)
		}
	}
}

func TestSinkReady(t *testing.T) {
	t.Parallel()
	whole := runner.Status{Opened: true, Joined: true, Owned: []int32{0, 1}, Ready: []int32{0, 1}}
	for name, test := range map[string]struct {
		change func(*runner.Status)
		ready  bool
	}{
		"whole":      {func(*runner.Status) {}, true},
		"fails":      {func(s *runner.Status) { s.LastReason = sinks.ReasonUnavailable }, true}, // it retries
		"stands by":  {func(s *runner.Status) { s.Owned, s.Ready = nil, nil }, true},
		"paused":     {func(s *runner.Status) { *s = runner.Status{Paused: &runner.Pause{}} }, true},
		"not open":   {func(s *runner.Status) { s.Opened = false }, false},
		"not joined": {func(s *runner.Status) { s.Joined, s.Owned, s.Ready = false, nil, nil }, false},
		"restoring":  {func(s *runner.Status) { s.Ready = s.Ready[:1] }, false},
		"stopped":    {func(s *runner.Status) { s.Stopped = true }, false},
	} {
		s := whole
		test.change(&s)
		if _, err := sinkReady(s); (err == nil) != test.ready {
			t.Errorf("%s: got %v, want ready %t", name, err, test.ready)
		}
	}
}
