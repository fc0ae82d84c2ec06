package transact

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
)

// Progress is how far an owner has come in its partitions. The zero value is
// ready to be put into a [Config]. Safe for concurrent use.
type Progress struct {
	mu        sync.Mutex
	positions map[int32]int64 // of owned partitions; -1: nothing read yet
}

// own sets which partitions are owned; what is known of those kept stays.
func (p *Progress) own(numbers []int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	positions := make(map[int32]int64, len(numbers))
	for _, number := range numbers {
		positions[number] = -1
		if known, ok := p.positions[number]; ok {
			positions[number] = known
		}
	}
	p.positions = positions
}

// reached sets the next offset to read, if the partition is still owned.
func (p *Progress) reached(number int32, offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.positions[number]; ok {
		p.positions[number] = offset
	}
}

// At returns the offset before which all of a partition is done; -1 if that is
// not known: it is not owned, or nothing was read of it yet.
func (p *Progress) At(number int32) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if position, ok := p.positions[number]; ok {
		return position
	}
	return -1
}

// Lag returns how many records of the owned partitions lie before the owner:
// high watermark less position, the marks that end transactions included. For
// a partition of which nothing was read yet the position is the group's
// committed offset, or the start of the log.
func (p *Progress) Lag(ctx context.Context, admin *kadm.Client, group, topic string) (int64, error) {
	p.mu.Lock()
	positions := maps.Clone(p.positions)
	p.mu.Unlock()
	if len(positions) == 0 {
		return 0, nil
	}
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	var committed kadm.OffsetResponses
	var starts kadm.ListedOffsets
	if slices.Contains(slices.Collect(maps.Values(positions)), -1) {
		if committed, err = admin.FetchOffsets(ctx, group); err != nil {
			return 0, err
		}
		if starts, err = admin.ListStartOffsets(ctx, topic); err != nil {
			return 0, err
		}
	}
	var lag int64
	for number, position := range positions {
		end, _ := ends.Lookup(topic, number)
		if position < 0 {
			start, _ := starts.Lookup(topic, number)
			position = start.Offset
			if offset, ok := committed.Lookup(topic, number); ok && offset.At > position {
				position = offset.At
			}
		}
		lag += max(0, end.Offset-position)
	}
	return lag, nil
}
