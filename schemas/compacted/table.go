package compacted

import (
	"crypto/sha256"
	"encoding/binary"
)

// Table is the memory of a compacted partition: the latest value of each key.
// It is made for millions of small values. A key costs about 40 bytes beside
// its value, whatever its length, because the map holds 12 bytes of its SHA-256
// and a place, and the values stand in chunks without pointers, which the
// garbage collector does not look into. That any two of ten million keys share
// 96 bits of a hash has a probability of 10^-15. Nothing that is given to it is
// kept, so that no value keeps the rest of the fetch in memory that it came with.
//
// Not safe for concurrent use.
type Table struct {
	index  map[keyHash]place
	chunks [][]byte
	size   int // of all chunks
	live   int // bytes of it that are in use
}

type keyHash [12]byte

// place is where an entry begins. An entry is the value behind its length.
type place struct{ chunk, offset uint32 }

// A chunk is as large as all before it together, within these bounds: a table of
// few keys is small, and a large one wastes little.
const (
	minChunk = 1 << 10
	maxChunk = 1 << 20
)

// NewTable returns an empty table.
func NewTable() *Table { return &Table{index: map[keyHash]place{}} }

func hashKey(key string) keyHash {
	sum := sha256.Sum256([]byte(key))
	return keyHash(sum[:12])
}

// Len returns how many keys have a value.
func (t *Table) Len() int { return len(t.index) }

// Get returns the value of key, and whether there is one. The value is the
// table's own: it must not be changed, and is good until the next Set or Delete.
func (t *Table) Get(key string) ([]byte, bool) {
	at, ok := t.index[hashKey(key)]
	if !ok {
		return nil, false
	}
	entry, prefix := t.entry(at)
	return entry[prefix:], true
}

// entry returns the bytes of an entry, and how many of them are its length.
func (t *Table) entry(at place) (entry []byte, prefix int) {
	rest := t.chunks[at.chunk][at.offset:]
	length, prefix := binary.Uvarint(rest)
	end := prefix + int(length)
	return rest[:end:end], prefix
}

// Set makes a copy of value the value of key.
func (t *Table) Set(key string, value []byte) {
	hash := hashKey(key)
	if at, ok := t.index[hash]; ok {
		entry, prefix := t.entry(at)
		if len(entry)-prefix == len(value) {
			copy(entry[prefix:], value)
			return
		}
		t.live -= len(entry)
	}
	var length [binary.MaxVarintLen64]byte
	prefix := binary.PutUvarint(length[:], uint64(len(value)))
	t.index[hash] = t.add(length[:prefix], value)
	t.tidy()
}

// Delete makes key have no value.
func (t *Table) Delete(key string) {
	hash := hashKey(key)
	at, ok := t.index[hash]
	if !ok {
		return
	}
	entry, _ := t.entry(at)
	t.live -= len(entry)
	delete(t.index, hash)
	t.tidy()
}

// add puts an entry behind the last, and returns where it is.
func (t *Table) add(parts ...[]byte) place {
	length := 0
	for _, part := range parts {
		length += len(part)
	}
	last := len(t.chunks) - 1
	if last < 0 || cap(t.chunks[last])-len(t.chunks[last]) < length {
		size := max(length, min(max(t.size, minChunk), maxChunk))
		t.chunks = append(t.chunks, make([]byte, 0, size))
		t.size += size
		last++
	}
	at := place{uint32(last), uint32(len(t.chunks[last]))}
	for _, part := range parts {
		t.chunks[last] = append(t.chunks[last], part...)
	}
	t.live += length
	return at
}

// tidy writes the entries into new chunks when less than half of the old ones
// is in use. Each byte is written again after at least as many have been given
// up, so that a change costs no more however large the table is.
func (t *Table) tidy() {
	if t.size <= 4*minChunk || 2*t.live+maxChunk/8 > t.size {
		return
	}
	old := Table{chunks: t.chunks}
	t.chunks, t.size, t.live = nil, 0, 0
	index := make(map[keyHash]place, len(t.index)) // a map never gives up what it once had
	for hash, at := range t.index {
		entry, _ := old.entry(at)
		index[hash] = t.add(entry)
	}
	t.index = index
}
