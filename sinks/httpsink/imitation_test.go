package httpsink_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	svix "github.com/svix/svix-webhooks/go"

	"clerkconnect/sinks/resttest"
)

const (
	apiKey        = "xkeysib-1"
	signingSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

// imitation keeps contacts, and speaks as one of three services.
type imitation struct {
	*resttest.Server

	mu      sync.Mutex
	people  map[string]*person // by the service's id
	byClerk map[string]*person
	byEmail map[string]*person
	serial  int
}

type person struct {
	id, clerkID, email string
	values             map[string]any
	unsubscribed       bool
	welcomed           bool
}

type object = map[string]any

// newImitation returns an imitation of that service, behind its limit.
func newImitation(t testing.TB, clock *resttest.Clock, service string) *imitation {
	h := &imitation{people: map[string]*person{}, byClerk: map[string]*person{}, byEmail: map[string]*person{}}
	tools := map[string]http.HandlerFunc{"brevo": h.brevo, "loops": h.loops, "hook": h.hook}
	limit := map[string]string{"brevo": "X-Sib-Ratelimit-", "loops": "X-Ratelimit-", "hook": "Ratelimit-"}[service]
	h.Server = resttest.NewServer(t, resttest.Config{
		Tool: tools[service], Clock: clock, Limits: []resttest.Limit{{Requests: 10, Window: time.Second}},
		TooMany: func(w http.ResponseWriter, wait time.Duration) {
			w.Header().Set(limit+"Reset", resttest.RetryAfter(wait))
			answer(w, http.StatusTooManyRequests, object{"code": "too_many_requests", "message": "Rate limit is exceeded", "success": false})
		},
		Quota: func(header http.Header, remaining int) {
			header.Set(limit+"Remaining", fmt.Sprint(remaining))
			header.Set(limit+"Reset", "1")
		},
	})
	return h
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if status != http.StatusNoContent {
		json.NewEncoder(w).Encode(body) //nolint:errcheck // to a recorder
	}
}

func read(r *http.Request) object {
	values := object{}
	json.NewDecoder(r.Body).Decode(&values) //nolint:errcheck // missing members are refused
	return values
}

var addresses = regexp.MustCompile(`^[^@\s]+@[a-z0-9.-]+\.[a-z]+$`)

// put writes a contact, new or not, and reports why it may not.
func (h *imitation) put(p *person, clerkID, email string, values object) (conflict, invalid bool) {
	email = strings.ToLower(email)
	if email != "" && !addresses.MatchString(email) {
		return false, true
	}
	if other := h.byEmail[email]; other != nil && other != p {
		return true, false
	}
	if other := h.byClerk[clerkID]; other != nil && other != p {
		return true, false
	}
	if p.id == "" {
		h.serial++
		p.id = strconv.Itoa(1000 + h.serial)
		p.values = object{}
	}
	h.remove(p)
	if p.clerkID = clerkID; email != "" {
		p.email = email
	}
	maps.Copy(p.values, values)
	h.people[p.id] = p
	h.byClerk[p.clerkID] = p
	if p.email != "" {
		h.byEmail[p.email] = p
	}
	return false, false
}

func (h *imitation) remove(p *person) {
	delete(h.people, p.id)
	if h.byClerk[p.clerkID] == p {
		delete(h.byClerk, p.clerkID)
	}
	if h.byEmail[p.email] == p {
		delete(h.byEmail, p.email)
	}
}

func textOf(value any) string {
	text, _ := value.(string)
	return text
}

// brevo speaks as https://developers.brevo.com/reference: contacts by ext_id.
func (h *imitation) brevo(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fail := func(status int, code string) {
		answer(w, status, object{"code": code, "message": "refused: ada@example.com"})
	}
	if h.Revoked() || r.Header.Get("Api-Key") != apiKey {
		fail(401, "unauthorized")
		return
	}
	identifier, found := strings.CutPrefix(r.URL.Path, "/contacts/")
	var p *person
	switch r.URL.Query().Get("identifierType") {
	case "ext_id":
		p = h.byClerk[identifier]
	case "contact_id":
		p = h.people[identifier]
	}
	switch {
	case r.URL.Path == "/account":
		answer(w, 200, object{"email": "owner@example.com"})
	case r.Method == http.MethodPost && r.URL.Path == "/contacts":
		h.brevoWrite(w, &person{}, read(r), fail)
	case !found:
		fail(404, "not_found")
	case p == nil:
		fail(404, "document_not_found")
	case r.Method == http.MethodPut:
		h.brevoWrite(w, p, read(r), fail)
	case r.Method == http.MethodDelete:
		h.remove(p)
		answer(w, 204, nil)
	default:
		id, _ := strconv.Atoi(p.id)
		answer(w, 200, object{"id": id, "email": p.email, "emailBlacklisted": p.unsubscribed, "attributes": p.values})
	}
}

func (h *imitation) brevoWrite(w http.ResponseWriter, p *person, body object, fail func(int, string)) {
	isNew, clerkID := p.id == "", p.clerkID
	attributes, _ := body["attributes"].(map[string]any)
	for name := range attributes {
		if name != strings.ToUpper(name) {
			fail(400, "invalid_parameter")
			return
		}
	}
	email := textOf(attributes["EMAIL"])
	if isNew {
		clerkID, email = textOf(body["ext_id"]), textOf(body["email"])
	}
	if clerkID == "" || isNew && email == "" || body["emailBlacklisted"] != nil {
		fail(400, "missing_parameter")
		return
	}
	conflict, invalid := h.put(p, clerkID, email, attributes)
	switch {
	case conflict:
		fail(400, "duplicate_parameter")
		return
	case invalid:
		fail(400, "invalid_parameter")
		return
	}
	if lists, _ := body["listIds"].([]any); len(lists) > 0 {
		p.welcomed = true
	}
	if !isNew {
		answer(w, 204, nil)
		return
	}
	id, _ := strconv.Atoi(p.id)
	answer(w, 201, object{"id": id})
}

// loops speaks as https://loops.so/docs/api-reference: contacts by userId.
func (h *imitation) loops(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fail := func(status int) { answer(w, status, object{"success": false, "message": "refused: ada@example.com"}) }
	if h.Revoked() || r.Header.Get("Authorization") != "Bearer "+apiKey {
		fail(401)
		return
	}
	body := read(r)
	p := h.byClerk[textOf(body["userId"])]
	switch r.Method + " " + r.URL.Path {
	case "GET /api-key":
		answer(w, 200, object{"success": true, "teamName": "Example"})
	case "GET /contacts/find":
		list := []object{}
		if p := h.byClerk[r.URL.Query().Get("userId")]; p != nil {
			list = append(list, object{"id": p.id, "email": p.email, "userId": p.clerkID, "subscribed": !p.unsubscribed})
		}
		answer(w, 200, list)
	case "POST /contacts/delete":
		if p == nil {
			fail(404)
			return
		}
		h.remove(p)
		answer(w, 200, object{"success": true, "message": "Contact deleted."})
	case "POST /contacts/create":
		if p != nil {
			fail(409)
			return
		}
		h.loopsWrite(w, &person{}, body, fail)
	case "PUT /contacts/update":
		if p == nil {
			p = &person{}
		}
		h.loopsWrite(w, p, body, fail)
	default:
		fail(404)
	}
}

func (h *imitation) loopsWrite(w http.ResponseWriter, p *person, body object, fail func(int)) {
	if p.id == "" && textOf(body["email"]) == "" || body["subscribed"] != nil || textOf(body["userId"]) == "" {
		fail(400)
		return
	}
	conflict, invalid := h.put(p, textOf(body["userId"]), textOf(body["email"]), body)
	switch {
	case conflict:
		fail(409)
	case invalid:
		fail(400)
	default:
		p.welcomed = p.welcomed || body["userGroup"] == "new"
		answer(w, 200, object{"success": true, "id": p.id})
	}
}

// hook is a receiver of signed messages, which takes users in batches.
func (h *imitation) hook(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Revoked() {
		answer(w, 401, nil)
		return
	}
	body, _ := readAll(r)
	signer, err := svix.NewWebhook(signingSecret)
	if err == nil {
		err = signer.VerifyIgnoringTimestamp(body, r.Header) // the clock of a storm runs ahead
	}
	if err != nil {
		answer(w, 400, object{"code": "bad_signature"})
		return
	}
	if r.URL.Path == "/health" {
		answer(w, 204, nil)
		return
	}
	id := strings.TrimPrefix(r.URL.Path, "/users/")
	p := h.byClerk[id]
	switch {
	case r.Method == http.MethodPost:
		h.hookWrite(w, body)
	case p == nil:
		answer(w, 404, nil)
	case r.Method == http.MethodDelete:
		h.remove(p)
		answer(w, 204, nil)
	default:
		answer(w, 200, object{"id": p.clerkID})
	}
}

func (h *imitation) hookWrite(w http.ResponseWriter, body []byte) {
	var batch struct {
		Records []struct {
			ID         string
			New        bool
			Properties object
		}
	}
	if json.Unmarshal(body, &batch) != nil || len(batch.Records) == 0 || len(batch.Records) > 100 {
		answer(w, 400, nil)
		return
	}
	for _, r := range batch.Records { // all or nothing
		if email := textOf(r.Properties["email"]); email != "" && !addresses.MatchString(email) {
			answer(w, 422, object{"code": "invalid_email"})
			return
		}
	}
	for _, r := range batch.Records {
		p := h.byClerk[r.ID]
		if p == nil {
			p = &person{id: r.ID, clerkID: r.ID, values: object{}}
		}
		maps.Copy(p.values, r.Properties)
		p.email, p.welcomed = textOf(r.Properties["email"]), p.welcomed || r.New
		h.people[p.id], h.byClerk[p.clerkID] = p, p
	}
	answer(w, 204, nil)
}
