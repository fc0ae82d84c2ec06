// Package customerio keeps people of a Customer.io workspace equal to Clerk's
// users, by the Track API (v2). The App API is asked who is there before a part of
// somebody is written, and erasures are read back by it.
//
// A person's id at Customer.io is the Clerk ID, so that creating, changing and a
// change of the address are one call, identify, which may be repeated. Calls go in
// batches: what is wrong with one operation is said of that one alone.
//
// Customer.io answers when it has queued a change, not when it has made it. A
// person that is gone is therefore read back later (CONFIRM_AFTER).
package customerio
