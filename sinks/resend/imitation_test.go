package resend_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"clerkconnect/sinks/resttest"
)

const (
	key     = "re_123456789"
	segment = "78261eea-8f8b-4381-83c6-79fa7120f1cf"
	topic   = "b6d24b8e-af0b-4c3c-be0c-359bbd97381e"
)

// imitation plays a Resend team. Creating a contact whose address is there
// succeeds and does nothing, and no request changes an address, as there.
type imitation struct {
	*resttest.Server

	mu       sync.Mutex
	people   map[string]*person // by id
	byEmail  map[string]*person // by address in lower case
	byOwner  map[string]*person // the last one that was written, by Clerk ID
	serial   int
	declared map[string]string   // types of properties, by key
	consents int                 // updates that said something of consent
	before   func(method string) // what happens before a contact is created
}

type person struct {
	id, email    string
	names        map[string]string
	properties   map[string]any
	unsubscribed bool
	segments     []string
	topics       map[string]string
}

// newImitation returns one that holds requests and answers against Resend's
// description.
func newImitation(t testing.TB, clock *resttest.Clock) *imitation {
	return newImitationOf(t, clock, resttest.LoadContract(t, "resend.json"))
}

func newImitationOf(t testing.TB, clock *resttest.Clock, contract *resttest.Contract) *imitation {
	h := &imitation{
		people: map[string]*person{}, byEmail: map[string]*person{}, byOwner: map[string]*person{},
		declared: map[string]string{"clerk_user_id": "string", "plan": "string", "seats": "number"},
	}
	for i := range 120 { // more than a page, and before the others
		h.declared[fmt.Sprintf("a%03d", i)] = "string"
	}
	h.Server = resttest.NewServer(t, resttest.Config{
		Tool: http.HandlerFunc(h.serve), Clock: clock, Contract: contract,
		Limits: []resttest.Limit{{Requests: 5, Window: time.Second}},
		TooMany: func(w http.ResponseWriter, wait time.Duration) {
			w.Header().Set("Retry-After", resttest.RetryAfter(wait))
			fail(w, 429, "rate_limit_exceeded", "Too many requests. You can only make 5 requests per second.")
		},
		Quota: func(header http.Header, remaining int) {
			header.Set("RateLimit-Limit", "5")
			header.Set("RateLimit-Remaining", fmt.Sprint(remaining))
			header.Set("RateLimit-Reset", "1")
		},
	})
	return h
}

type object = map[string]any

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // to a recorder
}

func fail(w http.ResponseWriter, status int, name, message string) {
	answer(w, status, object{"statusCode": status, "name": name, "message": message})
}

func (h *imitation) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Revoked() || r.Header.Get("Authorization") != "Bearer "+key {
		fail(w, 401, "restricted_api_key", "This API key is restricted to only send emails")
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	switch {
	case parts[0] == "contact-properties" && r.Method == http.MethodPost:
		body := read(r)
		h.declared[body["key"].(string)] = body["type"].(string)
		answer(w, 201, object{"object": "contact_property", "id": body["key"]})
	case parts[0] == "contact-properties":
		h.properties(w, r)
	case parts[0] == "segments" && parts[1] == segment:
		answer(w, 200, object{"object": "segment", "id": segment, "name": "New", "created_at": "2026-11-25 12:00:00.000+00"})
	case parts[0] == "segments":
		fail(w, 404, "not_found", "Segment not found")
	case len(parts) == 1:
		if h.before != nil {
			h.before(r.Method)
		}
		h.create(w, read(r))
	default:
		h.contact(w, r, parts)
	}
}

func (h *imitation) properties(w http.ResponseWriter, r *http.Request) {
	var keys []string
	for key := range h.declared {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	after, found := slices.BinarySearch(keys, r.URL.Query().Get("after"))
	if found {
		after++
	}
	data := []object{}
	for _, key := range keys[after:min(after+100, len(keys))] {
		data = append(data, object{"id": key, "key": key, "type": h.declared[key], "created_at": "2026-11-25 12:00:00.000+00"})
	}
	answer(w, 200, object{"object": "list", "has_more": after+100 < len(keys), "data": data})
}

func read(r *http.Request) map[string]any {
	values := map[string]any{}
	json.NewDecoder(r.Body).Decode(&values) //nolint:errcheck // checked by the contract
	return values
}

var (
	addresses = regexp.MustCompile(`^[^@\s]+@[a-z0-9.-]+\.[a-z]+$`)
	ids       = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f-]{27}$`)
)

// refusal returns what is wrong with a body, "" if nothing.
func (h *imitation) refusal(body map[string]any) string {
	for _, name := range []string{"first_name", "last_name"} {
		if value, ok := body[name]; ok {
			if _, text := value.(string); !text {
				return "The `" + name + "` field must be a string."
			}
		}
	}
	properties, _ := body["properties"].(map[string]any)
	for name, value := range properties {
		switch value.(type) {
		case string:
			if h.declared[name] != "string" {
				return "The property `" + name + "` does not exist or is of another type."
			}
		default:
			return "The property `" + name + "` is of another type."
		}
	}
	return ""
}

func (h *imitation) create(w http.ResponseWriter, body map[string]any) {
	email, _ := body["email"].(string)
	problem := h.refusal(body)
	if !addresses.MatchString(email) {
		problem = "Invalid `email` field."
	}
	if problem != "" {
		fail(w, 422, "validation_error", problem)
		return
	}
	p := h.byEmail[strings.ToLower(email)]
	if p == nil {
		h.serial++
		p = &person{
			id: fmt.Sprintf("520784e2-887d-4c25-b53c-%012x", h.serial), email: email,
			names: map[string]string{}, properties: map[string]any{}, topics: map[string]string{},
		}
		h.people[p.id], h.byEmail[strings.ToLower(email)] = p, p
		p.unsubscribed, _ = body["unsubscribed"].(bool)
		h.set(p, body)
		for _, id := range listOf(body["segments"]) {
			p.segments = append(p.segments, id.(string))
		}
		for _, t := range listOf(body["topics"]) {
			p.topics[t.(object)["id"].(string)] = t.(object)["subscription"].(string)
		}
	}
	answer(w, 201, object{"object": "contact", "id": p.id})
}

func listOf(value any) []any {
	list, _ := value.([]any)
	return list
}

// set changes what a body says of names and properties.
func (h *imitation) set(p *person, body map[string]any) {
	for _, name := range []string{"first_name", "last_name"} {
		if value, ok := body[name].(string); ok {
			p.names[name] = value
		}
	}
	properties, _ := body["properties"].(map[string]any)
	for name, value := range properties {
		p.properties[name] = value
	}
	if owner, ok := p.properties["clerk_user_id"].(string); ok {
		h.byOwner[owner] = p
	}
}

func (h *imitation) contact(w http.ResponseWriter, r *http.Request, parts []string) {
	name, err := url.PathUnescape(parts[1])
	if err != nil || !ids.MatchString(name) && !addresses.MatchString(name) {
		fail(w, 422, "validation_error", "The `id` must be a valid UUID or e-mail address.")
		return
	}
	p := h.people[name]
	if p == nil {
		p = h.byEmail[strings.ToLower(name)]
	}
	if p == nil {
		fail(w, 404, "not_found", "Contact not found")
		return
	}
	parts[1] = "*"
	switch r.Method + " " + strings.Join(parts[1:], "/") {
	case "GET *":
		answer(w, 200, p.shown())
	case "PATCH *":
		body := read(r)
		if problem := h.refusal(body); problem != "" {
			fail(w, 422, "validation_error", problem)
			return
		}
		if unsubscribed, ok := body["unsubscribed"].(bool); ok {
			p.unsubscribed = unsubscribed
			h.consents++
		}
		h.set(p, body)
		answer(w, 200, object{"object": "contact", "id": p.id})
	case "DELETE *":
		h.delete(p)
		answer(w, 200, object{"object": "contact", "id": p.id, "deleted": true})
	case "GET */segments":
		data := []object{}
		for _, id := range p.segments {
			data = append(data, object{"id": id, "name": "New", "created_at": "2026-11-25 12:00:00.000+00"})
		}
		answer(w, 200, object{"object": "list", "has_more": false, "data": data})
	case "GET */topics":
		data := []object{}
		for id, subscription := range p.topics {
			data = append(data, object{"id": id, "name": "News", "subscription": subscription})
		}
		answer(w, 200, object{"object": "list", "has_more": false, "data": data})
	case "POST */segments/" + segment:
		if !slices.Contains(p.segments, segment) {
			p.segments = append(p.segments, segment)
		}
		answer(w, 200, object{"object": "contact_segment", "contact_id": p.id, "segment_id": segment})
	default:
		fail(w, 404, "not_found", "no such path")
	}
}

func (p *person) shown() object {
	shown := object{
		"object": "contact", "id": p.id, "email": p.email, "unsubscribed": p.unsubscribed,
		"created_at": "2026-11-25 12:00:00.000+00", "properties": p.properties,
	}
	for _, name := range []string{"first_name", "last_name"} {
		shown[name] = p.names[name]
	}
	return shown
}

// delete is what a person does by hand, too.
func (h *imitation) delete(p *person) {
	delete(h.people, p.id)
	delete(h.byEmail, strings.ToLower(p.email))
}
