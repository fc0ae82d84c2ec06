// Package mailchimp keeps members of a Mailchimp audience equal to Clerk's users.
//
// Mailchimp finds a member by his address. Each member has an id of his own
// besides, contact_id, which stays when the address changes: that is what the sink
// remembers. A merge field says whose a member is. Before a member is created Kafka
// has a note of the address, so that whatever comes after a crash finds him.
//
// Deleting a member archives him at Mailchimp. The archive holds his address: a
// member who is to get it has to be brought back from there.
package mailchimp
