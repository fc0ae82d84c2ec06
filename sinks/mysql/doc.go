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
// A user who is not there is inserted plainly, and one who is there is written
// by an UPDATE joined with the given rows, found by the Clerk ID alone. ON
// DUPLICATE KEY UPDATE does not say which key was the duplicate: a user with the
// e-mail address of another would be written into that one's row, and an INSERT
// wants every column of the application's filled. It is used for the default
// table alone, whose primary key, which InnoDB looks at first, is the Clerk ID.
//
// # A unique key that another user still holds
//
// is found by its refusal: the transaction is rolled back, and a second one has
// the server say who holds what is claimed, and which of the values it holds for
// equal, before it writes. The rules are those of package usertable. Guards of
// holders who are not in the batch are locked out of order, and two that do so
// may deadlock, which is repeated.
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
// The rows of erased users are locked before other tables are searched for rows
// that refer to them, so that a row with a foreign key either is seen or waits
// for the erasure to end. InnoDB clears the space of a deleted row when it
// purges; the binary log, undo log and backups keep it as long as they are kept.
//
// # Settings of the server
//
// Each session sets its character set, sql_mode, time zone and timeouts. What a
// session cannot set: innodb_flush_log_at_trx_commit must be 1 (the default), or
// a crash of the server loses batches whose offset is committed. A replica that
// is promoted must have everything for the same reason (semi-synchronous
// replication). Statements are split by max_allowed_packet.
package mysql
