// Package intercom keeps contacts of an Intercom workspace equal to Clerk's users.
//
// A contact's external_id is the Clerk ID. Intercom has no upsert: a contact is
// looked up by it, through an index that does not lag, and then changed or created.
// Creating one twice is refused by Intercom itself, so that a crash makes no second
// contact. One call has one contact.
package intercom
