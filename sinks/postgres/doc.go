// Package postgres keeps Clerk's users in a table of PostgreSQL 13 or later: one
// of its own making, or the application's. README.md shows both.
//
// # One round trip
//
// Apply sends one pipeline: BEGIN, advance the side table, delete or overwrite
// the erased, upsert, COMMIT. The server therefore never waits for the sink
// inside of a transaction, so that a sink that is paused, or whose machine dies,
// holds no lock. What moved is not sent back and forth: a row of the side table
// has moved exactly if this transaction wrote it, which its xmin tells.
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
// # A unique key refuses
//
// Then a second transaction, of several steps, settles who may have what, by
// the rules of package usertable. The catalogue says which keys there are, and
// PostgreSQL itself is asked which values a key holds for equal: the rows as
// they would be are put through the expressions, the condition, the collations
// and the operators of the index. Keys that are added while the sink runs are
// found when they refuse; batches that no key refuses pay nothing. The server
// ends such a transaction when nothing comes for as long as a statement may
// take, so that a process that is paused in it holds no lock for good.
//
// Only there does the guard of a user exist before he is written: with version
// 0, which is as good as none.
//
// # Names
//
// Every name is qualified, and what is taken from the catalogue was read with
// an empty search_path, so that it means the same in every session. The
// search_path itself stays as it is, for the application's triggers.
//
// # Prepared statements
//
// The sink's few statements are prepared once for each connection, unless the
// process that answers is another than the one that greeted: then a pooler
// stands between, and statements are sent without a name (cache_describe), as
// PgBouncer before 1.21 needs it. default_query_exec_mode in the connection
// string goes before what was found.
//
// # Settings of the server that are overruled
//
// Each transaction sets its isolation level, its statement_timeout, and
// synchronous_commit if it is off: the offset is committed after the batch, so
// the batch must be durable before.
package postgres
