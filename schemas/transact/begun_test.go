package transact

import (
	"context"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

type nothing struct{}

func (nothing) Restore(context.Context, int32) (func(), error) { return func() {}, nil }
func (nothing) Forget(int32)                                   {}
func (nothing) Committed()                                     {}
func (nothing) Process(context.Context, []*kgo.Record) ([]*kgo.Record, error) {
	return nil, nil
}

// A partition was lost and came back while something of its records was
// committed: another may have gone on from there, and what it has done is not
// done once more.
func TestOwner_GoesNotBackBehindAnother(t *testing.T) {
	t.Parallel()
	for name, looked := range map[string]bool{"noticed before": true, "not noticed yet": false} {
		o := newOwner(Config{}, nothing{})
		o.begin([]*kgo.Record{{Partition: 0, Offset: 5}, {Partition: 1, Offset: 7}})
		o.add(0)
		o.add(1)
		o.dropped = []int32{0}
		if looked {
			o.forgetDropped()
		}
		if back := o.takeBegun(); len(back) != 1 || back[1].Offset != 7 {
			t.Errorf("%s: goes back to %v, want to 7 in partition 1 alone", name, back)
		}
	}
}
