package contact_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
)

var defaults = contact.Defaults{
	BaseURL: "https://api.example.com", Properties: "email = email, name = full_name", Consent: []string{"Unsubscribed"},
	Check: func(property string) error {
		if len(property) > 10 {
			return fmt.Errorf("too long")
		}
		return nil
	},
}

func mappingOf(t *testing.T, text string, form contact.Form) contact.Mapping {
	t.Helper()
	list, err := contact.ParseProperties("PROPERTIES", text, defaults)
	if err != nil {
		t.Fatal(err)
	}
	return contact.NewMapping(list, form)
}

func user() *schemas.User {
	created := int64(1700000000123)
	metadata := `{"plan":"pro","seats":12345678901234567890,"vip":true,"tags":["a"],"of":{"k":1},"none":null}`
	return &schemas.User{
		FirstName: new("Ada"), LastName: new("Lovelace"), PrimaryEmailAddress: new(" ada@example.com "),
		CreatedAt: &created, Banned: new(false), CreateOrganizationsLimit: new(int64(3)), PublicMetadata: &metadata,
	}
}

// change is a record of a user, with a state.
func change(u *schemas.User, state []byte) sinks.Record {
	return sinks.Track(sinks.Record{ClerkID: "user_1", Change: &schemas.UserChange{User: *u}, State: state})
}

func TestProperties_Forms(t *testing.T) {
	t.Parallel()
	const text = `name = full_name, at = created_at, flag = banned, n = create_organizations_limit, plan = public_metadata.plan,
		seats = public_metadata.seats, vip = public_metadata.vip, tags = public_metadata.tags, of = public_metadata.of,
		none = public_metadata.none, gone = username, source = 'Clerk'`
	common := map[string]any{"name": "Ada Lovelace", "plan": "pro", "source": "Clerk", "none": nil, "gone": nil}
	for name, test := range map[string]struct {
		form contact.Form
		want map[string]any
	}{
		"JSON, ISO 8601": {contact.Form{}, map[string]any{
			"at": "2023-11-14T22:13:20.123Z", "flag": false, "n": int64(3), "seats": json.RawMessage("12345678901234567890"),
			"vip": json.RawMessage("true"), "tags": `["a"]`, "of": `{"k":1}`,
		}},
		"nested, seconds": {contact.Form{Time: contact.UnixSeconds, Nested: true}, map[string]any{
			"at": int64(1700000000), "flag": false, "n": int64(3), "seats": json.RawMessage("12345678901234567890"),
			"vip": json.RawMessage("true"), "tags": json.RawMessage(`["a"]`), "of": json.RawMessage(`{"k":1}`),
		}},
		"strings, milliseconds": {contact.Form{Time: contact.UnixMillis, Strings: true}, map[string]any{
			"at": "1700000000123", "flag": "false", "n": "3", "seats": "12345678901234567890", "vip": "true", "tags": `["a"]`, "of": `{"k":1}`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			maps.Copy(test.want, common)
			got := mappingOf(t, text, test.form).Properties("user_1", user())
			if fmt.Sprintf("%#v", map[string]any(got)) != fmt.Sprintf("%#v", test.want) {
				t.Errorf("Properties: got %#v, want %#v", got, test.want)
			}
		})
	}
}

func TestPlan_SendsWhatChanged(t *testing.T) {
	t.Parallel()
	m := mappingOf(t, "email = email, first = first_name, user = username", contact.Form{})
	u := user()
	first := m.Plan(change(u, nil))
	if got := first.Changed.Names(); !slices.Equal(got, []string{"email", "first", "user"}) || first.Nothing() {
		t.Errorf("first Plan: changed %q, want all, those without a value too", got)
	}
	r := change(u, nil)
	first.Sent("77", contact.Email(u)).Remember(r)
	state := r.Result().State
	if memory := contact.Recall(state); memory.RemoteID != "77" || memory.Email != "ada@example.com" {
		t.Errorf("Recall: got %+v", memory)
	}
	if strings.Contains(string(state), "Ada") {
		t.Errorf("the state holds a value: %s", state)
	}
	if again := m.Plan(change(u, state)); !again.Nothing() || len(again.All) != 3 {
		t.Errorf("Plan of the same: got %+v, want nothing to do", again)
	}
	u.FirstName, u.Username = new("Grace"), new("grace")
	if got := m.Plan(change(u, state)).Changed; len(got) != 2 || got["first"] != "Grace" || got["user"] != "grace" {
		t.Errorf("Plan of two changes: got %v", got)
	}
	u.FirstName, u.Username = nil, nil
	if got := m.Plan(change(u, state)).Changed; len(got) != 1 || got["first"] != nil {
		t.Errorf("Plan of a value that is gone: got %v, want first = nil", got)
	}
}

func TestPlan_NotNothing(t *testing.T) {
	t.Parallel()
	m := mappingOf(t, "email = email", contact.Form{})
	u := user()
	sent := m.Plan(change(u, nil)).Sent("77", "")
	stateOf := func(memory contact.Memory) []byte {
		r := change(u, nil)
		memory.Remember(r)
		return r.Result().State
	}
	welcome := change(u, stateOf(sent))
	welcome.New = true
	creating, unknown := sent, sent
	creating.Creating, unknown.RemoteID = true, ""
	for name, r := range map[string]sinks.Record{
		"new": welcome, "creating": change(u, stateOf(creating)), "no id": change(u, stateOf(unknown)), "no state": change(u, nil),
		"a later format": change(u, []byte(`{"v":2,"id":"77"}`)), "nonsense": change(u, []byte("{")),
	} {
		if m.Plan(r).Nothing() {
			t.Errorf("Plan, %s: got nothing to do", name)
		}
	}
	step := m.Plan(welcome)
	welcomed := change(u, stateOf(step.Sent("77", "")))
	welcomed.New = true
	if again := m.Plan(welcomed); again.New || !again.Nothing() {
		t.Errorf("Plan of a user who was welcomed: got %+v, want nothing to do", again)
	}
}

func TestRememberErased(t *testing.T) {
	t.Parallel()
	m := mappingOf(t, "email = email", contact.Form{})
	u := user()
	r := change(u, nil)
	m.Plan(r).Sent("77", "ada@example.com").RememberErased(r)
	memory := contact.Recall(r.Result().State)
	if memory.RemoteID != "77" || len(memory.Sent) != 0 {
		t.Errorf("after an erasure: got %+v, want the id and no hashes", memory)
	}
	if step := m.Plan(change(u, r.Result().State)); step.Nothing() || step.Memory.RemoteID != "" {
		t.Errorf("Plan of a user who is back: got %+v, want as if nothing were remembered", step)
	}
	nobody := change(u, nil)
	contact.Memory{}.RememberErased(nobody)
	if got := nobody.Result(); !got.Remembered || got.State != nil {
		t.Errorf("after an erasure that found nobody: remembered %v, %q, want to forget", got.Remembered, got.State)
	}
}

func TestRemember_StaysWithinTheLimit(t *testing.T) {
	t.Parallel()
	var properties []string
	for i := range 300 {
		properties = append(properties, fmt.Sprintf("prop%06d = first_name", i))
	}
	m := mappingOf(t, strings.Join(properties, ","), contact.Form{})
	r := change(user(), nil)
	m.Plan(r).Sent("77", "").Remember(r)
	if n := len(r.Result().State); n == 0 || n > 4<<10 {
		t.Errorf("state of 300 properties: %d bytes, want 1 to 4096", n)
	}
	if step := m.Plan(change(user(), r.Result().State)); step.Memory.RemoteID != "77" || len(step.Changed) != 300 {
		t.Errorf("Plan after that: id %q and %d changed, want 77 and all", step.Memory.RemoteID, len(step.Changed))
	}
}

func TestEmail(t *testing.T) {
	t.Parallel()
	if got := contact.Email(&schemas.User{}); got != "" {
		t.Errorf("Email of a user without: got %q", got)
	}
	if got := contact.Email(user()); got != "ada@example.com" {
		t.Errorf("Email: got %q, want it without spaces", got)
	}
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]contact.Config{
		"":                     {},
		"BASE_URL":             {BaseURL: "api.example.com"},
		"TIMEOUT":              {Timeout: time.Millisecond},
		"CONFIRM_AFTER":        {ConfirmAfter: -1},
		"PROPERTIES cannot be": {Properties: "email"},
		"has agreed to":        {Properties: "UNSUBSCRIBED = banned"},
		"too long":             {Properties: "abcdefghijk = email"},
		"stands twice":         {Properties: "a = email, a = username"},
	} {
		err := cfg.Validate(defaults)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Validate of %+v: got %v, want %q", cfg, err, want)
		}
	}
	if err := contact.CheckChoice("ERASURE", "x", "archive", "delete"); err == nil || err.Error() != `ERASURE is "x": use archive or delete` {
		t.Errorf("CheckChoice: got %v", err)
	}
	if err := contact.CheckChoice("ERASURE", "delete", "archive", "delete"); err != nil {
		t.Errorf("CheckChoice: %v", err)
	}
}
