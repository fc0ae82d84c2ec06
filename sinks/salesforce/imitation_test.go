package salesforce_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"clerkconnect/sinks/resttest"
)

const (
	clientID     = "client-1"
	clientSecret = "secret-1"
	keyField     = "Clerk_ID__c"
)

// imitation plays a Salesforce org with contacts, a unique field for Clerk IDs,
// and a duplicate rule on the e-mail address that blocks.
type imitation struct {
	*resttest.Server

	mu       sync.Mutex
	records  map[string]*record
	holders  map[string]*record // live ones, by field and value
	serial   int
	token    string
	tokens   int // logins
	used     int // calls of 24 hours
	fields   map[string]bool
	locked   map[string]bool     // Clerk IDs whose records are locked
	twins    map[string][]string // ids of further records with an address
	welcomes map[string]int      // times that LeadSource was set, by Clerk ID
	refuses  map[string]string   // codes by what is refused: method and Salesforce's id
	short    bool                // answers lack the last result
	stale    bool                // every token has expired when it comes
	grant    object              // what a login is answered, if set
}

type record struct {
	id      string
	fields  map[string]any
	deleted bool
}

func newImitation(t testing.TB, clock *resttest.Clock) *imitation {
	h := &imitation{records: map[string]*record{}, holders: map[string]*record{}, locked: map[string]bool{}, welcomes: map[string]int{}, refuses: map[string]string{}, fields: map[string]bool{
		keyField: true, "Email": true, "FirstName": true, "LastName": true, "LeadSource": true, "HasOptedOutOfEmail": true, "CreatedDate": false,
	}}
	h.Server = resttest.NewServer(t, resttest.Config{
		Tool: http.HandlerFunc(h.serve), Clock: clock,
		Limits: []resttest.Limit{{Requests: 100, Window: time.Second}},
		Recorded: []resttest.Recording{
			resttest.Recorded(t, "PATCH /services/data/v61.0/composite/sobjects", "salesforce.json", "PATCH /services/data/v42.0/composite/sobjects", 200),
			resttest.Recorded(t, "DELETE /services/data/v61.0/composite/sobjects", "salesforce.json", "DELETE /services/data/v42.0/composite/sobjects", 200),
			resttest.Recorded(t, "GET /services/data/v61.0/query", "salesforce.json", "GET /services/data/v42.0/query", 200, "records[]"),
			resttest.Recorded(t, "GET /services/data/v61.0/sobjects/Contact/*", "salesforce.json", "GET /services/data/v42.0/sobjects/Account/*", 404),
		},
		TooMany: func(w http.ResponseWriter, _ time.Duration) {
			fail(w, 503, "SERVER_UNAVAILABLE", "try again")
		},
	})
	return h
}

type object = map[string]any

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // to a recorder
}

func fail(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, []object{{"errorCode": code, "message": message}})
}

func (h *imitation) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/services/data/v61.0")
	w.Header().Set("Sforce-Limit-Info", fmt.Sprintf("api-usage=%d/%d", h.used, 15000))
	switch {
	case r.URL.Path == "/services/oauth2/token":
		h.logIn(w, r)
	case strings.HasPrefix(r.Host, "127."): // My Domain is for logins; records are at the instance
		fail(w, 404, "NOT_FOUND", "The requested resource does not exist")
	case h.Revoked() || h.stale || h.token == "" || r.Header.Get("Authorization") != "Bearer "+h.token:
		fail(w, 401, "INVALID_SESSION_ID", "Session expired or invalid")
	case h.used >= 15000:
		fail(w, 403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
	case path == "/sobjects/Contact/describe":
		h.describe(w)
	case path == "/query":
		h.query(w, r.URL.Query().Get("q"))
	case path == "/composite/sobjects/Contact/"+keyField && r.Method == http.MethodPatch:
		h.write(w, r, true)
	case path == "/composite/sobjects" && r.Method == http.MethodPatch:
		h.write(w, r, false)
	case path == "/composite/sobjects" && r.Method == http.MethodDelete:
		h.remove(w, r)
	case strings.HasPrefix(path, "/sobjects/Contact/") && r.Method == http.MethodGet:
		h.get(w, strings.TrimPrefix(path, "/sobjects/Contact/"))
	default:
		fail(w, 404, "NOT_FOUND", "The requested resource does not exist")
	}
}

func (h *imitation) logIn(w http.ResponseWriter, r *http.Request) {
	if h.Revoked() || r.PostFormValue("grant_type") != "client_credentials" || r.PostFormValue("client_id") != clientID || r.PostFormValue("client_secret") != clientSecret {
		answer(w, 400, object{"error": "invalid_client", "error_description": "invalid client credentials"})
		return
	}
	h.tokens++
	h.token = fmt.Sprintf("token-%d", h.tokens)
	if h.grant != nil {
		answer(w, 200, h.grant)
		return
	}
	instance := strings.Replace(h.URL, "127.0.0.1", "localhost", 1)
	answer(w, 200, object{"access_token": h.token, "instance_url": instance, "token_type": "Bearer"})
}

func (h *imitation) describe(w http.ResponseWriter) {
	var list []object
	for name, updateable := range h.fields {
		list = append(list, object{"name": name, "externalId": name == keyField, "unique": name == keyField, "updateable": updateable})
	}
	answer(w, 200, object{"name": "Contact", "fields": list})
}

var queries = regexp.MustCompile(`^SELECT Id, Clerk_ID__c(?:, Email)? FROM Contact WHERE (Clerk_ID__c|Email) IN \((.*)\)$`)

var literals = regexp.MustCompile(`^'(?:[^'\\]|\\['\\])*'$`)

func (h *imitation) query(w http.ResponseWriter, text string) {
	parts := queries.FindStringSubmatch(text)
	if parts == nil {
		fail(w, 400, "MALFORMED_QUERY", "unexpected token")
		return
	}
	list := []object{}
	for value := range strings.SplitSeq(parts[2], ", ") {
		if !literals.MatchString(value) {
			fail(w, 400, "MALFORMED_QUERY", "unexpected token")
			return
		}
		value = strings.NewReplacer(`\'`, `'`, `\\`, `\`).Replace(value[1 : len(value)-1])
		if c := h.holder(parts[1], value); c != nil {
			list = append(list, object{"attributes": object{"type": "Contact"}, "Id": c.id, keyField: c.fields[keyField]})
			for _, twin := range h.twins[value] {
				list = append(list, object{"attributes": object{"type": "Contact"}, "Id": twin, keyField: nil})
			}
		}
	}
	answer(w, 200, object{"totalSize": len(list), "done": true, "records": list})
}

func (h *imitation) live() (n int) {
	for _, c := range h.records {
		if !c.deleted {
			n++
		}
	}
	return n
}

// holder returns the live record that holds a value in one of the two fields that
// are looked up.
func (h *imitation) holder(field, value string) *record { return h.holders[indexed(field, value)] }

// indexed compares as Salesforce does: addresses without regard to case.
func indexed(field, value string) string {
	if field == "Email" {
		value = strings.ToLower(value)
	}
	return field + "=" + value
}

func (h *imitation) byKey(clerkID string) *record { return h.holder(keyField, clerkID) }

// change changes a record, and what it holds. deleted records hold nothing.
func (h *imitation) change(c *record, change func()) {
	each := func(do func(key string)) {
		for _, field := range []string{keyField, "Email"} {
			if value, _ := c.fields[field].(string); value != "" && !c.deleted {
				do(indexed(field, value))
			}
		}
	}
	each(func(key string) {
		if h.holders[key] == c {
			delete(h.holders, key)
		}
	})
	change()
	each(func(key string) { h.holders[key] = c })
}

// add adds a record as a person would.
func (h *imitation) add(id string, fields map[string]any) {
	c := &record{id: id}
	h.records[id] = c
	h.change(c, func() { c.fields = fields })
}

func (h *imitation) get(w http.ResponseWriter, id string) {
	c := h.records[id]
	if clerkID, ok := strings.CutPrefix(id, keyField+"/"); ok {
		c = h.byKey(clerkID)
	}
	if c == nil || c.deleted {
		fail(w, 404, "NOT_FOUND", "The requested resource does not exist")
		return
	}
	answer(w, 200, object{"attributes": object{"type": "Contact"}, "Id": c.id})
}

func (h *imitation) write(w http.ResponseWriter, r *http.Request, upsert bool) {
	var body struct {
		AllOrNone *bool            `json:"allOrNone"`
		Records   []map[string]any `json:"records"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.AllOrNone == nil || len(body.Records) == 0 {
		fail(w, 400, "JSON_PARSER_ERROR", "cannot be read")
		return
	}
	if len(body.Records) > 200 {
		fail(w, 400, "EXCEEDED_ID_LIMIT", "record limit reached")
		return
	}
	if *body.AllOrNone && len(body.Records) > 1 {
		fail(w, 500, "UNKNOWN_EXCEPTION", "this imitation rolls nothing back")
		return
	}
	seen := map[any]bool{}
	results := []object{}
	for _, fields := range body.Records {
		key := fields[keyField]
		if upsert && seen[key] {
			results = append(results, refusal("DUPLICATE_VALUE", keyField))
			continue
		}
		seen[key] = true
		results = append(results, h.one(fields, upsert))
	}
	if h.short {
		results = results[:len(results)-1]
	}
	answer(w, 200, results)
}

func refusal(code string, fields ...string) object {
	if fields == nil {
		fields = []string{}
	}
	return object{"success": false, "errors": []object{{"statusCode": code, "message": "not so", "fields": fields}}}
}

var addresses = regexp.MustCompile(`^[^@\s]+@[a-z0-9.-]+\.[a-z]+$`)

// one writes one record.
func (h *imitation) one(fields map[string]any, upsert bool) object {
	clerkID, _ := fields[keyField].(string)
	id, _ := fields["id"].(string)
	c := h.records[id]
	if upsert {
		c = h.byKey(clerkID)
	} else if c == nil || c.deleted {
		return refusal("ENTITY_IS_DELETED")
	}
	delete(fields, "attributes")
	delete(fields, "id")
	isNew := c == nil
	if !isNew && h.refuses["PATCH "+c.id] != "" {
		return refusal(h.refuses["PATCH "+c.id])
	}
	if isNew {
		c = &record{id: fmt.Sprintf("003%012dQAO", h.serial), fields: map[string]any{}}
	}
	for name, value := range fields {
		text, _ := value.(string)
		switch updateable, known := h.fields[name]; {
		case !known:
			return refusal("INVALID_FIELD", name)
		case !updateable:
			return refusal("INVALID_FIELD_FOR_INSERT_UPDATE", name)
		case name == "Email" && value != nil && !addresses.MatchString(text):
			return refusal("INVALID_EMAIL_ADDRESS", name)
		case utf8.RuneCountInString(text) > 255:
			return refusal("STRING_TOO_LONG", name)
		case name == "LastName" && text == "":
			return refusal("REQUIRED_FIELD_MISSING", name)
		}
	}
	if isNew && fields["LastName"] == nil {
		return refusal("REQUIRED_FIELD_MISSING", "LastName")
	}
	if other := h.byKey(clerkID); clerkID != "" && other != nil && other != c {
		return refusal("DUPLICATE_VALUE", keyField)
	}
	if h.locked[clerkID] {
		delete(h.locked, clerkID)
		return refusal("UNABLE_TO_LOCK_ROW")
	}
	if email, _ := fields["Email"].(string); email != "" {
		if other := h.holder("Email", email); other != nil && other != c {
			return refusal("DUPLICATES_DETECTED")
		}
	}
	return h.store(c, fields, isNew, upsert)
}

func (h *imitation) store(c *record, fields map[string]any, isNew, upsert bool) object {
	if isNew {
		h.serial++
		h.records[c.id] = c
	}
	h.change(c, func() {
		for name, value := range fields {
			if name == "LeadSource" && c.fields[name] != value {
				h.welcomes[fields[keyField].(string)]++
			}
			if c.fields[name] = value; value == nil {
				delete(c.fields, name)
			}
		}
	})
	result := object{"id": c.id, "success": true, "errors": []object{}}
	if upsert {
		result["created"] = isNew
	}
	return result
}

func (h *imitation) remove(w http.ResponseWriter, r *http.Request) {
	ids := strings.Split(r.URL.Query().Get("ids"), ",")
	if len(ids) > 200 || r.URL.Query().Get("allOrNone") != "false" {
		fail(w, 400, "EXCEEDED_ID_LIMIT", "record limit reached")
		return
	}
	results := []object{}
	for _, id := range ids {
		c := h.records[id]
		if code := h.refuses["DELETE "+id]; code != "" {
			refused := refusal(code)
			refused["id"] = id
			results = append(results, refused)
			continue
		}
		if c == nil || c.deleted {
			gone := refusal("ENTITY_IS_DELETED")
			gone["id"] = id
			results = append(results, gone)
			continue
		}
		h.change(c, func() { c.deleted = true })
		results = append(results, object{"id": id, "success": true, "errors": []object{}})
	}
	answer(w, 200, results)
}
