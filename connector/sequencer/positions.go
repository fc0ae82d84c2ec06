package sequencer

import (
	"crypto/sha256"

	"clerkconnect/schemas"
)

// positions is the memory of one partition: the position of every user that
// was ever seen in it, deleted ones included. Ten million users fit into a
// small machine because a user costs at most 100 bytes (BenchmarkPositions
// measures it): the map holds 16 bytes of the ID's SHA-256 and an index, and
// the positions stand in chunks that never move. Two IDs share 128 bits of a
// hash with a probability of 10^-25 at ten million users.
//
// Not safe for concurrent use.
type positions struct {
	index  map[idHash]uint32
	chunks [][]schemas.Position
	count  uint32
}

type idHash [16]byte

// chunkSize positions of 40 bytes are allocated at once.
const chunkSize = 1024

func newPositions() *positions {
	return &positions{index: map[idHash]uint32{}}
}

func hashID(clerkID string) idHash {
	sum := sha256.Sum256([]byte(clerkID))
	return idHash(sum[:16])
}

// get returns a user's position and whether there is one.
func (p *positions) get(clerkID string) (schemas.Position, bool) {
	i, ok := p.index[hashID(clerkID)]
	if !ok {
		return schemas.Position{}, false
	}
	return p.chunks[i/chunkSize][i%chunkSize], true
}

// set stores a user's position.
func (p *positions) set(clerkID string, at schemas.Position) {
	hash := hashID(clerkID)
	i, ok := p.index[hash]
	if !ok {
		i = p.count
		if i%chunkSize == 0 {
			p.chunks = append(p.chunks, make([]schemas.Position, chunkSize))
		}
		p.index[hash] = i
		p.count++
	}
	p.chunks[i/chunkSize][i%chunkSize] = at
}

// len returns how many users are known.
func (p *positions) len() int { return int(p.count) }
