// Package hubspot keeps contacts in HubSpot's CRM equal to the users. The README
// has the fields, rights and limits.
//
// A contact is found by a property of ours with unique values, so that creating
// one is HubSpot's own upsert and no crash makes a second one. One call writes up
// to 100 users; what it refuses is told apart by the trace id of each.
//
// An address that another contact holds is a conflict there. If that contact
// belongs to no user, it becomes the user's; if it belongs to another, the record
// waits until the other lets go.
//
// HubSpot compares no versions: a process that was paused may write an old state
// once, until the next change. See DESIGN, "A zombie must not resurrect".
package hubspot
