package sinktest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"clerkconnect/sinks"
)

// Change is a record of a user with every field set, for a sink's own tests.
func Change(id string, version int64) sinks.Record { return upsert(id, at(version), FullUser(1)) }

// Erase is a tombstone of which nothing but the version is known.
func Erase(id string, version int64) sinks.Record { return tombstone(id, at(version)) }

// ChangeEmail is [Change] with that primary e-mail address.
func ChangeEmail(id string, version int64, email string) sinks.Record {
	r := Change(id, version)
	r.Change.User.PrimaryEmailAddress = &email
	return r
}

// New makes a sink of settings that must be right.
func New[C any, S sinks.Sink](t testing.TB, construct func(C) (S, error), cfg C) S {
	t.Helper()
	sink, err := construct(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return sink
}

// Open makes a sink by [New] and opens it until the end of t.
func Open[C any, S sinks.Sink](t testing.TB, construct func(C) (S, error), cfg C) S {
	t.Helper()
	sink := New(t, construct, cfg)
	open(t, sink)
	return sink
}

func open(t testing.TB, sink sinks.Sink) {
	t.Helper()
	if err := sink.Open(t.Context()); err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := sink.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

// Apply applies one record as the runner does: what is to be remembered first
// is, and the record comes again. It returns what the sink says of the record;
// State is what stays remembered, also where the record has failed.
func Apply(t testing.TB, sink sinks.Sink, r sinks.Record) (sinks.Result, error) {
	t.Helper()
	for range 5 {
		result, err := ApplyOnce(t, sink, r)
		switch {
		case err == nil:
			return result, nil
		case !errors.Is(err, sinks.ErrRememberFirst):
			result.State = r.State
			return result, err
		}
		r.State = result.State
	}
	t.Fatal("the sink asks to be remembered first again and again")
	return sinks.Result{}, nil
}

// ApplyOnce is [Apply] without the second time.
func ApplyOnce(t testing.TB, sink sinks.Sink, r sinks.Record) (sinks.Result, error) {
	t.Helper()
	r = sinks.Track(r)
	err := sink.Apply(t.Context(), []sinks.Record{r})
	var batch *sinks.BatchError
	if errors.As(err, &batch) {
		err = batch.Failed(0)
	}
	return r.Result(), err
}

// MustApply applies a batch, or ends the test.
func MustApply(t testing.TB, sink sinks.Sink, batch ...sinks.Record) {
	t.Helper()
	if err := sink.Apply(t.Context(), batch); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

// ExpectClass fails the test unless err is of that class and reason.
func ExpectClass(t testing.TB, what string, err error, class sinks.Class, reason sinks.Reason) {
	t.Helper()
	if got := sinks.Classify(err); err == nil || got.Class != class || got.Reason != reason {
		t.Errorf("%s: got %v, want %s (%s)", what, err, reason, class)
	}
}

// Bench says what [Benchmark] measures.
type Bench struct {
	// Sink is opened over an empty destination.
	Sink sinks.Sink
	// Plain writes the same new users the plainest way that the destination
	// has, a COPY or one INSERT of all rows into a table of the same columns,
	// and returns how long that took: the limit that the sink is held against.
	Plain func(batch []sinks.Record) time.Duration
}

// Benchmark measures how many users a second one call at a time writes, of
// users that are new and of users that are there, each with every field set,
// in batches of several sizes. times-plain is how often the time of the plain
// way, for the same new users in the same run, goes into the sink's.
func Benchmark(b *testing.B, open func(b *testing.B) Bench) {
	for _, size := range []int{1, 10, 100, 500} {
		for _, form := range []string{"insert", "update"} {
			b.Run(fmt.Sprintf("%s/batch=%d", form, size), func(b *testing.B) { measure(b, open(b), size, form == "insert") })
		}
	}
}

func measure(b *testing.B, bench Bench, size int, insert bool) {
	version := int64(0)
	batch := make([]sinks.Record, size)
	next := func() {
		version++
		for i := range batch {
			id := fmt.Sprintf("user_%08d", i)
			if insert {
				id = fmt.Sprintf("user_%08d_%08d", version, i)
			}
			batch[i] = Change(id, version)
		}
	}
	next()
	MustApply(b, bench.Sink, batch...)
	var plain time.Duration
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		next()
		if insert {
			plain += bench.Plain(batch)
		}
		b.StartTimer()
		MustApply(b, bench.Sink, batch...)
	}
	rows := float64(b.N * size)
	b.ReportMetric(rows/b.Elapsed().Seconds(), "rows/s")
	if insert {
		b.ReportMetric(rows/plain.Seconds(), "plain-rows/s")
		b.ReportMetric(b.Elapsed().Seconds()/plain.Seconds(), "times-plain")
	}
}
