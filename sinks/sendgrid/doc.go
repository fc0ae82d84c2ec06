// Package sendgrid keeps contacts of SendGrid's Marketing Campaigns equal to
// Clerk's users, in batches.
//
// A contact's key is its e-mail address, and a custom field says whose it is. The
// address is noted in Kafka before a contact is made at it, so that an erasure
// after a crash finds it, and so that one that moves leaves no second contact.
//
// SendGrid answers when it has taken a change in and checked the addresses; it
// carries it out in a job, within a minute or so, which the sink waits for. A contact
// that was not to be seen yet when it was erased is found when the erasure is read
// back, and erased again.
package sendgrid
