// Package httpsink keeps any service that is spoken to over HTTP equal to Clerk's
// users, by configuration alone: its calls are declared as a method, a path and a
// body, the last two as templates over the record.
//
// There are two ways to write a user. UPSERT is one call, of one user or of a
// batch, to a service that is keyed by the Clerk ID and takes a repetition. CREATE
// and UPDATE are for a service that refuses or repeats what is there: then FIND
// looks for the Clerk ID before anybody is created, so that a call whose answer was
// lost in a crash makes no second contact.
//
// Without CONFIRM the sink is no [sinks.Confirmer], and its erasures count as done
// when the call is answered: what cannot be read back is not said to be confirmed.
package httpsink
