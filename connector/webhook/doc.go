// Package webhook receives Clerk's events as Svix delivers them.
//
// Its guarantee: a delivery is answered 200 only when nothing more has to be
// done for it, which for an event of a user means that the broker has
// acknowledged its record. Whatever goes wrong on our side is answered 503
// with Retry-After before Svix's own 15 s are over, and Svix delivers again;
// the sequencer drops what was written twice. What this package answers:
//
//	200  the record is acknowledged; or there is nothing to record: a type that
//	     is not taken, another instance's event, the dashboard's example, a
//	     deletion without an id; or the body is signed but cannot be
//	     understood, and its dead letter is acknowledged
//	400  verification failed; why is counted, not told
//	403  the sender's address is not in WEBHOOK_ALLOWED_CIDRS
//	404  another path; there are no redirects, whatever the path looks like
//	405  another method than POST
//	408  the body did not arrive
//	413  the body is over 1 MiB
//	500  a defect of ours, logged without what caused it
//	503  no acknowledgement in time, too many requests waiting, too many large
//	     bodies arriving, shutting down
//
// Answers have no body. Nothing of a request's body reaches a log or a metric.
package webhook
