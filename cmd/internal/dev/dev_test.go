package dev

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"clerkconnect/connector/snapshot"
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

// TestBar_LinesWithoutATerminal: a line every two seconds, and one at the end.
func TestBar_LinesWithoutATerminal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		b := newBar(&voice{out: &out})
		for users := int64(0); users < 2500; users += 500 {
			b.progress(snapshot.Progress{Phase: snapshot.PhaseSnapshot, Users: users, Total: 2500, RatePerSecond: 500, Remaining: time.Second})
			time.Sleep(time.Second)
		}
		b.progress(snapshot.Progress{Phase: snapshot.PhaseIdle, Users: 2500, Total: 2500})
		b.progress(snapshot.Progress{Phase: snapshot.PhaseIdle, Users: 2500, Total: 2500}) // said once
		want := "Snapshot: 1,000 of 2,500 users, 500/s, 1s left\nSnapshot: 2,000 of 2,500 users, 500/s, 1s left\nSnapshot complete: 2,500 users in 5.0 s.\n"
		if got := out.String(); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		<-b.complete
	})
}

// TestVoice_LinesTakeTheBarAway, so that nothing of it stays behind them.
func TestVoice_LinesTakeTheBarAway(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	v := &voice{out: &out, bar: true}
	v.draw("[==  ]")
	v.line("a line")
	v.draw("[=== ]")
	if _, err := v.above(&out).Write([]byte("a log\n")); err != nil {
		t.Fatal(err)
	}
	v.line("another")
	if want := clearLine + "[==  ]" + clearLine + "a line\n" + clearLine + "[=== ]" + clearLine + "a log\nanother\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
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
