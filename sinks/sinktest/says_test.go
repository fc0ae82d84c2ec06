package sinktest

import (
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// TestSays: what a state must say to the letter, a log may say otherwise, but
// not just anything.
func TestSays(t *testing.T) {
	t.Parallel()
	const deleted, anonymized, nobody = schemas.OutcomeDeleted, schemas.OutcomeAnonymized, schemas.OutcomeNotPresent
	for _, test := range []struct {
		got        sinks.Result
		superseded bool
		outcome    schemas.Outcome
		state, log bool
	}{
		{sinks.Result{}, false, "", true, true},
		{sinks.Result{}, true, "", false, true},
		{sinks.Result{Superseded: true}, true, "", true, true},
		{sinks.Result{Outcome: anonymized}, false, anonymized, true, true},
		{sinks.Result{Outcome: deleted}, false, anonymized, false, false},
		{sinks.Result{Outcome: nobody}, false, anonymized, false, false},
		{sinks.Result{Outcome: nobody}, false, nobody, true, true},
		{sinks.Result{Outcome: anonymized}, false, nobody, false, true},
		{sinks.Result{Outcome: anonymized, Superseded: true}, false, nobody, false, false},
		{sinks.Result{Outcome: anonymized, Superseded: true}, false, anonymized, false, false},
		{sinks.Result{Outcome: anonymized}, true, "", false, false},
		{sinks.Result{}, false, anonymized, false, false},
	} {
		if got := (Harness{Erased: anonymized}).says(test.got, test.superseded, test.outcome); got != test.state {
			t.Errorf("state: %+v for superseded %v, outcome %q: got %v, want %v", test.got, test.superseded, test.outcome, got, test.state)
		}
		if got := (Harness{Erased: anonymized, Log: true}).says(test.got, test.superseded, test.outcome); got != test.log {
			t.Errorf("log: %+v for superseded %v, outcome %q: got %v, want %v", test.got, test.superseded, test.outcome, got, test.log)
		}
	}
}
