package audit

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"clerkconnect/schemas"
)

// What the sink remembers of a user, to know which fields a change changes: a
// format (1 byte), a random salt (8), which fields have a value (8, a bit for
// each of fieldOrder), and of each of these a fingerprint (4) of the value under
// the salt. A user of the default policy takes 80 bytes, of which the runner has
// those of its partitions in memory.
//
// The fingerprints do not keep values secret from somebody who has the state and
// a guess: whether an account is banned takes two. They need not. They stand in
// <prefix>.sink-state.<sink>, in the same cluster as <prefix>.users, which holds
// the values themselves for just as long: both are of the latest change, and an
// erasure ends both. The salt is drawn anew for each change, so that they say
// nothing beyond that: not which users share a value, nor whether one went back
// to an older one. A key of the configuration would only be one more secret to
// lose; rotated, it would cost the names of one change of every user.
//
// One change in four billion goes unnoticed in the names, not in the log.
const (
	stateFormat = 1
	saltSize    = 8
	bitsSize    = 8
	markSize    = 4
	stateHead   = 1 + saltSize + bitsSize
)

// fieldOrder gives the fields their bits: names may be appended, 64 in all.
var fieldOrder = []string{
	"external_id", "username", "first_name", "last_name", "locale", "image_url", "has_image", "primary_email_address",
	"primary_email_address_id", "email_addresses", "primary_phone_number_id", "phone_numbers", "primary_web3_wallet_id",
	"web3_wallets", "passkeys", "external_accounts", "saml_accounts", "enterprise_accounts", "organization_memberships",
	"scim", "public_metadata", "private_metadata", "unsafe_metadata", "password_enabled", "two_factor_enabled",
	"totp_enabled", "backup_code_enabled", "mfa_enabled_at", "mfa_disabled_at", "password_last_updated_at",
	"last_sign_in_at", "last_active_at", "legal_accepted_at", "banned", "locked", "deprovisioned",
	"lockout_expires_in_seconds", "verification_attempts_remaining", "delete_self_enabled", "create_organization_enabled",
	"create_organizations_limit", "bypass_client_trust", "created_at", "updated_at",
}

// noise changes with every change, so that naming it says nothing.
const noise = "updated_at"

// positions are those of fieldOrder in [schemas.User].
var positions = func() []int {
	t := reflect.TypeFor[schemas.User]()
	list := make([]int, len(fieldOrder))
	for i := range t.NumField() {
		if bit := slices.Index(fieldOrder, t.Field(i).Tag.Get("avro")); bit >= 0 {
			list[bit] = i
		}
	}
	return list
}()

// values are a user's fields in the order of fieldOrder, as bytes that are equal if the values
// are; nil: no value.
type values [][]byte

func valuesOf(u *schemas.User) values {
	found := make(values, len(fieldOrder))
	v := reflect.ValueOf(u).Elem()
	for i, name := range fieldOrder {
		field := v.Field(positions[i])
		if name == noise || field.IsNil() {
			continue
		}
		switch value := field.Interface().(type) {
		case *string:
			found[i] = canonical(*value)
		case *bool:
			found[i] = strconv.AppendBool(nil, *value)
		case *int64:
			found[i] = strconv.AppendInt(nil, *value, 10)
		default: // lists of plain structs cannot fail
			found[i], _ = json.Marshal(value)
		}
	}
	return found
}

// canonical returns JSON of objects and arrays with its keys in order and all
// else as it is.
func canonical(value string) []byte {
	if !strings.HasPrefix(value, "{") && !strings.HasPrefix(value, "[") {
		return append([]byte{}, value...) // empty is not nil
	}
	decoder := json.NewDecoder(strings.NewReader(value))
	decoder.UseNumber() // digit for digit
	var decoded any
	if decoder.Decode(&decoded) != nil || decoder.More() {
		return []byte(value)
	}
	if ordered, err := json.Marshal(decoded); err == nil {
		return ordered
	}
	return []byte(value)
}

// fingerprint tells values of one field apart. The salt has a fixed length and
// the result is cut, so that a plain hash will do.
func fingerprint(salt []byte, name string, value []byte) [markSize]byte {
	text := make([]byte, 0, 512)
	text = append(append(append(append(text, salt...), name...), 0), value...)
	sum := sha256.Sum256(text)
	return [markSize]byte(sum[:markSize])
}

// remember returns the state to keep of a user.
func (held values) remember() []byte {
	state := make([]byte, stateHead, stateHead+len(fieldOrder)*markSize)
	state[0] = stateFormat
	salt, there := state[1:1+saltSize], uint64(0)
	_, _ = rand.Read(salt) // never fails
	for i, value := range held {
		if value != nil {
			there |= 1 << i
			mark := fingerprint(salt, fieldOrder[i], value)
			state = append(state, mark[:]...)
		}
	}
	binary.BigEndian.PutUint64(state[1+saltSize:], there)
	return state
}

// changed returns the names of the fields that differ from those of which state
// was remembered. known is false if there is no such state.
func (held values) changed(state []byte) (names []string, known bool) {
	if len(state) < stateHead || state[0] != stateFormat {
		return nil, false
	}
	salt, was := state[1:1+saltSize], binary.BigEndian.Uint64(state[1+saltSize:])
	marks := state[stateHead:]
	if len(marks) != bits.OnesCount64(was)*markSize {
		return nil, false
	}
	for i, value := range held {
		same := value == nil
		if was&(1<<i) != 0 {
			same = value != nil && [markSize]byte(marks) == fingerprint(salt, fieldOrder[i], value)
			marks = marks[markSize:]
		}
		if !same {
			names = append(names, fieldOrder[i])
		}
	}
	return names, true
}

// present returns the names of the fields that have a value.
func (held values) present() (names []string) {
	for i, value := range held {
		if value != nil {
			names = append(names, fieldOrder[i])
		}
	}
	return names
}
