package resttest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
)

// Recording holds answers of the imitation against those that were recorded from
// the real service: the same members, of the same types.
type Recording struct {
	// Ours says which requests to the imitation are meant: method and path, * for
	// one segment.
	Ours string
	// Theirs describes where Shape is from, for errors.
	Theirs string
	Status int
	Shape  *Shape
}

// Exchange is one recorded exchange.
type Exchange struct {
	Method   string
	Path     string
	Status   int
	Request  json.RawMessage
	Response json.RawMessage
	Headers  map[string]string
}

// Exchanges reads a file of contracts/recorded.
func Exchanges(t testing.TB, name string) []Exchange {
	t.Helper()
	text, err := os.ReadFile(Shared(t, "contracts", "recorded", name))
	if err != nil {
		t.Fatal(err)
	}
	var all []Exchange
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// Recorded returns the recording of all exchanges in a file with that request,
// a method and a path with * for one segment, and that status; the test fails if
// there is none. What the imitation answers to the request ours is held against
// it. free lists what is not compared, because it is the account's own, as
// "results[].properties", or because no recording has a value of it; "" is the
// whole answer.
func Recorded(t testing.TB, ours, file, theirs string, status int, free ...string) Recording {
	t.Helper()
	shape := &Shape{}
	found := false
	for _, e := range Exchanges(t, file) {
		if !matches(theirs, e.Method+" "+e.Path) || e.Status != status {
			continue
		}
		var value any
		if err := json.Unmarshal(e.Response, &value); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		shape.add(value)
		found = true
	}
	if !found {
		t.Fatalf("%s holds no answer %d to %s", file, status, theirs)
	}
	for _, path := range free {
		shape.loosen(strings.Split(strings.ReplaceAll(path, "[]", ".[]"), "."))
	}
	return Recording{Ours: ours, Theirs: fmt.Sprintf("%s: %d to %s", file, status, theirs), Status: status, Shape: shape}
}

// check returns in what an answer differs, nil if it is not meant.
func (c Recording) check(r *http.Request, answer *httptest.ResponseRecorder) error {
	if answer.Code != c.Status || !matches(c.Ours, r.Method+" "+r.URL.Path) {
		return nil
	}
	var value any
	switch err := json.Unmarshal(answer.Body.Bytes(), &value); {
	case answer.Body.Len() == 0:
		value = "" // as the recordings have it
	case err != nil:
		return errors.New("it is no JSON")
	}
	return c.Shape.Compare(value, "answer")
}

// Shape is what several JSON values have in common. The zero value has seen
// none.
type Shape struct {
	types   map[string]bool
	objects int
	members map[string]*Shape
	seen    int
	items   *Shape
	free    bool
}

// add takes a value in.
func (s *Shape) add(value any) {
	if s.types == nil {
		s.types, s.members = map[string]bool{}, map[string]*Shape{}
	}
	s.seen++
	s.types[typeOf(value)] = true
	switch v := value.(type) {
	case []any:
		if s.items == nil {
			s.items = &Shape{}
		}
		for _, item := range v {
			s.items.add(item)
		}
	case map[string]any:
		s.objects++
		for name, member := range v {
			if s.members[name] == nil {
				s.members[name] = &Shape{}
			}
			s.members[name].add(member)
		}
	}
}

func typeOf(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "bool"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	default:
		return "number"
	}
}

// loosen marks an object whose members are not compared.
func (s *Shape) loosen(path []string) {
	switch {
	case s == nil:
	case len(path) == 0 || len(path) == 1 && path[0] == "":
		s.free = true
	case path[0] == "":
		s.loosen(path[1:])
	case path[0] == "[]":
		s.items.loosen(path[1:])
	default:
		s.members[path[0]].loosen(path[1:])
	}
}

// Compare returns in what value differs from s: a type that was never seen, a
// member that none had, one missing that all had.
func (s *Shape) Compare(value any, path string) error {
	if s.seen == 0 || s.free { // the recorded lists were empty, or it is not compared
		return nil
	}
	if kind := typeOf(value); !s.types[kind] {
		return fmt.Errorf("%s is %s, recorded: %s", path, kind, strings.Join(slices.Sorted(maps.Keys(s.types)), ", "))
	}
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			if err := s.items.Compare(item, path+"[]"); err != nil {
				return err
			}
		}
	case map[string]any:
		for name, member := range v {
			if s.members[name] == nil {
				return fmt.Errorf("%s has the member %q, which was never recorded", path, name)
			}
			if err := s.members[name].Compare(member, path+"."+name); err != nil {
				return err
			}
		}
		for name, member := range s.members {
			if _, ok := v[name]; !ok && member.seen == s.objects {
				return fmt.Errorf("%s lacks the member %q, which all recorded ones have", path, name)
			}
		}
	}
	return nil
}
