package dev

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

func TestOpenFolder_IsForOneProcessAndOneClerk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := openFolder(dir, simulated)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openFolder(dir, simulated); err == nil || !strings.Contains(err.Error(), "another clerk-connect dev uses") {
		t.Errorf("a folder in use: got %v", err)
	}
	first.close()
	if _, err := openFolder(dir, real); err == nil || !strings.Contains(err.Error(), "holds users of a simulated Clerk") {
		t.Errorf("a folder of simulated users for real ones: got %v", err)
	}
	again, err := openFolder(dir, simulated)
	if err != nil {
		t.Fatal(err)
	}
	again.close()
}

// partial is a sink that fails the second record of each batch.
type partial struct{ sinks.Sink }

func (partial) Apply(_ context.Context, batch []sinks.Record) error {
	var failed sinks.BatchError
	failed.Fail(1, errors.New("no"))
	return failed.Err()
}

// TestLatency counts what became a row because of a webhook, and no more.
func TestLatency(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l latency
		sink := l.observe(partial{})
		change := func(origin schemas.Origin, age time.Duration) sinks.Record {
			return sinks.Record{Change: &schemas.UserChange{Origin: origin, ReceivedAt: time.Now().Add(-age).UnixMilli()}}
		}
		for age := range 100 {
			_ = sink.Apply(t.Context(), []sinks.Record{
				change(schemas.OriginWebhook, time.Duration(age+1)*time.Millisecond),
				change(schemas.OriginWebhook, time.Hour),     // failed
				change(schemas.OriginSnapshot, 24*time.Hour), // not a webhook
				{}, // an erasure
			})
		}
		p50, p99, n := l.quantiles()
		if p50 != 51*time.Millisecond || p99 != 99*time.Millisecond || n != 100 {
			t.Errorf("quantiles: got %v, %v of %d, want 51ms, 99ms of 100", p50, p99, n)
		}
	})
}

// TestQuoted holds the commands that a person is shown to copy, rm -r above
// all, to the one path that is meant.
func TestQuoted(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		".clerk-connect/users.db": ".clerk-connect/users.db",
		"/Users/Zoë/data":         "/Users/Zoë/data",
		"/home/ann/my data":       "'/home/ann/my data'",
		"it's":                    `'it'\''s'`,
		"$HOME;x":                 "'$HOME;x'",
		"~":                       "'~'",
	} {
		if got := quoted(path); got != want {
			t.Errorf("quoted(%q) = %s, want %s", path, got, want)
		}
	}
}
