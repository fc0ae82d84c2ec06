package process

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
)

// recorder notes the order in which parts end.
type recorder struct {
	mu    sync.Mutex
	ended []string
}

func (r *recorder) part(name string, failure <-chan error) part {
	return part{name, func(ctx context.Context) error {
		var err error
		select {
		case <-ctx.Done():
		case err = <-failure:
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ended = append(r.ended, name)
		return err
	}}
}

// TestRun_StopsInTheOrderOfTheFlow: what is taken in must be passed on, so a
// stage stops only after the one before it has.
func TestRun_StopsInTheOrderOfTheFlow(t *testing.T) {
	t.Parallel()
	for range 20 {
		var r recorder
		ctx, cancel := context.WithCancel(t.Context())
		stages := [][]part{
			{r.part("receiver", nil)}, {r.part("snapshot", nil)}, {r.part("sequencer", nil)},
			{r.part("sinks", nil)}, {r.part("admin", nil)},
		}
		cancel()
		if err := run(ctx, stages, func(string, error) { t.Error("a shutdown is no failure") }); err != nil {
			t.Fatal(err)
		}
		if want := []string{"receiver", "snapshot", "sequencer", "sinks", "admin"}; !slices.Equal(r.ended, want) {
			t.Fatalf("ended: got %v, want %v", r.ended, want)
		}
	}
}

// TestRun_AFailureEndsTheProcess, after the other roles have stopped in order.
func TestRun_AFailureEndsTheProcess(t *testing.T) {
	t.Parallel()
	var r recorder
	failure := make(chan error, 1)
	broken := errors.New("fenced")
	failure <- broken
	failed := ""
	err := run(t.Context(), [][]part{
		{r.part("receiver", nil)}, {r.part("sequencer", failure)}, {r.part("a", nil), r.part("b", nil)}, {},
	}, func(name string, _ error) { failed = name })
	if !errors.Is(err, broken) {
		t.Errorf("run: got %v, want %v", err, broken)
	}
	if failed != "sequencer" || len(r.ended) != 4 || r.ended[0] != "sequencer" || r.ended[1] != "receiver" {
		t.Errorf("run: failed %q, ended %v", failed, r.ended)
	}
}
