package throttle

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLogger_OncePerKeyInAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := New(slog.New(slog.NewTextHandler(&out, nil)))
		lines := func() []string {
			defer out.Reset()
			return strings.Split(strings.TrimSpace(out.String()), "\n")
		}
		for range 3 {
			l.Warn("refused", "by", "us")
			l.Log(slog.LevelError, "dial 1", "dial", "broker", 1)
			l.Log(slog.LevelError, "dial 2", "dial", "broker", 2)
		}
		got := lines()
		want := []string{`level=WARN msg=refused by=us held_back=0`, `level=ERROR msg=dial broker=1 held_back=0`, `level=ERROR msg=dial broker=2 held_back=0`}
		if len(got) != len(want) {
			t.Fatalf("got %d lines, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
		}
		for i := range want {
			if !strings.HasSuffix(got[i], want[i]) {
				t.Errorf("line %d: got %q, want %q", i, got[i], want[i])
			}
		}
		time.Sleep(Every)
		l.Warn("refused")
		if got := lines(); len(got) != 1 || !strings.HasSuffix(got[0], "msg=refused held_back=2") {
			t.Errorf("after a while: got %q, want one line with held_back=2", got)
		}
	})
}
