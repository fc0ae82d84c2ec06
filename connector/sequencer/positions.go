package sequencer

import (
	"encoding/binary"

	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
)

// positions is the memory of one partition: the position of every user that
// was ever seen in it, deleted ones included. Ten million users fit into a
// small machine because a user costs at most 100 bytes (BenchmarkPositions
// measures it): 40 of them are the position.
//
// Not safe for concurrent use.
type positions struct{ table *compacted.Table }

func newPositions() *positions { return &positions{compacted.NewTable()} }

// positionSize is the length of a position in the table: four numbers of 8 bytes,
// two of 4. All have the same, so that a change is written over what was there.
const positionSize = 4*8 + 2*4

// get returns a user's position and whether there is one.
func (p *positions) get(clerkID string) (schemas.Position, bool) {
	value, ok := p.table.Get(clerkID)
	if !ok {
		return schemas.Position{}, false
	}
	number := func(at int) int64 { return int64(binary.LittleEndian.Uint64(value[at:])) }
	return schemas.Position{
		UpdatedAt: number(0), StatedAt: number(8), Fingerprint: number(16), Version: number(24),
		Epoch: int32(binary.LittleEndian.Uint32(value[32:])), Flags: int32(binary.LittleEndian.Uint32(value[36:])),
	}, true
}

// set stores a user's position.
func (p *positions) set(clerkID string, at schemas.Position) {
	value := make([]byte, 0, positionSize)
	for _, number := range []int64{at.UpdatedAt, at.StatedAt, at.Fingerprint, at.Version} {
		value = binary.LittleEndian.AppendUint64(value, uint64(number))
	}
	value = binary.LittleEndian.AppendUint32(value, uint32(at.Epoch))
	value = binary.LittleEndian.AppendUint32(value, uint32(at.Flags))
	p.table.Set(clerkID, value)
}

// len returns how many users are known.
func (p *positions) len() int { return p.table.Len() }
