package runner

import (
	"encoding/binary"

	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
)

// Erasures are never forgotten, so what is known of those that are paid is kept
// as bytes: up to 140 for each user (BenchmarkPaidErasures measures it).

// ranks is the rank of the erasure of each user, by Clerk ID.
type ranks struct{ table *compacted.Table }

func newRanks() ranks { return ranks{compacted.NewTable()} }

// get returns the rank of a user's erasure, and whether there is one.
func (s ranks) get(clerkID string) (schemas.Version, bool) {
	value, ok := s.table.Get(clerkID)
	if !ok {
		return schemas.Version{}, false
	}
	return versionIn(value), true
}

func (s ranks) set(clerkID string, rank schemas.Version) {
	s.table.Set(clerkID, appendVersion(make([]byte, 0, versionBytes), rank))
}

func (s ranks) delete(clerkID string) { s.table.Delete(clerkID) }

// receipts are a sink's own, by Clerk ID.
type receipts struct{ table *compacted.Table }

func newReceipts() receipts { return receipts{compacted.NewTable()} }

// Flags of a receipt in the table: what it has of what may be missing.
const (
	hasConfirmedAt byte = 1 << iota
	hasReason
	hasWaivedAt
)

// get returns the receipt of a user, without the name of the sink, and whether
// there is one. It is the caller's own.
func (s receipts) get(clerkID string) (schemas.Receipt, bool) {
	value, ok := s.table.Get(clerkID)
	if !ok {
		return schemas.Receipt{}, false
	}
	number := func() int64 {
		n, length := binary.Varint(value)
		value = value[length:]
		return n
	}
	text := func() string {
		length := number()
		taken := string(value[:length])
		value = value[length:]
		return taken
	}
	flags, version := value[0], versionIn(value[1:])
	value = value[1+versionBytes:]
	receipt := schemas.Receipt{ClerkID: clerkID, Epoch: version.Epoch, Version: version.Number, Outcome: schemas.Outcome(text()), DoneAt: number()}
	if flags&hasConfirmedAt != 0 {
		receipt.ConfirmedAt = new(number())
	}
	if flags&hasReason != 0 {
		receipt.Reason = new(text())
	}
	if flags&hasWaivedAt != 0 {
		receipt.WaivedAt = new(number())
	}
	return receipt, true
}

func (s receipts) set(receipt schemas.Receipt) {
	value := appendVersion(make([]byte, 1, 64), receiptVersion(receipt))
	text := func(t string) { value = append(binary.AppendVarint(value, int64(len(t))), t...) }
	text(string(receipt.Outcome))
	value = binary.AppendVarint(value, receipt.DoneAt)
	if receipt.ConfirmedAt != nil {
		value[0] |= hasConfirmedAt
		value = binary.AppendVarint(value, *receipt.ConfirmedAt)
	}
	if receipt.Reason != nil {
		value[0] |= hasReason
		text(*receipt.Reason)
	}
	if receipt.WaivedAt != nil {
		value[0] |= hasWaivedAt
		value = binary.AppendVarint(value, *receipt.WaivedAt)
	}
	s.table.Set(receipt.ClerkID, value)
}

func (s receipts) delete(clerkID string) { s.table.Delete(clerkID) }

func (s receipts) len() int { return s.table.Len() }

// versionBytes is the length of a version in a table.
const versionBytes = 4 + 8

func appendVersion(to []byte, v schemas.Version) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(to, uint32(v.Epoch)), uint64(v.Number))
}

func versionIn(value []byte) schemas.Version {
	return schemas.Version{
		Epoch:  int32(binary.LittleEndian.Uint32(value)),
		Number: int64(binary.LittleEndian.Uint64(value[4:])),
	}
}
