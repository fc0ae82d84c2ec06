// Package postgres keeps Clerk's users in a table of PostgreSQL 13 or later.
//
// # One round trip
//
// Apply sends one pipeline: BEGIN, advance the side table, delete, upsert,
// COMMIT. The server therefore never waits for the sink inside of a
// transaction, so that a sink that is paused, or whose machine dies, holds no
// lock. What moved is not sent back and forth: a row of the side table has
// moved exactly if this transaction wrote it, which its xmin tells.
//
// The statements are separate because each takes its own snapshot (READ
// COMMITTED). One statement with data-modifying WITH clauses would wait for a
// rival's lock and then still not see the user whom that rival has just
// inserted: a deletion would leave the row behind.
//
// Ids are sorted, so that two transactions that share some lock them in the
// same order; neither a trigger nor a unique key of the application's can be
// kept out of a deadlock that way, hence the retry.
//
// # Prepared statements
//
// The sink's few statements are prepared once for each connection. A PgBouncer
// before 1.21 that pools transactions forgets them: add
// default_query_exec_mode=cache_describe to the connection string.
//
// # Listing
//
// Keys must be in the order of their bytes. Each page reads the table unless
// there is an index for it, which a table of millions of users wants:
//
//	CREATE INDEX ON clerk_users (id COLLATE "C");
//
// The key itself is not declared so, because joins with columns of an
// application's could then not use that application's indexes.
//
// # Erasure
//
// The row is deleted; the space it took is cleared by VACUUM, and the
// write-ahead log and backups keep it as long as they are kept.
//
// # Settings of the server that are overruled
//
// Each transaction sets its isolation level, its statement_timeout, and
// synchronous_commit if it is off: the offset is committed after the batch, so
// the batch must be durable before.
package postgres
