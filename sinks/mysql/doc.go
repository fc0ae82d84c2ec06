// Package mysql keeps Clerk's users in a table of MySQL 8.0 or later, or of
// MariaDB 10.6 or later.
//
// # One transaction
//
// Apply reserves and locks the batch's rows of the side table, in the order of
// their ids, lets [sinks.Guard] decide which of them move, and touches the
// users of those alone. The rows exist before they are locked, because under
// READ COMMITTED a row that is not there cannot be locked, and under REPEATABLE
// READ the locks on gaps that stand in for it run into each other. No
// statement has a form that only one of the two servers knows: no RETURNING,
// and VALUES(column) where MySQL alone would have an alias.
//
// A user who is not there is inserted plainly. ON DUPLICATE KEY UPDATE is for
// those who are: it does not say which key was the duplicate, so that a user
// with the e-mail address of another would be written into that one's row. For
// the same reason id must be the primary key, which InnoDB looks at first.
//
// # A process that is paused
//
// within a transaction holds its locks. The server takes them away when it has
// heard nothing for LOCK_TIMEOUT (wait_timeout), so that is how long a new
// owner of the partition may be kept from the same users.
//
// # Types
//
// Text is LONGTEXT: Clerk states no lengths, and strict mode refuses what does
// not fit. JSON is LONGTEXT too, and not JSON: MySQL keeps numbers of that type
// as doubles, which changes those over 2^53, and MariaDB has no such type, only
// a check that refuses what is nested deeper than 32. The functions of both
// (JSON_EXTRACT, JSON_TABLE) take text. Times are DATETIME(3), in UTC: TIMESTAMP
// ends in 2038. A Clerk ID is VARCHAR(255) that compares byte for byte. An index
// on a text needs a length: CREATE INDEX ... ON clerk_users (email(191)).
//
// # Erasure
//
// The row is deleted; InnoDB clears the space it took when it purges, and the
// binary log, undo log and backups keep it as long as they are kept.
//
// # Settings of the server
//
// Each session sets its character set, sql_mode, time zone and timeouts. What a
// session cannot set: innodb_flush_log_at_trx_commit must be 1 (the default), or
// a crash of the server loses batches whose offset is committed. A replica that
// is promoted must have everything for the same reason (semi-synchronous
// replication). Statements are split by max_allowed_packet.
package mysql
