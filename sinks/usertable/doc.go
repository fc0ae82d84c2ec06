// Package usertable is what the SQL sinks have in common: the settings of the
// users table, the plan that they come to, who has a unique value ([Settle]),
// what an erasure comes to ([Deletion.Fate]) and what sink init makes
// ([Plan.Steps]). It is no sink, and knows no driver. What a column is given of
// a user is an expression of package mapping. Package usertabletest is what must
// be true of an application's table whatever the sink is given.
//
// # Two tables
//
// The users table is one of ours (clerk_users, a column for each field of
// [schemas.User] and the key id; what the privacy policy leaves out is null) or
// one that the application has (COLUMNS). Statements name the columns of the
// [Plan] only, so the table may carry columns of the application's beside them.
//
// The side table clerk_connect_versions (id, epoch, version, deleted) is the
// [sinks.Guard] of each user. A transaction advances it first, with
// [AdvanceClause], and only the ids that moved touch the users table. Its row
// locks make a paused process that wakes up with an old batch wait its turn
// and then lose. Whoever empties one of the two tables must empty both.
//
// # A unique key that another user still holds
//
// Clerk lets no two users have the same verified e-mail address, but an address
// moves: its user is deleted and somebody signs up with it, or two users swap
// theirs. The changes of two users may come in either order, from two
// partitions. Where a column of ours is unique, the address goes to the user
// whose change is newer, by the versions of the side table; a deleted user holds
// none:
//
//   - The other's claim is older, or he is deleted: his column becomes
//     [Column.Vacant] in the same transaction. His own next change, which must
//     be on its way, gives him what he has now.
//   - The other's claim is newer, or nothing is known of him: the row in hand is
//     written with its own column vacant, so that it stands in nobody's way, its
//     guard is not advanced, and the record fails with [sinks.HeldBy]: it is
//     tried again until the other lets go, and in the end it is a dead letter
//     that names both.
package usertable
