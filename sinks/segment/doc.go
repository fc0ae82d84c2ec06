// Package segment sends Clerk's users to a Twilio Segment workspace: an identify
// call for each change, in batches, by the HTTP Tracking API, and a regulation of
// the Public API for erasures.
//
// A user's id at Segment is the Clerk ID. Every message has an id that follows
// from the user and the version, by which Segment drops repetitions. Each
// identify carries all traits: what is behind Segment (warehouses, destinations)
// may see this one alone.
//
// The Tracking API answers 200 also to what it drops. So what Segment documents
// as a reason is refused here before it is sent, and Open asks the Public API
// whether the write key is one of the workspace's.
package segment
