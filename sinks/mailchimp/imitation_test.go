package mailchimp_test

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"clerkconnect/sinks/resttest"
)

const (
	key      = "0123456789abcdef0123456789abcdef-us14"
	audience = "a36b032126"
	tag      = "new-user"
)

// imitation plays an audience of Mailchimp. Members that are deleted go to its
// archive, from where they come back with all that they had.
type imitation struct {
	*resttest.Server

	mu         sync.Mutex
	shown      map[string]any // a member and a merge field as they were recorded, to show ours like them
	shownField map[string]any
	byContact  map[string]*member
	byHash     map[string]*member
	byOwner    map[string]*member // the last one that was written
	serial     int
	fields     []string
	forgets    bool            // addresses that were deleted for ever are refused
	forgotten  map[string]bool // by hash
	inFlight   atomic.Int64
	rival      func() // comes before a member is created
	consents   int    // changes of the status of members who are not in the archive
}

type member struct {
	contact, email, status string
	fields                 map[string]any
	tags                   []string
}

func hash(email string) string {
	sum := md5.Sum([]byte(strings.ToLower(email)))
	return hex.EncodeToString(sum[:])
}

func newImitation(t testing.TB, clock *resttest.Clock) *imitation {
	h := &imitation{
		byContact: map[string]*member{}, byHash: map[string]*member{}, byOwner: map[string]*member{}, forgotten: map[string]bool{},
		fields: []string{"ADDRESS", "FNAME", "LNAME", "PLAN", "LTV", "CLERK_ID"},
	}
	for _, e := range resttest.Exchanges(t, "mailchimp.json") {
		switch {
		case e.Method == http.MethodPost && strings.HasSuffix(e.Path, "/members") && e.Status == 200:
			h.shown = decoded(t, e.Response)
		case strings.HasSuffix(e.Path, "/merge-fields"):
			h.shownField = decoded(t, e.Response)["merge_fields"].([]any)[1].(map[string]any)
		}
	}
	recorded := func(request string, status int, free ...string) resttest.Recording {
		return resttest.Recorded(t, request, "mailchimp.json", request, status, free...)
	}
	const members = "/3.0/lists/*/members"
	own := []string{"merge_fields", "location"}
	reading := recorded("GET "+members+"/*", 200, own...)
	changing := recorded("PUT "+members+"/*", 200, own...)
	changing.Ours = "PATCH " + members + "/*"
	exists := recorded("PUT "+members+"/*", 400)
	exists.Ours = "PATCH " + members + "/*"
	h.Server = resttest.NewServer(t, resttest.Config{
		Tool: http.HandlerFunc(h.serve), Clock: clock,
		Recorded: []resttest.Recording{
			recorded("GET /3.0/lists/*/merge-fields", 200, "merge_fields[].options"), recorded("POST "+members, 200, own...),
			recorded("POST "+members, 400), recorded("PUT "+members+"/*", 200, own...), recorded("DELETE "+members+"/*", 204),
			recorded("DELETE "+members+"/*", 405), recorded("GET "+members+"/*", 404), recorded("POST "+members+"/*/tags", 204),
			recorded("POST "+members+"/*/tags", 404), reading, changing, exists,
		},
		Limits: []resttest.Limit{{Requests: 100, Window: time.Second}},
		TooMany: func(w http.ResponseWriter, _ time.Duration) {
			fail(w, 429, "Too Many Requests", "You have exceeded the limit of 10 simultaneous connections.")
		},
	})
	return h
}

func decoded(t testing.TB, text []byte) (value map[string]any) {
	t.Helper()
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

type object = map[string]any

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // to a recorder
}

func fail(w http.ResponseWriter, status int, title, detail string) {
	answer(w, status, object{
		"type": "https://mailchimp.com/developer/marketing/docs/errors/", "title": title, "status": status, "detail": detail,
		"instance": "55d7a0cc-5cbf-9fb4-0053-76654b0d322f",
	})
}

func (h *imitation) serve(w http.ResponseWriter, r *http.Request) {
	defer h.inFlight.Add(-1) // of who is refused, too
	if h.inFlight.Add(1) > 10 {
		fail(w, 429, "Too Many Requests", "You have exceeded the limit of 10 simultaneous connections.")
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	user, password, _ := r.BasicAuth()
	if h.Revoked() || user == "" || password != key {
		fail(w, 401, "API Key Invalid", "Your API key may be invalid, or you've attempted to access the wrong datacenter.")
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/3.0/lists/"+audience+"/")
	parts := strings.Split(path, "/")
	switch {
	case !ok:
		notFound(w)
	case path == "merge-fields":
		h.mergeFields(w, r)
	case path == "members" && r.Method == http.MethodPost:
		h.create(w, read(r))
	case parts[0] == "members" && len(parts) > 1:
		m := h.byHash[parts[1]]
		if m == nil && !strings.HasSuffix(path, "/delete-permanent") { // that takes the hash alone
			m = h.byContact[parts[1]]
		}
		h.member(w, r, m, strings.Join(parts[2:], "/"))
	default:
		notFound(w)
	}
}

func notFound(w http.ResponseWriter) {
	fail(w, 404, "Resource Not Found", "The requested resource could not be found.")
}

func read(r *http.Request) map[string]any {
	values := map[string]any{}
	json.NewDecoder(r.Body).Decode(&values) //nolint:errcheck // it is empty then, and refused
	return values
}

func (h *imitation) mergeFields(w http.ResponseWriter, r *http.Request) {
	describe := func(name string) object {
		shown := maps.Clone(h.shownField)
		shown["tag"], shown["name"], shown["type"] = name, name, "text"
		if name == "LTV" {
			shown["type"] = "number"
		}
		return shown
	}
	if r.Method == http.MethodPost {
		name := read(r)["tag"].(string)
		if slices.Contains(h.fields, name) {
			fail(w, 400, "Invalid Resource", "A Merge Field with the tag already exists for this list.")
			return
		}
		h.fields = append(h.fields, name)
		answer(w, 200, describe(name))
		return
	}
	list := []object{}
	for i, name := range h.fields {
		if i < 10 || r.URL.Query().Get("count") == "1000" { // a page has 10 unless more are asked for
			list = append(list, describe(name))
		}
	}
	answer(w, 200, object{"merge_fields": list, "list_id": audience, "total_items": len(h.fields), "_links": []any{h.shown["_links"].([]any)[0]}})
}

var (
	addresses = regexp.MustCompile(`^[^@\s]+@[a-z0-9.-]+\.[a-z]+$`)
	numbers   = regexp.MustCompile(`^[0-9.]*$`)
	statuses  = []string{"subscribed", "unsubscribed", "pending", "transactional", "cleaned"}
)

// refuse answers to what Mailchimp does not take, and reports whether it did.
func (h *imitation) refuse(w http.ResponseWriter, m *member, body map[string]any) bool {
	email, changes := body["email_address"].(string)
	fields, _ := body["merge_fields"].(map[string]any)
	status, _ := body["status"].(string)
	switch holder := h.byHash[hash(email)]; {
	case changes && !addresses.MatchString(email):
		fail(w, 400, "Invalid Resource", "Please provide a valid email address.")
	case changes && h.forgets && h.forgotten[hash(email)]:
		fail(w, 400, "Forgotten Email Not Subscribed", email+" was permanently deleted and cannot be re-imported.")
	case changes && holder != nil && holder != m && (m != nil || holder.status != "archived"):
		fail(w, 400, "Member Exists", email+" is already a list member. Use PUT to insert or update list members.")
	case body["status"] != nil && !slices.Contains(statuses, status):
		fail(w, 400, "Invalid Resource", "The resource submitted could not be validated.")
	default:
		for name, value := range fields {
			text, ok := value.(string)
			if !ok || len(text) > 255 || !slices.Contains(h.fields, name) || name == "LTV" && !numbers.MatchString(text) {
				fail(w, 400, "Invalid Resource", "Your merge fields were invalid.")
				return true
			}
		}
		return false
	}
	return true
}

func (h *imitation) create(w http.ResponseWriter, body map[string]any) {
	email, _ := body["email_address"].(string)
	if h.rival != nil {
		h.rival()
	}
	if h.refuse(w, nil, body) {
		return
	}
	m := h.byHash[hash(email)] // from the archive
	if m == nil {
		h.serial++
		m = &member{contact: fmt.Sprintf("%032x", h.serial), fields: map[string]any{}}
		h.byContact[m.contact] = m
	}
	m.status = "archived"
	h.set(m, body)
	h.show(w, m)
}

// set changes a member and keeps the indexes.
func (h *imitation) set(m *member, body map[string]any) {
	if email, ok := body["email_address"].(string); ok {
		delete(h.byHash, hash(m.email))
		m.email = email
		h.byHash[hash(email)] = m
	}
	if status, ok := body["status"].(string); ok {
		if m.status != "archived" {
			h.consents++
		}
		m.status = status
	}
	fields, _ := body["merge_fields"].(map[string]any)
	maps.Copy(m.fields, fields)
	if owner, ok := m.fields["CLERK_ID"].(string); ok {
		h.byOwner[owner] = m
	}
}

func (h *imitation) show(w http.ResponseWriter, m *member) {
	shown := maps.Clone(h.shown)
	shown["id"], shown["contact_id"], shown["email_address"], shown["status"] = hash(m.email), m.contact, m.email, m.status
	fields := map[string]any{}
	for _, name := range h.fields { // all are shown, empty or not
		fields[name] = ""
	}
	maps.Copy(fields, m.fields)
	shown["merge_fields"], shown["tags_count"] = fields, len(m.tags)
	answer(w, 200, shown)
}

func (h *imitation) member(w http.ResponseWriter, r *http.Request, m *member, action string) {
	if m == nil {
		notFound(w)
		return
	}
	switch r.Method + " " + action {
	case "GET ":
		h.show(w, m)
	case "PATCH ", "PUT ":
		if body := read(r); !h.refuse(w, m, body) {
			h.set(m, body)
			h.show(w, m)
		}
	case "DELETE ":
		if slices.Contains([]string{"cleaned", "pending", "archived"}, m.status) {
			fail(w, 405, "Method Not Allowed", "This list member cannot be removed. Can not archive a contact that is bounced, pending or archived")
			return
		}
		m.status = "archived"
		w.WriteHeader(204)
	case "POST tags":
		for _, t := range read(r)["tags"].([]any) {
			name := t.(object)["name"].(string)
			if !slices.Contains(m.tags, name) {
				m.tags = append(m.tags, name)
			}
		}
		w.WriteHeader(204)
	case "POST actions/delete-permanent":
		delete(h.byContact, m.contact)
		delete(h.byHash, hash(m.email))
		h.forgotten[hash(m.email)] = true
		w.WriteHeader(204)
	default:
		notFound(w)
	}
}
