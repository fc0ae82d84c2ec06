package schemas

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TickKey is the key of records that say nothing about a user. The sequencer
// appends one with a null value to every partition daily, because brokers
// compact only partitions that are written to, and one when a snapshot has
// ended. Consumers ignore it.
const TickKey = "__clerk-connect"

// Headers of the records on <prefix>.users, tombstones included. Values are
// ASCII; numbers are decimal, times Unix milliseconds.
const (
	HeaderVersion    = "clerk-version"
	HeaderEpoch      = "clerk-epoch"
	HeaderOperation  = "clerk-operation" // SNAPSHOT, CREATE, UPDATE, or DELETE on a tombstone
	HeaderEventID    = "clerk-event-id"
	HeaderOrigin     = "clerk-origin"
	HeaderOccurredAt = "clerk-occurred-at"
	// HeaderSnapshot is "true" on rows of a snapshot, "last" on the tick that
	// ends it in its partition, "false" elsewhere; as Debezium marks its own.
	HeaderSnapshot = "clerk-snapshot"
	// HeaderSnapshotID names the snapshot that a tick ends.
	HeaderSnapshotID = "clerk-snapshot-id"
)

// Values of [HeaderSnapshot] and, for tombstones, of [HeaderOperation].
const (
	SnapshotTrue    = "true"
	SnapshotLast    = "last"
	SnapshotFalse   = "false"
	OperationDelete = "DELETE"
)

// Topics names the topics of one deployment.
type Topics struct {
	// Prefix stands before every name, "clerk" unless configured: one to 100
	// of the characters that Kafka allows in a topic name.
	Prefix string
}

// UserEvents is the append log of every accepted event, keyed by Clerk ID.
func (t Topics) UserEvents() string { return t.Prefix + ".user-events" }

// Users is the compacted topic of each user's latest state, keyed by Clerk ID.
func (t Topics) Users() string { return t.Prefix + ".users" }

// SequencerState is the sequencer's memory: a [Position] per Clerk ID.
func (t Topics) SequencerState() string { return t.Prefix + ".sequencer-state" }

// Erasures holds an [Erasure] per deleted Clerk ID.
func (t Topics) Erasures() string { return t.Prefix + ".erasures" }

// ErasureReceipts holds a [Receipt] per Clerk ID and sink.
func (t Topics) ErasureReceipts() string { return t.Prefix + ".erasure-receipts" }

// ConnectState holds source offsets, snapshot progress and pins; one partition.
func (t Topics) ConnectState() string { return t.Prefix + ".connect-state" }

// SinkState holds what the sink of that name must remember per Clerk ID.
func (t Topics) SinkState(sink string) string { return t.Prefix + ".sink-state." + sink }

// DeadLetters holds what the sink of that name gave up on, with the reason.
func (t Topics) DeadLetters(sink string) string { return t.Prefix + ".dead-letters." + sink }

// DeadLettersWebhook names signed deliveries that could not be understood.
func (t Topics) DeadLettersWebhook() string { return t.DeadLetters("webhook") }

// Partition returns the partition of a Clerk ID among n partitions: murmur2 of
// the ID modulo n, the default of Kafka's Java clients. It is the same for all
// topics that are split by user, whatever their key, so that the owner of a
// partition finds everything of its users there. n is at least 1.
func Partition(clerkID string, n int32) int32 {
	return int32(murmur2([]byte(clerkID), int(n)))
}

// murmur2 is Kafka's hash and modulo as franz-go computes them.
var murmur2 = func() func([]byte, int) int {
	p := kgo.StickyKeyPartitioner(nil).ForTopic("")
	return func(key []byte, n int) int { return p.Partition(&kgo.Record{Key: key}, n) }
}()

// ReceiptKey is the key of a [Receipt]: the Clerk ID and the sink's name.
func ReceiptKey(clerkID, sink string) string { return clerkID + "/" + sink }

// SplitReceiptKey is the inverse of [ReceiptKey].
func SplitReceiptKey(key string) (clerkID, sink string, ok bool) {
	return strings.Cut(key, "/")
}

// Header returns the value of the first header of that name, "" if none.
func Header(headers []kgo.RecordHeader, name string) string {
	for _, h := range headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// ChangeHeaders are the headers of a record on <prefix>.users.
type ChangeHeaders struct {
	Version    Version
	Operation  string // a ChangeOperation, or OperationDelete
	EventID    string
	Origin     Origin
	OccurredAt int64  // Unix milliseconds
	Snapshot   string // SnapshotTrue, SnapshotLast or SnapshotFalse
}

// Headers renders h.
func (h ChangeHeaders) Headers() []kgo.RecordHeader {
	return []kgo.RecordHeader{
		{Key: HeaderVersion, Value: strconv.AppendInt(nil, h.Version.Number, 10)},
		{Key: HeaderEpoch, Value: strconv.AppendInt(nil, int64(h.Version.Epoch), 10)},
		{Key: HeaderOperation, Value: []byte(h.Operation)},
		{Key: HeaderEventID, Value: []byte(h.EventID)},
		{Key: HeaderOrigin, Value: []byte(h.Origin)},
		{Key: HeaderOccurredAt, Value: strconv.AppendInt(nil, h.OccurredAt, 10)},
		{Key: HeaderSnapshot, Value: []byte(h.Snapshot)},
	}
}

// ParseChangeHeaders reads the headers of a record on <prefix>.users. The
// version and the epoch must be there and be numbers; the rest may be missing.
func ParseChangeHeaders(headers []kgo.RecordHeader) (ChangeHeaders, error) {
	h := ChangeHeaders{
		Operation: Header(headers, HeaderOperation),
		EventID:   Header(headers, HeaderEventID),
		Origin:    Origin(Header(headers, HeaderOrigin)),
		Snapshot:  Header(headers, HeaderSnapshot),
	}
	version, err := strconv.ParseInt(Header(headers, HeaderVersion), 10, 64)
	if err != nil {
		return h, fmt.Errorf("header %s: %w", HeaderVersion, err)
	}
	epoch, err := strconv.ParseInt(Header(headers, HeaderEpoch), 10, 32)
	if err != nil {
		return h, fmt.Errorf("header %s: %w", HeaderEpoch, err)
	}
	h.Version = Version{Epoch: int32(epoch), Number: version}
	if occurred := Header(headers, HeaderOccurredAt); occurred != "" {
		if h.OccurredAt, err = strconv.ParseInt(occurred, 10, 64); err != nil {
			return h, fmt.Errorf("header %s: %w", HeaderOccurredAt, err)
		}
	}
	return h, nil
}
