// Package sinktest is the contract of [sinks.Sink] as tests. Every sink passes
// [Run], on the real destination where one can be had.
//
// A rule that a sink must keep belongs here and not into that sink's own
// tests, and with it goes a mutant (mutants_test.go) that breaks the rule and
// that the suite must catch.
package sinktest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// Harness says how to test one kind of sink.
type Harness struct {
	// New makes an empty destination that no other test uses, and has it
	// removed at the end of t.
	New func(t testing.TB) Destination
	// Fields names the fields of user.avsc that the destination holds; nil:
	// all of them.
	Fields []string
}

// Destination is where a sink writes, seen round the sink.
type Destination struct {
	// Sink returns a new sink on this destination, not opened: what another
	// process would have. The suite closes it.
	Sink func(t testing.TB) sinks.Sink
	// Read returns the rows of those users that are there, by Clerk ID.
	Read func(t testing.TB, ids ...string) map[string]Row
	// Dump returns everything that the destination holds, as raw as can be
	// had: an erased user must not be found in it.
	Dump func(t testing.TB) []byte
	// Break makes the destination fail as in an outage until restore is
	// called. nil: it cannot fail.
	Break func(t testing.TB) (restore func())
	// Poison changes a user into one that the destination refuses for good.
	// nil: it refuses none.
	Poison func(u *schemas.User)
}

// Run tests the sink that h describes. Call it from a test that is not
// parallel: it looks for goroutines that were left behind.
func Run(t *testing.T, h Harness) {
	for _, test := range contract {
		t.Run(test.name, func(t *testing.T) {
			if !test.alone {
				t.Parallel()
			}
			test.run(t, h)
		})
	}
}

// contract is every test. Those that watch the whole process run alone, and
// before all others.
var contract = []struct {
	name  string
	run   func(testing.TB, Harness)
	alone bool
}{
	{name: "LeavesNoGoroutine", run: leavesNoGoroutine, alone: true},
	{name: "LogsNoUser", run: logsNoUser, alone: true},
	{name: "CapabilitiesAreFixed", run: capabilitiesAreFixed},
	{name: "ClosesWithoutOpen", run: closesWithoutOpen},
	{name: "ClosesTwice", run: closesTwice},
	{name: "OpensAfterFailure", run: opensAfterFailure},
	{name: "RefusesWhenClosed", run: refusesWhenClosed},
	{name: "UpsertInserts", run: upsertInserts},
	{name: "UpsertReplaces", run: upsertReplaces},
	{name: "UpsertClears", run: upsertClears},
	{name: "ReplayIsNoOp", run: replayIsNoOp},
	{name: "StaleVersionIsSuperseded", run: staleVersionIsSuperseded},
	{name: "EpochComesBeforeVersion", run: epochComesBeforeVersion},
	{name: "FullBatch", run: fullBatch},
	{name: "MixedBatch", run: mixedBatch},
	{name: "EveryChange", run: everyChange},
	{name: "ConcurrentBatches", run: concurrentBatches},
	{name: "KeepsNothingOfBatch", run: keepsNothingOfBatch},
	{name: "ChangesNothingInBatch", run: changesNothingInBatch},
	{name: "WideUnicode", run: wideUnicode},
	{name: "ZeroCharacter", run: zeroCharacter},
	{name: "LoneSurrogate", run: loneSurrogate},
	{name: "BigNumbers", run: bigNumbers},
	{name: "SameEmail", run: sameEmail},
	{name: "EraseRemoves", run: eraseRemoves},
	{name: "EraseLeavesNoTrace", run: eraseLeavesNoTrace},
	{name: "EraseOfUnknown", run: eraseOfUnknown},
	{name: "EraseRules", run: eraseRules},
	{name: "StaleUpsertDoesNotResurrect", run: staleUpsertDoesNotResurrect},
	{name: "ZombieDoesNotResurrect", run: zombieDoesNotResurrect},
	{name: "RevivalReturns", run: revivalReturns},
	{name: "FinalErasureIsForEver", run: finalErasureIsForEver},
	{name: "ReopenRemembers", run: reopenRemembers},
	{name: "ListsKeys", run: listsKeys},
	{name: "ConfirmsErasure", run: confirmsErasure},
	{name: "CanceledContext", run: canceledContext},
	{name: "OutageIsRetried", run: outageIsRetried},
	{name: "PoisonIsNamed", run: poisonIsNamed},
	{name: "RacingInstances", run: racingInstances},
	{name: "Converges", run: converges},
}

// canary stands for personal data: it must not be found where none belongs.
const canary = "canary-4b1f7e"

// opened returns an open sink on d, closed at the end of t.
func opened(t testing.TB, d Destination) sinks.Sink {
	t.Helper()
	sink := d.Sink(t)
	if err := sink.Open(t.Context()); err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := sink.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return sink
}

// apply applies one batch that must succeed.
func apply(t testing.TB, sink sinks.Sink, batch ...sinks.Record) {
	t.Helper()
	if err := sink.Apply(t.Context(), batch); err != nil {
		t.Fatalf("Apply of %d records: %v", len(batch), err)
	}
}

// expect fails t unless the destination shows want of that user; nil: nothing.
func (h Harness) expect(t testing.TB, d Destination, id string, want *schemas.User) {
	t.Helper()
	got, held := d.Read(t, id)[id]
	switch {
	case want == nil && held:
		t.Errorf("Read of %s: got a row, want none", id)
	case want != nil && !held:
		t.Errorf("Read of %s: got no row, want one", id)
	case want != nil:
		if diff := h.row(want).diff(got); diff != "" {
			t.Errorf("Read of %s: %s", id, diff)
		}
	}
}

// failure checks that err is a failure that a sink may return, and returns its
// classification.
func failure(t testing.TB, err error) sinks.Error {
	t.Helper()
	if err == nil {
		t.Fatalf("got nil, want an error")
	}
	if bytes.Contains([]byte(err.Error()), []byte(canary)) {
		t.Errorf("the error quotes the user")
	}
	class := sinks.Classify(err)
	for _, reason := range sinks.Reasons() {
		if class.Reason == reason {
			return class
		}
	}
	t.Errorf("got reason %q, which is not one of sinks.Reasons", class.Reason)
	return class
}

var users atomic.Int64

// newID returns a Clerk ID that no test of this process has used.
func newID() string { return fmt.Sprintf("user_2Zx%06d", users.Add(1)) }

// canceled returns a context that is over.
func canceled(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// Server returns the address in the environment variable of a real server that
// tests need. Without it the test is skipped, and fails where CI is true.
func Server(t testing.TB, variable string) string {
	t.Helper()
	address := os.Getenv(variable)
	if address != "" {
		return address
	}
	text := fmt.Sprintf("%s is not set: start a server with deployments/servers/servers.sh, or name one", variable)
	if os.Getenv("CI") == "true" {
		t.Fatal(text)
	}
	t.Skip(text)
	return ""
}
