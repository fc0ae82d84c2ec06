// Package connector is the way in, in Kafka Connect's words: a [SourceTask]
// reads Clerk and hands [SourceRecord]s to the one [Writer], which produces
// them and keeps the tasks' [SourceOffset]s in <prefix>.connect-state.
//
// Two tasks exist: package webhook receives Svix deliveries, package snapshot
// walks the Backend API and re-reads single users. What they write is the
// append log <prefix>.user-events; package sequencer makes the compacted
// topic <prefix>.users out of it. Package clerk turns Clerk's JSON into
// records and applies the privacy policy, package topics creates and checks
// the topics, package clerksim is a Clerk to develop against.
package connector

import (
	"context"

	"clerkconnect/schemas"
)

// SourceTask reads one side of Clerk until ctx is done. Run returns nil after
// a shutdown in which nothing acknowledged was lost, and an error only when it
// cannot go on; it retries what can be retried.
type SourceTask interface {
	Run(ctx context.Context) error
}

// SourceRecord is what a task hands to the [Writer]. Exactly one field is set.
type SourceRecord struct {
	// Event is a statement about a user, for <prefix>.user-events.
	Event *schemas.UserEvent
	// DeadLetter describes a delivery that could not be understood, for
	// <prefix>.dead-letters.webhook.
	DeadLetter *DeadLetter
	// SnapshotEnd names a snapshot whose rows are all written. It becomes a
	// tick in every partition of <prefix>.user-events.
	SnapshotEnd string
	// Reread asks the snapshot task to read one user again.
	Reread *Reread
}

// DeadLetter describes a correctly signed delivery that could not be
// understood. It never holds the body: the policy cannot be applied to what
// cannot be read, and Svix keeps the body for replay.
type DeadLetter struct {
	EventID    string // svix-id
	ClerkID    string // the user it is about, so that he can be read again; "": not known
	EventType  string // Clerk's type, if it could be read
	Reason     string // a closed set: malformed_json, malformed_envelope, malformed_user, missing_id, too_far_ahead, too_large
	Bytes      int    // size of the body
	SHA256     string // of the body, hexadecimal
	Offset     int64  // byte position of the error in the body; -1: unknown
	ReceivedAt int64  // Unix milliseconds
}

// Reread asks for one user to be read again by id.
type Reread struct {
	ClerkID string `json:"-"` // in the key
	// IfVersion makes the re-read a repair that is dropped if the user's
	// position has moved. nil: the answer takes its place in the order like
	// any other statement.
	IfVersion   *int64 `json:"if_version,omitempty"`
	Reason      string `json:"reason"`       // tie, clock_ahead, unreadable, or a person's
	RequestedAt int64  `json:"requested_at"` // Unix milliseconds
	NotBefore   int64  `json:"not_before"`   // Unix milliseconds: read no earlier; 0: at once
}

// Keys of <prefix>.connect-state. Values are JSON.
const (
	StateKeyPins            = "pins"             // Pins
	StateKeySnapshotOffset  = "offset/snapshot"  // SourceOffset of the snapshot task
	StateKeySnapshotRequest = "request/snapshot" // a person's wish for a new snapshot
	StateKeyRereadPrefix    = "reread/"          // + Clerk ID: Reread
	StateKeyGapPrefix       = "gap/"             // + partition: Gap
	StateKeyPausePrefix     = "pause/"           // + sink: Pause; none: the sink runs
	StateKeyRestartPrefix   = "restart/"         // + sink: Restart
	StateKeyStatusPrefix    = "status/"          // + instance/sink: what that process says of the sink
)

// SourceOffset is how far the snapshot task has come, as it is kept in
// <prefix>.connect-state. Times are Unix milliseconds. The zero value means
// that no snapshot was ever begun.
type SourceOffset struct {
	Snapshot      string `json:"snapshot"`       // id of the walk
	After         string `json:"after"`          // Clerk ID of the last row written
	AfterCreated  int64  `json:"after_created"`  // its created_at
	Users         int64  `json:"users"`          // rows written so far
	Total         int64  `json:"total"`          // what Clerk counted at the start
	StartedAt     int64  `json:"started_at"`     // Clerk's clock
	FinishedAt    int64  `json:"finished_at"`    // 0: still under way
	PolicyHash    string `json:"policy_hash"`    // of the policy the rows were written under
	Request       string `json:"request"`        // what asked for it: initial, gap, policy, or the request's id
	LastCompleted int64  `json:"last_completed"` // StartedAt of the last walk that was finished; 0: none
}

// SnapshotRequest is a person's wish for a new snapshot.
type SnapshotRequest struct {
	ID          string `json:"id"`
	RequestedAt int64  `json:"requested_at"` // Unix milliseconds
}

// Gap says that the sequencer found its offset before the start of the log:
// events were lost to retention, and a snapshot has to make up for them.
type Gap struct {
	Committed int64 `json:"committed"` // the offset it wanted; -1: the group had none
	LogStart  int64 `json:"log_start"`
	FlaggedAt int64 `json:"flagged_at"` // Unix milliseconds
}

// Pins are what must not change under a running deployment.
type Pins struct {
	Partitions int32             `json:"partitions"`
	InstanceID string            `json:"instance_id,omitempty"` // Clerk's ins_...
	Epoch      int32             `json:"epoch"`
	TopicIDs   map[string]string `json:"topic_ids,omitempty"` // topic name to id
}

// Pause is a person's wish that a sink stands still, in every process that
// runs it.
type Pause struct {
	Since int64  `json:"since"` // Unix milliseconds
	By    string `json:"by,omitempty"`
	// Reason is a person's words.
	Reason string `json:"reason,omitempty"`
	// KeepErasing lets erasures go on.
	KeepErasing bool `json:"keep_erasing,omitempty"`
}

// Restart is a person's wish that every process that runs a sink closes it and
// opens it again, once.
type Restart struct {
	RequestedAt int64  `json:"requested_at"` // Unix milliseconds
	By          string `json:"by,omitempty"`
}
