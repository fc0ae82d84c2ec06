package clerk_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"clerkconnect/connector/clerk"
	"clerkconnect/schemas"
)

// TestFingerprint_Golden fails when the rule has changed: then its version must
// change with it.
func TestFingerprint_Golden(t *testing.T) {
	t.Parallel()
	if got, want := clerk.Fingerprint(everyField()), int64(-3180597706516308603); got != want {
		t.Errorf("Fingerprint: got %d, want %d", got, want)
	}
	if got, want := newPolicy(t).Hash(), "2920e527a50b79b2"; got != want {
		t.Errorf("Hash: got %s, want %s", got, want)
	}
}

// TestFingerprint_EveryFieldCounts changes each field, and each one inside of
// the entries, to another value and to nil.
func TestFingerprint_EveryFieldCounts(t *testing.T) {
	t.Parallel()
	ignored := []string{"UpdatedAt", "LockoutExpiresInSeconds", "PrimaryEmailAddress"}
	seen := map[int64]string{clerk.Fingerprint(everyField()): "unchanged"}
	check := func(name string, user *schemas.User) {
		t.Helper()
		print := clerk.Fingerprint(user)
		if before, ok := seen[print]; ok {
			t.Errorf("%s: same fingerprint as %s", name, before)
		}
		seen[print] = name
	}
	fields := reflect.TypeFor[schemas.User]()
	for i := range fields.NumField() {
		field := fields.Field(i)
		if slices.Contains(ignored, field.Name) {
			user := everyField()
			reflect.ValueOf(user).Elem().Field(i).SetZero()
			if clerk.Fingerprint(user) != clerk.Fingerprint(everyField()) {
				t.Errorf("%s changes the fingerprint", field.Name)
			}
			continue
		}
		user := everyField()
		if target := reflect.ValueOf(user).Elem().Field(i); !target.IsNil() {
			target.SetZero()
			check(field.Name+" = nil", user)
		}
		user = everyField()
		changed := reflect.ValueOf(user).Elem().Field(i)
		if changed.IsNil() {
			changed.Set(reflect.New(field.Type.Elem()))
		} else {
			alter(changed.Elem())
			if strings.HasPrefix(changed.Elem().String(), "{") || strings.HasPrefix(changed.Elem().String(), "[") {
				changed.Elem().SetString(`["` + field.Name + `"]`)
			}
		}
		check(field.Name+" altered", user)
		if element := field.Type.Elem(); element.Kind() == reflect.Slice {
			for j := range element.Elem().NumField() {
				user := everyField()
				alter(reflect.ValueOf(user).Elem().Field(i).Elem().Index(0).Field(j))
				check(field.Name+"."+element.Elem().Field(j).Name, user)
			}
		}
	}
}

// alter changes v to another value of its type.
func alter(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Slice:
		v.Set(v.Slice(0, v.Len()-1))
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		} else {
			v.SetZero()
		}
	}
}

func TestFingerprint_MetadataByValue(t *testing.T) {
	t.Parallel()
	print := func(text string) int64 { return clerk.Fingerprint(&schemas.User{PublicMetadata: &text}) }
	for _, same := range [][2]string{
		{`{"a":1,"b":[true,null]}`, "{ \"b\" : [ true , null ],\n\"a\":1 }"},
		{`{"a":"é"}`, `{"a":"\u00e9"}`},
		{`{"a":1,"a":2}`, `{"a":2}`},
	} {
		if print(same[0]) != print(same[1]) {
			t.Errorf("%s and %s: different fingerprints", same[0], same[1])
		}
	}
	for _, different := range [][2]string{
		{`{"a":9007199254740993}`, `{"a":9007199254740992}`},
		{`{"a":1}`, `{"a":1.0}`},
		{`{"a":1}`, `{"a":"1"}`},
		{`{"a":null}`, `{}`},
		{`{"a":[1,2]}`, `{"a":[2,1]}`},
		{`[1,2]`, `[2,1]`},
		{`{"a":{"b":1}}`, `{"a":{},"b":1}`},
		{`{"a":["b","c"]}`, `{"a":["bc"]}`},
		{`{}`, `[]`},
	} {
		if print(different[0]) == print(different[1]) {
			t.Errorf("%s and %s: same fingerprint", different[0], different[1])
		}
	}
}

func TestFingerprint_OrderOfClerksLists(t *testing.T) {
	t.Parallel()
	user := everyField()
	slices.Reverse(*user.EmailAddresses)
	if clerk.Fingerprint(user) != clerk.Fingerprint(everyField()) {
		t.Error("the order of e-mail addresses changes the fingerprint")
	}
	print := func(text string) int64 { return clerk.Fingerprint(&schemas.User{ExternalAccounts: &text}) }
	if print(`[{"id":"a"},{"id":"b"}]`) != print(`[{"id":"b"},{"id":"a"}]`) {
		t.Error("the order of external accounts changes the fingerprint")
	}
	split := &schemas.User{Passkeys: &[]schemas.Passkey{{ID: ptr("1")}, {Name: ptr("x")}}}
	joined := &schemas.User{Passkeys: &[]schemas.Passkey{{ID: ptr("1"), Name: ptr("x")}, {}}}
	if clerk.Fingerprint(split) == clerk.Fingerprint(joined) {
		t.Error("entries run into each other")
	}
}

// document draws a JSON value as Clerk's metadata may hold it.
func document(depth int) *rapid.Generator[any] {
	leaf := rapid.OneOf(
		rapid.Just[any](nil),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Map(rapid.Int64(), func(n int64) any { return json.Number(fmt.Sprint(n)) }),
		rapid.Map(rapid.SampledFrom([]string{"1.0", "1e400", "-0", "9007199254740993", "0.1"}), func(s string) any { return json.Number(s) }),
		rapid.Map(rapid.String(), func(s string) any { return strings.ToValidUTF8(s, "") }),
	)
	if depth == 0 {
		return leaf
	}
	return rapid.OneOf(leaf,
		rapid.Map(rapid.SliceOfN(document(depth-1), 0, 3), func(v []any) any { return v }),
		rapid.Map(rapid.MapOfN(rapid.StringMatching(`[a-c\p{L}]{0,3}`), document(depth-1), 0, 4), func(m map[string]any) any { return m }),
	)
}

// write renders a value with its keys and white space as drawn.
func write(t *rapid.T, value any) string {
	space := rapid.SampledFrom([]string{"", " ", "\n\t", "  "}).Draw(t, "space")
	switch v := value.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for key := range v {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		keys = rapid.Permutation(keys).Draw(t, "keys")
		var members []string
		for _, key := range keys {
			name, _ := json.Marshal(key)
			members = append(members, space+string(name)+space+":"+write(t, v[key]))
		}
		return space + "{" + strings.Join(members, ",") + space + "}" + space
	case []any:
		var elements []string
		for _, element := range v {
			elements = append(elements, write(t, element))
		}
		return "[" + space + strings.Join(elements, ",") + space + "]"
	default:
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return space + string(text) + space
	}
}

// TestFingerprint_Rapid: key order, white space and being read twice change
// nothing, whatever the metadata; another metadata changes it.
func TestFingerprint_Rapid(t *testing.T) {
	t.Parallel()
	p := newPolicy(t, clerk.FieldNames()...)
	rapid.Check(t, func(t *rapid.T) {
		user := map[string]any{}
		decoder := json.NewDecoder(strings.NewReader(everything))
		decoder.UseNumber()
		if err := decoder.Decode(&user); err != nil {
			t.Fatal(err)
		}
		metadata := document(3).Draw(t, "metadata")
		user["private_metadata"] = metadata
		read := func(remaining int) *schemas.UserEvent {
			user["lockout_expires_in_seconds"] = json.Number(fmt.Sprint(remaining))
			event, err := eventOf(p, envelope("user.updated", write(t, user)))
			if err != nil {
				t.Fatal(err)
			}
			return event
		}
		first, second := read(100), read(99)
		if first.Fingerprint != second.Fingerprint {
			t.Fatalf("two readings of one user: fingerprints %d and %d", first.Fingerprint, second.Fingerprint)
		}
		other := document(3).Draw(t, "other")
		a, _ := json.Marshal(metadata)
		b, _ := json.Marshal(other)
		user["private_metadata"] = other
		if changed := read(100); string(a) != string(b) && changed.Fingerprint == first.Fingerprint {
			t.Fatalf("metadata %s and %s: same fingerprint", a, b)
		}
	})
}
