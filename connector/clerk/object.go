package clerk

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"clerkconnect/schemas"
)

// object is a JSON object by the exact names of its members; of a repeated
// name the last counts. encoding/json would match the fields of a struct
// whatever their case.
type object map[string]json.RawMessage

// parse reads text as a JSON object. ok is false for other JSON;
// malformed is set for what is not JSON or not UTF-8.
func parse(text []byte) (o object, ok bool, malformed *MalformedError) {
	if at := invalidUTF8(text); at >= 0 {
		return nil, false, &MalformedError{Reason: ReasonJSON, Want: "UTF-8", Offset: at}
	}
	if err := json.Unmarshal(text, &o); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, false, &MalformedError{Reason: ReasonJSON, Want: "JSON", Offset: syntax.Offset}
		}
		return nil, false, nil
	}
	return o, o != nil, nil
}

// invalidUTF8 returns the position of the first byte that is not UTF-8, or -1.
func invalidUTF8(text []byte) int64 {
	if utf8.Valid(text) {
		return -1
	}
	at := 0
	for {
		r, size := utf8.DecodeRune(text[at:])
		if r == utf8.RuneError && size <= 1 {
			return int64(at)
		}
		at += size
	}
}

// isNull is true for a member that is absent or null.
func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// What a decoder expected, for [MalformedError.Want].
const (
	wantString  = "a string or null"
	wantBool    = "a boolean or null"
	wantInteger = "a 64-bit integer or null"
	wantArray   = "an array of Clerk's entries or null"
	wantObject  = "an object"
)

// maxEntries is the most e-mail addresses, phone numbers, wallets or passkeys
// of one user: what the Avro decoder of package schemas accepts.
const maxEntries = 10_000

// decode reads raw into target, a pointer to a field of schemas.User, and
// returns what it expected if raw is something else. null leaves target alone.
func decode(raw json.RawMessage, target any) (want string) {
	if isNull(raw) {
		return ""
	}
	switch t := target.(type) {
	case **string:
		return decodeString(raw, t)
	case **bool:
		value := string(raw) == "true"
		if !value && string(raw) != "false" {
			return wantBool
		}
		*t = &value
	case **int64:
		value, err := strconv.ParseInt(string(raw), 10, 64)
		if err != nil {
			return wantInteger
		}
		*t = &value
	case **[]schemas.EmailAddress:
		return decodeEntries(raw, t, emailAddress)
	case **[]schemas.PhoneNumber:
		return decodeEntries(raw, t, phoneNumber)
	case **[]schemas.Web3Wallet:
		return decodeEntries(raw, t, web3Wallet)
	case **[]schemas.Passkey:
		return decodeEntries(raw, t, passkey)
	}
	return ""
}

// decodeString reads a string of a text that parse has found valid.
func decodeString(raw json.RawMessage, target **string) (want string) {
	if raw[0] != '"' {
		return wantString
	}
	value := string(raw[1 : len(raw)-1])
	if strings.Contains(value, `\`) && json.Unmarshal(raw, &value) != nil {
		return wantString
	}
	*target = &value
	return ""
}

// decodeText reads raw into target as compact JSON text. It cannot fail: raw
// was part of a valid text.
func decodeText(raw json.RawMessage, target **string) {
	if isNull(raw) {
		return
	}
	var compact bytes.Buffer
	if json.Compact(&compact, raw) != nil {
		return
	}
	value := compact.String()
	*target = &value
}

// entry reads one element of an array of Clerk's. bad is set by the first
// member of another type than Clerk's.
type entry struct {
	object
	bad bool
}

func (e *entry) take(name string, target any) {
	if decode(e.object[name], target) != "" {
		e.bad = true
	}
}

func (e *entry) required(name string) string {
	var value *string
	if e.take(name, &value); value == nil {
		e.bad = true
		return ""
	}
	return *value
}

// verification returns the status inside of the member of that name.
func (e *entry) verification() (status *string) {
	raw := e.object["verification"]
	if isNull(raw) {
		return nil
	}
	var v object
	if json.Unmarshal(raw, &v) != nil || decode(v["status"], &status) != "" {
		e.bad = true
	}
	return status
}

func emailAddress(e *entry, to *schemas.EmailAddress) {
	e.take("id", &to.ID)
	to.EmailAddress = e.required("email_address")
	to.VerificationStatus = e.verification()
	e.take("created_at", &to.CreatedAt)
	e.take("updated_at", &to.UpdatedAt)
}

// phoneNumber never looks at backup_codes: they are secrets.
func phoneNumber(e *entry, to *schemas.PhoneNumber) {
	e.take("id", &to.ID)
	to.PhoneNumber = e.required("phone_number")
	to.VerificationStatus = e.verification()
	e.take("reserved_for_second_factor", &to.ReservedForSecondFactor)
	e.take("default_second_factor", &to.DefaultSecondFactor)
	e.take("created_at", &to.CreatedAt)
	e.take("updated_at", &to.UpdatedAt)
}

func web3Wallet(e *entry, to *schemas.Web3Wallet) {
	e.take("id", &to.ID)
	to.Web3Wallet = e.required("web3_wallet")
	to.VerificationStatus = e.verification()
	e.take("created_at", &to.CreatedAt)
	e.take("updated_at", &to.UpdatedAt)
}

func passkey(e *entry, to *schemas.Passkey) {
	e.take("id", &to.ID)
	e.take("name", &to.Name)
	to.VerificationStatus = e.verification()
	e.take("last_used_at", &to.LastUsedAt)
}

// decodeEntries reads an array of objects. An empty array is kept as one.
func decodeEntries[E any](raw json.RawMessage, target **[]E, read func(*entry, *E)) (want string) {
	var objects []object
	if json.Unmarshal(raw, &objects) != nil || len(objects) > maxEntries {
		return wantArray
	}
	entries := make([]E, len(objects))
	for i, o := range objects {
		e := entry{object: o, bad: o == nil}
		if read(&e, &entries[i]); e.bad {
			return wantArray
		}
	}
	*target = &entries
	return ""
}

// position returns the offset of the value at path in text, a valid JSON text,
// or -1. Only errors pay for it.
func position(text []byte, path ...string) int64 {
	base := int64(0)
	for _, name := range path {
		at, value := find(text, name)
		if at < 0 {
			return -1
		}
		base, text = base+at, value
	}
	return base
}

// find returns the last member of that name in the JSON object text.
func find(text []byte, name string) (at int64, value []byte) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if _, err := decoder.Token(); err != nil {
		return -1, nil
	}
	at = -1
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return -1, nil
		}
		var raw json.RawMessage
		if decoder.Decode(&raw) != nil {
			return -1, nil
		}
		if key == name {
			at, value = decoder.InputOffset()-int64(len(raw)), raw
		}
	}
	return at, value
}
