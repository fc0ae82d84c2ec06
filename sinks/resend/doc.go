// Package resend keeps contacts of a Resend team equal to Clerk's users.
//
// Resend finds a contact by its own id or by its address, and cannot change the
// address. It has no upsert either: creating a contact whose address is there
// succeeds, and does nothing. So the sink looks before it creates, a property of
// the contact says whose it is, and who changes his address gets a new contact,
// with all of the old one, which is then deleted. Before the first call of that
// Kafka has a note of both, so that whatever comes after a crash, a later change or
// the erasure, finds them.
package resend
