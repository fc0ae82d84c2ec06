// Package sequencer makes the compacted topic <prefix>.users out of the append
// log <prefix>.user-events: it orders, de-duplicates and fences, exactly once.
//
// Svix does not order deliveries, and compaction keeps the last record, not
// the newest, so nobody but the sequencer may write to the compacted topic.
// One process owns each partition (a consumer group decides which); it knows
// the [schemas.Position] of every user of its partitions, puts each event into
// that user's order, and writes what follows from it, the new position and the
// input offset in one transaction.
//
//   - order.go is the judgement, a pure function;
//   - positions.go is the memory;
//   - sequencer.go reads, judges and writes, over package transact;
//   - gaps.go notices that events were lost to retention.
//
// A restart, a rebalance and a failed transaction all end the same way: the
// memory is dropped and restored from <prefix>.sequencer-state, which is the
// only thing it is ever restored from.
package sequencer
