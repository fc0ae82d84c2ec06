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
	"time"

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
	// Remembers tells that the destination compares no versions, as a tool does
	// not: that nothing late wins is up to the runner, and the sink remembers what
	// it needs with [sinks.Record.Remember]. The suite then does the runner's part
	// and runs the tests for tools instead of those of versions.
	Remembers bool
	// NeedsEmail tells that users without an e-mail address are skipped.
	NeedsEmail bool
	// Erased is what the sink says of the erasure of a user who is there, by
	// its settings; "": [schemas.OutcomeDeleted]. With any other the row may
	// stay, and the same is said of the erasure's repetition, but for a sink that
	// Remembers. Read shows the users that are not erased.
	Erased schemas.Outcome
	// Log tells that the destination is a log of what was said and no state: it
	// takes in what comes late, too. Read shows the users who are there by all
	// that the log says. See [Harness.says].
	Log bool
}

// says reports whether a sink says of a record what it must. A log need not
// call superseded what comes late, since it takes it in; and then it keeps
// something of a user of whom a state would never have held a row.
func (h Harness) says(got sinks.Result, superseded bool, outcome schemas.Outcome) bool {
	switch {
	case h.Log && outcome == "":
		return got.Outcome == ""
	case h.Log && outcome == schemas.OutcomeNotPresent && got.Outcome == h.erased(true):
		return !got.Superseded
	}
	return got.Superseded == superseded && got.Outcome == outcome
}

// erased returns what the sink must say of the erasure of a user, for the first
// time or again.
func (h Harness) erased(again bool) schemas.Outcome {
	switch {
	case again && h.Remembers:
		return schemas.OutcomeNotPresent
	case h.Erased != "" && h.Erased != schemas.OutcomeDeleted:
		return h.Erased
	case again:
		return schemas.OutcomeNotPresent
	}
	return schemas.OutcomeDeleted
}

// Destination is where a sink writes, seen round the sink.
type Destination struct {
	// Sink returns a new sink on this destination, not opened: what another
	// process would have. The suite closes it.
	Sink func(t testing.TB) sinks.Sink
	// Read returns the rows of those users that are there and not erased, by
	// Clerk ID.
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

	Tool // for a harness that Remembers

	kept *kept // set by the suite
}

// Tool is what the suite must know of a tool, or of an imitation of one.
type Tool struct {
	// Requests returns how many requests have been made. Required.
	Requests func() int
	// Contacts returns how many contacts the tool shows. Required.
	Contacts func(t testing.TB) int
	// Revoke makes the tool refuse the sink's key until restore is called.
	// Required.
	Revoke func(t testing.TB) (restore func())
	// Page makes a proxy answer every request with a web page and status 200 until
	// restore is called. Required.
	Page func(t testing.TB) (restore func())
	// Edit changes, as a person at the tool would, all by which the contact of a
	// user could be found, but the tool's own id. Required.
	Edit func(t testing.TB, clerkID string)
	// Delete deletes the contact of a user, as a person at the tool would. nil:
	// nobody can, or nothing is to be seen of it.
	Delete func(t testing.TB, clerkID string)
	// Unsubscribe takes the person's consent back, and Subscribed reports
	// whether it is given. nil: the tool knows no consent.
	Unsubscribe func(t testing.TB, clerkID string)
	Subscribed  func(t testing.TB, clerkID string) bool
	// Welcomes returns how often the effect for new users was had on a user, a
	// tag or a membership that is set again not counted. nil: there is none.
	Welcomes func(t testing.TB, clerkID string) int
}

// Run tests the sink that h describes. Call it from a test that is not
// parallel: it watches the log of the whole process.
func Run(t *testing.T, h Harness) {
	h = h.prepared()
	for _, test := range contract {
		t.Run(test.name, func(t *testing.T) {
			switch {
			case h.Remembers && test.of == versions:
				t.Skip("the destination compares no versions: the runner does")
			case !h.Remembers && test.of == tools:
				t.Skip("for tools")
			}
			if !test.alone {
				t.Parallel()
			}
			test.run(t, h)
		})
	}
}

// concern says of which destinations a test is.
type concern int

const (
	all      concern = iota
	versions         // those that compare versions
	tools            // those that do not, and for which the runner remembers
)

// contract is every test. What watches the whole process runs alone, and
// before all others.
var contract = []struct {
	name  string
	run   func(testing.TB, Harness)
	alone bool
	of    concern
}{
	{name: "LogsNoUser", run: logsNoUser, alone: true},
	{name: "LeavesNoGoroutine", run: leavesNoGoroutine},
	{name: "CapabilitiesAreFixed", run: capabilitiesAreFixed},
	{name: "ClosesWithoutOpen", run: closesWithoutOpen},
	{name: "ClosesTwice", run: closesTwice},
	{name: "OpensAfterFailure", run: opensAfterFailure},
	{name: "RefusesWhenClosed", run: refusesWhenClosed},
	{name: "UpsertInserts", run: upsertInserts},
	{name: "UpsertReplaces", run: upsertReplaces},
	{name: "UpsertClears", run: upsertClears},
	{name: "ReplayIsNoOp", run: replayIsNoOp, of: versions},
	{name: "StaleVersionIsSuperseded", run: staleVersionIsSuperseded, of: versions},
	{name: "EpochComesBeforeVersion", run: epochComesBeforeVersion, of: versions},
	{name: "FullBatch", run: fullBatch},
	{name: "MixedBatch", run: mixedBatch, of: versions},
	{name: "EveryChange", run: everyChange},
	{name: "ConcurrentBatches", run: concurrentBatches},
	{name: "KeepsNothingOfBatch", run: keepsNothingOfBatch},
	{name: "ChangesNothingInBatch", run: changesNothingInBatch},
	{name: "WideUnicode", run: wideUnicode},
	{name: "ZeroCharacter", run: zeroCharacter},
	{name: "LoneSurrogate", run: loneSurrogate},
	{name: "BigNumbers", run: bigNumbers},
	{name: "SameEmail", run: sameEmail, of: versions},
	{name: "EraseRemoves", run: eraseRemoves},
	{name: "EraseLeavesNoTrace", run: eraseLeavesNoTrace},
	{name: "EraseOfUnknown", run: eraseOfUnknown},
	{name: "EraseRules", run: eraseRules, of: versions},
	{name: "StaleUpsertDoesNotResurrect", run: staleUpsertDoesNotResurrect, of: versions},
	{name: "ZombieDoesNotResurrect", run: zombieDoesNotResurrect, of: versions},
	{name: "RevivalReturns", run: revivalReturns, of: versions},
	{name: "FinalErasureIsForEver", run: finalErasureIsForEver, of: versions},
	{name: "ReopenRemembers", run: reopenRemembers, of: versions},
	{name: "ListsKeys", run: listsKeys},
	{name: "ConfirmsErasure", run: confirmsErasure},
	{name: "CanceledContext", run: canceledContext},
	{name: "OutageIsRetried", run: outageIsRetried},
	{name: "PoisonIsNamed", run: poisonIsNamed},
	{name: "RacingInstances", run: racingInstances, of: versions},
	{name: "Converges", run: converges, of: versions},
	{name: "ToolIsWhole", run: toolIsWhole, of: tools},
	{name: "ToolRemembers", run: toolRemembers, of: tools},
	{name: "ToolUnchangedCostsNoCall", run: toolUnchangedCostsNoCall, of: tools},
	{name: "ToolMixedBatch", run: toolMixedBatch, of: tools},
	{name: "ToolEmailChange", run: toolEmailChange, of: tools},
	{name: "ToolAddressMoves", run: toolAddressMoves, of: tools},
	{name: "ToolSkipsWithoutEmail", run: toolSkipsWithoutEmail, of: tools},
	{name: "ToolCrashMakesNoSecondContact", run: toolCrashMakesNoSecondContact, of: tools},
	{name: "ToolErasesAfterCrash", run: toolErasesAfterCrash, of: tools},
	{name: "ToolDeletedByHand", run: toolDeletedByHand, of: tools},
	{name: "ToolKeepsConsent", run: toolKeepsConsent, of: tools},
	{name: "ToolWelcomesOnce", run: toolWelcomesOnce, of: tools},
	{name: "ToolErasesByRemoteID", run: toolErasesByRemoteID, of: tools},
	{name: "ToolConfirmsByRemoteID", run: toolConfirmsByRemoteID, of: tools},
	{name: "ToolReturnsAfterErasure", run: toolReturnsAfterErasure, of: tools},
	{name: "ToolPacesEveryRequest", run: toolPacesEveryRequest, of: tools},
	{name: "ToolStopsWithoutKey", run: toolStopsWithoutKey, of: tools},
	{name: "ToolBelievesNoPage", run: toolBelievesNoPage, of: tools},
	{name: "ToolConverges", run: toolConverges, of: tools},
}

// canary stands for personal data: it must not be found where none belongs.
const canary = "canary-4b1f7e"

// prepared is New, with the runner's part in front of a tool's sink.
func (h Harness) prepared() Harness {
	if !h.Remembers {
		return h
	}
	bare := h.New
	h.New = func(t testing.TB) Destination {
		d := bare(t)
		kept, sink := &kept{states: map[string][]byte{}}, d.Sink
		d.kept = kept
		d.Sink = func(t testing.TB) sinks.Sink { return remembering(sink(t), kept) }
		return d
	}
	return h
}

// opened returns an open sink on d, closed at the end of t.
func opened(t testing.TB, d Destination) sinks.Sink {
	t.Helper()
	sink := d.Sink(t)
	open(t, sink)
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
	if h.NeedsEmail && want != nil && want.PrimaryEmailAddress == nil {
		want = nil
	}
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

// retried makes a call until it succeeds, as the runner does: one that may
// succeed later is made again, for a minute. It returns the error that is left.
func retried(call func() error) error {
	deadline := time.Now().Add(time.Minute)
	for wait := time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := call()
		if class := sinks.Classify(err); err == nil || class.Class != sinks.ClassRetry || class.Reason == sinks.ReasonUnknown || time.Now().After(deadline) {
			return err
		}
		time.Sleep(wait)
	}
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
