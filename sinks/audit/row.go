package audit

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"strconv"
	"strings"
	"time"
)

// Format is the version of the rows that are written: which columns are hashed,
// and how.
const Format = 1

// What the hashes of Format 1 begin with.
const (
	rowDomain    = "clerk-connect audit row 1"
	clientDomain = "clerk-connect audit client 1"
)

// genesis is the previous hash of a chain's first row.
var genesis = strings.Repeat("0", 2*sha256.Size)

// Row is one row of the log. Times are Unix milliseconds; what is not known is
// nil.
type Row struct {
	Chain         string // users or receipts, a hyphen, the partition
	Seq           int64  // place in the chain, from 1 without a gap
	Format        int64  // of the hash
	Entry         string // what the row says, in short; unique
	RecordedAt    int64  // when the row was made, by the clock of the process
	Action        string // as USER_UPDATED
	ClerkID       string
	Epoch         int64   // with Version: which change or erasure
	Version       int64   // 0 in both: a tombstone that carried none
	Sink          *string // whose word it is, of another sink's
	Reason        *string // why that sink did what it did
	EventID       *string // svix-id, or the id that the connector made
	EventType     *string // Clerk's, as user.updated
	Origin        *string // WEBHOOK, SNAPSHOT, RECONCILE, REPAIR, REQUEST
	InstanceID    *string // Clerk's instance
	TopicOffset   *int64  // in the partition of the chain
	OccurredAt    *int64  // at Clerk; of another sink's word: when it did it
	ReceivedAt    *int64
	SequencedAt   *int64
	ChangedFields *string // names by comma; nil: not known
	PolicyHash    *string
	ClientHash    *string // of what the client table had; nil: nothing
	PrevHash      string  // Hash of the row before it in the chain
	Hash          string  // of all of the above
}

// kind is the type of a column.
type kind int

const (
	number kind = iota
	moment
	text   // of any length
	name   // short, compared by its bytes
	label  // short enough to be a key together with others
	digest // hexadecimal SHA-256
)

// column is one of the log's, in the order in which they are hashed.
type column struct {
	name     string
	kind     kind
	required bool
	field    func(*Row) any // pointer to string, *string, int64 or *int64
}

var columns = []column{
	{"chain", label, true, func(r *Row) any { return &r.Chain }},
	{"seq", number, true, func(r *Row) any { return &r.Seq }},
	{"format", number, true, func(r *Row) any { return &r.Format }},
	{"entry", name, true, func(r *Row) any { return &r.Entry }},
	{"recorded_at", moment, true, func(r *Row) any { return &r.RecordedAt }},
	{"action", label, true, func(r *Row) any { return &r.Action }},
	{"clerk_id", name, true, func(r *Row) any { return &r.ClerkID }},
	{"epoch", number, true, func(r *Row) any { return &r.Epoch }},
	{"version", number, true, func(r *Row) any { return &r.Version }},
	{"sink", label, false, func(r *Row) any { return &r.Sink }},
	{"reason", text, false, func(r *Row) any { return &r.Reason }},
	{"event_id", text, false, func(r *Row) any { return &r.EventID }},
	{"event_type", text, false, func(r *Row) any { return &r.EventType }},
	{"origin", label, false, func(r *Row) any { return &r.Origin }},
	{"instance_id", text, false, func(r *Row) any { return &r.InstanceID }},
	{"topic_offset", number, false, func(r *Row) any { return &r.TopicOffset }},
	{"occurred_at", moment, false, func(r *Row) any { return &r.OccurredAt }},
	{"received_at", moment, false, func(r *Row) any { return &r.ReceivedAt }},
	{"sequenced_at", moment, false, func(r *Row) any { return &r.SequencedAt }},
	{"changed_fields", text, false, func(r *Row) any { return &r.ChangedFields }},
	{"policy_hash", text, false, func(r *Row) any { return &r.PolicyHash }},
	{"client_hash", digest, false, func(r *Row) any { return &r.ClientHash }},
	{"prev_hash", digest, true, func(r *Row) any { return &r.PrevHash }},
	{"hash", digest, true, func(r *Row) any { return &r.Hash }},
}

// columnNames are those of the log, in order.
func columnNames() []string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	return names
}

// Digest returns the hash that r must have, in hexadecimal: SHA-256 over a
// sequence of netstrings (https://cr.yp.to/proto/netstrings.txt), which are
// decimal length in bytes, colon, bytes in UTF-8, comma. The first is
// "clerk-connect audit row 1"; then come the columns in their order, but for
// hash itself. Numbers are decimal, times decimal Unix milliseconds; null is a
// tilde and a comma.
func (r *Row) Digest() string {
	h := sha256.New()
	netstring(h, rowDomain)
	for _, c := range columns[:len(columns)-1] {
		switch v := c.field(r).(type) {
		case *string:
			netstring(h, *v)
		case *int64:
			netstring(h, strconv.FormatInt(*v, 10))
		case **string:
			optional(h, *v)
		case **int64:
			if *v == nil {
				optional(h, nil)
			} else {
				netstring(h, strconv.FormatInt(**v, 10))
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

func netstring(h hash.Hash, value string) {
	_, _ = io.WriteString(h, strconv.Itoa(len(value))+":"+value+",") // a hash takes everything
}

func optional(h hash.Hash, value *string) {
	if value == nil {
		_, _ = io.WriteString(h, "~,")
	} else {
		netstring(h, *value)
	}
}

// client is what is known of whoever caused a change: personal data.
type client struct {
	hash      string // of all but entry, user and version; the log's client_hash
	entry     string
	clerkID   string
	epoch     int64
	version   int64
	salt      string // random, in hexadecimal
	ip        *string
	userAgent *string
}

// newClient makes what stands in the client table for a row.
func newClient(r Row, ip, userAgent *string) *client {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	c := &client{
		entry: r.Entry, clerkID: r.ClerkID, epoch: r.Epoch, version: r.Version,
		salt: hex.EncodeToString(salt), ip: ip, userAgent: userAgent,
	}
	c.hash = c.digest()
	return c
}

// digest returns the hash that c must have: as that of a row, over
// "clerk-connect audit client 1", salt, client_ip and user_agent.
func (c *client) digest() string {
	h := sha256.New()
	netstring(h, clientDomain)
	netstring(h, c.salt)
	optional(h, c.ip)
	optional(h, c.userAgent)
	return hex.EncodeToString(h.Sum(nil))
}

// lastMoment is the last millisecond that every database can hold, that of the
// year 9999.
var lastMoment = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli() - 1

// clean makes text fit for every database: valid UTF-8 without U+0000.
func clean(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
}
