// Package schemas is the contract of clerk-connect: what is on its topics, and
// nothing about how it comes there.
//
// It holds the Avro schemas (the .avsc files are the source of truth), the Go
// types that mirror them, the [Codec] between the two, the names and keys of
// the topics, the headers of their records and the rule that puts a user into
// a partition. A program that imports this package alone can read
// <prefix>.users; see the example of [Codec.Decode].
//
// The package imports nothing else of this module. Its two subpackages serve
// both ends of the pipe: [clerkconnect/schemas/compacted] reads a compacted
// partition to its end, and [clerkconnect/schemas/transact] runs the
// exactly-once owner of partitions that the sequencer and every sink are.
//
// The three rules that consumers rely on:
//
//   - A record's key is the Clerk ID, its partition is [Partition] of that ID,
//     and a null value means that the user is deleted. The one other key is
//     [TickKey]; ignore its records.
//   - [Version] rises strictly per user. A consumer that compares versions is
//     right whatever it has seen before.
//   - Records are written in transactions: read with isolation read_committed.
package schemas
