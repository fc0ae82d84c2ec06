package clerksim

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

var descriptions struct {
	sync.Mutex
	byName map[string]*openapi3.T
}

// description loads one of Clerk's descriptions, once for all tests.
func description(t *testing.T, name string) *openapi3.T {
	t.Helper()
	descriptions.Lock()
	defer descriptions.Unlock()
	if doc := descriptions.byName[name]; doc != nil {
		return doc
	}
	doc, err := openapi3.NewLoader().LoadFromFile(filepath.Join(shared(t), "contracts", name))
	if err != nil {
		t.Fatalf("load %s: %v", name, err)
	}
	if descriptions.byName == nil {
		descriptions.byName = map[string]*openapi3.T{}
	}
	descriptions.byName[name] = doc
	return doc
}

// webhookData returns the name of the schema of an event's data. Clerk lists
// its events under an extension, which the library leaves as it is.
func webhookData(t *testing.T, doc *openapi3.T, event string) string {
	t.Helper()
	text, err := json.Marshal(doc.Extensions["x-webhooks"])
	if err != nil {
		t.Fatal(err)
	}
	var hooks map[string]struct {
		Post struct {
			RequestBody struct {
				Content map[string]struct {
					Schema struct {
						AllOf []struct {
							Ref        string `json:"$ref"`
							Properties struct {
								Data struct {
									Ref string `json:"$ref"`
								} `json:"data"`
							} `json:"properties"`
						} `json:"allOf"`
					} `json:"schema"`
				} `json:"content"`
			} `json:"requestBody"`
		} `json:"post"`
	}
	if err := json.Unmarshal(text, &hooks); err != nil {
		t.Fatal(err)
	}
	all := hooks[event].Post.RequestBody.Content["application/json"].Schema.AllOf
	if len(all) != 2 || all[0].Ref != "#/components/schemas/WebhookEventPayload" {
		t.Fatalf("description of %s: not an envelope and data", event)
	}
	return strings.TrimPrefix(all[1].Properties.Data.Ref, "#/components/schemas/")
}

func TestMessages_ValidUnderWebhookDescription(t *testing.T) {
	t.Parallel()
	doc := description(t, "clerk-webhooks-2025-04-15.yml")
	schema := func(name string) *openapi3.Schema { return doc.Components.Schemas[name].Value }
	data := map[string]*openapi3.Schema{}
	for _, event := range []string{UserCreated, UserUpdated, UserDeleted} {
		data[event] = schema(webhookData(t, doc, event))
	}
	i := newInstance(t, Config{Users: 50, Seed: 7})
	act(t, i, 1500)
	seen := map[string]int{}
	for _, m := range i.Messages() {
		var body map[string]any
		if err := json.Unmarshal(m.Body, &body); err != nil {
			t.Fatalf("%s: %v", m.Type, err)
		}
		if err := schema("WebhookEventPayload").VisitJSON(body); err != nil {
			t.Fatalf("%s: envelope: %v", m.Type, err)
		}
		if err := data[m.Type].VisitJSON(body["data"]); err != nil {
			t.Fatalf("%s: data: %v\n%s", m.Type, err, m.Body)
		}
		seen[m.Type]++
	}
	if len(seen) != 3 || len(i.Messages()) < 1500 {
		t.Errorf("messages: got %v, want 1500 of all three types", seen)
	}
}

func TestAnswers_ValidUnderBackendAPIDescription(t *testing.T) {
	t.Parallel()
	doc := description(t, "clerk-backend-api-2026-05-12.yml")
	i := newInstance(t, Config{Users: 1200, Seed: 3})
	act(t, i, 300)
	id := i.UserIDs()[0]
	gone := i.Deleted()[0]
	for _, c := range []struct {
		path, id, query string
		status          int
	}{
		{"/users", "", "", 200},
		{"/users", "", "limit=500&order_by=%2Bcreated_at", 200},
		{"/users", "", "limit=500&order_by=%2Bcreated_at&starting_after=" + id, 200},
		{"/users", "", "limit=500&order_by=-updated_at&offset=500", 200},
		{"/users", "", "user_id=" + id + "&user_id=" + gone, 200},
		{"/users", "", "starting_after=" + gone, 422},
		{"/users", "", "starting_after=" + id + "&order_by=username", 422},
		{"/users", "", "organization_id=org_1", 400},
		{"/users", "", "", 401},
		{"/users/count", "", "", 200},
		{"/users/count", "", "limit=0", 422},
		{"/users/{user_id}", id, "", 200},
		{"/users/{user_id}", gone, "", 404},
		{"/users/{user_id}", id, "", 401},
	} {
		item := doc.Paths.Find(c.path)
		r := httptest.NewRequest(http.MethodGet, "https://api.clerk.com/v1"+strings.Replace(c.path, "{user_id}", c.id, 1)+"?"+c.query, nil)
		if c.status != http.StatusUnauthorized {
			r.Header.Set("Authorization", "Bearer "+i.SecretKey())
		}
		w := httptest.NewRecorder()
		i.Handler().ServeHTTP(w, r)
		answer := &openapi3filter.ResponseValidationInput{
			RequestValidationInput: &openapi3filter.RequestValidationInput{
				Request: r, Route: &routers.Route{Spec: doc, Path: c.path, PathItem: item, Method: http.MethodGet, Operation: item.Get},
			},
			Status: w.Code, Header: w.Header(), Options: &openapi3filter.Options{IncludeResponseStatus: true},
		}
		if err := openapi3filter.ValidateResponse(t.Context(), answer.SetBodyBytes(w.Body.Bytes())); err != nil {
			t.Errorf("GET %s?%s: %v", c.path, c.query, err)
		}
		if w.Code != c.status {
			t.Errorf("GET %s?%s: status %d, want %d", c.path, c.query, w.Code, c.status)
		}
	}
}

// act makes n acts, a second apart if the clock is virtual.
func act(t *testing.T, i *Instance, n int, clock ...*virtual) {
	t.Helper()
	for range n {
		for _, c := range clock {
			c.add(time.Second)
		}
		if err := i.Act(); err != nil {
			t.Fatalf("Act: %v", err)
		}
	}
}
