// Package clerk turns Clerk's JSON into records and applies the privacy
// policy, here and nowhere else: what a [Policy] leaves out is never decoded,
// so no record, log or error can carry it.
//
// The package is pure: no I/O, no clock, no state; everything is safe for
// concurrent use. Two callers exist. Package webhook has signed deliveries:
// [DecodeEnvelope], then [Policy.Event]. Package snapshot has user objects of
// the Backend API: [Policy.Row].
//
// What is promised about the JSON:
//
//   - Members are matched by their exact names; unknown ones are ignored. Of a
//     repeated name the last counts (but see below for those inside metadata).
//   - A field is nil when it is absent, null or left out. Empty arrays, objects
//     and strings stay what they are.
//   - Metadata and the other JSON-text fields keep Clerk's text but for white
//     space between tokens: numbers digit for digit, escapes as escapes,
//     repeated keys as they are.
//   - Bytes that are not UTF-8 are refused as malformed, as RFC 8259 section 8.1
//     wants. Half of a surrogate pair (an escape such as \ud800) is valid JSON:
//     it stays an escape in JSON text and becomes U+FFFD in plain strings.
//   - A kept field of another JSON type than Clerk's descriptions say makes the
//     whole user malformed; one that is left out is not looked at.
//
// Errors never quote the JSON: only member names of ours and byte offsets.
package clerk
