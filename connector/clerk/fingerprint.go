package clerk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"clerkconnect/schemas"
)

// fingerprintRule separates the fingerprints of one version of the rule from
// those of another. Change it with every change of what is hashed or how: the
// policy's hash follows it.
const fingerprintRule = "clerk-connect fingerprint 1"

// Fingerprint returns 64 bits that are equal for equal content: the first 8
// bytes of a SHA-256 over a canonical form of every field that is not nil,
// under its name, so that a field added to the schema changes nothing while it
// is nil. The order of Clerk's lists means nothing, since a listing may show
// them in another order than a webhook; JSON text is compared by value: keys
// sorted, the last of repeated ones, strings unescaped, numbers digit for digit.
//
// Left out are updated_at and lockout_expires_in_seconds, which changes by
// being read, and the primary address, which other fields imply.
// verification_attempts_remaining and the entries' own times are content: they
// change only by an act, and who keeps them wants them right.
func Fingerprint(user *schemas.User) int64 {
	h := hasher(make([]byte, 0, 2048))
	h.text('r', fingerprintRule)
	members := reflect.ValueOf(user).Elem()
	for _, f := range userFields {
		value := members.Field(f.index)
		if value.IsNil() || f.name == "updated_at" || f.name == "lockout_expires_in_seconds" {
			continue
		}
		h.text('m', f.name)
		if f.text {
			h.document(value.Elem().String(), !strings.HasSuffix(f.name, "_metadata"))
		} else {
			h.value(value.Elem())
		}
	}
	sum := sha256.Sum256(h)
	return int64(binary.BigEndian.Uint64(sum[:]))
}

// hasher collects values so that different ones are different bytes: each
// begins with its kind, and with its length where that varies.
type hasher []byte

func (h *hasher) count(kind byte, n int) { *h = binary.AppendUvarint(append(*h, kind), uint64(n)) }

func (h *hasher) text(kind byte, s string) {
	h.count(kind, len(s))
	*h = append(*h, s...)
}

// set adds n elements in an order that does not depend on theirs.
func (h *hasher) set(n int, add func(h *hasher, i int)) {
	elements := make([][]byte, n)
	for i := range elements {
		var element hasher
		add(&element, i)
		elements[i] = element
	}
	slices.SortFunc(elements, bytes.Compare)
	h.count('l', n)
	for _, element := range elements {
		*h = append(*h, element...)
	}
}

// value adds a value of one of the types that occur in schemas.User.
func (h *hasher) value(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		h.text('s', v.String())
	case reflect.Bool:
		if v.Bool() {
			*h = append(*h, 't')
		} else {
			*h = append(*h, 'f')
		}
	case reflect.Int64:
		*h = binary.BigEndian.AppendUint64(append(*h, 'i'), uint64(v.Int()))
	case reflect.Pointer:
		if v.IsNil() {
			*h = append(*h, 'n')
		} else {
			h.value(v.Elem())
		}
	case reflect.Slice:
		h.set(v.Len(), func(h *hasher, i int) { h.value(v.Index(i)) })
	case reflect.Struct:
		for i := range v.NumField() {
			if member := v.Field(i); member.Kind() != reflect.Pointer || !member.IsNil() {
				h.text('m', v.Type().Field(i).Tag.Get("avro"))
				h.value(member)
			}
		}
		*h = append(*h, 'e')
	}
}

// document adds JSON text by its value. unordered says that it is one of
// Clerk's lists.
func (h *hasher) document(text string, unordered bool) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		h.text('x', text) // not JSON: not ours, but still comparable
		return
	}
	if list, ok := value.([]any); ok && unordered {
		h.set(len(list), func(h *hasher, i int) { h.json(list[i]) })
		return
	}
	h.json(value)
}

func (h *hasher) json(value any) {
	switch v := value.(type) {
	case nil:
		*h = append(*h, 'n')
	case bool:
		h.value(reflect.ValueOf(v))
	case string:
		h.text('s', v)
	case json.Number:
		h.text('#', v.String())
	case []any:
		h.count('a', len(v))
		for _, element := range v {
			h.json(element)
		}
	case map[string]any:
		h.count('o', len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			h.text('k', key)
			h.json(v[key])
		}
	}
}
