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
// A removed row is overwritten (secure_delete=ON), and the write-ahead log is
// emptied behind it, so that the file no longer holds what it held. A reader
// that keeps a transaction open delays the latter until the next erasure or
// the next automatic checkpoint.
//
// # Types
//
// JSON is TEXT; booleans are INTEGER 0 and 1; times are TEXT such as
// 2026-01-31T09:30:00.125Z, always UTC with three digits of the second, so that
// they sort as they are, SQLite's date functions take them, and a person can
// read them.
package sqlite
