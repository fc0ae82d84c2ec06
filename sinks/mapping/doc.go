// Package mapping turns a user into the values that a destination wants: an
// expression for each column, path or property, given by configuration.
//
// # Expressions
//
//	email                            a field of user.avsc; email is the primary address
//	id                               the Clerk ID
//	full_name                        first and last name with a space between
//	public_metadata                  the whole metadata, as JSON
//	public_metadata.plan.name        a part of it; "a key".0 where a key is no name, 0 is an index
//	'member'   42   true             a constant
//	uuid                             a UUID that follows from the Clerk ID, for keys of the application's own
//	username ?? email ?? 'nobody'    the first that is not null
//
// Assignments give targets their expressions, separated by commas or line ends:
//
//	email = email, "displayName" = full_name ?? 'Unknown', plan = public_metadata.plan
//
// A target is letters, digits and ._$-, or anything in double quotes.
//
// # Clean text
//
// PostgreSQL stores neither U+0000 nor half of a surrogate pair, and SQLite's
// tools cut text at U+0000. In values and inside of JSON both become U+FFFD,
// the replacement character, as does what is not UTF-8.
package mapping
