// Package mongodb keeps Clerk's users in a collection of MongoDB 5 or later,
// one nested document each. README.md shows the document.
//
// # Only our paths
//
// A user is written with $set and $unset of the paths that are ours, never by
// replacing the document, so that what the application keeps in the same
// document survives. The metadata is one value each (metadata.public and so on)
// and set as a whole: whatever the application writes inside of it is lost. An
// erasure deletes the whole document, unless DELETION says otherwise.
//
// # With transactions
//
// Where the deployment has transactions (a replica set or a sharded cluster),
// a batch is one: read the guards, advance those that [sinks.Guard] says move,
// write their users. Of two transactions that advance the same guard MongoDB
// lets one pass and tells the other to try again, so that a paused process
// that wakes up cannot overwrite what came after it.
//
// # Without transactions
//
// A single server cannot write two documents at once, so the sink writes,
// checks and undoes:
//
//  1. Each guard is advanced under the condition that it is still as it was
//     read.
//  2. The user is written under the condition that the version in the document
//     (the path clerkConnect, only there in this form) is no higher.
//  3. The guard is read again. If it has moved to a deletion, the user is deleted
//     again.
//
// A crash between 1 and 2 leaves a guard whose version the document lacks, so that
// the same change, delivered again, is not taken for one that was applied. One that
// comes again although its user was erased does 3. What remains: between 2 and 3
// a paused process has brought an erased user back until it wakes up, and if
// it dies there, for good. Confirm, which reads erasures back, tells.
package mongodb
