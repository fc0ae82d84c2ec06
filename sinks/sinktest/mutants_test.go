package sinktest

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// TestMain keeps rapid from writing a file for each mutant that it kills, and
// from shrinking what nobody will read.
func TestMain(m *testing.M) {
	flag.Parse()
	for name, value := range map[string]string{"rapid.nofailfile": "true", "rapid.shrinktime": "100ms"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// mutants have one defect each, of the kind that somebody will write.
var mutants = []struct {
	name   string
	defect func(*mutant)
}{
	{"takes whatever comes last", func(m *mutant) {
		m.advance = func(_ sinks.Guard, r sinks.Record) (sinks.Guard, bool) {
			return sinks.Guard{Rank: r.Rank(), Deleted: r.Erase()}, true
		}
	}},
	{"takes an equal version again", func(m *mutant) {
		m.advance = func(g sinks.Guard, r sinks.Record) (sinks.Guard, bool) {
			if r.Rank() == g.Rank {
				return sinks.Guard{Rank: r.Rank(), Deleted: r.Erase()}, true
			}
			return g.Advance(r)
		}
	}},
	{"forgets the version of the erased", func(m *mutant) {
		m.advance = func(g sinks.Guard, r sinks.Record) (sinks.Guard, bool) {
			if g.Deleted {
				g = sinks.Guard{}
			}
			return g.Advance(r)
		}
	}},
	{"knows no epoch", func(m *mutant) {
		m.advance = func(g sinks.Guard, r sinks.Record) (sinks.Guard, bool) {
			moved := r.Version.Number > g.Rank.Number || r.Erase()
			if !moved {
				return g, false
			}
			return sinks.Guard{Rank: r.Version, Deleted: r.Erase()}, true
		}
	}},
	{"an epoch makes up for nothing", func(m *mutant) {
		m.advance = func(g sinks.Guard, r sinks.Record) (sinks.Guard, bool) {
			r.Version.Epoch = min(r.Version.Epoch, 1)
			return g.Advance(r)
		}
	}},
	{"a tombstone must be newer", func(m *mutant) {
		m.advance = func(g sinks.Guard, r sinks.Record) (sinks.Guard, bool) {
			if r.Erase() && r.Rank() == g.Rank && !g.Deleted {
				return g, false
			}
			return g.Advance(r)
		}
	}},
	{"a withdrawn tombstone removes the user who came back", func(m *mutant) {
		m.advance = func(g sinks.Guard, r sinks.Record) (sinks.Guard, bool) {
			next, moved := g.Advance(r)
			if r.Erase() && !moved {
				return sinks.Guard{Rank: g.Rank, Deleted: true}, true
			}
			return next, moved
		}
	}},
	{"a tombstone without a version is the oldest", func(m *mutant) {
		m.advance = func(g sinks.Guard, r sinks.Record) (sinks.Guard, bool) {
			if r.Erase() && r.Version == (schemas.Version{}) && g != (sinks.Guard{}) {
				return g, false
			}
			return g.Advance(r)
		}
	}},
	{"a final demand is compared like any other", func(m *mutant) {
		m.advance = func(g sinks.Guard, r sinks.Record) (sinks.Guard, bool) {
			r.Erasure = nil
			return g.Advance(r)
		}
	}},
	{"an inferred deletion is for ever", func(m *mutant) {
		m.advance = func(g sinks.Guard, r sinks.Record) (sinks.Guard, bool) {
			if g.Deleted && !r.Erase() {
				return g, false
			}
			return g.Advance(r)
		}
	}},
	{"an older tombstone lowers the version of the erased", func(m *mutant) {
		m.advance = func(g sinks.Guard, r sinks.Record) (sinks.Guard, bool) {
			next, moved := g.Advance(r)
			if moved {
				next.Rank = r.Rank()
			}
			return next, moved
		}
	}},
	{"an erasure of an unknown user is not remembered", func(m *mutant) {
		m.advance = func(g sinks.Guard, r sinks.Record) (sinks.Guard, bool) {
			next, moved := g.Advance(r)
			if r.Erase() && g == (sinks.Guard{}) {
				return g, true
			}
			return next, moved
		}
	}},
	{"keeps versions in the process", func(m *mutant) { m.ownGuards = true }},
	{"looks first and writes later", func(m *mutant) { m.racy = true }},
	{"keeps the old value where the new is null", func(m *mutant) {
		m.write = func(old, new map[string]any) map[string]any {
			for name, value := range old {
				if new[name] == nil {
					new[name] = value
				}
			}
			return new
		}
	}},
	{"writes no image_url", func(m *mutant) {
		m.write = func(_, new map[string]any) map[string]any { delete(new, "ImageURL"); return new }
	}},
	{"reads numbers as floats", func(m *mutant) {
		m.write = func(_, new map[string]any) map[string]any {
			if text, ok := new["PublicMetadata"].(string); ok {
				var value any
				if json.Unmarshal([]byte(text), &value) == nil {
					out, _ := json.Marshal(value)
					new["PublicMetadata"] = string(out)
				}
			}
			return new
		}
	}},
	{"cuts names at 100 bytes", func(m *mutant) {
		m.write = func(_, new map[string]any) map[string]any {
			if name, ok := new["FirstName"].(string); ok {
				new["FirstName"] = name[:min(len(name), 100)]
			}
			return new
		}
	}},
	{"refuses U+0000", func(m *mutant) { m.refuse = func(u *schemas.User) bool { return has(u.FirstName, "\x00") } }},
	{"refuses half a surrogate pair", func(m *mutant) { m.refuse = func(u *schemas.User) bool { return has(u.PublicMetadata, `:"\ud83e"`) } }},
	{"cuts at U+0000", func(m *mutant) {
		m.write = func(_, new map[string]any) map[string]any {
			if name, ok := new["FirstName"].(string); ok {
				new["FirstName"], _, _ = strings.Cut(name, "\x00")
			}
			return new
		}
	}},
	{"two users cannot hold one e-mail address", func(m *mutant) { m.uniqueEmail = true }},
	{"loses the last of a full batch", func(m *mutant) {
		m.apply = func(m *mutant, ctx context.Context, batch []sinks.Record) error {
			return m.applyAll(ctx, batch[:min(len(batch), maxBatch-1)])
		}
	}},
	{"keeps the batch", func(m *mutant) { m.alias = true }},
	{"writes into the batch", func(m *mutant) {
		m.apply = func(m *mutant, ctx context.Context, batch []sinks.Record) error {
			slices.SortFunc(batch, func(a, b sinks.Record) int { return strings.Compare(a.ClerkID, b.ClerkID) })
			return m.applyAll(ctx, batch)
		}
	}},
	{"erases nothing", func(m *mutant) { m.erase = func(*destination, string) {} }},
	{"keeps the erased in an archive", func(m *mutant) {
		m.erase = func(d *destination, id string) {
			d.archive = append(d.archive, fmt.Sprint(d.rows[id]))
			delete(d.rows, id)
		}
	}},
	{"erases the neighbour too", func(m *mutant) { m.erase = func(d *destination, _ string) { clear(d.rows) } }},
	{"says deleted of who was not there", func(m *mutant) { m.outcome = func(bool) schemas.Outcome { return schemas.OutcomeDeleted } }},
	{"does not say how it erased", func(m *mutant) { m.outcome = func(bool) schemas.Outcome { return "" } }},
	{"does not say superseded", func(m *mutant) { m.silent = true }},
	{"ignores a canceled context", func(m *mutant) { m.deaf = true }},
	{"gives up in an outage", func(m *mutant) { m.outage = sinks.Permanent(sinks.ReasonUnavailable, errOutage) }},
	{"stops in an outage", func(m *mutant) { m.outage = sinks.Fatal(sinks.ReasonMisconfigured, errOutage) }},
	{"does not classify an outage", func(m *mutant) { m.outage = errOutage }},
	{"invents a reason", func(m *mutant) { m.outage = sinks.RetryAfter("gone_fishing", 0, errOutage) }},
	{"swallows an outage", func(m *mutant) { m.outage = nil }},
	{"retries a poisoned user for ever", func(m *mutant) { m.poison = func(int, string) error { return errors.New("refused") } }},
	{"stops at a poisoned user", func(m *mutant) {
		m.poison = func(int, string) error { return sinks.Fatal(sinks.ReasonInvalidRecord, errors.New("refused")) }
	}},
	{"swallows a poisoned user", func(m *mutant) { m.poison = func(int, string) error { return nil } }},
	{"blames the neighbour", func(m *mutant) {
		m.poison = func(i int, _ string) error {
			var failed sinks.BatchError
			failed.Fail(i+1, sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("refused")))
			return failed.Err()
		}
	}},
	{"names the poisoned user but drops the batch", func(m *mutant) {
		m.poison = func(i int, _ string) error {
			var failed sinks.BatchError
			failed.Fail(i, sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("refused")))
			return failed.Err()
		}
	}},
	{"quotes the poisoned user", func(m *mutant) {
		m.poison = func(_ int, quote string) error {
			return sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("refused: "+quote))
		}
	}},
	{"moves the version of a poisoned user", func(m *mutant) { m.advanceFirst = true }},
	{"logs users", func(m *mutant) {
		m.write = func(_, new map[string]any) map[string]any { slog.Debug("written", "user", new); return new }
	}},
	{"leaves a goroutine behind", func(m *mutant) {
		m.apply = func(m *mutant, ctx context.Context, batch []sinks.Record) error {
			go func() { select {} }()
			return m.applyAll(ctx, batch)
		}
	}},
	{"closes once", func(m *mutant) { m.closesOnce = true }},
	{"closes only what was opened", func(m *mutant) { m.closesOpenOnly = true }},
	{"opens once", func(m *mutant) { m.opensOnce = true }},
	{"swallows what comes after Close", func(m *mutant) { m.swallowsClosed = true }},
	{"capabilities change", func(m *mutant) { m.capabilitiesChange = true }},
	{"has a kind with spaces", func(m *mutant) { m.kind = "My Sink" }},
	{"lists as a dictionary", func(m *mutant) {
		m.keys = func(all []string, after string, limit int) []string {
			slices.SortFunc(all, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
			return page(all, after, limit)
		}
	}},
	{"lists one user twice", func(m *mutant) {
		m.keys = func(all []string, after string, limit int) []string {
			slices.Sort(all)
			all = slices.DeleteFunc(all, func(id string) bool { return id < after })
			return all[:min(limit, len(all))]
		}
	}},
	{"lists more than asked for", func(m *mutant) {
		m.keys = func(all []string, after string, _ int) []string { return sortedPage(all, after, len(all)) }
	}},
	{"lists the erased", func(m *mutant) { m.listsErased = true }},
	{"confirms without looking", func(m *mutant) { m.confirm = func(bool) bool { return true } }},
	{"never confirms", func(m *mutant) { m.confirm = func(bool) bool { return false } }},
}

// TestRun_NoMutant shows that what the mutants are made of is right.
func TestRun_NoMutant(t *testing.T) {
	Run(t, harnessOf(func(*mutant) {}))
}

// keeping is a sink whose erasures leave an anonymous row.
func keeping(outcome schemas.Outcome) Harness {
	h := harnessOf(func(m *mutant) {
		m.keeps = true
		m.outcome = func(held bool) schemas.Outcome {
			if held {
				return outcome
			}
			return schemas.OutcomeNotPresent
		}
	})
	h.Erased = schemas.OutcomeAnonymized
	return h
}

// TestRun_Keeping shows that the suite can be passed by a sink that keeps rows
// of the erased, and not if it says something else of them.
func TestRun_Keeping(t *testing.T) {
	Run(t, keeping(schemas.OutcomeAnonymized))
	for _, outcome := range []schemas.Outcome{schemas.OutcomeDeleted, schemas.OutcomeSoftDeleted} {
		for _, test := range []func(testing.TB, Harness){eraseRemoves, eraseRules, mixedBatch, finalErasureIsForEver, converges} {
			if len(observe(t, func(t testing.TB) { test(t, keeping(outcome)) })) == 0 {
				t.Errorf("a sink that says %s passes", outcome)
			}
		}
	}
}

// TestRun_CatchesMutants shows that the suite fails for each mutant.
func TestRun_CatchesMutants(t *testing.T) {
	for _, mutant := range mutants {
		t.Run(mutant.name, func(t *testing.T) {
			for _, test := range contract {
				if len(observe(t, func(t testing.TB) { test.run(t, harnessOf(mutant.defect)) })) > 0 {
					t.Logf("caught by %s", test.name)
					return
				}
			}
			t.Errorf("no test of the suite fails")
		})
	}
}

// TestConverges_CatchesMutants shows that the property alone finds each
// mutant of the ordering rules, whoever may forget to name a case.
func TestConverges_CatchesMutants(t *testing.T) {
	for _, mutant := range mutants[:12] {
		if len(observe(t, func(t testing.TB) { converges(t, harnessOf(mutant.defect)) })) == 0 {
			t.Errorf("%s: the property holds", mutant.name)
		}
	}
}

// observe runs a test that may fail and returns what it said.
func observe(t testing.TB, test func(testing.TB)) []string {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for _, cleanup := range slices.Backward(r.cleanups) {
				cleanup()
			}
		}()
		defer func() {
			if p := recover(); p != nil {
				r.record(fmt.Sprint("panic: ", p))
			}
		}()
		test(r)
	}()
	<-done
	return r.failures
}

// recorder is a testing.TB whose failures are its own.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failures []string
	cleanups []func()
}

func (r *recorder) record(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, text)
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.failures) > 0
}

func (r *recorder) Helper()                      {}
func (r *recorder) Cleanup(f func())             { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Log(...any)                   {}
func (r *recorder) Logf(string, ...any)          {}
func (r *recorder) Error(args ...any)            { r.record(fmt.Sprint(args...)) }
func (r *recorder) Errorf(f string, args ...any) { r.record(fmt.Sprintf(f, args...)) }
func (r *recorder) Fail()                        { r.record("Fail") }
func (r *recorder) FailNow()                     { r.Fail(); runtime.Goexit() }
func (r *recorder) Fatal(args ...any)            { r.Error(args...); runtime.Goexit() }
func (r *recorder) Fatalf(f string, args ...any) { r.Errorf(f, args...); runtime.Goexit() }
func (r *recorder) Skip(...any)                  { runtime.Goexit() }
func (r *recorder) Skipf(string, ...any)         { runtime.Goexit() }
func (r *recorder) SkipNow()                     { runtime.Goexit() }
