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
//   - During an outage nothing is given up. A record is dead-lettered only if
//     the sink calls it permanent, or if it fails alone, often, and while
//     others are applied.
//   - One broken sink slows no other and ends no process: a fatal error stops
//     the consuming of this sink alone, and it is opened again from time to
//     time, since what is mended at the destination needs no restart here.
//
// The way of one batch (one call of the transaction's Process):
//
//	records -> decode -> plan (fold, drop what an erasure supersedes) -> rounds
//	        -> delivery (calls, retries, isolation) -> receipts, states, dead letters
//
// File map: runner.go the life of a sink; process.go one batch from end to end;
// plan.go what is to be applied; delivery.go how it gets there; memory.go what
// is known of a partition; output.go what is written to Kafka; status.go and
// metrics.go what is seen from outside.
package runner
