package audit

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks/sinktest"
)

// TestFieldOrder: every field of the schema has its bit, for ever.
func TestFieldOrder(t *testing.T) {
	t.Parallel()
	schema := reflect.TypeFor[schemas.User]()
	for i := range schema.NumField() {
		if name := schema.Field(i).Tag.Get("avro"); !slices.Contains(fieldOrder, name) {
			t.Errorf("%s has no bit: append it to fieldOrder", name)
		}
	}
	seen := map[string]bool{}
	for i, name := range fieldOrder {
		if seen[name] || schema.Field(positions[i]).Tag.Get("avro") != name {
			t.Errorf("%s stands there twice, or is no field", name)
		}
		seen[name] = true
	}
	const released = 44
	if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(fieldOrder[:released], ","))))[:16]; len(fieldOrder) > 64 || sum != "684cb68797d29865" {
		t.Errorf("fields that have a bit have moved: got %s", sum)
	}
}

// TestChanged_EachField: set, changed, cleared, and nothing else.
func TestChanged_EachField(t *testing.T) {
	t.Parallel()
	for bit, name := range fieldOrder {
		i := positions[bit]
		one, other, none := sinktest.FullUser(1), sinktest.FullUser(1), sinktest.FullUser(1)
		reflect.ValueOf(other).Elem().Field(i).Set(reflect.ValueOf(sinktest.FullUser(2)).Elem().Field(i))
		reflect.ValueOf(none).Elem().Field(i).SetZero()
		want := []string{name}
		if name == noise {
			want = nil
		}
		for what, pair := range map[string][2]*schemas.User{"changed": {one, other}, "cleared": {one, none}, "set": {none, one}} {
			if reflect.DeepEqual(pair[0], pair[1]) {
				t.Errorf("%s: the samples are the same", name)
			}
			if got, known := valuesOf(pair[1]).changed(valuesOf(pair[0]).remember()); !known || !slices.Equal(got, want) {
				t.Errorf("%s was %s: got %q, %v", name, what, got, known)
			}
		}
		if got, known := valuesOf(sinktest.FullUser(1)).changed(valuesOf(one).remember()); !known || len(got) != 0 {
			t.Errorf("nothing was changed: got %q, %v", got, known)
		}
	}
}

func TestChanged_JSON(t *testing.T) {
	t.Parallel()
	user := func(metadata string) *schemas.User { return &schemas.User{PublicMetadata: &metadata} }
	for _, test := range []struct {
		before, after string
		changed       bool
	}{
		{`{"a":1,"b":[1,2]}`, `{ "b": [1, 2], "a": 1 }`, false},
		{`{"a":9007199254740993}`, `{"a":9007199254740992}`, true},
		{`{"b":[1,2]}`, `{"b":[2,1]}`, true},
		{`{"a":1} x`, `{"a":1} y`, true},
		{`{`, `{`, false},
	} {
		got, known := valuesOf(user(test.after)).changed(valuesOf(user(test.before)).remember())
		if !known || (len(got) > 0) != test.changed {
			t.Errorf("%s to %s: got %q, %v, want changed %v", test.before, test.after, got, known, test.changed)
		}
	}
}

func TestChanged_WithoutState(t *testing.T) {
	t.Parallel()
	u := sinktest.FullUser(1)
	state := valuesOf(u).remember()
	for _, broken := range [][]byte{nil, {}, {stateFormat}, append([]byte{stateFormat + 1}, state[1:]...), state[:len(state)-1]} {
		if names, known := valuesOf(u).changed(broken); known || names != nil {
			t.Errorf("state of %d bytes: got %q, %v, want nothing known", len(broken), names, known)
		}
	}
}

// TestRemember: the state is small, holds no value, and says nothing by
// comparison with that of another user, or of the same one before.
func TestRemember(t *testing.T) {
	t.Parallel()
	u := sinktest.FullUser(1)
	u.FirstName = new(canary)
	one, other := valuesOf(u).remember(), valuesOf(u).remember()
	if len(one) > 200 {
		t.Errorf("state: got %d bytes of a user with every field, want 200 at most", len(one))
	}
	if bytes.Contains(one, []byte(canary)) {
		t.Error("the state holds a value")
	}
	same := 0
	for i := stateHead; i < len(one); i += markSize {
		if bytes.Equal(one[i:i+markSize], other[i:i+markSize]) {
			same++
		}
	}
	if same > 0 || bytes.Equal(one[1:1+saltSize], other[1:1+saltSize]) {
		t.Errorf("two states of one user share %d fingerprints, or the salt", same)
	}
}
