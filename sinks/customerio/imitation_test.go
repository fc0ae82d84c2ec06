package customerio_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"clerkconnect/sinks/resttest"
)

const (
	siteID    = "site-1"
	apiKey    = "track-key-1"
	appAPIKey = "app-key-1"
)

// imitation plays a Customer.io workspace whose people are told apart by id: the
// Track API and the App API on one address.
type imitation struct {
	*resttest.Server

	mu         sync.Mutex
	people     map[string]*profile
	suppressed map[string]bool
	serial     int
	eventIDs   map[string]bool
	events     map[string]int  // by person
	away       map[string]bool // of whom the App API says nothing
	noEvents   bool            // events are refused
}

type profile struct {
	cioID      string
	attributes map[string]any
}

func newImitation(t testing.TB, clock *resttest.Clock) *imitation {
	h := &imitation{people: map[string]*profile{}, suppressed: map[string]bool{}, eventIDs: map[string]bool{}, events: map[string]int{}, away: map[string]bool{}}
	h.Server = resttest.NewServer(t, resttest.Config{
		Tool: http.HandlerFunc(h.serve), Clock: clock,
		Limits: []resttest.Limit{{Requests: 100, Window: time.Second}},
		Recorded: []resttest.Recording{
			resttest.Recorded(t, "POST /api/v2/batch", "customerio.json", "PUT /api/v1/customers/*", 200),
			resttest.Recorded(t, "GET /v1/customers/*/attributes", "customerio.json", "GET /v1/api/customers/*/attributes", 404),
			resttest.Recorded(t, "GET /v1/customers/*/attributes", "customerio.json", "GET /v1/api/customers/*/attributes", 200,
				"customer.attributes", "customer.timestamps"),
		},
	})
	return h
}

type object = map[string]any

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // to a recorder
}

// fail answers as the Track API does.
func fail(w http.ResponseWriter, status int, message string) {
	answer(w, status, object{"meta": object{"error": message}})
}

func (h *imitation) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id, isApp := strings.CutPrefix(r.URL.Path, "/v1/customers/")
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(siteID+":"+apiKey))
	if isApp {
		want = "Bearer " + appAPIKey
	}
	switch {
	case h.Revoked() || r.Header.Get("Authorization") != want:
		fail(w, 401, "Unauthorized request")
	case isApp && r.Method == http.MethodPost && id == "attributes":
		h.list(w, r)
	case isApp:
		h.attributes(w, strings.TrimSuffix(id, "/attributes"))
	case r.Method == http.MethodGet && r.URL.Path == "/api/v1/accounts/region":
		answer(w, 200, object{"url": "track.customer.io", "data_center": "us", "environment_id": 1})
	case r.Method == http.MethodPost && r.URL.Path == "/api/v2/batch":
		h.batch(w, r)
	default:
		fail(w, 404, "not found")
	}
}

func (h *imitation) attributes(w http.ResponseWriter, id string) {
	p := h.people[id]
	if h.away[id] {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if p == nil {
		answer(w, 404, object{"errors": []object{{"detail": "not found (reference 01FCCC6WTYJ24V0W2BX96BW0GT)", "status": "404"}}})
		return
	}
	answer(w, 200, p.show(id))
}

func (p *profile) show(id string) object {
	shown := object{"id": id, "cio_id": p.cioID}
	for name, value := range p.attributes {
		shown[name] = fmt.Sprint(value)
	}
	return object{"customer": object{
		"id": id, "attributes": shown, "timestamps": object{"id": 1628208069}, "unsubscribed": p.attributes["unsubscribed"] == true, "devices": []object{},
	}}
}

// list shows up to 100 people, and leaves out who is not there.
func (h *imitation) list(w http.ResponseWriter, r *http.Request) {
	var body struct{ IDs []string }
	if json.NewDecoder(r.Body).Decode(&body) != nil || len(body.IDs) == 0 || len(body.IDs) > 100 || r.URL.Query().Get("id_type") != "id" {
		answer(w, 400, object{"errors": []object{{"detail": "malformed", "status": "400"}}})
		return
	}
	list := []object{}
	for _, id := range body.IDs {
		if p := h.people[id]; p != nil {
			list = append(list, p.show(id))
		}
	}
	answer(w, 200, object{"customers": list})
}

type op struct {
	Type        string
	Identifiers map[string]string
	Action      string
	Attributes  map[string]any
	Name        string
	ID          string
	Timestamp   int64
}

func (h *imitation) batch(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength > 500_000 {
		fail(w, 400, "request is too large")
		return
	}
	var body struct{ Batch []json.RawMessage }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || len(body.Batch) == 0 {
		fail(w, 400, "batch must be a non-empty array")
		return
	}
	problems := []object{}
	for i, text := range body.Batch {
		var o op
		if err := json.Unmarshal(text, &o); err != nil {
			fail(w, 400, "malformed")
			return
		}
		if reason, field := h.carryOut(o, len(text)); reason != "" {
			problems = append(problems, object{"batch_index": i, "reason": reason, "field": field, "message": "cannot be taken: " + field})
		}
	}
	if len(problems) > 0 {
		answer(w, 207, object{"errors": problems})
		return
	}
	answer(w, 200, object{})
}

// carryOut returns why an operation is not taken, "" if it is.
func (h *imitation) carryOut(o op, size int) (reason, field string) {
	id := o.Identifiers["id"]
	switch {
	case size > 32_000:
		return "invalid", "size"
	case o.Type != "person":
		return "invalid", "type"
	case id == "":
		return "required", "identifiers"
	case o.Action == "delete":
		delete(h.people, id)
		return "", ""
	case o.Action == "suppress":
		delete(h.people, id)
		h.suppressed[id] = true
		return "", ""
	case h.suppressed[id]:
		return "", "" // dropped without a word
	case o.Action == "event":
		return h.event(id, o)
	case o.Action == "identify":
		return h.identify(id, o)
	}
	return "invalid", "action"
}

func (h *imitation) identify(id string, o op) (reason, field string) {
	if len(o.Attributes) > 300 {
		return "invalid", "attributes"
	}
	for name, value := range o.Attributes {
		if text, ok := value.(string); ok && len(text) > 1000 || len(name) > 150 {
			return "invalid", "attributes"
		}
		if _, number := value.(float64); name == "created_at" && !number && value != "" {
			return "invalid", "created_at"
		}
	}
	p := h.person(id)
	for name, value := range o.Attributes {
		if p.attributes[name] = value; value == "" {
			delete(p.attributes, name)
		}
	}
	return "", ""
}

// person returns the person of that id, made if need be.
func (h *imitation) person(id string) *profile {
	if h.people[id] == nil {
		h.serial++
		h.people[id] = &profile{cioID: fmt.Sprintf("b79e%012d", h.serial), attributes: map[string]any{}}
	}
	return h.people[id]
}

func (h *imitation) event(id string, o op) (reason, field string) {
	if h.noEvents || o.Name == "" || len(o.ID) != 26 || o.Timestamp < 1e9 || o.Timestamp > 1e11 {
		return "invalid", "event"
	}
	h.person(id)
	if !h.eventIDs[o.ID] {
		h.eventIDs[o.ID] = true
		h.events[id]++
	}
	return "", ""
}
