package sinktest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// The sink's goroutines are known by a profiler label, which they inherit from
// whoever starts them: a harness's own client starts some at any time, too.
func leavesNoGoroutine(t testing.TB, h Harness) {
	d, label := h.New(t), newID()
	pprof.Do(t.Context(), pprof.Labels("sink", label), func(context.Context) {
		sink := d.Sink(t)
		if err := sink.Open(t.Context()); err != nil {
			t.Fatalf("Open: %v", err)
		}
		apply(t, sink, upsert(newID(), at(1), FullUser(1)))
		if err := sink.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	})
	// Whoever hears of the end only by a connection that is closed may take a while.
	left := running(t, label)
	for deadline := time.Now().Add(30 * time.Second); left != "" && time.Now().Before(deadline); left = running(t, label) {
		time.Sleep(10 * time.Millisecond)
	}
	if left != "" {
		t.Errorf("after Close these goroutines of the sink are running:\n%s", left)
	}
}

// running returns the stacks of the goroutines that bear label.
func running(t testing.TB, label string) string {
	var profile strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		t.Fatalf("goroutines: %v", err)
	}
	stacks := strings.Split(profile.String(), "\n\n")
	return strings.Join(slices.DeleteFunc(stacks, func(stack string) bool { return !strings.Contains(stack, label) }), "\n\n")
}

func logsNoUser(t testing.TB, h Harness) {
	d := h.New(t)
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	defer slog.SetDefault(before)
	sink, id := opened(t, d), newID()
	apply(t, sink, upsert(id, at(1), plainUser(canary)))
	apply(t, sink, erasure(id, at(2), false))
	if d.Poison != nil {
		u := plainUser(canary)
		d.Poison(u)
		if err := sink.Apply(t.Context(), []sinks.Record{upsert(newID(), at(1), u)}); err == nil {
			t.Errorf("Apply of a poisoned user: got nil, want an error")
		}
	}
	if strings.Contains(log.String(), canary) {
		t.Errorf("the log quotes the user")
	}
}

func capabilitiesAreFixed(t testing.TB, h Harness) {
	d := h.New(t)
	sink := d.Sink(t)
	before := sink.Capabilities()
	if !regexp.MustCompile(`^[a-z][a-z0-9]*$`).MatchString(before.Kind) || before.MaxBatch < 1 || before.MaxInFlight < 1 {
		t.Errorf("Capabilities: got %+v, want a kind in lower case and limits of at least 1", before)
	}
	if err := sink.Open(t.Context()); err != nil {
		t.Fatalf("Open: %v", err)
	}
	apply(t, sink, upsert(newID(), at(1), plainUser("ada")))
	if err := sink.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if after := sink.Capabilities(); after != before {
		t.Errorf("Capabilities: got %+v at first and %+v at last", before, after)
	}
}

func closesWithoutOpen(t testing.TB, h Harness) {
	if err := h.New(t).Sink(t).Close(); err != nil {
		t.Errorf("Close without Open: %v", err)
	}
}

func closesTwice(t testing.TB, h Harness) {
	sink := opened(t, h.New(t))
	for range 2 {
		if err := sink.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

// The runner repeats Open until it succeeds.
func opensAfterFailure(t testing.TB, h Harness) {
	d := h.New(t)
	sink := d.Sink(t)
	if class := failure(t, sink.Open(canceled(t))); class.Class == sinks.ClassFatal {
		t.Errorf("Open with a canceled context: got %s, want an error that is retried", class.Class)
	}
	if err := sink.Open(t.Context()); err != nil {
		t.Fatalf("Open: %v", err)
	}
	apply(t, sink, upsert(newID(), at(1), plainUser("ada")))
	if err := sink.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func refusesWhenClosed(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := d.Sink(t), newID()
	if err := sink.Open(t.Context()); err != nil {
		t.Fatalf("Open: %v", err)
	}
	if err := sink.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	err := sink.Apply(t.Context(), []sinks.Record{upsert(id, at(1), plainUser("ada"))})
	if _, applied := d.Read(t, id)[id]; err == nil && !applied {
		t.Errorf("Apply after Close: got nil, but nothing was written")
	}
}

func listsKeys(t testing.TB, h Harness) {
	d := h.New(t)
	sink := opened(t, d)
	lister, ok := sink.(sinks.Lister)
	if !ok {
		t.Skip("the sink does not list its users")
	}
	if keys, err := lister.Keys(t.Context(), "", 10); err != nil || len(keys) != 0 {
		t.Fatalf("Keys of an empty destination: got %d, %v, want none", len(keys), err)
	}
	want := []string{"user_2A", "user_2B", "user_2Ba", "user_2a", "user_2b", "user_2é"} // bytewise, as no dictionary has it
	for i, id := range []int{3, 0, 5, 1, 4, 2} {
		apply(t, sink, upsert(want[id], at(int64(1+i)), plainUser(fmt.Sprint("ada", i))))
	}
	apply(t, sink, upsert("user_2C", at(1), plainUser("gone")))
	apply(t, sink, erasure("user_2C", at(2), false), erasure("user_2D", at(2), false))
	for _, limit := range []int{1, 4, 6, 100} {
		var got []string
		for after := ""; ; {
			keys, err := lister.Keys(t.Context(), after, limit)
			if err != nil {
				t.Fatalf("Keys: %v", err)
			}
			if len(keys) > limit {
				t.Fatalf("Keys: got %d, want at most %d", len(keys), limit)
			}
			got = append(got, keys...)
			if len(keys) < limit || len(got) > len(want) {
				break
			}
			after = keys[len(keys)-1]
		}
		if !slices.Equal(got, want) {
			t.Errorf("Keys by %d: got %q, want %q", limit, got, want)
		}
	}
}

func confirmsErasure(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	confirmer, ok := sink.(sinks.Confirmer)
	if !ok {
		t.Skip("the sink cannot read an erasure back")
	}
	confirm := func(want bool) {
		t.Helper()
		if gone, err := confirmer.Confirm(t.Context(), id, nil); err != nil || gone != want {
			t.Errorf("Confirm: got %v, %v, want %v", gone, err, want)
		}
	}
	confirm(true)
	apply(t, sink, upsert(id, at(1), plainUser("ada")))
	confirm(false)
	apply(t, sink, erasure(id, at(2), false))
	confirm(true)
}

func canceledContext(t testing.TB, h Harness) {
	d := h.New(t)
	sink, id := opened(t, d), newID()
	batch := []sinks.Record{upsert(id, at(1), plainUser("ada"))}
	if class := failure(t, sink.Apply(canceled(t), batch)); class.Class != sinks.ClassRetry {
		t.Errorf("Apply with a canceled context: got %s, want retry", class.Class)
	}
	apply(t, sink, batch...)
	h.expect(t, d, id, plainUser("ada"))
}

// An outage must cost time and no user: it is never permanent, and the sink
// goes on when it is over, without being opened again.
func outageIsRetried(t testing.TB, h Harness) {
	d := h.New(t)
	if d.Break == nil {
		t.Skip("the destination cannot fail")
	}
	sink, before, during := opened(t, d), newID(), newID()
	apply(t, sink, upsert(before, at(1), plainUser("ada")))
	batch := []sinks.Record{upsert(during, at(1), plainUser(canary)), erasure(before, at(2), false)}
	restore := d.Break(t)
	for range 2 {
		if class := failure(t, sink.Apply(t.Context(), batch)); class.Class != sinks.ClassRetry || class.Reason == sinks.ReasonUnknown {
			t.Errorf("Apply in an outage: got %s, %s, want retry and a reason that is known", class.Class, class.Reason)
		}
	}
	if confirmer, ok := sink.(sinks.Confirmer); ok {
		if gone, err := confirmer.Confirm(t.Context(), before, nil); gone && err == nil {
			t.Errorf("Confirm in an outage: got true, but the user is there")
		}
	}
	restore()
	// A pool may find out about its dead connections one call later, each of them.
	if err := retried(func() error { return sink.Apply(t.Context(), batch) }); err != nil {
		t.Fatalf("Apply after an outage: %v", err)
	}
	h.expect(t, d, during, plainUser(canary))
	h.expect(t, d, before, nil)
}

// What the destination refuses must be told from all else, so that the runner
// can isolate it by halving: the others of its batch are not to blame.
func poisonIsNamed(t testing.TB, h Harness) {
	d := h.New(t)
	if d.Poison == nil {
		t.Skip("the destination refuses no user")
	}
	sink, bad := opened(t, d), plainUser(canary)
	d.Poison(bad)
	one, poisoned, other := newID(), newID(), newID()
	batch := []sinks.Record{
		upsert(one, at(1), plainUser("one")), upsert(poisoned, at(1), bad), upsert(other, at(1), plainUser("other")),
	}
	if err := sink.Apply(t.Context(), batch); !names(t, err, 1, len(batch)) {
		for i := range batch {
			if err := sink.Apply(t.Context(), batch[i:i+1]); (err != nil) != (i == 1) {
				t.Errorf("Apply of record %d by itself: %v", i, err)
			} else if err != nil && !names(t, err, 0, 1) && sinks.Classify(err).Class != sinks.ClassPermanent {
				t.Errorf("Apply of the poisoned user by itself: got %s, want permanent", sinks.Classify(err).Class)
			}
		}
	}
	h.expect(t, d, one, plainUser("one"))
	h.expect(t, d, other, plainUser("other"))
	h.expect(t, d, poisoned, nil)
	apply(t, sink, upsert(poisoned, at(2), plainUser("healed")))
	h.expect(t, d, poisoned, plainUser("healed"))
	apply(t, sink, upsert(poisoned, schemas.Version{Epoch: 2, Number: 1}, plainUser("healed")))
}

// names reports whether err is a *sinks.BatchError that names exactly record i
// of n as permanently refused. Any other error must be permanent as a whole.
func names(t testing.TB, err error, i, n int) bool {
	t.Helper()
	failure(t, err)
	//nolint:errorlint // the contract is about the error itself
	batch, ok := err.(*sinks.BatchError)
	if !ok {
		if class := sinks.Classify(err); class.Class != sinks.ClassPermanent {
			t.Errorf("Apply of %d records with one poisoned: got %s, want permanent", n, class.Class)
		}
		return false
	}
	for k := range n {
		if failed := batch.Failed(k); (failed != nil) != (k == i) || k == i && sinks.Classify(failed).Class != sinks.ClassPermanent {
			t.Errorf("Failed(%d) of a batch whose record %d is poisoned: got %v", k, i, failed)
		}
	}
	return true
}
