package sendgrid_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"clerkconnect/sinks/resttest"
)

const (
	apiKey   = "key-1"
	newUsers = "d3749cad-9066-43ba-bd8b-f6b3eb8289ed"
	// delay is until a change can be seen, and a job counts it. Its status says
	// so after twice as long.
	delay = 30 * time.Second
)

// imitation plays SendGrid's Marketing Campaigns: what is taken in is carried out
// by jobs, and can be seen only later. A job refuses what is no number for a field
// of that type.
type imitation struct {
	*resttest.Server

	mu     sync.Mutex
	clock  *resttest.Clock
	shown  map[string]any // a contact as it was recorded, to show ours like it
	fields map[string]string
	people map[string]*person // by address
	byKey  map[string]*person // by Clerk ID
	jobs   map[string]*job
	stuck  bool     // jobs do not begin
	behind bool     // jobs count, and their status says nothing of it
	late   int      // how often a job is asked after before it is known
	jobID  string   // that answers name in place of a job's
	hidden bool     // new contacts cannot be seen until a test says so
	fails  []string // which jobs fail: "DELETE", "PUT" as such, or "PUT " and a list for each contact
	serial int
	puts   int
}

type job struct {
	kind                                 string
	requested, created, updated, errored int
	failed                               bool
	asked                                int
	counted, ended                       time.Time // the zero time: never
}

type person struct {
	id, email string
	sent      string // the address as it was given
	values    map[string]any
	custom    map[string]any // by name
	lists     map[string]bool
	visible   time.Time
}

// newImitation returns one that holds requests and answers against SendGrid's
// description, or, for a storm, only plays.
func newImitation(t testing.TB, clock *resttest.Clock, strict bool) *imitation {
	h := &imitation{
		clock: clock, people: map[string]*person{}, byKey: map[string]*person{}, jobs: map[string]*job{},
		fields: map[string]string{"clerk_user_id": "e1_T", "plan": "e2_T", "visits": "e3_N"},
	}
	for _, e := range resttest.Exchanges(t, "sendgrid.json") {
		var page struct{ Result []map[string]any }
		if e.Path == "/v3/marketing/contacts/search" && json.Unmarshal(e.Response, &page) == nil && len(page.Result) > 0 {
			h.shown = page.Result[0]
		}
	}
	cfg := resttest.Config{
		Tool: http.HandlerFunc(h.serve), Clock: clock,
		Limits: []resttest.Limit{{Requests: 200, Window: time.Minute}},
		TooMany: func(w http.ResponseWriter, wait time.Duration) {
			w.Header().Set("X-RateLimit-Reset", resttest.RetryAfter(wait))
			fail(w, 429, "", "too many requests")
		},
		Quota: func(header http.Header, remaining int) {
			header.Set("X-RateLimit-Remaining", fmt.Sprint(remaining))
			header.Set("X-RateLimit-Reset", "60")
		},
	}
	if strict {
		cfg.Contract = resttest.LoadContract(t, "sendgrid-marketing-contacts-v3.json")
		cfg.Contract.Open = []string{"body.contacts[].custom_fields"}
		cfg.Contract.Undescribed = []string{
			"GET /v3/marketing/field_definitions", "POST /v3/marketing/field_definitions",
			"DELETE /v3/marketing/contacts", // its job_id is no object, as the description has it, but a text, as was recorded
		}
		recorded := func(request string, status int) resttest.Recording {
			return resttest.Recorded(t, request, "sendgrid.json", request, status)
		}
		cfg.Recorded = []resttest.Recording{
			recorded("PUT /v3/marketing/contacts", 202), recorded("PUT /v3/marketing/contacts", 400),
			recorded("DELETE /v3/marketing/contacts", 202), resttest.Recorded(t, "GET /v3/marketing/field_definitions", "sendgrid.json", "GET /v3/marketing/field_definitions", 200, "reserved_fields"),
		}
	}
	h.Server = resttest.NewServer(t, cfg)
	return h
}

// pace is the runner's part where there is no runner: it sleeps by the clock.
type pace struct{ clock *resttest.Clock }

func (pace) Wait(context.Context) error { return nil }
func (pace) Heed(int, time.Duration)    {}

func (p pace) Sleep(ctx context.Context, d time.Duration) error {
	time.Sleep(p.clock.Real(d))
	return ctx.Err()
}

type object = map[string]any

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // to a recorder
}

func fail(w http.ResponseWriter, status int, field, message string) {
	e := object{"message": message}
	if field != "" {
		e["field"] = field
	}
	answer(w, status, object{"errors": []object{e}})
}

func (h *imitation) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch route := r.Method + " " + strings.TrimPrefix(r.URL.Path, "/v3/marketing"); {
	case h.Revoked() || r.Header.Get("Authorization") != "Bearer "+apiKey:
		fail(w, 401, "", "authorization required")
	case route == "GET /field_definitions", route == "POST /field_definitions":
		h.definitions(w, r)
	case route == "PUT /contacts":
		h.put(w, r)
	case route == "DELETE /contacts":
		h.remove(w, strings.Split(r.URL.Query().Get("ids"), ","))
	case route == "POST /contacts/search/emails":
		h.search(w, r)
	case strings.HasPrefix(route, "GET /contacts/imports/"):
		h.progress(w, h.jobs[strings.TrimPrefix(route, "GET /contacts/imports/")])
	default:
		fail(w, 404, "", "not found")
	}
}

func (h *imitation) definitions(w http.ResponseWriter, r *http.Request) {
	show := func(name, id string) object {
		return object{"id": id, "name": name, "field_type": map[byte]string{'T': "Text", 'N': "Number"}[id[len(id)-1]], "_metadata": object{"self": "https://api.sendgrid.com/v3/marketing/field_definitions/" + id}}
	}
	if r.Method == http.MethodPost {
		var body struct{ Name string }
		json.NewDecoder(r.Body).Decode(&body) //nolint:errcheck // as it comes
		h.fields[body.Name] = fmt.Sprintf("e%d_T", len(h.fields)+1)
		answer(w, 200, show(body.Name, h.fields[body.Name]))
		return
	}
	list := []object{}
	for name, id := range h.fields {
		list = append(list, show(name, id))
	}
	answer(w, 200, object{"custom_fields": list, "reserved_fields": []object{}, "_metadata": object{"self": "https://api.sendgrid.com/v3/marketing/field_definitions"}})
}

var addresses = regexp.MustCompile(`^[^@\s]+@[a-z0-9.-]+\.[a-z]+$`)

func noAddress(text string) bool { return !addresses.MatchString(text) }

func (h *imitation) put(w http.ResponseWriter, r *http.Request) {
	var body struct {
		ListIDs  []string         `json:"list_ids"`
		Contacts []map[string]any `json:"contacts"`
	}
	if json.NewDecoder(r.Body).Decode(&body) != nil || len(body.Contacts) == 0 || len(body.Contacts) > 30000 {
		fail(w, 400, "contacts", "it must have 1 to 30000")
		return
	}
	h.puts++
	errors := []object{}
	for i, c := range body.Contacts {
		email, _ := c["email"].(string)
		if noAddress(email) {
			errors = append(errors, object{"field": fmt.Sprintf("contacts[%d].email", i), "message": "email '" + email + "' is not valid"})
		}
	}
	if len(errors) > 0 {
		answer(w, 400, object{"errors": errors})
		return
	}
	j := &job{kind: "upsert", requested: len(body.Contacts), failed: slices.Contains(h.fails, "PUT")}
	for _, c := range body.Contacts {
		switch {
		case j.failed:
		case h.refuses(c), len(body.ListIDs) > 0 && slices.Contains(h.fails, "PUT "+body.ListIDs[0]):
			j.errored++
		case h.people[strings.ToLower(c["email"].(string))] == nil:
			j.created++
			h.upsert(c, body.ListIDs)
		default:
			j.updated++
			h.upsert(c, body.ListIDs)
		}
	}
	h.begin(w, j)
}

// refuses reports whether a job refuses a contact.
func (h *imitation) refuses(c map[string]any) bool {
	custom, _ := c["custom_fields"].(map[string]any)
	for id, value := range custom {
		if _, number := value.(float64); strings.HasSuffix(id, "_N") && !number && value != nil && value != "" {
			return true
		}
	}
	return false
}

func (h *imitation) begin(w http.ResponseWriter, j *job) {
	if !h.stuck {
		j.counted = h.clock.Now().Add(delay)
	}
	if !h.stuck && !h.behind {
		j.ended = h.clock.Now().Add(2 * delay)
	}
	id := fmt.Sprintf("d32c6eab-107c-4d26-8428-%012d", len(h.jobs))
	h.jobs[id] = j
	answer(w, 202, object{"job_id": cmp.Or(h.jobID, id)})
}

func (h *imitation) progress(w http.ResponseWriter, j *job) {
	if j == nil || j.asked < h.late {
		if j != nil {
			j.asked++
		}
		fail(w, 404, "", "not found")
		return
	}
	now := h.clock.Now()
	results := object{"requested_count": j.requested}
	if !j.counted.IsZero() && !j.counted.After(now) {
		for name, n := range map[string]int{"created_count": j.created, "updated_count": j.updated, "errored_count": j.errored} {
			if n > 0 {
				results[name] = n
			}
		}
	}
	shown := object{"id": "d32c6eab-107c-4d26-8428-c8084d9544d3", "status": "pending", "job_type": j.kind, "results": results, "started_at": "2026-11-29T12:00:00Z"}
	if !j.ended.IsZero() && !j.ended.After(now) {
		shown["finished_at"] = "2026-11-29T12:01:00Z"
		switch {
		case j.failed, j.errored == j.requested:
			shown["status"] = "failed"
		case j.errored > 0:
			shown["status"] = "errored"
		default:
			shown["status"] = "completed"
		}
	}
	answer(w, 200, shown)
}

func (h *imitation) upsert(c map[string]any, lists []string) {
	email := strings.ToLower(c["email"].(string))
	p := h.people[email]
	if p == nil {
		h.serial++
		p = &person{
			id: fmt.Sprintf("fed1e586-b11c-42c9-9ecf-%012d", h.serial), email: email,
			values: map[string]any{}, custom: map[string]any{}, lists: map[string]bool{}, visible: h.clock.Now().Add(delay),
		}
		if h.hidden {
			p.visible = h.clock.Now().AddDate(100, 0, 0)
		}
		h.people[email] = p
	}
	p.sent = c["email"].(string)
	h.change(p, func() {
		for name, value := range c {
			switch {
			case name == "custom_fields":
				for id, inner := range value.(map[string]any) {
					for field, known := range h.fields {
						if known == id {
							p.custom[field] = inner
						}
					}
				}
			case name != "email":
				p.values[name] = value
			}
		}
	})
	for _, list := range lists {
		p.lists[list] = true
	}
}

// change changes a contact and keeps the index of Clerk IDs.
func (h *imitation) change(p *person, change func()) {
	if key, _ := p.custom["clerk_user_id"].(string); h.byKey[key] == p {
		delete(h.byKey, key)
	}
	change()
	if key, _ := p.custom["clerk_user_id"].(string); key != "" {
		h.byKey[key] = p
	}
}

func (h *imitation) remove(w http.ResponseWriter, ids []string) {
	j := &job{kind: "delete", requested: len(ids)}
	for _, id := range ids {
		if slices.Contains(h.fails, "DELETE") {
			j.errored++
			continue
		}
		for _, p := range h.people {
			if p.id == id {
				h.delete(p)
			}
		}
	}
	h.begin(w, j)
}

// delete is what a person does by hand, too.
func (h *imitation) delete(p *person) {
	delete(h.people, p.email)
	h.change(p, func() { p.custom = map[string]any{} })
}

func (h *imitation) search(w http.ResponseWriter, r *http.Request) {
	var body struct{ Emails []string }
	json.NewDecoder(r.Body).Decode(&body) //nolint:errcheck // checked by the contract
	if len(body.Emails) == 0 || len(body.Emails) > 100 || slices.ContainsFunc(body.Emails, noAddress) {
		fail(w, 400, "emails", "it must have 1 to 100 addresses")
		return
	}
	result := object{}
	for _, email := range body.Emails {
		p := h.people[strings.ToLower(email)]
		if p == nil || p.visible.After(h.clock.Now()) {
			continue
		}
		shown := maps.Clone(h.shown)
		maps.DeleteFunc(shown, func(_ string, value any) bool { return value == nil })
		maps.Copy(shown, p.values)
		shown["id"], shown["email"], shown["custom_fields"], shown["segment_ids"] = p.id, p.email, p.custom, []string{}
		result[p.email] = object{"contact": shown}
	}
	if len(result) == 0 {
		fail(w, 404, "", "not found")
		return
	}
	answer(w, 200, object{"result": result})
}
