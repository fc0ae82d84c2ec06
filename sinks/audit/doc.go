// Package audit keeps an append-only log of what happened to Clerk's users, in
// PostgreSQL, MySQL or MariaDB, SQLite or MongoDB: one row for each change, for
// each demand to erase a user, and for what each other sink did about it. Its
// rows name the fields that changed and never hold a value, so that the log may
// stay when the user goes.
//
// # Chains
//
// The rows of one partition of a topic are a chain: each holds the hash of the
// one before it and its own ([Row.Digest]). users-3 is the chain of partition 3
// of <prefix>.users, receipts-3 that of <prefix>.erasure-receipts, which another
// process may own. A row that is removed, edited, moved or slipped in breaks
// its chain; one that is cut off at the end is missed against a head that was
// kept elsewhere ([Log.Heads], [VerifyOptions]).
//
// The end of a chain is read, and the next row is written behind it, with
// (chain, seq) unique. Of two processes that have read the same end one is
// refused, and begins anew: no lock is needed, none can be held by a process
// that was paused, and no chain forks. All that is decided by reading the log,
// whether a user is erased above all, holds for the same reason: whoever
// appended in between has taken the place.
//
// A process goes on from what it has written itself, if that is more than it
// finds: rows that are cut off while it runs leave a gap behind.
//
// # Once
//
// Delivery is at least once, a row is written once: its entry, made of what the
// row says and not of when it came, is unique.
//
// # Personal data
//
// The client's IP address and user agent, where the policy keeps them, stand in
// a table of their own, from which an erasure removes them. The row holds a
// hash of them and of a random salt that stands, and goes, with them: so nobody
// can alter them unseen, and nobody can try addresses against what is left.
//
// # Names of changed fields
//
// come from fingerprints of the user's fields that the runner keeps for the
// sink (fields.go says what they give away). A sink that begins in the middle of
// a user's life does not know what changed first: null, not nothing.
//
// # MongoDB without transactions
//
// Client data are written before their rows, and removed again if the rows are
// refused. A process that dies in between, while another applies the erasure of
// the same user, leaves them behind. A replica set has transactions.
//
// File map: audit.go the sink; append.go one batch; entry.go records as rows;
// row.go rows and their hashes; fields.go fingerprints; store.go what a database
// must do; sql.go with postgres.go, mysql.go, sqlite.go, and mongodb.go do it;
// errors.go the classes of their errors; verify.go the reader.
package audit
