package httpsink_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/httpsink"
	"clerkconnect/sinks/sinktest"
)

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	ok := func() httpsink.Config {
		return httpsink.Config{Config: contact.Config{BaseURL: "https://api.example.com"}, Upsert: "PUT /u", Erase: "DELETE /u/{{path .id}}"}
	}
	if err := ok().Validate(); err != nil {
		t.Errorf("the fewest settings: %v", err)
	}
	for want, change := range map[string]func(*httpsink.Config){
		"BASE_URL":                     func(c *httpsink.Config) { c.BaseURL = "" },
		"has agreed to":                func(c *httpsink.Config) { c.Properties = "subscribed = true" },
		"HEADERS is no JSON":           func(c *httpsink.Config) { c.Headers = "api-key: hush" },
		"HEADERS has a name":           func(c *httpsink.Config) { c.Headers = `{"a b":"hush"}` },
		"SIGNING_SECRET":               func(c *httpsink.Config) { c.SigningSecret = "whsec_hush!" },
		"ID_HEADER":                    func(c *httpsink.Config) { c.IDHeader = "a b" },
		"UPSERT is empty":              func(c *httpsink.Config) { c.Upsert = "" },
		"UPSERT stands beside":         func(c *httpsink.Config) { c.Create = "POST /u" },
		"UPSERT is \"put\"":            func(c *httpsink.Config) { c.Upsert = "put" },
		"ERASE is empty":               func(c *httpsink.Config) { c.Erase = "" },
		"ERASE is no template":         func(c *httpsink.Config) { c.Erase = "DELETE /u/{{" },
		"UPSERT or UPSERT_BODY cannot": func(c *httpsink.Config) { c.UpsertBody = "{{json .no_such_member}}" },
		"is not JSON":                  func(c *httpsink.Config) { c.UpsertBody = `{"name":"{{.properties.first_name}}"}` },
		"ERASE or ERASE_BODY cannot":   func(c *httpsink.Config) { c.EraseBody = "{{.properties.email.x}}" },
		"CONFIRM or CONFIRM_BODY":      func(c *httpsink.Config) { c.Confirm = "GET /u/{{path .nobody}}" },
		"the body is not JSON":         func(c *httpsink.Config) { c.UpsertBody = `{"name":"{{.properties.last_name}}"}` },
		"has spaces":                   func(c *httpsink.Config) { c.Upsert = "PUT /u?name={{.properties.first_name}}" },
		"CONFIRM_ID is set without":    func(c *httpsink.Config) { c.ConfirmID = "id" },
		"BATCH is 1001":                func(c *httpsink.Config) { c.Batch = 1001 },
		"REMOTE_ID is of one user":     func(c *httpsink.Config) { c.Batch, c.RemoteID = 2, "id" },
		"ERASURE":                      func(c *httpsink.Config) { c.Erasure = "forget" },
		"TIMES":                        func(c *httpsink.Config) { c.Times = "long ago" },
		"GONE has \"4o4\"":             func(c *httpsink.Config) { c.Gone = "4o4" },
		"FIND is empty":                func(c *httpsink.Config) { c.Upsert, c.Create, c.Update, c.RemoteID = "", "POST /u", "PUT /u", "id" },
		"FIND does not ask for":        func(c *httpsink.Config) { c.Upsert, c.Find = "", "GET /u?email=x" },
		"REMOTE_ID is empty":           func(c *httpsink.Config) { c.Upsert, c.Create = "", "POST /u" },
	} {
		cfg := ok()
		change(&cfg)
		err := cfg.Validate()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("Validate: got %v, want %q", err, want)
		}
	}
	err := httpsink.Config{Headers: "x", Erasure: "x", Times: "x", Gone: "?"}.Validate()
	for _, variable := range []string{"BASE_URL", "HEADERS", "ERASURE", "TIMES", "UPSERT", "ERASE is", "GONE"} {
		if err == nil || !strings.Contains(err.Error(), variable) {
			t.Errorf("Validate says nothing of %s: %v", variable, err)
		}
	}
}

// A template that forgets json is found out whichever property it writes: a name
// with a quote in it would add members to the body.
func TestConfig_Validate_TemplatesThatDoNotEscape(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ properties, body, want string }{
		{"last = last_name", `{"name":"{{.properties.last}}"}`, "not JSON"},
		{"user = username", `{"name":"{{.properties.user}}"}`, "not JSON"},
		{"mail = email", `{"email":"{{.changed.mail}}"}`, "not JSON"},
		{"tier = public_metadata.tier", `{"tier":"{{.properties.tier}}"}`, "not JSON"},
		{"mail = email", `{"email":{{json .properties.mail}},"list":"{{if .new}}{{.properties.mail}}{{end}}"}`, "not JSON"},
		{"joined = created_at", `{"joined":"{{.properties.joined}}"}`, "no value"},
		{"joined = created_at", `{"joined":{{json .properties.joined}}}`, ""},
		{"tier = public_metadata.tier", `{"tier":{{json .properties.tier}}}`, ""},
		{"source = 'Clerk'", `{"source":"{{.properties.source}}"}`, ""},
		{"joined = created_at", `{"at":"{{with .properties.joined}}{{.}}{{end}}"}`, ""},
	} {
		err := httpsink.Config{
			Config: contact.Config{BaseURL: "https://api.example.com", Properties: test.properties},
			Upsert: "PUT /u/{{path .id}}", UpsertBody: test.body, Erase: "DELETE /u/{{path .id}}",
		}.Validate()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.body, err, test.want)
		}
	}
	for _, upsert := range []string{"PUT /u/{{path .properties.name}}", "PUT /u?at={{.properties.name}}"} {
		cfg := httpsink.Config{
			Config: contact.Config{BaseURL: "https://api.example.com", Properties: "name = created_at"}, Upsert: upsert, Erase: "DELETE /u/{{path .id}}",
		}
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "may not have") {
			t.Errorf("%s, of what a user may not have: got %v", upsert, err)
		}
	}
}

// A wrong BASE_URL or CHECK stops the sink before it takes a 404 for an answer.
func TestOpen(t *testing.T) {
	t.Parallel()
	cfg := plain(t, http.NotFound)
	cfg.Check = "GET /account"
	sinktest.ExpectClass(t, "CHECK answered 404", newSink(t, cfg).Open(t.Context()), sinks.ClassFatal, sinks.ReasonMisconfigured)
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		body   string
		set    func(*httpsink.Config)
		class  sinks.Class
		reason sinks.Reason
		after  time.Duration
	}{
		"a success that is none":         {202, "", func(c *httpsink.Config) { c.Success = "200, 204" }, sinks.ClassPermanent, sinks.ReasonInvalidRecord, 0},
		"retry by status":                {423, "", func(c *httpsink.Config) { c.Retry = "423" }, sinks.ClassRetry, sinks.ReasonUnavailable, 7 * time.Second},
		"retry by code":                  {400, `{"code":"busy"}`, func(c *httpsink.Config) { c.Retry = "busy" }, sinks.ClassRetry, sinks.ReasonUnavailable, 7 * time.Second},
		"retry a forbidden":              {403, "", func(c *httpsink.Config) { c.Retry = "403" }, sinks.ClassRetry, sinks.ReasonUnavailable, 7 * time.Second},
		"rate limited":                   {429, "", func(*httpsink.Config) {}, sinks.ClassRetry, sinks.ReasonRateLimited, 7 * time.Second},
		"conflict by default":            {409, "", func(*httpsink.Config) {}, sinks.ClassRetry, sinks.ReasonConflict, 0},
		"conflict by code":               {400, `{"code":"taken"}`, func(c *httpsink.Config) { c.Conflict = "taken" }, sinks.ClassRetry, sinks.ReasonConflict, 0},
		"a wrong key":                    {401, "", func(*httpsink.Config) {}, sinks.ClassFatal, sinks.ReasonUnauthorized, 0},
		"a proxy's page":                 {200, "<!doctype html><title>Down", func(*httpsink.Config) {}, sinks.ClassRetry, sinks.ReasonUnavailable, 0},
		"a part has failed":              {207, `{"errors":[1]}`, func(*httpsink.Config) {}, sinks.ClassPermanent, sinks.ReasonInvalidRecord, 0},
		"an error with 200":              {200, `{"error":{"code":"bad_name"}}`, func(c *httpsink.Config) { c.FailedAt = "error.code" }, sinks.ClassPermanent, sinks.ReasonInvalidRecord, 0},
		"an error without a code":        {200, `{"error":{"message":"ada@example.com"}}`, func(c *httpsink.Config) { c.FailedAt = "error" }, sinks.ClassPermanent, sinks.ReasonInvalidRecord, 0},
		"an error that passes":           {200, `{"error":"busy"}`, func(c *httpsink.Config) { c.FailedAt, c.Retry = "error", "busy" }, sinks.ClassRetry, sinks.ReasonUnavailable, 0},
		"a conflict with 200":            {200, `{"errors":[{"code":"taken"}]}`, func(c *httpsink.Config) { c.FailedAt, c.Conflict = "errors.0.code", "taken" }, sinks.ClassRetry, sinks.ReasonConflict, 0},
		"gone is no answer to an upsert": {404, "", func(*httpsink.Config) {}, sinks.ClassPermanent, sinks.ReasonInvalidRecord, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := plain(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(test.status)
				io.WriteString(w, test.body) //nolint:errcheck // the client reads it or not
			})
			test.set(&cfg)
			err := openSink(t, cfg).Apply(t.Context(), []sinks.Record{sinktest.Change("user_1", 1)})
			sinktest.ExpectClass(t, name, err, test.class, test.reason)
			if got := sinks.Classify(err).After; got != test.after {
				t.Errorf("After: got %s, want %s", got, test.after)
			}
		})
	}
	for name, test := range map[string]struct {
		status            int
		body              string
		success, failedAt string
	}{
		"a status that SUCCESS lists": {304, "", "2xx, 304", ""},
		"a page that SUCCESS lists":   {200, "<html>done", "200", ""},
		"207 that SUCCESS lists":      {207, "{}", "2xx, 207", ""},
		"no error":                    {200, `{"error":null}`, "", "error"},
		"no error, as a word":         {200, `{"failed":false}`, "", "failed"},
		"no errors":                   {200, `{"errors":[],"ok":true}`, "", "errors"},
		"nothing":                     {204, "", "", "error"},
	} {
		cfg := plain(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(test.status)
			io.WriteString(w, test.body) //nolint:errcheck // the client reads it or not
		})
		cfg.Success, cfg.FailedAt = test.success, test.failedAt
		if err := openSink(t, cfg).Apply(t.Context(), []sinks.Record{sinktest.Change("user_1", 1)}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
