package console

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"clerkconnect/connector/snapshot"
)

// TestBar_LinesWithoutATerminal: a line every two seconds, and one at the end.
func TestBar_LinesWithoutATerminal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		b := NewBar(New(&out, false))
		for users := int64(0); users < 2500; users += 500 {
			b.Progress(snapshot.Progress{Phase: snapshot.PhaseSnapshot, Users: users, Total: 2500, RatePerSecond: 500, Remaining: time.Second})
			time.Sleep(time.Second)
		}
		b.Progress(snapshot.Progress{Phase: snapshot.PhaseIdle, Users: 2500, Total: 2500})
		b.Progress(snapshot.Progress{Phase: snapshot.PhaseIdle, Users: 2500, Total: 2500}) // said once
		want := "Snapshot: 1,000 of 2,500 users, 500/s, 1s left\nSnapshot: 2,000 of 2,500 users, 500/s, 1s left\nSnapshot complete: 2,500 users in 5.0 s.\n"
		if got := out.String(); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		<-b.Complete
	})
}

// TestConsole_LinesTakeTheBarAway, so that nothing of it stays behind them.
func TestConsole_LinesTakeTheBarAway(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := New(&out, true)
	c.Draw("[==  ]")
	c.Line("a line")
	c.Draw("[=== ]")
	if _, err := c.Above(&out).Write([]byte("a log\n")); err != nil {
		t.Fatal(err)
	}
	c.Line("another")
	if want := clearLine + "[==  ]" + clearLine + "a line\n" + clearLine + "[=== ]" + clearLine + "a log\nanother\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
