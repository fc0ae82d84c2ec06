package main

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/audit"
	"clerkconnect/sinks/memory"
)

// trialOn runs sink test on a store that fails as the test wants.
func trialOn(t *testing.T, ctx context.Context, intercept func([]sinks.Record) error) (*memory.Store, string, error) {
	t.Helper()
	store := &memory.Store{}
	store.Intercept(intercept)
	sink, err := memory.New(memory.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = (&trial{name: "crm", sink: sink, out: &out, timeout: time.Minute}).run(ctx)
	return store, out.String(), err
}

func TestTrial_Succeeds(t *testing.T) {
	t.Parallel()
	var names []string
	store, out, err := trialOn(t, t.Context(), func(batch []sinks.Record) error {
		for _, r := range batch {
			if !strings.Contains(r.ClerkID, "-") || r.New {
				t.Errorf("record: %+v; want a user whom Clerk cannot have made, and no new one", r)
			}
			if r.Change != nil {
				names = append(names, *r.Change.User.FirstName)
				if !strings.HasSuffix(*r.Change.User.PrimaryEmailAddress, "@example.com") {
					t.Errorf("address %s", *r.Change.User.PrimaryEmailAddress)
				}
			}
		}
		return nil
	})
	if err != nil || len(store.Users()) != 0 || strings.Join(names, " ") != "Test Changed" {
		t.Errorf("run: %v, left %d users, names %v\n%s", err, len(store.Users()), names, out)
	}
	for _, step := range []string{"open", "create", "there", "change", "deleted", "gone", "The sink works."} {
		if !strings.Contains(out, step) {
			t.Errorf("no %q in\n%s", step, out)
		}
	}
}

// An audit log keeps what happened, and of the made-up user nothing else: that
// shows as there and gone too.
func TestTrial_Audit(t *testing.T) {
	t.Parallel()
	sink, err := audit.New(audit.Config{URL: "sqlite:" + filepath.Join(t.TempDir(), "audit.db"), CreateTables: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sink.Close() })
	var out bytes.Buffer
	if err := (&trial{name: "log", sink: sink, out: &out, timeout: time.Minute}).run(t.Context()); err != nil {
		t.Errorf("run: %v\n%s", err, out.String())
	}
	for _, word := range []string{" there\n", " gone\n", "The sink works."} {
		if !strings.Contains(out.String(), word) {
			t.Errorf("no %q in\n%s", word, out.String())
		}
	}
}

// Whatever fails, the made-up user is erased in the end.
func TestTrial_CleansUp(t *testing.T) {
	t.Parallel()
	changes := 0
	store, out, err := trialOn(t, t.Context(), func(batch []sinks.Record) error {
		if batch[0].Change != nil {
			if changes++; changes == 2 {
				return sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("refused"))
			}
		}
		return nil
	})
	if !errors.Is(err, errTrial) || len(store.Users()) != 0 {
		t.Errorf("run: %v, left %d users", err, len(store.Users()))
	}
	for _, part := range []string{"change     FAILED", "invalid_record", "does the mapping fill", "cleaned up"} {
		if !strings.Contains(out, part) {
			t.Errorf("no %q in\n%s", part, out)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	changes = 0
	store, out, err = trialOn(t, ctx, func(batch []sinks.Record) error {
		if batch[0].Change != nil {
			if changes++; changes == 2 {
				cancel() // Ctrl-C
				return ctx.Err()
			}
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || len(store.Users()) != 0 || !strings.Contains(out, "cleaned up") {
		t.Errorf("after Ctrl-C: %v, left %d users\n%s", err, len(store.Users()), out)
	}
}

// An error that says "later" is tried again; one that cannot be cleaned up says
// what is left.
func TestTrial_Retries(t *testing.T) {
	t.Parallel()
	calls := 0
	_, out, err := trialOn(t, t.Context(), func([]sinks.Record) error {
		if calls++; calls == 1 {
			return sinks.RetryAfter(sinks.ReasonRateLimited, 0, errors.New("429"))
		}
		return nil
	})
	if err != nil {
		t.Errorf("run: %v\n%s", err, out)
	}
	_, out, err = trialOn(t, t.Context(), func(batch []sinks.Record) error {
		if batch[0].Erase() {
			return sinks.Fatal(sinks.ReasonUnauthorized, errors.New("403"))
		}
		return nil
	})
	if !errors.Is(err, errTrial) || !strings.Contains(err.Error(), "by hand") || !strings.Contains(out, "rights") {
		t.Errorf("run: %v\n%s", err, out)
	}
}

// slow is a tool that takes its time: it shows a user only after a while, wants his
// id remembered before it erases him, and says for days that it is at it.
type slow struct {
	shownAfter time.Duration
	made       time.Time
	changes    int
	erased     int
	first      int // erasures that were to be remembered first
	forgets    bool
}

func (s *slow) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{Kind: "slow", MaxBatch: 1, MaxInFlight: 1, ConfirmAfter: 15 * time.Minute}
}
func (s *slow) Open(context.Context) error { return nil }
func (s *slow) Close() error               { return nil }

func (s *slow) Apply(_ context.Context, batch []sinks.Record) error {
	r := batch[0]
	switch {
	case r.Change != nil && s.forgets:
		s.made = time.Now()
		return sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("refused, after it was made"))
	case r.Change != nil:
		if s.changes++; s.changes == 1 {
			s.made = time.Now()
		}
		r.Remember([]byte("id"))
		return nil
	case string(r.State) != "id":
		s.first++
		r.Remember([]byte("id"))
		var failed sinks.BatchError
		failed.Fail(0, sinks.ErrRememberFirst)
		return failed.Err()
	case time.Since(s.made) < s.shownAfter:
		r.Erased(schemas.OutcomeNotPresent)
		return nil
	}
	s.erased++
	r.Erased(schemas.OutcomeDeleted)
	return nil
}

func (s *slow) Confirm(context.Context, string, []byte) (bool, error) {
	if s.erased > 0 {
		return false, sinks.Permanent(sinks.ReasonUnavailable, errors.New("read a regulation back: it is RUNNING"))
	}
	return time.Since(s.made) < s.shownAfter, nil
}

func tryOut(ctx context.Context, sink sinks.Sink) (string, error) {
	var out bytes.Buffer
	err := (&trial{name: "tool", sink: sink, out: &out, timeout: time.Minute}).run(ctx)
	return out.String(), err
}

// A destination that takes its time works: it is waited for until it shows the user,
// so that the erasure finds him, and an erasure that takes days is no failure.
func TestTrial_TakesItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sink := &slow{shownAfter: 40 * time.Second}
		out, err := tryOut(t.Context(), sink)
		if err != nil || sink.erased != 1 {
			t.Errorf("run: %v, erased %d times\n%s", err, sink.erased, out)
		}
		for _, part := range []string{"there", "deleted", "not yet: read a regulation back", "The sink works."} {
			if !strings.Contains(out, part) {
				t.Errorf("no %q in\n%s", part, out)
			}
		}
	})
}

// A user who was made, though it was answered that he was not, is erased, also by a
// sink that wants to remember first whom.
func TestTrial_CleansUpWhatIsNotRemembered(t *testing.T) {
	t.Parallel()
	sink := &slow{forgets: true}
	out, err := tryOut(t.Context(), sink)
	if !errors.Is(err, errTrial) || sink.erased != 1 || sink.first != 1 || !strings.Contains(out, "cleaned up") {
		t.Errorf("run: %v, erased %d times\n%s", err, sink.erased, out)
	}
}
