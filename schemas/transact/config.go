package transact

import (
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Ownership is what an owner has of its group.
type Ownership struct {
	// Joined: the group has told this member what it owns, nothing perhaps.
	Joined bool
	// Owned are the partitions assigned, Ready those of them that are restored.
	Owned, Ready []int32
}

// Config says what to own and as whom.
type Config struct {
	// Client are the options that name the brokers and the security.
	Client []kgo.Opt
	// Topic is what is consumed, Group the consumer group. A new group starts
	// at the earliest offset.
	Topic, Group string
	// TransactionalID must be stable per instance, so that a restart ends what
	// its predecessor left open at once, and unique among live ones.
	TransactionalID string
	// MaxRecords of one transaction, at least 1.
	MaxRecords int
	// SessionTimeout of the group and timeout of transactions. 0 means 10 s:
	// a paused owner holds up every read_committed reader for this long.
	SessionTimeout time.Duration
	// Logger must not be nil.
	Logger *slog.Logger
	// OnTransaction, if set, is told of every transaction: how many input
	// records, whether it committed, and how long it took to end.
	OnTransaction func(records int, committed bool, took time.Duration)
	// OnOwned, if set, is told what is owned, whenever that changes.
	OnOwned func(Ownership)
	// Progress, if set, is kept up to date.
	Progress *Progress
	// Heartbeat, if set, is kept up to date.
	Heartbeat *Heartbeat
	// Limit, if set, says before each poll how many records Process takes now:
	// at least 1, and of it and MaxRecords the lower counts.
	Limit func() int
	// Hold reads no records: the partitions are owned and restored, and a Waker
	// is called when it is due.
	Hold bool
	// CommitLock, if set, is held from the begin to the end of a transaction.
	// The embedded broker compacts under it, because its compaction ignores
	// open transactions.
	CommitLock sync.Locker
}

const (
	defaultSessionTimeout = 10 * time.Second
	restoreRetry          = time.Second
	ghostSessions         = 3 // session timeouts until it is clear who has fenced us
	maxRestores           = 4 // at once, so that a start does not read twelve partitions side by side
	wakerInterval         = 2 * time.Second
	againWait             = 100 * time.Millisecond // for records that may help those to be processed again
	againBatches          = 10                     // times MaxRecords in one transaction at most

	// fetchMaxWait is the default of Kafka's Java consumer. A partition that
	// becomes ready joins the next fetch, so it waits for the one under way:
	// up to 5 s by franz-go's default.
	fetchMaxWait = 500 * time.Millisecond

	// maxRecordBytes is Kafka's default message.max.bytes: what one topic could
	// take must fit into the next. franz-go's own default is smaller.
	maxRecordBytes = 1_048_588
)
