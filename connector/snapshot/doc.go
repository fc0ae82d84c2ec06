// Package snapshot is the source task that reads Clerk's Backend API: it walks
// all users into <prefix>.user-events, and reads single users again when asked.
//
// What is promised:
//
//   - Users that exist throughout a walk are in it, whatever is created or
//     deleted meanwhile; see listing. An answer that is not what Clerk
//     describes is a failure, never "no users".
//   - One task is at work across all processes: the one that owns the partition
//     of <prefix>.connect-state in the group <prefix>.snapshot. Offsets are
//     never committed: the topic is the state, read from its start each time.
//   - A walk goes on from its checkpoint after a restart, on whichever process.
//     What was written after the checkpoint is written again, which the
//     sequencer drops.
//   - Clerk being down, slow or wrong never ends the process: requests are
//     retried, then the walk pauses and goes on.
//
// A walk begins when there was none, when the sequencer has flagged a gap, when
// the policy has changed, and when a person asks ([Request]). Deletions are not
// inferred: a user that is not listed, or not found by a re-read, stays.
package snapshot
