package intercom_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"clerkconnect/sinks/resttest"
)

const (
	token = "token-1"
	tag   = "new-user"
	tagID = "4919473"
)

// imitation plays an Intercom workspace. Contacts that are deleted keep their
// address and external id for some days, as there.
type imitation struct {
	*resttest.Server

	mu         sync.Mutex
	shown      map[string]any // a contact as it was recorded, to show ours like it
	people     map[string]*person
	byExternal map[string]*person
	byEmail    map[string]*person
	serial     int
	attributes []string
	tagged     map[string]int     // times that the tag was put on, by external id
	before     func(route string) // what happens before a request is carried out
	silent     bool               // conflicts do not say with whom
}

type person struct {
	id       string
	values   map[string]any
	custom   map[string]any
	tags     map[string]bool
	archived bool
	deleted  bool // for ever, soon
}

// newImitation returns one that holds requests and answers against Intercom's
// description.
func newImitation(t testing.TB, clock *resttest.Clock) *imitation {
	return newImitationOf(t, clock, resttest.LoadContract(t, "intercom-2.14.yaml"))
}

func newImitationOf(t testing.TB, clock *resttest.Clock, contract *resttest.Contract) *imitation {
	h := &imitation{
		people: map[string]*person{}, byExternal: map[string]*person{}, byEmail: map[string]*person{}, tagged: map[string]int{},
		attributes: []string{"name", "email", "plan"},
	}
	for _, e := range resttest.Exchanges(t, "intercom.json") {
		if e.Method == http.MethodPost && e.Path == "/contacts" && e.Status == 200 {
			if err := json.Unmarshal(e.Response, &h.shown); err != nil {
				t.Fatal(err)
			}
		}
	}
	if contract == nil { // fast
		h.play(t, resttest.Config{Clock: clock})
		return h
	}
	own := []string{"custom_attributes", "signed_up_at", "name"}
	recorded := func(ours, theirs string, status int, free ...string) resttest.Recording {
		return resttest.Recorded(t, ours, "intercom.json", theirs, status, free...)
	}
	h.play(t, resttest.Config{
		Clock: clock, Contract: contract,
		Recorded: []resttest.Recording{
			recorded("POST /contacts", "POST /contacts", 200, own...), recorded("POST /contacts", "POST /contacts", 409),
			recorded("PUT /contacts/*", "PUT /contacts/*", 200, own...), recorded("GET /contacts/*", "GET /contacts/*", 404),
			recorded("GET /contacts/find_by_external_id/*", "GET /contacts/*", 404),
			recorded("DELETE /contacts/*", "DELETE /contacts/*", 200), recorded("POST /contacts/*/archive", "POST /contacts/*/archive", 200),
			recorded("POST /contacts/*/unarchive", "POST /contacts/*/unarchive", 200), recorded("POST /contacts/*/unarchive", "POST /contacts/*/unarchive", 400),
			recorded("POST /contacts/*/tags", "POST /contacts/*/tags", 200), recorded("GET /tags", "GET /tags", 200),
			recorded("GET /data_attributes", "GET /data_attributes", 200),
		},
	})
	return h
}

// play starts the server with Intercom's limits.
func (h *imitation) play(t testing.TB, cfg resttest.Config) {
	clock := cfg.Clock
	cfg.Tool = http.HandlerFunc(h.serve)
	cfg.Limits = []resttest.Limit{{Requests: 1667, Window: 10 * time.Second}}
	cfg.TooMany = func(w http.ResponseWriter, wait time.Duration) {
		w.Header().Set("X-RateLimit-Reset", fmt.Sprint(clock.Now().Add(wait).Unix()))
		fail(w, 429, "rate_limit_exceeded", "Exceeded rate limit")
	}
	cfg.Quota = func(header http.Header, remaining int) {
		header.Set("X-RateLimit-Remaining", fmt.Sprint(remaining))
		header.Set("X-RateLimit-Reset", fmt.Sprint(clock.Now().Add(10*time.Second).Unix()))
	}
	h.Server = resttest.NewServer(t, cfg)
}

type object = map[string]any

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // to a recorder
}

func fail(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, object{"type": "error.list", "request_id": "0d7dc7bf-2b43-4bd8-a3a6-c1b2b5a3b7a1", "errors": []object{{"code": code, "message": message}}})
}

func (h *imitation) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Revoked() || r.Header.Get("Authorization") != "Bearer "+token || r.Header.Get("Intercom-Version") != "2.14" {
		fail(w, 401, "unauthorized", "Access Token Invalid")
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	route := r.Method + " " + strings.Join(append([]string{parts[0]}, parts[min(2, len(parts)):]...), "/")
	switch {
	case r.URL.Path == "/data_attributes":
		h.dataAttributes(w, r)
	case r.URL.Path == "/tags":
		answer(w, 200, object{"type": "list", "data": []object{{"type": "tag", "id": "1", "name": "another"}, {"type": "tag", "id": tagID, "name": tag}}})
	case r.Method == http.MethodPost && r.URL.Path == "/contacts":
		h.create(w, r)
	case len(parts) == 3 && parts[1] == "find_by_external_id":
		h.show(w, h.byExternal[parts[2]])
	case len(parts) < 2:
		fail(w, 404, "not_found", "no such path")
	default:
		if h.before != nil {
			h.before(route)
		}
		h.contact(w, r, route, h.people[parts[1]])
	}
}

func (h *imitation) contact(w http.ResponseWriter, r *http.Request, route string, p *person) {
	if p == nil || p.archived && route != "POST contacts/unarchive" {
		fail(w, 404, "not_found", "User Not Found")
		return
	}
	switch route {
	case "GET contacts":
		h.show(w, p)
	case "PUT contacts":
		h.update(w, r, p)
	case "DELETE contacts":
		p.archived, p.deleted = true, true
		answer(w, 200, object{"id": p.id, "object": "contact", "deleted": true})
	case "POST contacts/archive":
		p.archived = true
		answer(w, 200, object{"id": p.id, "object": "contact", "archived": true})
	case "POST contacts/unarchive":
		if p.deleted {
			fail(w, 400, "bad_request", "User has been marked for permanent deletion and is not restorable.")
			return
		}
		p.archived = false
		answer(w, 200, object{"id": p.id, "object": "contact", "archived": false})
	case "POST contacts/tags":
		p.tags[tagID] = true
		h.tagged[fmt.Sprint(p.values["external_id"])]++
		answer(w, 200, object{"type": "tag", "id": tagID, "name": tag})
	default:
		fail(w, 404, "not_found", "no such path")
	}
}

func (h *imitation) dataAttributes(w http.ResponseWriter, r *http.Request) {
	describe := func(name string) object {
		return object{
			"type": "data_attribute", "name": name, "full_name": name, "label": name, "description": "", "data_type": "string",
			"api_writable": true, "ui_writable": true, "custom": false, "archived": false, "model": "contact",
		}
	}
	if r.Method == http.MethodPost {
		var body struct{ Name string }
		json.NewDecoder(r.Body).Decode(&body) //nolint:errcheck // checked by the contract
		h.attributes = append(h.attributes, body.Name)
		answer(w, 200, describe(body.Name))
		return
	}
	list := []object{}
	for _, name := range h.attributes {
		list = append(list, describe(name))
	}
	answer(w, 200, object{"type": "list", "data": list})
}

func (h *imitation) show(w http.ResponseWriter, p *person) {
	if p == nil || p.archived {
		fail(w, 404, "not_found", "User Not Found")
		return
	}
	shown := maps.Clone(h.shown)
	maps.Copy(shown, p.values)
	shown["id"], shown["custom_attributes"] = p.id, p.custom
	answer(w, 200, shown)
}

var addresses = regexp.MustCompile(`^[^@\s]+@[a-z0-9.-]+\.[a-z]+$`)

// refusal returns why values are not taken, with the contact that is in the way.
func (h *imitation) refusal(p *person, values map[string]any) (code, message string) {
	email, _ := values["email"].(string)
	external, _ := values["external_id"].(string)
	if email != "" && !addresses.MatchString(email) {
		return "parameter_invalid", "email is invalid: " + email
	}
	for _, other := range []*person{h.byExternal[external], h.byEmail[strings.ToLower(email)]} {
		switch {
		case other == nil || other == p:
		case other.archived:
			return "conflict", "An archived contact matching those details already exists with id=" + other.id
		default:
			return "conflict", "A contact matching those details already exists with id=" + other.id
		}
	}
	custom, _ := values["custom_attributes"].(map[string]any)
	for name := range custom {
		if !strings.Contains(strings.Join(h.attributes, " "), name) {
			return "parameter_invalid", "Custom attribute '" + name + "' does not exist"
		}
	}
	return "", ""
}

func read(r *http.Request) map[string]any {
	values := map[string]any{}
	json.NewDecoder(r.Body).Decode(&values) //nolint:errcheck // checked by the contract
	return values
}

func (h *imitation) refuse(w http.ResponseWriter, code, message string) {
	status := http.StatusBadRequest
	if code == "conflict" {
		status = http.StatusConflict
	}
	fail(w, status, code, message)
}

func (h *imitation) create(w http.ResponseWriter, r *http.Request) {
	values := read(r)
	if code, message := h.refusal(nil, values); code != "" {
		if h.silent {
			message = "A contact matching those details already exists"
		}
		h.refuse(w, code, message)
		return
	}
	h.serial++
	p := &person{id: fmt.Sprintf("6064d5%018x", h.serial), values: map[string]any{}, custom: map[string]any{}, tags: map[string]bool{}}
	h.people[p.id] = p
	h.set(p, values)
	h.show(w, p)
}

func (h *imitation) update(w http.ResponseWriter, r *http.Request, p *person) {
	values := read(r)
	if code, message := h.refusal(p, values); code != "" {
		h.refuse(w, code, message)
		return
	}
	h.set(p, values)
	h.show(w, p)
}

// set changes a contact and keeps the indexes.
func (h *imitation) set(p *person, values map[string]any) {
	h.forget(p)
	for name, value := range values {
		switch {
		case name == "custom_attributes":
			maps.Copy(p.custom, value.(map[string]any))
		case name != "avatar": // which Intercom fetches, and shows as an object
			p.values[name] = value
		}
	}
	external, _ := p.values["external_id"].(string)
	email, _ := p.values["email"].(string)
	if external != "" {
		h.byExternal[external] = p
	}
	if email != "" {
		h.byEmail[strings.ToLower(email)] = p
	}
}

func (h *imitation) forget(p *person) {
	if external, _ := p.values["external_id"].(string); h.byExternal[external] == p {
		delete(h.byExternal, external)
	}
	if email, _ := p.values["email"].(string); h.byEmail[strings.ToLower(email)] == p {
		delete(h.byEmail, strings.ToLower(email))
	}
}
