package schemas

// EventOperation says what a [UserEvent] states.
type EventOperation string

// The operations of a [UserEvent].
const (
	// EventUpsert states what a user looks like.
	EventUpsert EventOperation = "UPSERT"
	// EventDelete states that a user is gone for ever: a signed user.deleted,
	// or an erasure that a person asked for.
	EventDelete EventOperation = "DELETE"
	// EventInferredDelete is reconciliation's conclusion that a user is gone.
	EventInferredDelete EventOperation = "INFERRED_DELETE"
	// EventRevoke is a person's word that lifts an inferred deletion; it
	// carries the state that Clerk shows.
	EventRevoke EventOperation = "REVOKE"
)

// Origin says on which way a statement came in.
type Origin string

// The origins of a statement.
const (
	OriginWebhook   Origin = "WEBHOOK"   // a Svix delivery
	OriginSnapshot  Origin = "SNAPSHOT"  // a row of a walk over the Backend API
	OriginReconcile Origin = "RECONCILE" // a comparison of a walk with the topic
	OriginRepair    Origin = "REPAIR"    // a re-read of one user by id
	OriginRequest   Origin = "REQUEST"   // a person's command
)

// ChangeOperation says how a [UserChange] came about; Debezium's r, c and u.
type ChangeOperation string

// The operations of a [UserChange]. A deletion is a tombstone and has none.
const (
	ChangeSnapshot ChangeOperation = "SNAPSHOT"
	ChangeCreate   ChangeOperation = "CREATE"
	ChangeUpdate   ChangeOperation = "UPDATE"
)

// Outcome says how a sink paid an erasure.
type Outcome string

// The outcomes of an erasure.
const (
	OutcomeDeleted     Outcome = "DELETED"
	OutcomeSoftDeleted Outcome = "SOFT_DELETED"
	OutcomeAnonymized  Outcome = "ANONYMIZED"
	OutcomeNotPresent  Outcome = "NOT_PRESENT"
)

// Version orders the changes of one user: first by Epoch, then by Number. The
// zero value is before every version of a record. Versions of different users
// mean nothing to each other.
type Version struct {
	Epoch  int32 // rises when the topics are rebuilt: minutes since 1970 when they were pinned
	Number int64 // strictly rising per user within an epoch, near Unix milliseconds
}

// Compare returns -1, 0 or +1 as v is before, equal to or after w.
func (v Version) Compare(w Version) int {
	switch {
	case v.Epoch != w.Epoch:
		if v.Epoch < w.Epoch {
			return -1
		}
		return 1
	case v.Number < w.Number:
		return -1
	case v.Number > w.Number:
		return 1
	}
	return 0
}

// UserEvent is one accepted statement about one Clerk user. See
// user_event.avsc for its fields. Times are Unix milliseconds.
type UserEvent struct {
	ClerkID     string         `avro:"clerk_id"`
	Operation   EventOperation `avro:"operation"`
	Origin      Origin         `avro:"origin"`
	EventID     string         `avro:"event_id"`
	EventType   string         `avro:"event_type"`
	InstanceID  string         `avro:"instance_id"`
	UpdatedAt   int64          `avro:"updated_at"`
	StatedAt    int64          `avro:"stated_at"`
	OccurredAt  int64          `avro:"occurred_at"`
	ReceivedAt  int64          `avro:"received_at"`
	Fingerprint int64          `avro:"fingerprint"`
	IfVersion   *int64         `avro:"if_version"`
	Snapshot    *string        `avro:"snapshot"`
	PolicyHash  string         `avro:"policy_hash"`
	ClientIP    *string        `avro:"client_ip"`
	UserAgent   *string        `avro:"user_agent"`
	User        *User          `avro:"user"` // nil for deletions
}

// UserChange is the latest state of one Clerk user. See user_change.avsc for
// its fields. Times are Unix milliseconds.
type UserChange struct {
	ClerkID     string          `avro:"clerk_id"`
	Operation   ChangeOperation `avro:"operation"`
	Epoch       int32           `avro:"epoch"`
	Version     int64           `avro:"version"`
	EventID     string          `avro:"event_id"`
	EventType   string          `avro:"event_type"`
	Origin      Origin          `avro:"origin"`
	InstanceID  string          `avro:"instance_id"`
	OccurredAt  int64           `avro:"occurred_at"`
	ReceivedAt  int64           `avro:"received_at"`
	SequencedAt int64           `avro:"sequenced_at"`
	PolicyHash  string          `avro:"policy_hash"`
	ClientIP    *string         `avro:"client_ip"`
	UserAgent   *string         `avro:"user_agent"`
	User        User            `avro:"user"`
}

// Flags of a [Position].
const (
	FlagDeleted  int32 = 1 << 0 // the user is deleted
	FlagInferred int32 = 1 << 1 // the deletion was inferred and may be taken back
)

// Position is where the sequencer stands with one user. Internal: consumers
// read [UserChange]. Times are Unix milliseconds.
type Position struct {
	UpdatedAt   int64 `avro:"updated_at"`
	StatedAt    int64 `avro:"stated_at"`
	Fingerprint int64 `avro:"fingerprint"`
	Version     int64 `avro:"version"`
	Epoch       int32 `avro:"epoch"`
	Flags       int32 `avro:"flags"`
}

// Erasure is the demand that every sink removes one user. It holds no personal
// data. Times are Unix milliseconds.
type Erasure struct {
	ClerkID     string `avro:"clerk_id"`
	Epoch       int32  `avro:"epoch"`
	Version     int64  `avro:"version"`
	Origin      Origin `avro:"origin"`
	Inferred    bool   `avro:"inferred"`
	EventID     string `avro:"event_id"`
	RequestedAt int64  `avro:"requested_at"`
	SequencedAt int64  `avro:"sequenced_at"`
}

// Receipt is a sink's word that it has paid an erasure. It holds no personal
// data. Times are Unix milliseconds.
type Receipt struct {
	ClerkID     string  `avro:"clerk_id"`
	Sink        string  `avro:"sink"`
	Epoch       int32   `avro:"epoch"`
	Version     int64   `avro:"version"`
	Outcome     Outcome `avro:"outcome"`
	DoneAt      int64   `avro:"done_at"`
	ConfirmedAt *int64  `avro:"confirmed_at"`
	// Reason is why Outcome is what it is, where the sink had a choice; nil
	// where it had none.
	Reason *string `avro:"reason"`
	// WaivedAt is when a person decided, while the erasure was held back, that
	// this sink keeps the user. Outcome then means nothing.
	WaivedAt *int64 `avro:"waived_at"`
}
