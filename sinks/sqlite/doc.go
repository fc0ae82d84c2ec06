// Package sqlite keeps Clerk's users in a table of an SQLite file, through a
// driver without cgo.
//
// # Durability
//
// The file is in WAL mode with synchronous=FULL: when Apply returns, the batch
// survives a power failure, as it must, because the offset is committed after
// it. One connection writes; any number of others may read meanwhile.
//
// # Erasure
//
// A removed row is overwritten (secure_delete=ON), as is what a row held before
// it was made anonymous, and the write-ahead log is emptied behind it, so that
// the file no longer holds what it held. A reader that keeps a transaction open
// delays the latter until the next erasure or the next automatic checkpoint.
//
// # Refusals
//
// A batch is written as if nothing could be refused. When something is, the
// transaction is rolled back and a second one writes each record within a
// savepoint: SQLite undoes a refused statement and goes on, so that only those
// fail that are to blame. What users claim of a unique key is decided there, by
// a query that SQLite answers with its own collations, expressions and
// predicates (see settle).
//
// # Types
//
// JSON is TEXT; booleans are INTEGER 0 and 1; times are TEXT such as
// 2026-01-31T09:30:00.125Z, always UTC with three digits of the second, so that
// they sort as they are, SQLite's date functions take them, and a person can
// read them. Applications have other habits, hence TIME_FORMAT.
package sqlite
