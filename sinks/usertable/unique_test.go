package usertable

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
)

func at(number int64) schemas.Version { return schemas.Version{Epoch: 1, Number: number} }

func TestSettle(t *testing.T) {
	t.Parallel()
	claim := func(id string, number int64, value int) Claim { return Claim{id, at(number), value} }
	holder := func(id string, number int64, deleted bool) Holder {
		return Holder{ClerkID: id, Guard: sinks.Guard{Rank: at(number), Deleted: deleted}}
	}
	unknown := Holder{ClerkID: "user_9"}
	for _, test := range []struct {
		name    string
		claims  []Claim
		holders []Holder
		written []string
		waits   map[string]string
		vacate  []string
	}{
		{"nobody holds it", []Claim{claim("user_1", 1, 0)}, nil, nil, nil, nil},
		{"oneself", []Claim{claim("user_1", 2, 0)}, []Holder{holder("user_1", 9, false)}, nil, nil, nil},
		{"an older holder", []Claim{claim("user_1", 2, 0)}, []Holder{holder("user_2", 1, false)}, nil, nil, []string{"user_2"}},
		{"a newer holder", []Claim{claim("user_1", 2, 0)}, []Holder{holder("user_2", 3, false)}, nil, map[string]string{"user_1": "user_2"}, nil},
		{"of one version, a higher id", []Claim{claim("user_1", 2, 0)}, []Holder{holder("user_2", 2, false)}, nil, map[string]string{"user_1": "user_2"}, nil},
		{"of one version, a lower id", []Claim{claim("user_2", 2, 0)}, []Holder{holder("user_1", 2, false)}, nil, nil, []string{"user_1"}},
		{"deleted by a later word", []Claim{claim("user_1", 2, 0)}, []Holder{holder("user_2", 3, true)}, nil, nil, []string{"user_2"}},
		{"nothing known", []Claim{claim("user_1", 2, 0)}, []Holder{unknown}, nil, map[string]string{"user_1": "user_9"}, nil},
		{"nothing known, but written now", []Claim{claim("user_1", 2, 0)}, []Holder{unknown}, []string{"user_9"}, nil, []string{"user_9"}},
		{"the application's own", []Claim{claim("user_1", 2, 0)}, []Holder{{}}, []string{""}, map[string]string{"user_1": ""}, nil},
		{"another value", []Claim{claim("user_1", 2, 1)}, []Holder{unknown}, nil, nil, nil},
		{"two claims", []Claim{claim("user_1", 2, 0), claim("user_2", 3, 0), claim("user_3", 1, 0)}, nil, nil, map[string]string{"user_1": "user_2", "user_3": "user_2"}, nil},
		{"two claims and a newer holder", []Claim{claim("user_1", 2, 0), claim("user_2", 3, 0)}, []Holder{holder("user_4", 4, false)}, nil, map[string]string{"user_1": "user_2", "user_2": "user_4"}, nil},
		{"two holders, as of a partial key", []Claim{claim("user_1", 2, 0)}, []Holder{holder("user_2", 1, false), holder("user_3", 3, false)}, nil, map[string]string{"user_1": "user_3"}, []string{"user_2"}},
	} {
		got := Settle(test.claims, test.holders, func(id string) bool { return slices.Contains(test.written, id) })
		var vacate []string
		for _, h := range got.Vacate {
			vacate = append(vacate, h.ClerkID)
		}
		if !maps.Equal(got.Waits, test.waits) || !slices.Equal(vacate, test.vacate) {
			t.Errorf("%s: got waits %v, vacate %v, want %v, %v", test.name, got.Waits, vacate, test.waits, test.vacate)
		}
	}
}

// TestSettle_OrderOfClaims shows that who wins does not follow from who comes
// first.
func TestSettle_OrderOfClaims(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var claims []Claim
		for _, id := range []string{"user_1", "user_2", "user_3", "user_4"} {
			claims = append(claims, Claim{id, at(rapid.Int64Range(1, 3).Draw(rt, "version")), rapid.IntRange(0, 1).Draw(rt, "value")})
		}
		nobody := func(string) bool { return false }
		waiting := func(claims []Claim) []string { return slices.Sorted(maps.Keys(Settle(claims, nil, nobody).Waits)) }
		want, got := waiting(claims), waiting(rapid.Permutation(claims).Draw(rt, "order"))
		if !slices.Equal(got, want) {
			rt.Errorf("who waits: got %v and %v", got, want)
		}
	})
}

func TestVacatable(t *testing.T) {
	t.Parallel()
	text := Column{Name: "email", Expression: mapping.Must("email"), Required: true}
	number := Column{Name: "n", Expression: mapping.Must("create_organizations_limit"), Required: true}
	optional := Column{Name: "o", Expression: mapping.Must("create_organizations_limit")}
	tenant := Column{Name: "t", Expression: mapping.Must("'acme'")}
	for want, key := range map[string][]Column{"email": {tenant, number, text}, "o": {number, optional, text}, "": {number, tenant}} {
		if got, ok := Vacatable(key); got.Name != want || ok != (want != "") {
			t.Errorf("Vacatable: got %q, %v, want %q", got.Name, ok, want)
		}
	}
	if got := text.Vacant("user_1"); got != "pending-user_1@email.invalid" {
		t.Errorf("Vacant: got %v", got)
	}
	if got := optional.Vacant("user_1"); got != nil {
		t.Errorf("Vacant: got %v, want null", got)
	}
}

func TestFate(t *testing.T) {
	t.Parallel()
	referring := []string{"posts", "orders", "posts"}
	for _, test := range []struct {
		policy  Deletion
		present bool
		want    Fate
	}{
		{DeletionHard, true, Fate{DeletionHard, schemas.OutcomeDeleted, ""}},
		{DeletionSoft, true, Fate{DeletionSoft, schemas.OutcomeSoftDeleted, ""}},
		{DeletionAnonymize, true, Fate{DeletionAnonymize, schemas.OutcomeAnonymized, ""}},
		{DeletionAuto, true, Fate{DeletionAnonymize, schemas.OutcomeAnonymized, "rows of orders, posts refer to it"}},
		{DeletionAuto, false, Fate{"", schemas.OutcomeNotPresent, ""}},
	} {
		if got := test.policy.Fate(test.present, referring); got != test.want {
			t.Errorf("%s, present %v: got %+v, want %+v", test.policy, test.present, got, test.want)
		}
	}
	if got := DeletionAuto.Fate(true, nil); got.Deletion != DeletionHard {
		t.Errorf("auto without references: got %+v, want hard", got)
	}
	erase := sinks.Track(sinks.Record{})
	DeletionAuto.Fate(true, referring).Report(erase)
	if got := erase.Result(); got.Outcome != schemas.OutcomeAnonymized || got.Reason == "" {
		t.Errorf("Report: got %+v", got)
	}
}
