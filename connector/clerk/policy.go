package clerk

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"

	"clerkconnect/schemas"
)

// PolicyConfig says which of Clerk's data is synced. Names are those of
// Clerk's user object, and client_ip and user_agent for the request that
// caused an event. The zero value is the default policy.
type PolicyConfig struct {
	// Include are fields to sync besides the default ones.
	Include []string `env:"INCLUDE" doc:"Fields of Clerk's user object to sync besides the default ones, and client_ip or user_agent; by comma."`
	// Exclude are default fields not to sync.
	Exclude []string `env:"EXCLUDE" doc:"Default fields of Clerk's user object not to sync; by comma."`
}

// Validate returns every problem of the configuration.
func (c PolicyConfig) Validate() error {
	_, err := NewPolicy(c)
	return err
}

// defaultFields are synced unless excluded. All others have to be asked for by
// name: contact data that an application seldom needs, what only servers may
// see, and what changes with every sign-in.
var defaultFields = []string{
	"id", "external_id", "username", "first_name", "last_name",
	"image_url", "has_image",
	"email_addresses", "primary_email_address_id",
	"public_metadata", "banned", "locked", "created_at", "updated_at",
}

// requiredFields cannot be excluded.
var requiredFields = map[string]string{
	"id":         "it is the key of every record",
	"updated_at": "it orders the states of a user",
	"created_at": "it orders the pages of a snapshot",
}

// Names of fields that are not members of [schemas.User].
const (
	fieldID        = "id"
	fieldClientIP  = "client_ip"
	fieldUserAgent = "user_agent"
)

// field is one member of [schemas.User] that Clerk's user object has too,
// under the same name.
type field struct {
	name  string
	index int  // of the member in schemas.User
	text  bool // kept as JSON text
}

// of returns a pointer to the field in u.
func (f field) of(u reflect.Value) any { return u.Field(f.index).Addr().Interface() }

// userFields are all of them, by name. The record's own schema is the list, so
// that a field is added in one place.
var userFields = func() []field {
	text := map[string]bool{
		"external_accounts": true, "saml_accounts": true, "enterprise_accounts": true,
		"organization_memberships": true, "scim": true,
		"public_metadata": true, "private_metadata": true, "unsafe_metadata": true,
	}
	var all []field
	for user, i := reflect.TypeFor[schemas.User](), 0; i < user.NumField(); i++ {
		name := user.Field(i).Tag.Get("avro")
		if name == "primary_email_address" {
			continue // Clerk has no such member: see resolvePrimary
		}
		all = append(all, field{name: name, index: i, text: text[name]})
	}
	slices.SortFunc(all, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return all
}()

// Policy says which fields are kept, and turns Clerk's JSON into records that
// hold those and no others. It never changes and is safe for concurrent use.
type Policy struct {
	names []string // kept, sorted
	user  []field  // those of them that are in schemas.User
	kept  map[string]bool
	hash  string
}

// NewPolicy returns the policy of cfg. Its error names every wrong name with
// the nearest right ones, every field that cannot be excluded with the reason,
// and every name that is both included and excluded.
func NewPolicy(cfg PolicyConfig) (*Policy, error) {
	kept := map[string]bool{}
	for _, name := range defaultFields {
		kept[name] = true
	}
	include, includeErr := fieldNames("POLICY_INCLUDE", cfg.Include)
	exclude, excludeErr := fieldNames("POLICY_EXCLUDE", cfg.Exclude)
	problems := []error{includeErr, excludeErr}
	for _, name := range include {
		kept[name] = true
	}
	for _, name := range exclude {
		if why, required := requiredFields[name]; required {
			problems = append(problems, fmt.Errorf("POLICY_EXCLUDE: %s cannot be left out: %s", name, why))
		}
		if slices.Contains(include, name) {
			problems = append(problems, fmt.Errorf("%s is in both POLICY_INCLUDE and POLICY_EXCLUDE: remove it from one", name))
		}
		delete(kept, name)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	p := &Policy{kept: kept}
	for name := range kept {
		p.names = append(p.names, name)
	}
	slices.Sort(p.names)
	for _, f := range userFields {
		if kept[f.name] {
			p.user = append(p.user, f)
		}
	}
	sum := sha256.Sum256([]byte(fingerprintRule + "\n" + strings.Join(p.names, "\n")))
	p.hash = hex.EncodeToString(sum[:8])
	return p, nil
}

// Hash names the policy in 16 hexadecimal digits: two policies have the same
// hash exactly if they keep the same fields and compute the same fingerprints.
func (p *Policy) Hash() string { return p.hash }

// Fields returns the names of what the policy keeps, sorted.
func (p *Policy) Fields() []string { return slices.Clone(p.names) }

// FieldNames returns every name that a policy may include, sorted.
func FieldNames() []string {
	names := []string{fieldID, fieldClientIP, fieldUserAgent}
	for _, f := range userFields {
		names = append(names, f.name)
	}
	slices.Sort(names)
	return names
}

// fieldNames returns the known names among those of one variable, and an error
// for the others. Blank ones, as a trailing comma makes them, are dropped.
func fieldNames(variable string, names []string) (known []string, err error) {
	all := FieldNames()
	var problems []error
	for _, name := range names {
		name = strings.TrimSpace(name)
		switch {
		case name == "":
		case slices.Contains(all, name):
			known = append(known, name)
		default:
			problems = append(problems, fmt.Errorf("%s: unknown field %q: write %s", variable, name, nearest(name, all)))
		}
	}
	return known, errors.Join(problems...)
}

// nearest returns the names that somebody who wrote name may have meant: those
// that contain it or are contained in it, else those with the fewest edits, if
// these are at most a third of the word; else all.
func nearest(name string, all []string) string {
	name = strings.ToLower(name)
	var near []string
	for _, candidate := range all {
		if candidate != fieldID && (strings.Contains(candidate, name) || strings.Contains(name, candidate)) {
			near = append(near, candidate)
		}
	}
	for best := max(2, len(name)/3); len(near) == 0 && best >= 0; best = -1 {
		for _, candidate := range all {
			switch d := levenshtein.ComputeDistance(name, candidate); {
			case d < best:
				best, near = d, []string{candidate}
			case d == best:
				near = append(near, candidate)
			}
		}
	}
	if len(near) == 0 {
		return "one of " + strings.Join(all, ", ")
	}
	return strings.Join(near, " or ")
}
