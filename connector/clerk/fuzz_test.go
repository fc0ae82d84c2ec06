package clerk_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"clerkconnect/connector/clerk"
	"clerkconnect/schemas"
)

// canary stands in everything that a policy leaves out.
const canary = "CANARY-5f3a"

// poisoned returns body with every field that the policy leaves out, fields
// that nobody knows, backup codes, and the request's attributes full of
// canaries. ok is false if body is no event with a user object.
func poisoned(p *clerk.Policy, body []byte) (text []byte, ok bool) {
	var envelope, data map[string]json.RawMessage
	if json.Unmarshal(body, &envelope) != nil || json.Unmarshal(envelope["data"], &data) != nil || data == nil {
		return nil, false
	}
	left := []string{"unknown", "Email_Addresses", "profile_image_url"}
	for _, name := range clerk.FieldNames() {
		if !slices.Contains(p.Fields(), name) {
			left = append(left, name)
		}
	}
	for _, name := range left {
		data[name] = json.RawMessage(`{"` + canary + `":["` + canary + `"]}`)
		if strings.HasSuffix(name, "_numbers") {
			data[name] = json.RawMessage(`[{"phone_number":"` + canary + `","backup_codes":["` + canary + `"]}]`)
		}
	}
	if slices.Contains(p.Fields(), "phone_numbers") {
		data["phone_numbers"] = json.RawMessage(`[{"phone_number":"+1","backup_codes":["` + canary + `"],"verification":{"status":"verified","nonce":"` + canary + `"}}]`)
	}
	text, err := json.Marshal(data)
	if err != nil {
		return nil, false
	}
	envelope["data"] = text
	if !slices.Contains(p.Fields(), "client_ip") {
		envelope["event_attributes"] = json.RawMessage(`{"http_request":{"client_ip":"` + canary + `","user_agent":"` + canary + `"}}`)
	}
	text, err = json.Marshal(envelope)
	return text, err == nil
}

// seeds are bodies small enough to read: the shapes that matter.
var seeds = []string{
	envelope("user.created", `{"id":"user_1","updated_at":1764100000000,"email_addresses":[{"id":"i","email_address":"a@example.com","verification":{"status":"verified"}}],"primary_email_address_id":"i"}`),
	envelope("user.updated", `{"id":"user_1","updated_at":1,"public_metadata":{"n":9007199254740993,"s":"\u0000\ud800"},"banned":true,"banned":null}`),
	envelope("user.updated", everything),
	envelope("user.deleted", `{"id":"user_1","deleted":true,"object":"user"}`),
	envelope("user.deleted", `{"deleted":true}`),
	`{"type":"user.updated","timestamp":-1,"data":{"id":"user_1","updated_at":9223372036854775807}}`,
	`{"type":"user.updated","data":{"id":"user_1","updated_at":1,"email_addresses":[{}]}}`,
	`[]`, `{`, "\xff", `{"type":"session.created"}`,
}

// FuzzEvent: no body makes the package panic; what it makes of one survives
// Avro; and nothing of what the policy leaves out has any influence on it or
// appears in its bytes.
func FuzzEvent(f *testing.F) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	policies := []*clerk.Policy{newPolicy(f), newPolicy(f, clerk.FieldNames()...), newPolicy(f, "phone_numbers")}
	f.Fuzz(func(t *testing.T, body []byte) {
		if strings.Contains(string(body), "CANARY") {
			return
		}
		for _, p := range policies {
			event, err := eventOf(p, string(body))
			if err != nil {
				checkError(t, err)
				continue
			}
			back, _ := roundTrip(t, event)
			if !reflect.DeepEqual(back, event) {
				t.Fatalf("round trip: got %s, want %s", show(back), show(event))
			}
			again := *event
			if again.User != nil && again.Fingerprint != clerk.Fingerprint(back.User) {
				t.Fatal("the fingerprint changed in Avro")
			}
			text, ok := poisoned(p, body)
			if !ok {
				continue
			}
			poisonedEvent, err := eventOf(p, string(text))
			if err != nil {
				checkError(t, err) // json.Marshal moves the last of repeated names, never a kept one
				t.Fatalf("with fields that are left out: %v", err)
			}
			_, bytes := roundTrip(t, poisonedEvent)
			if strings.Contains(string(bytes), "CANARY") {
				t.Fatalf("a field that is left out is in the record: %s", show(poisonedEvent))
			}
			if slices.Contains(p.Fields(), "phone_numbers") {
				continue // was replaced
			}
			poisonedEvent.ClientIP, poisonedEvent.UserAgent = event.ClientIP, event.UserAgent
			if show(normal(poisonedEvent)) != show(normal(event)) {
				t.Fatalf("fields that are left out change the record: got %s, want %s", show(poisonedEvent), show(event))
			}
		}
	})
}

// FuzzNewPolicy: lists of fields are refused by the name of their variable, or
// keep what is always kept and leave out all that they exclude.
func FuzzNewPolicy(f *testing.F) {
	f.Add("phone_numbers, client_ip", "image_url")
	f.Add("", "id")
	f.Add("Email_Addresses,\x00", ",, ,")
	f.Add("scim", "scim")
	f.Fuzz(func(t *testing.T, include, exclude string) {
		excluded := strings.Split(exclude, ",")
		p, err := clerk.NewPolicy(clerk.PolicyConfig{Include: strings.Split(include, ","), Exclude: excluded})
		if err != nil {
			if !strings.Contains(err.Error(), "POLICY_") {
				t.Fatalf("the error names no variable: %v", err)
			}
			return
		}
		for _, name := range []string{"id", "created_at", "updated_at"} {
			if !slices.Contains(p.Fields(), name) {
				t.Fatalf("%s is left out", name)
			}
		}
		for _, name := range p.Fields() {
			if slices.ContainsFunc(excluded, func(s string) bool { return strings.TrimSpace(s) == name }) || !slices.Contains(clerk.FieldNames(), name) {
				t.Fatalf("%s is kept", name)
			}
		}
	})
}

// normal leaves out what a second rendering of the body may write otherwise.
func normal(event *schemas.UserEvent) *schemas.UserEvent {
	n := *event
	n.Fingerprint = 0
	if n.User != nil {
		user := *n.User
		user.PublicMetadata = nil
		n.User = &user
	}
	return &n
}

func checkError(t *testing.T, err error) {
	t.Helper()
	var malformed *clerk.MalformedError
	if !errors.As(err, &malformed) && !errors.Is(err, clerk.ErrUnsupportedType) && !errors.Is(err, clerk.ErrMissingID) && !errors.Is(err, clerk.ErrTooFarAhead) {
		t.Fatalf("an error of no known kind: %v", err)
	}
	if strings.Contains(err.Error(), "CANARY") {
		t.Fatalf("the error quotes the body: %v", err)
	}
}
