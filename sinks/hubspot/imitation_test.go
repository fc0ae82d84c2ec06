package hubspot_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"clerkconnect/sinks/resttest"
)

const token = "pat-eu1-secret"

// imitation plays HubSpot's contacts: 100 inputs at most, no input twice, unique
// values, partial failures, the recycle bin and the blocklist of gdpr-delete.
type imitation struct {
	*resttest.Server
	mu         sync.Mutex
	serial     int
	contacts   map[string]*person
	defined    map[string]bool   // properties; true: unique values
	unique     map[string]string // id by property=value, of those not archived
	blocked    map[string]bool   // addresses
	lists      map[string]map[string]bool
	failReads  bool // batch/read is out of order
	upserted   int  // calls of batch/upsert
	lastUpsert int  // after so many it is out of order; 0: never
	silent     bool // it says nothing of the first of a batch
	wholeBatch bool // it does not honour trace ids: one bad input fails the batch
}

// person is a contact. Values of properties are never "".
type person struct {
	id         string
	properties map[string]string
	archived   bool
	welcomes   int // how often a property of new users got another value
}

const newcomerProperty = "lead_source"

func newImitation(t testing.TB, clock *resttest.Clock) *imitation {
	h := &imitation{
		contacts: map[string]*person{}, unique: map[string]string{}, blocked: map[string]bool{}, lists: map[string]map[string]bool{"7": {}},
		defined: map[string]bool{"email": true, "firstname": false, "lastname": false, newcomerProperty: false, "clerk_user_id": true, "plan": false},
	}
	contract := resttest.LoadContract(t, "hubspot-crm-contacts-v3.json")
	contract.Undescribed = []string{"GET /crm/properties/2026-03/contacts", "POST /crm/properties/2026-03/contacts", "GET /crm/v3/properties/contacts", "POST /crm/v3/properties/contacts", "PUT /crm/v3/lists/*/memberships/add"}
	contract.PathOf = func(path string) string {
		if rest, dated := strings.CutPrefix(path, "/crm/objects/2026-03/"); dated {
			return "/crm/v3/objects/" + rest
		}
		return path
	}
	h.Server = resttest.NewServer(t, resttest.Config{
		Tool: http.HandlerFunc(h.serve), Contract: contract, Clock: clock,
		Limits: []resttest.Limit{{Requests: 100, Window: 10 * time.Second}},
		Recorded: []resttest.Recording{
			resttest.Recorded(t, "POST /crm/v3/objects/contacts/batch/update", "hubspot.json", "POST /crm/v3/objects/CONTACT/batch/update", 200, "results[].properties"),
			resttest.Recorded(t, "POST /crm/v3/objects/contacts/batch/archive", "hubspot.json", "POST /crm/v3/objects/CONTACT/batch/archive", 204),
			resttest.Recorded(t, "POST /crm/v3/objects/contacts/batch/upsert", "hubspot.json", "POST /crm/v3/objects/CONTACT/search", 429),
		},
		TooMany: func(w http.ResponseWriter, _ time.Duration) {
			fail(w, 429, "RATE_LIMITS", "You have reached your secondly limit.", nil)
		},
		Quota: func(header http.Header, remaining int) {
			header.Set("X-HubSpot-RateLimit-Remaining", fmt.Sprint(remaining))
			header.Set("X-HubSpot-RateLimit-Interval-Milliseconds", "10000")
		},
	})
	return h
}

type object = map[string]any

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(status)
	if body != nil {
		json.NewEncoder(w).Encode(body) //nolint:errcheck // to a recorder
	}
}

func fail(w http.ResponseWriter, status int, category, message string, errors []object) {
	body := object{
		"status": "error", "message": message, "category": category, "correlationId": "2117793f-c3cf-4e25-ab91-e9e44762b5fc",
	}
	if errors != nil {
		body["errors"] = errors
	}
	answer(w, status, body)
}

func (h *imitation) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Revoked() || r.Header.Get("Authorization") != "Bearer "+token {
		fail(w, 401, "INVALID_AUTHENTICATION", "Authentication credentials not found.", nil)
		return
	}
	path := strings.Replace(r.URL.Path, "/crm/objects/2026-03/", "/crm/v3/objects/", 1)
	path = strings.Replace(path, "/crm/properties/2026-03/", "/crm/v3/properties/", 1)
	rest, isContact := strings.CutPrefix(path, "/crm/v3/objects/contacts/")
	switch {
	case path == "/crm/v3/properties/contacts":
		h.properties(w, r)
	case strings.HasPrefix(path, "/crm/v3/lists/"):
		h.list(w, r, strings.Split(path, "/")[4])
	case isContact && r.Method == http.MethodGet:
		h.get(w, rest, r.URL.Query().Get("idProperty"))
	case rest == "gdpr-delete":
		h.gdprDelete(w, r)
	case strings.HasPrefix(rest, "batch/"):
		h.batch(w, r, strings.TrimPrefix(rest, "batch/"))
	default:
		fail(w, 404, "OBJECT_NOT_FOUND", "no such path", nil)
	}
}

func (h *imitation) properties(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		var results []object
		for name, unique := range h.defined {
			results = append(results, object{"name": name, "hasUniqueValue": unique, "modificationMetadata": object{"readOnlyValue": false}})
		}
		results = append(results, object{"name": "hs_object_id", "hasUniqueValue": true, "modificationMetadata": object{"readOnlyValue": true}})
		answer(w, 200, object{"results": results})
		return
	}
	var body struct {
		Name           string `json:"name"`
		HasUniqueValue bool   `json:"hasUniqueValue"`
	}
	json.NewDecoder(r.Body).Decode(&body) //nolint:errcheck // checked by what follows
	if _, there := h.defined[body.Name]; there {
		fail(w, 409, "OBJECT_ALREADY_EXISTS", "A property named '"+body.Name+"' already exists.", nil)
		return
	}
	h.defined[body.Name] = body.HasUniqueValue
	answer(w, 201, object{"name": body.Name})
}

func (h *imitation) list(w http.ResponseWriter, r *http.Request, list string) {
	members := h.lists[list]
	var ids []string
	if members == nil || json.NewDecoder(r.Body).Decode(&ids) != nil {
		fail(w, 404, "OBJECT_NOT_FOUND", "List does not exist", nil)
		return
	}
	for _, id := range ids {
		members[id] = true
	}
	answer(w, 200, object{"recordsIdsAdded": ids, "recordIdsMissing": []string{}, "recordIdsRemoved": []string{}})
}

func (h *imitation) find(property, id string) *person {
	if property != "" {
		id = h.unique[uniqueKey(property, id)]
	}
	if p := h.contacts[id]; p != nil && !p.archived {
		return p
	}
	return nil
}

// uniqueKey compares as HubSpot does: addresses without regard to case.
func uniqueKey(property, value string) string {
	if property == "email" {
		value = strings.ToLower(value)
	}
	return property + "=" + value
}

func (p *person) show() object {
	return object{
		"id": p.id, "properties": p.properties, "archived": p.archived,
		"createdAt": "2026-02-17T19:22:45.581Z", "updatedAt": "2026-02-17T19:23:18.734Z",
	}
}

func (h *imitation) get(w http.ResponseWriter, id, property string) {
	p := h.find(property, id)
	if p == nil {
		fail(w, 404, "OBJECT_NOT_FOUND", "resource not found", nil)
		return
	}
	answer(w, 200, p.show())
}

func (h *imitation) gdprDelete(w http.ResponseWriter, r *http.Request) {
	var body struct{ ObjectID, IDProperty string }
	json.NewDecoder(r.Body).Decode(&body) //nolint:errcheck // checked by what follows
	p := h.contacts[body.ObjectID]
	if body.IDProperty != "" {
		if p = h.find(body.IDProperty, body.ObjectID); p == nil {
			h.blocked[strings.ToLower(body.ObjectID)] = true // as HubSpot does
		}
	}
	if p != nil {
		h.forget(p)
		delete(h.contacts, p.id)
	}
	answer(w, 204, nil)
}

func (h *imitation) archive(p *person) {
	h.forget(p)
	p.archived = true
}

// forget frees the unique values of a contact.
func (h *imitation) forget(p *person) {
	for name, value := range p.properties {
		if h.defined[name] && h.unique[uniqueKey(name, value)] == p.id {
			delete(h.unique, uniqueKey(name, value))
		}
	}
}

type batchInput struct {
	ID                 string            `json:"id"`
	IDProperty         string            `json:"idProperty"`
	Properties         map[string]string `json:"properties"`
	ObjectWriteTraceID string            `json:"objectWriteTraceId"`
}

func (h *imitation) batch(w http.ResponseWriter, r *http.Request, what string) {
	var body struct {
		Inputs     []batchInput
		IDProperty string
	}
	if what == "read" && h.failReads {
		fail(w, 502, "SERVICE_UNAVAILABLE", "Bad gateway", nil)
		return
	}
	if what == "read" {
		var read struct {
			Inputs     []struct{ ID string }
			IDProperty string
		}
		json.NewDecoder(r.Body).Decode(&read) //nolint:errcheck // checked by what follows
		body.IDProperty = read.IDProperty
		for _, in := range read.Inputs {
			body.Inputs = append(body.Inputs, batchInput{ID: in.ID})
		}
	} else if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		fail(w, 400, "VALIDATION_ERROR", "Invalid input JSON", nil)
		return
	}
	seen := map[string]bool{}
	for _, in := range body.Inputs {
		if seen[in.ID] {
			fail(w, 400, "VALIDATION_ERROR", "Duplicate IDs found in batch input: ["+in.ID+"]. IDs must be unique", nil)
			return
		}
		seen[in.ID] = true
		if in.IDProperty != "" && !h.defined[in.IDProperty] {
			fail(w, 400, "VALIDATION_ERROR", "Unable to perform update/upsert by non-unique property", nil)
			return
		}
	}
	if len(body.Inputs) > 100 || len(body.Inputs) == 0 {
		fail(w, 400, "VALIDATION_ERROR", "The maximum number of inputs supported in a batch request for property history is 100", nil)
		return
	}
	if what == "archive" {
		for _, in := range body.Inputs {
			if p := h.find("", in.ID); p != nil {
				h.archive(p)
			}
		}
		answer(w, 204, nil)
		return
	}
	if what == "upsert" {
		if h.lastUpsert > 0 && h.upserted >= h.lastUpsert {
			fail(w, 503, "INTERNAL_ERROR", "out of order", nil)
			return
		}
		h.upserted++
	}
	h.batchAnswer(w, what, body.Inputs, body.IDProperty)
}

func (h *imitation) batchAnswer(w http.ResponseWriter, what string, inputs []batchInput, property string) {
	results, errors := []object{}, []object{}
	if h.wholeBatch {
		for _, in := range inputs {
			if bad := h.refusal(in, what); bad != nil {
				status := 400
				if bad["category"] == "CONFLICT" {
					status = 409
				}
				fail(w, status, bad["category"].(string), bad["message"].(string), nil)
				return
			}
		}
	}
	for _, in := range inputs {
		if what == "read" {
			if p := h.find(property, in.ID); p != nil {
				results = append(results, p.show())
			} else {
				errors = append(errors, itemError("OBJECT_NOT_FOUND", "Could not get some CONTACT objects", "", object{"ids": []string{in.ID}}))
			}
			continue
		}
		if h.silent && in.ObjectWriteTraceID == "0" {
			continue
		}
		if bad := h.refusal(in, what); bad != nil {
			errors = append(errors, bad)
			continue
		}
		p := h.find(in.IDProperty, in.ID)
		isNew := p == nil
		if isNew {
			h.serial++
			p = &person{id: fmt.Sprint(250000 + h.serial), properties: map[string]string{}}
			h.contacts[p.id] = p
			in.Properties[in.IDProperty] = in.ID
		}
		h.set(p, in.Properties)
		shown := p.show()
		if what == "upsert" {
			shown["new"], shown["objectWriteTraceId"] = isNew, in.ObjectWriteTraceID
		}
		results = append(results, shown)
	}
	body := object{"status": "COMPLETE", "results": results, "startedAt": "2026-02-17T19:23:18.703Z", "completedAt": "2026-02-17T19:23:18.790Z"}
	if len(errors) == 0 {
		answer(w, 200, body)
		return
	}
	body["numErrors"], body["errors"] = len(errors), errors
	answer(w, 207, body)
}

func (h *imitation) set(p *person, values map[string]string) {
	h.forget(p)
	for name, value := range values {
		if name == newcomerProperty && p.properties[name] != value {
			p.welcomes++
		}
		if p.properties[name] = value; value == "" {
			delete(p.properties, name)
		}
	}
	for name, value := range p.properties {
		if h.defined[name] {
			h.unique[uniqueKey(name, value)] = p.id
		}
	}
}

var addresses = regexp.MustCompile(`^[^@\s]+@[a-z0-9.-]+\.[a-z]+$`)

// refusal returns the error of an input that HubSpot does not take, nil if it
// takes it.
func (h *imitation) refusal(in batchInput, what string) object {
	context := object{"objectWriteTraceId": []string{in.ObjectWriteTraceID}}
	for name, value := range in.Properties {
		unique, known := h.defined[name]
		holder := h.unique[uniqueKey(name, value)]
		self := h.find(in.IDProperty, in.ID)
		switch {
		case !known:
			return itemError("VALIDATION_ERROR", invalid("PROPERTY_DOESNT_EXIST", name, "does not exist"), "", context)
		case name == "email" && value != "" && (!addresses.MatchString(value) || h.blocked[strings.ToLower(value)]):
			return itemError("VALIDATION_ERROR", invalid("INVALID_EMAIL", name, "Email address "+value+" is invalid"), "", context)
		case len(value) > 65536:
			return itemError("VALIDATION_ERROR", invalid("INVALID_LENGTH", name, "too long"), "", context)
		case unique && value != "" && holder != "" && (self == nil || self.id != holder):
			context["existingId"] = []string{holder}
			return itemError("CONFLICT", "Contact already exists. Existing ID: "+holder, "", context)
		}
	}
	if what == "update" && h.find("", in.ID) == nil {
		return itemError("OBJECT_NOT_FOUND", "Could not get some CONTACT objects", "", context)
	}
	return nil
}

// invalid is the message of HubSpot's validation, which has a list as JSON in it.
func invalid(code, property, message string) string {
	list, err := json.Marshal([]object{{"isValid": false, "message": message, "error": code, "name": property, "portalId": 891936587}})
	if err != nil {
		panic(err)
	}
	return "Property values were not valid: " + string(list)
}

func itemError(category, message, code string, context object) object {
	details := []object{}
	if code != "" {
		details = append(details, object{"message": message, "code": code})
	}
	return object{"status": "error", "category": category, "message": message, "context": context, "errors": details, "links": object{}}
}

// edit changes a contact as a person at HubSpot would.
func (h *imitation) edit(clerkID string, change func(*person)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.find("clerk_user_id", clerkID)
	if p == nil {
		panic("no contact of " + clerkID)
	}
	h.forget(p)
	change(p)
	h.set(p, nil)
}

// live returns the contacts that are not archived.
func (h *imitation) live() []*person {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*person
	for _, p := range h.contacts {
		if !p.archived {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *person) int { return strings.Compare(a.id, b.id) })
	return all
}
