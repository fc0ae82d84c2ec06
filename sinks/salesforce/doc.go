// Package salesforce keeps records of one object of Salesforce, contacts say,
// equal to Clerk's users, by the REST API's collections: 200 records a call.
//
// Records are upserted by a custom field that is an external id and holds the
// Clerk ID, so that a repetition makes no second record. What is wrong with one
// record is said of that one alone. A record that is there already, found by
// Salesforce's duplicate rules, is adopted by its e-mail address.
//
// It logs in by OAuth's client credentials, and once more when a token has
// expired.
package salesforce
