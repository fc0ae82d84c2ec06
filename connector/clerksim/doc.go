// Package clerksim is a simulated Clerk instance: the part of Clerk's Backend
// API that reads users, and Svix's deliveries of user.created, user.updated
// and user.deleted. It tells the truth about itself (Truth, Deleted), so a test
// can compare what came out at the far end with what Clerk would say.
//
// It is a source of truth, not a mock: whatever it sends is valid under Clerk's
// own descriptions (Backend API 2026-05-12, webhooks 2025-04-15), and it is
// unkind in the ways that Clerk and Svix are unkind:
//
//   - Config.Users users exist before the first delivery, and no webhook ever
//     speaks of them: only a walk of the Backend API finds them.
//   - Deliveries are made by several workers at once, some twice, some late,
//     some after a newer message of the same user; what is not answered with
//     2xx within 15 s is sent again, with the same svix-id and body and a fresh
//     signature. A body is the whole user as it was when the event was made.
//   - Users lack e-mail addresses, have several of which the first is not the
//     primary one, have a primary one that dangles, carry numbers above 2^53,
//     \u0000 and four-byte characters. Addresses of deleted users are used
//     again and two users swap theirs. A deleted id never returns.
//   - lockout_expires_in_seconds changes by being read. The cursor of a page
//     may have been deleted, and the limit of requests is enforced.
//
// Everything but the timing comes from Config.Seed: the same seed, the same
// times (Config.Now) and the same calls give the same bytes. Deliveries and
// signatures follow the real clock, because their receiver does.
//
// With Config.StateFile the instance survives a kill -9: an act and the
// deliveries that it owes are in the file before the first attempt is made.
// The file is a journal of JSON lines (see journal.go), rewritten when most of
// it is history. Only the mark of a delivery already made may be lost; it is
// then made again. Writes are not synced: a power failure may lose history.
//
// Typical use:
//
//	sim, err := clerksim.New(clerksim.Config{Users: 1000, Rate: 5, Seed: 1})
//	api := httptest.NewServer(sim.Handler()) // base URL of the API: api.URL + "/v1"
//	sim.SetWebhookURL("http://127.0.0.1:8080/webhooks/clerk")
//	go sim.Run(ctx)                          // until ctx is done, then:
//	err = sim.Drain(ctx2)                    // everything owed is delivered
//	want := sim.Truth()
//
// Tests script it: SignUp, UpdateProfile, SignIn, ChangeEmail, SwapEmails, Ban,
// Lock, SetMetadata, Delete, Rejoin act at once and in order; Messages lists
// what was said, Redeliver has Run or Drain say it again, Deliver makes one
// attempt in the caller's goroutine, and Sign signs any body.
//
// Not simulated: organizations, sessions, enterprise and SAML accounts, writes
// through the Backend API, and filters of GET /v1/users other than those of
// supportedFilters (they are answered 400, never ignored).
package clerksim
