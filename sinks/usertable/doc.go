// Package usertable is what the SQL sinks have in common: the columns of the
// users table, how a user becomes values that every database takes, and the
// statements that PostgreSQL and SQLite both understand. It is no sink.
//
// # Two tables
//
// The users table (clerk_users) has a column for each field of [schemas.User]
// and the key id; what the privacy policy leaves out is null. Statements name
// these columns only, so the table may carry an application's own columns
// beside them.
//
// The side table clerk_connect_versions (id, epoch, version, deleted) is the
// [sinks.Guard] of each user. A transaction advances it first, with
// [AdvanceClause], and only the ids that moved touch the users table. Its row
// locks make a paused process that wakes up with an old batch wait its turn
// and then lose. Whoever empties one of the two tables must empty both.
//
// # Clean text
//
// PostgreSQL stores neither U+0000 nor half of a surrogate pair, and SQLite's
// tools cut text at U+0000. In values and inside of JSON both become U+FFFD,
// the replacement character, as does what is not UTF-8.
package usertable
