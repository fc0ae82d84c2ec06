package segment_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"clerkconnect/sinks/resttest"
)

const (
	writeKey    = "write-key-1"
	publicToken = "public-token-1"
)

// imitation plays a Segment workspace: the Tracking API, which takes whatever it
// is given and drops what it cannot use, and the Public API, on one address.
type imitation struct {
	*resttest.Server

	mu          sync.Mutex
	traits      map[string]map[string]any // by user
	suppressed  map[string]bool
	messages    map[string]bool // ids seen
	dropped     []string        // why
	tracked     map[string]int  // events by user
	regulations map[string]string
	status      string                    // of new regulations
	contexts    map[string]map[string]any // of the last call, by user
	noID        bool                      // regulations are answered without their id
}

func newImitation(t testing.TB, clock *resttest.Clock) *imitation {
	h := &imitation{
		traits: map[string]map[string]any{}, suppressed: map[string]bool{}, messages: map[string]bool{},
		tracked: map[string]int{}, regulations: map[string]string{}, contexts: map[string]map[string]any{}, status: "FINISHED",
	}
	h.Server = resttest.NewServer(t, resttest.Config{
		Tool: http.HandlerFunc(h.serve), Clock: clock,
		Limits: []resttest.Limit{
			{Requests: 1000, Window: time.Second, Path: regexp.MustCompile(`^POST /v1/`)},
			{Requests: 200, Window: time.Minute, Path: regexp.MustCompile(`^[A-Z]+ /(sources|regulations)`)},
		},
		TooMany: func(w http.ResponseWriter, wait time.Duration) {
			w.Header().Set("Retry-After", resttest.RetryAfter(wait))
			w.Header().Set("X-RateLimit-Reset", resttest.RetryAfter(wait))
			w.WriteHeader(http.StatusTooManyRequests)
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

// fail answers as the Public API does.
func fail(w http.ResponseWriter, status int, kind string) {
	answer(w, status, object{"errors": []object{{"type": kind, "message": "no"}}})
}

func (h *imitation) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	public := !strings.HasPrefix(r.URL.Path, "/v1/")
	switch {
	case h.Revoked(), public && r.Header.Get("Authorization") != "Bearer "+publicToken:
		fail(w, 401, "unauthorized")
	case r.Method == http.MethodPost && r.URL.Path == "/v1/batch":
		h.batch(w, r)
	case r.Method == http.MethodGet && r.URL.Path == "/sources":
		h.sources(w, r)
	case r.Method == http.MethodPost && r.URL.Path == "/regulations":
		h.regulate(w, r)
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/regulations/"):
		status, ok := h.regulations[strings.TrimPrefix(r.URL.Path, "/regulations/")]
		if !ok {
			fail(w, 404, "not-found")
			return
		}
		answer(w, 200, object{"data": object{"regulation": object{"id": "reg", "workspaceId": "ws", "overallStatus": status}}})
	default:
		fail(w, 404, "not-found")
	}
}

// sources has the write key on its second page.
func (h *imitation) sources(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("pagination.cursor") == "" {
		answer(w, 200, object{"data": object{
			"sources": []object{{"id": "a", "writeKeys": []string{"another"}}}, "pagination": object{"current": "Mg==", "next": "Mw=="},
		}})
		return
	}
	answer(w, 200, object{"data": object{
		"sources": []object{{"id": "b", "writeKeys": []string{writeKey}}}, "pagination": object{"current": "Mw=="},
	}})
}

func (h *imitation) regulate(w http.ResponseWriter, r *http.Request) {
	var body struct {
		RegulationType, SubjectType string
		SubjectIDs                  []string `json:"subjectIds"`
	}
	err := json.NewDecoder(r.Body).Decode(&body)
	known := body.RegulationType == "DELETE_ONLY" || body.RegulationType == "SUPPRESS_WITH_DELETE"
	if err != nil || !known || body.SubjectType != "USER_ID" || len(body.SubjectIDs) == 0 || len(body.SubjectIDs) > 5000 {
		fail(w, 422, "validation")
		return
	}
	if h.noID {
		answer(w, 200, object{"data": object{}})
		return
	}
	id := fmt.Sprintf("reg_%d", len(h.regulations)+1)
	h.regulations[id] = h.status
	for _, user := range body.SubjectIDs {
		if h.status == "FINISHED" {
			delete(h.traits, user)
		}
		if body.RegulationType == "SUPPRESS_WITH_DELETE" {
			h.suppressed[user] = true
		}
	}
	answer(w, 200, object{"data": object{"regulateId": id}})
}

type call struct {
	Type, UserID, MessageID, Event, Timestamp string
	Traits, Context                           map[string]any
}

func (h *imitation) batch(w http.ResponseWriter, r *http.Request) {
	var body struct{ Batch []json.RawMessage }
	if r.ContentLength > 500_000 || json.NewDecoder(r.Body).Decode(&body) != nil {
		answer(w, 400, object{"success": false, "message": "malformed JSON, or too large"})
		return
	}
	for _, text := range body.Batch {
		if len(text) > 32_000 {
			answer(w, 400, object{"success": false, "message": "too large"})
			return
		}
	}
	if len(body.Batch) > 2500 || r.Header.Get("Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(writeKey+":")) {
		h.dropped = append(h.dropped, "batch")
		answer(w, 200, object{"success": true}) // as Segment does
		return
	}
	for _, text := range body.Batch {
		h.take(text)
	}
	answer(w, 200, object{"success": true})
}

func (h *imitation) take(text []byte) {
	var c call
	_, undated := time.Parse(time.RFC3339, "")
	if json.Unmarshal(text, &c) == nil {
		_, undated = time.Parse(time.RFC3339, c.Timestamp)
	}
	switch {
	case c.UserID == "" || len(c.MessageID) > 100 || undated != nil || c.Type == "track" && c.Event == "":
		h.dropped = append(h.dropped, c.Type)
	case h.messages[c.MessageID] || h.suppressed[c.UserID]:
	case c.Type == "track":
		h.tracked[c.UserID]++
	case c.Type == "identify":
		h.contexts[c.UserID] = c.Context
		if h.traits[c.UserID] == nil {
			h.traits[c.UserID] = map[string]any{}
		}
		for name, value := range c.Traits {
			if h.traits[c.UserID][name] = value; value == nil {
				delete(h.traits[c.UserID], name)
			}
		}
	default:
		h.dropped = append(h.dropped, c.Type)
	}
	h.messages[c.MessageID] = true
}
