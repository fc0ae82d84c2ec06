package contact

import "strings"

// Anothers reports whether owner, which a contact has as its Clerk ID, is another
// user, and not what a person or some other system has put there. Who is erased,
// and whose contact may be taken over, depends on it.
func Anothers(owner, clerkID string) bool {
	return owner != clerkID && strings.HasPrefix(owner, "user_")
}
