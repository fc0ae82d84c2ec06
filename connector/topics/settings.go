package topics

import "strconv"

// Topic is one topic as it has to be.
type Topic struct {
	Name       string
	Key        string // what its records are keyed by, for people
	Value      string // what its records hold, for people
	Partitions int32
	Settings   []Setting
}

// Setting is one setting of a topic in Kafka's words.
type Setting struct{ Name, Value string }

const cleanupPolicy = "cleanup.policy"

const day = 24 * 60 * 60 * 1000 // milliseconds

func milliseconds(name string, ms int64) Setting {
	return Setting{name, strconv.FormatInt(ms, 10)}
}

// Times of the table. A log keeps 14 days, so that a sequencer may stand still
// over a holiday, and Svix's 27 h 35 min of retries fit in it many times. On
// <prefix>.users the least lag lets a consumer that is at most a day behind see
// every change, the greatest one has what was overwritten or erased really gone
// within days, and tombstones stay for a consumer that is away for a month.
//
// Records that hold a user may be as large on each topic of their way: one that
// the event log took and the next refused would stop its partition. The number
// is Kafka's default, which the writer leaves room below.
var (
	largest = Setting{"max.message.bytes", "1048588"}

	kept    = []Setting{{cleanupPolicy, "delete"}, milliseconds(retentionTime, 14*day), milliseconds(segmentTime, day), largest}
	compact = []Setting{{cleanupPolicy, "compact"}}
	// Whoever begins reads it from its start, and every process writes its status
	// there: only closed segments are compacted.
	connectState = append(compact[:1:1], milliseconds(segmentTime, day))

	userEvents = append(kept[:4:4], Setting{"message.timestamp.type", "LogAppendTime"})
	users      = []Setting{
		{cleanupPolicy, "compact"},
		milliseconds(minLag, day),
		milliseconds(maxLag, 3*day),
		milliseconds(segmentTime, day),
		milliseconds("delete.retention.ms", 30*day),
		largest,
	}
	// remembered is what sinks remember of users: it goes as fast as the users.
	remembered = []Setting{
		{cleanupPolicy, "compact"},
		milliseconds(maxLag, 3*day),
		milliseconds(segmentTime, day),
	}
)

// Settings is the table of all topics of a deployment with these sinks.
func Settings(cfg Config, sinks []string) []Topic {
	names, n := cfg.Names(), cfg.Partitions
	table := []Topic{
		{names.ConnectState(), "part", "source offsets, snapshot progress, pins, status", 1, connectState},
		{names.UserEvents(), "Clerk ID", "UserEvent", n, userEvents},
		{names.Users(), "Clerk ID", "UserChange or null", n, users},
		{names.SequencerState(), "Clerk ID", "Position (internal)", n, compact},
		{names.Erasures(), "Clerk ID", "Erasure", n, compact},
		{names.ErasureReceipts(), "Clerk ID and sink", "Receipt", n, compact},
		{names.DeadLettersWebhook(), "svix-id", "nothing; headers say why", n, kept},
	}
	for _, sink := range sinks {
		table = append(table,
			Topic{names.SinkState(sink), "Clerk ID", "what the sink must remember", n, remembered},
			Topic{names.DeadLetters(sink), "as the record", "the record; headers say why", n, kept})
	}
	return table
}
