// Package runner runs a sink: everything that all destinations have in common
// stands here once, so that a sink does only what is particular to its own.
//
// A [Runner] guarantees, for any [sinks.Sink] that keeps its contract:
//
//   - The destination converges to <prefix>.users through crashes, rebalances,
//     partial failures and repetitions. Offsets, receipts, what the sink
//     remembers and dead letters are committed in one transaction, and only
//     after the destination has acknowledged the records.
//   - An erasure is never dropped. What the sink owes is known whenever a
//     partition is assigned: the erasures asked for less the sink's receipts,
//     also if the tombstone has been compacted away.
//   - A receipt says what was read back, where the sink can ([sinks.Confirmer]):
//     an erasure that is not confirmed is repeated, for ever. Repetitions do not
//     change how and when the receipt says it was done.
//   - During an outage nothing is given up. A record is dead-lettered only if
//     the sink calls it permanent, or if it fails alone, often, and while
//     others are applied. Until then log and [Status] name it.
//   - A record that needs what another user still holds holds up nobody: after a
//     second further records are taken in, of whatever partition, since the one
//     that lets go may be among them. If it does not come within MaxAttempts, the
//     dead letter names both users.
//   - One broken sink slows no other and ends no process: a fatal error stops
//     the consuming of this sink alone, and it is opened again from time to
//     time, since what is mended at the destination needs no restart here.
//
// The way of one batch (one call of the transaction's Process):
//
//	records -> decode -> plan (fold, drop what an erasure supersedes, hold back) -> rounds
//	        -> delivery (calls, retries, isolation) -> read back -> receipts, states, dead letters
//
// # The way of one erasure
//
//	owed -> held, until Config.EraseAfter has passed since it was asked for -> done, with a receipt
//	     -> confirmed, Capabilities.ConfirmAfter later; what the sink remembers of the user is forgotten
//
// With ConfirmAfter 0 the last two are one: there is no receipt without a
// confirmation. All of it is restored from <prefix>.erasures and the sink's
// receipts; no wait is lost with a process.
//
// Where every change counts ([sinks.Capabilities].EveryChange) the changes that
// stand before an erasure are given to the sink first, also if it was demanded
// while the sink was away (ahead.go): what is owed waits until the user's last
// record in the topic is applied, which is his tombstone if that is still
// there, and for nothing if nothing of him is left. To a sink that is paused but
// for its erasures each brings its user's changes along. All other sinks are not
// given them: a stale change must not come near the user.
//
// # Words from outside
//
// People change what a sink owes by writing to <prefix>.erasure-receipts, also
// while it runs, with the key [schemas.ReceiptKey] (user, sink) and in the
// partition of the user ([schemas.Partition]), without headers:
//
//   - A receipt with WaivedAt, the epoch and version of the erasure, and outcome
//     NOT_PRESENT: the sink keeps the user. The erasure is not owed any more;
//     what Clerk said of the user before stays unsent, but where every change counts. A later demand is owed anew.
//   - A tombstone: the receipt, or the waiver, is taken back. The erasure is owed
//     again and repeated, as after a backup of the destination was restored.
//
// A running sink acts on it within seconds: it follows the topic (words.go) and
// reads the partition again, as if it had just been assigned. Before an erasure
// that was held back is done, its partition is read again in any case, so that a
// waiver which was committed before the time counts. A runner's own receipts
// carry the offset up to which it had heard such words, so that one which
// crosses a tombstone does not undo it.
//
// # Dead letters, and trying them again
//
// The protocol is that of package deadletters. A letter closes by itself when
// something newer of its user is applied or given up, or when he is erased: in the
// same transaction, and none is written where that is in the same batch. So what
// is open has nothing newer at the destination, but for what was applied and not
// committed, and that is read again first; and a word that it is to be tried again
// cannot bring an old state back, whether the destination can compare or not, nor
// an erased user. What is tried again goes into a batch before what was read of
// the user, like any record; its answer, or the letter that takes its place, is
// committed with the batch. Where every change counts
// ([sinks.Capabilities].EveryChange) a newer change closes nothing.
//
// # Pause and restart
//
// [Runner.SetPause] lets a sink stand still. It stays a member of its group and
// restores its partitions, so that its lag and its debts are seen, but reads no
// records; what it owes is read from the topics now and then.
//
// # What is remembered
//
// <prefix>.sink-state.<name> has what the sink remembers of each user and, beside
// it as headers, the version that was applied last. So where the destination
// cannot compare, nothing older than that is sent, whoever brings it. Under a
// key of its own each partition has the moment that the sink was first run,
// written by its owner, once; of two processes that began at once the earlier
// counts. [sinks.Record].New compares Clerk's created_at with it, and is true
// until a first result is committed: for a sink that is [sinks.Paced] a user of
// whom it remembers nothing is kept as known for that. One who was skipped is
// still new when the destination takes him.
//
// A note ([sinks.ErrRememberFirst]) is committed while its batch goes on, when
// nothing else is left to do, with others of the batch: in a transaction that
// commits the group's offsets where they are. So the record comes again after a
// crash, and the successor, who restores after that transaction has ended, sees
// the note; and a process that has lost its partitions cannot commit one over
// what its successor remembers, since the group refuses its offsets. That a note
// was written is no result: the version stays, and the user is still new.
//
// # Zombies
//
// A process that was paused may go on with a call while another owns its users.
// No call begins, and no request of a sink that is Paced, unless the group has
// answered a heartbeat that was sent less than half a session timeout ago. Users
// whose erasure is demanded while they are in hand are not sent (erased.go). It
// cannot be perfect: who is paused between that look and the request sends it
// all the same. What heals it is the read-back of an erasure, ConfirmAfter later.
//
// # Limits
//
// Requests are paced over golang.org/x/time/rate (pace.go), whose rate can be
// changed while it is used; each process takes of the account's limit what it
// owns of the partitions. A transaction of a Paced sink is fitted to about ten
// seconds of work, so that a crash repeats little (size.go); what calls sleep until
// a tool has carried something out is none. After a failure
// calls are made one at a time, each after a wait that doubles, with full
// jitter: a circuit breaker whose state is in [Status] and a metric. A library,
// failsafe-go, was weighed for it: its breaker waits as long each time, its rate
// limiter cannot be changed nor told what a destination says, and its budget
// counts only what runs inside of its own retries, while ours are decided record
// by record. Retries of all sinks share a [RetryBudget].
//
// # Receipts of others
//
// A sink with Capabilities.Receipts is given them by a second consumer, in the
// group <prefix>.sink.<name>.receipts, with the same delivery.
//
// File map: runner.go the life of a sink; process.go one batch from end to end;
// decode.go what a record says; plan.go what is to be applied; delivery.go how it
// gets there; settle.go what is made of the answers; pace.go, size.go and
// retries.go limits; confirm.go how erasures are read back; memory.go what is
// known of a partition; state.go what sinks remember; states.go and paid.go the
// tables in which that, and what stays of erasures, is kept; erased.go who is
// erased meanwhile; ahead.go what comes before an erasure where every change
// counts; words.go what people write; letters.go dead letters that are tried
// again; wish.go pause and restart; output.go what is written to Kafka; status.go
// and metrics.go what is seen from outside.
package runner
