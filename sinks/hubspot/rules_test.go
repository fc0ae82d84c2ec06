package hubspot_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/hubspot"
	"clerkconnect/sinks/resttest"
	"clerkconnect/sinks/sinktest"
)

func open(t *testing.T, h *imitation, change ...func(*hubspot.Config)) *hubspot.Sink {
	t.Helper()
	cfg := config(h)
	for _, f := range change {
		f(&cfg)
	}
	return sinktest.Open(t, hubspot.New, cfg)
}

func record(id, name, email string) sinks.Record {
	u := schemas.User{FirstName: &name}
	if email != "" {
		u.PrimaryEmailAddress = &email
	}
	return sinks.Track(sinks.Record{ClerkID: id, Change: &schemas.UserChange{ClerkID: id, User: u}})
}

// put makes a contact that a person, or a form, has made.
func (h *imitation) put(properties map[string]string) *person {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.serial++
	p := &person{id: fmt.Sprint(900000 + h.serial), properties: map[string]string{}}
	h.contacts[p.id] = p
	h.set(p, properties)
	return p
}

func fast1(t *testing.T) *imitation { return newImitation(t, resttest.NewClock(fast)) }

func TestApply_AdoptsAContactOfNobodys(t *testing.T) {
	t.Parallel()
	h := fast1(t)
	form := h.put(map[string]string{"email": "Ada@Example.com", "plan": "from a form", "hs_email_optout": "true"})
	sink := open(t, h)
	batch := []sinks.Record{record("user_1", "Ada", "ada@example.com"), record("user_2", "Bob", "bob@example.com")}
	sinktest.MustApply(t, sink, batch...)
	want := map[string]string{
		"email": "ada@example.com", "firstname": "Ada", "clerk_user_id": "user_1", "plan": "from a form", "hs_email_optout": "true",
	}
	if !maps.Equal(form.properties, want) || len(h.live()) != 2 {
		t.Errorf("the contact: got %v of %d, want %v of 2", form.properties, len(h.live()), want)
	}
	if !strings.Contains(string(batch[0].Result().State), form.id) {
		t.Errorf("the state does not hold the contact's id")
	}
}

func TestApply_Conflicts(t *testing.T) {
	t.Parallel()
	h := fast1(t)
	sink := open(t, h)
	sinktest.MustApply(t, sink, record("user_1", "Ada", "ada@example.com"), record("user_2", "Bob", "bob@example.com"))
	h.put(map[string]string{"email": "form@example.com"})
	batch := []sinks.Record{
		record("user_3", "Eve", "ada@example.com"),  // another user's
		record("user_2", "Bob", "form@example.com"), // nobody's, but he has a contact already
		record("user_4", "Fay", "fay@example.com"),
	}
	err := sink.Apply(t.Context(), batch)
	//nolint:errorlint // the contract is about the error itself
	listed, ok := err.(*sinks.BatchError)
	if !ok || listed.Len() != 2 {
		t.Fatalf("Apply: got %v, want two records listed", err)
	}
	for i, holder := range []string{"user_1", ""} {
		if got := sinks.Classify(listed.Failed(i)); got.Reason != sinks.ReasonConflict || got.Class != sinks.ClassRetry || got.HeldBy != holder {
			t.Errorf("record %d: got %v held by %q, want a conflict, held by %q", i, got.Err, got.HeldBy, holder)
		}
	}
	if strings.Contains(err.Error(), "example.com") {
		t.Errorf("the error quotes an address: %v", err)
	}
	if len(h.live()) != 4 || batch[2].Result().State == nil || batch[0].Result().Remembered {
		t.Errorf("%d contacts, want 4; the third record must be remembered, the first not", len(h.live()))
	}
}

// requests has every body that reaches the imitation, by path.
func spy(t *testing.T, h *imitation) (url string, bodies func(path string) []string) {
	seen := map[string][]string{}
	target := h.URL
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen[r.URL.Path] = append(seen[r.URL.Path], string(body))
		forward, err := http.NewRequestWithContext(r.Context(), r.Method, target+r.URL.RequestURI(), strings.NewReader(string(body)))
		if err != nil {
			t.Error(err)
			return
		}
		forward.Header = r.Header
		answer, err := http.DefaultClient.Do(forward)
		if err != nil {
			t.Error(err)
			return
		}
		defer answer.Body.Close()
		w.Header().Set("Content-Type", answer.Header.Get("Content-Type"))
		w.WriteHeader(answer.StatusCode)
		io.Copy(w, answer.Body) //nolint:errcheck // the client reads it
	}))
	t.Cleanup(server.Close)
	return server.URL, func(path string) []string { return seen[path] }
}

func TestApply_SendsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	h := fast1(t)
	url, bodies := spy(t, h)
	sink := open(t, h, func(cfg *hubspot.Config) { cfg.BaseURL = url })
	first := record("user_1", "Ada", "ada@example.com")
	sinktest.MustApply(t, sink, first)
	second := record("user_1", "Grace", "ada@example.com")
	second.State = first.Result().State
	sinktest.MustApply(t, sink, second)
	got := bodies("/crm/v3/objects/contacts/batch/upsert")
	want := []string{
		`{"inputs":[{"id":"user_1","idProperty":"clerk_user_id","properties":{"email":"ada@example.com","firstname":"Ada","lastname":""},"objectWriteTraceId":"0"}]}`,
		`{"inputs":[{"id":"user_1","idProperty":"clerk_user_id","properties":{"firstname":"Grace"},"objectWriteTraceId":"0"}]}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A contact that a person has deleted comes back whole, also after an attempt that
// died when it had written a part, and also if it is one from a form that becomes the
// user's in its place.
func TestApply_ContactDeleted(t *testing.T) {
	t.Parallel()
	for name, left := range map[string]map[string]string{
		"a part is there": {"clerk_user_id": "user_1", "firstname": "Grace"},
		"one from a form": {"email": "ada@example.com"},
	} {
		h := fast1(t)
		sink := open(t, h)
		first := record("user_1", "Ada", "ada@example.com")
		first.Change.User.LastName = new("Lovelace")
		sinktest.MustApply(t, sink, first)
		h.archive(h.find("clerk_user_id", "user_1"))
		there := h.put(left)
		second := record("user_1", "Grace", "ada@example.com")
		second.Change.User.LastName, second.State = new("Lovelace"), first.Result().State
		if name == "one from a form" { // an address is met only when it is written
			second.Change.User.PrimaryEmailAddress = new("Ada@example.com")
		}
		sinktest.MustApply(t, sink, second)
		if p := there.properties; p["firstname"] != "Grace" || p["lastname"] != "Lovelace" || !strings.EqualFold(p["email"], "ada@example.com") || p["clerk_user_id"] != "user_1" || len(h.live()) != 1 {
			t.Errorf("%s: got %v of %d contacts, want all properties", name, p, len(h.live()))
		}
	}
}

// If the rest meets a contact from a form, there are two: a person has to merge them.
func TestApply_ContactDeleted_RestIsHeld(t *testing.T) {
	t.Parallel()
	h := fast1(t)
	sink := open(t, h)
	first := record("user_1", "Ada", "ada@example.com")
	sinktest.MustApply(t, sink, first)
	h.archive(h.find("clerk_user_id", "user_1"))
	h.put(map[string]string{"email": "ada@example.com"})
	second := record("user_1", "Grace", "ada@example.com")
	second.State = first.Result().State
	err := sink.Apply(t.Context(), []sinks.Record{second})
	var listed *sinks.BatchError
	if !errors.As(err, &listed) || sinks.Classify(listed.Failed(0)).Reason != sinks.ReasonConflict || second.Result().Remembered {
		t.Errorf("got %v, remembered %v; want a conflict", err, second.Result().Remembered)
	}
}

// Of a contact that came back with a part, and of which the rest could not be
// written, nothing is remembered.
func TestApply_ContactDeleted_SecondCallFails(t *testing.T) {
	t.Parallel()
	h := fast1(t)
	sink := open(t, h)
	first := record("user_1", "Ada", "ada@example.com")
	sinktest.MustApply(t, sink, first)
	h.archive(h.find("clerk_user_id", "user_1"))
	second, other := record("user_1", "Grace", "ada@example.com"), record("user_2", "Bob", "bob@example.com")
	second.State = first.Result().State
	h.lastUpsert = h.upserted + 1
	err := sink.Apply(t.Context(), []sinks.Record{second, other})
	var listed *sinks.BatchError
	if !errors.As(err, &listed) || listed.Len() != 1 || sinks.Classify(listed.Failed(0)).Class != sinks.ClassRetry || second.Result().Remembered || !other.Result().Remembered {
		t.Fatalf("got %v, remembered %v and %v; want the first to be retried, and the other remembered", err, second.Result().Remembered, other.Result().Remembered)
	}
	h.lastUpsert = 0
	again := record("user_1", "Grace", "ada@example.com")
	again.State = first.Result().State
	sinktest.MustApply(t, sink, again)
	if p := h.find("clerk_user_id", "user_1"); p.properties["email"] != "ada@example.com" {
		t.Errorf("applied again: got %v, want all properties", p.properties)
	}
}

func TestApply_AHundredUsersInOneCall(t *testing.T) {
	t.Parallel()
	h := fast1(t)
	sink := open(t, h)
	var batch []sinks.Record
	for i := range 100 {
		batch = append(batch, record(fmt.Sprintf("user_%d", i), "Ada", fmt.Sprintf("ada%d@example.com", i)))
	}
	before := h.Requests()
	sinktest.MustApply(t, sink, batch...)
	if calls := h.Requests() - before; calls != 1 || len(h.live()) != 100 {
		t.Errorf("100 users: %d calls and %d contacts, want 1 and 100", calls, len(h.live()))
	}
}

// An account where trace ids do nothing: one bad input fails the batch, and the
// runner finds it by halving.
func TestApply_WholeBatchRefused(t *testing.T) {
	t.Parallel()
	h := fast1(t)
	h.wholeBatch = true
	sink := open(t, h)
	poison, good := record("user_1", "Ada", "no address"), record("user_2", "Bob", "bob@example.com")
	sinktest.ExpectClass(t, "two", sink.Apply(t.Context(), []sinks.Record{poison, good}), sinks.ClassPermanent, sinks.ReasonInvalidRecord)
	sinktest.ExpectClass(t, "the bad one", sink.Apply(t.Context(), []sinks.Record{poison}), sinks.ClassPermanent, sinks.ReasonInvalidRecord)
	sinktest.MustApply(t, sink, good)
	h.put(map[string]string{"email": "form@example.com"})
	taken := record("user_3", "Eve", "form@example.com")
	sinktest.ExpectClass(t, "two with a conflict", sink.Apply(t.Context(), []sinks.Record{taken, record("user_4", "Fay", "")}), sinks.ClassPermanent, sinks.ReasonConflict)
	sinktest.MustApply(t, sink, taken) // adopted
	if len(h.live()) != 2 {
		t.Errorf("%d contacts, want 2", len(h.live()))
	}
}

// What the account does not know stops the sink, and costs no dead letter.
func TestApply_PropertyRemovedWhileRunning(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{false, true} {
		h := fast1(t)
		h.wholeBatch = whole
		sink := open(t, h)
		h.mu.Lock()
		delete(h.defined, "lastname")
		h.mu.Unlock()
		err := sink.Apply(t.Context(), []sinks.Record{record("user_1", "Ada", "ada@example.com"), record("user_2", "Bob", "bob@example.com")})
		sinktest.ExpectClass(t, "Apply", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
		if err == nil || !strings.Contains(err.Error(), "PROPERTY_DOESNT_EXIST: see PROPERTIES") {
			t.Errorf("Apply: got %v, want HubSpot's code and the setting", err)
		}
	}
}

func TestApply_DailyLimit(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string]time.Duration{"DAILY": time.Hour, "TEN_SECONDLY_ROLLING": time.Second} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(429)
			json.NewEncoder(w).Encode(map[string]string{"status": "error", "category": "RATE_LIMITS", "policyName": policy}) //nolint:errcheck // a test
		}))
		t.Cleanup(server.Close)
		cfg := hubspot.Config{Token: token}
		cfg.BaseURL = server.URL
		sink, err := hubspot.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		got := sinks.Classify(sink.Apply(t.Context(), []sinks.Record{record("user_1", "Ada", "")}))
		if got.Reason != sinks.ReasonRateLimited || got.After != want {
			t.Errorf("%s: got %s after %s, want rate_limited after %s", policy, got.Reason, got.After, want)
		}
		sink.Close()
	}
}

func TestOpen_FindsWhatIsMissing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		account func(*imitation)
		change  func(*hubspot.Config)
		reason  sinks.Reason
		want    string
	}{
		"key":        {account: func(h *imitation) { delete(h.defined, "clerk_user_id") }, reason: sinks.ReasonMisconfigured, want: `KEY_PROPERTY: contacts have no property "clerk_user_id": create it in HubSpot, or with init`},
		"not unique": {account: func(h *imitation) { h.defined["clerk_user_id"] = false }, reason: sinks.ReasonMisconfigured, want: "does not have unique values"},
		"property":   {change: func(cfg *hubspot.Config) { cfg.Properties = "score = username" }, reason: sinks.ReasonMisconfigured, want: `PROPERTIES: contacts have no property "score"`},
		"newcomers":  {change: func(cfg *hubspot.Config) { cfg.NewUserProperties = "score = 'x'" }, reason: sinks.ReasonMisconfigured, want: `NEW_USER_PROPERTIES: contacts have no property "score"`},
		"read only":  {change: func(cfg *hubspot.Config) { cfg.Properties = "hs_object_id = username" }, reason: sinks.ReasonMisconfigured, want: "does not let the property"},
		"token":      {change: func(cfg *hubspot.Config) { cfg.Token = "wrong-secret" }, reason: sinks.ReasonUnauthorized, want: "HTTP 401 INVALID_AUTHENTICATION"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := fast1(t)
			cfg := config(h)
			if test.account != nil {
				test.account(h)
			}
			if test.change != nil {
				test.change(&cfg)
			}
			sink, err := hubspot.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer sink.Close()
			err = sink.Open(t.Context())
			sinktest.ExpectClass(t, "Open", err, sinks.ClassFatal, test.reason)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), cfg.Token) {
				t.Errorf("Open: got %v, want %q", err, test.want)
			}
		})
	}
}

func TestInit_CreatesPropertiesOnce(t *testing.T) {
	t.Parallel()
	h := fast1(t)
	h.defined = map[string]bool{"email": true}
	cfg := config(h)
	cfg.Properties, cfg.NewUserProperties = "email = email, clerk_plan = public_metadata.plan, clerk_since = created_at, clerk_orgs = create_organizations_limit", ""
	sink, err := hubspot.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	for range 2 {
		if err := sink.Init(t.Context()); err != nil {
			t.Fatalf("Init: %v", err)
		}
	}
	want := map[string]bool{"email": true, "clerk_user_id": true, "clerk_plan": false, "clerk_since": false, "clerk_orgs": false}
	if !maps.Equal(h.defined, want) {
		t.Errorf("properties: got %v, want %v", h.defined, want)
	}
	script := sink.InitScript()
	for _, part := range []string{
		"POST " + h.URL + "/crm/v3/properties/contacts", `"hasUniqueValue": true`, `"type": "datetime"`, `"type": "number"`, `"name": "clerk_plan"`,
	} {
		if !strings.Contains(script, part) {
			t.Errorf("InitScript: %q is not in\n%s", part, script)
		}
	}
	if strings.Contains(script, token) {
		t.Error("InitScript quotes the token")
	}
}

func TestSink_DatedPaths(t *testing.T) {
	t.Parallel()
	h := fast1(t)
	url, bodies := spy(t, h)
	sink := open(t, h, func(cfg *hubspot.Config) { cfg.BaseURL, cfg.APIVersion = url, "2026-03" })
	sinktest.MustApply(t, sink, record("user_1", "Ada", "ada@example.com"))
	if len(bodies("/crm/objects/2026-03/contacts/batch/upsert")) != 1 || len(bodies("/crm/properties/2026-03/contacts")) != 1 {
		t.Error("the sink does not use the dated paths")
	}
}

// gdpr-delete blocks an address for good that it does not know, and a search or
// an address could name the wrong contact.
func TestErase_NeverByAddress(t *testing.T) {
	t.Parallel()
	h := fast1(t)
	url, bodies := spy(t, h)
	sink := open(t, h, func(cfg *hubspot.Config) { cfg.BaseURL, cfg.Erasure = url, hubspot.GDPRDelete })
	r := record("user_1", "Ada", "ada@example.com")
	sinktest.MustApply(t, sink, r)
	id := h.live()[0].id
	erase := sinktest.Erase("user_1", 2)
	erase.State = r.Result().State
	sinktest.MustApply(t, sink, erase, sinktest.Erase("user_2", 2))
	if got := bodies("/crm/v3/objects/contacts/gdpr-delete"); !slices.Equal(got, []string{`{"objectId":"` + id + `"}`}) || len(h.blocked) != 0 {
		t.Errorf("gdpr-delete: got %q and %d blocked, want one by id and none", got, len(h.blocked))
	}
}

// Erasures that fail must not take the batch's changes with them, which are
// applied and remembered.
func TestApply_ErasuresFailAlone(t *testing.T) {
	t.Parallel()
	h := fast1(t)
	sink := open(t, h)
	h.mu.Lock()
	h.failReads = true
	h.mu.Unlock()
	batch := []sinks.Record{sinktest.Erase("user_1", 1), record("user_2", "Bob", "bob@example.com"), sinktest.Erase("user_3", 1)}
	err := sink.Apply(t.Context(), batch)
	//nolint:errorlint // the contract is about the error itself
	listed, ok := err.(*sinks.BatchError)
	if !ok || listed.Failed(0) == nil || listed.Failed(1) != nil || listed.Failed(2) == nil || batch[1].Result().State == nil {
		t.Errorf("Apply: got %v, want the two erasures listed and the change remembered", err)
	}
}

// An address may be a contact's second one: HubSpot names the contact by id.
func TestApply_AdoptsBySecondAddress(t *testing.T) {
	t.Parallel()
	h := fast1(t)
	sink := open(t, h)
	forms := []*person{h.put(map[string]string{"email": "one@example.com"}), h.put(map[string]string{"email": "two@example.com"})}
	h.mu.Lock()
	h.unique["email=second1@example.com"], h.unique["email=second2@example.com"] = forms[0].id, forms[1].id
	h.mu.Unlock()
	sinktest.MustApply(t, sink, record("user_1", "Ada", "second1@example.com"), record("user_2", "Bob", "second2@example.com"))
	for i, form := range forms {
		if want := fmt.Sprintf("user_%d", i+1); form.properties["clerk_user_id"] != want {
			t.Errorf("contact %d: got the user %q, want %s", i, form.properties["clerk_user_id"], want)
		}
	}
}

// An answer that leaves a record out does not count as success.
func TestApply_UnansweredIsRetried(t *testing.T) {
	t.Parallel()
	h := fast1(t)
	h.silent = true
	sink := open(t, h)
	batch := []sinks.Record{record("user_1", "Ada", "ada@example.com"), record("user_2", "Bob", "bob@example.com")}
	err := sink.Apply(t.Context(), batch)
	//nolint:errorlint // the contract is about the error itself
	listed, ok := err.(*sinks.BatchError)
	if !ok || listed.Failed(1) != nil || batch[0].Result().Remembered || !batch[1].Result().Remembered {
		t.Fatalf("Apply: got %v, want the first record listed and the second remembered", err)
	}
	sinktest.ExpectClass(t, "the first record", listed.Failed(0), sinks.ClassRetry, sinks.ReasonUnavailable)
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	valid := hubspot.Config{Token: token}
	if err := valid.Validate(); err != nil {
		t.Errorf("Validate of a token alone: %v", err)
	}
	for want, change := range map[string]func(*hubspot.Config){
		"TOKEN is empty":                          func(c *hubspot.Config) { c.Token = "" },
		`API_VERSION is "v4"`:                     func(c *hubspot.Config) { c.APIVersion = "v4" },
		`KEY_PROPERTY is "Clerk ID"`:              func(c *hubspot.Config) { c.KeyProperty = "Clerk ID" },
		`ERASURE is "delete"`:                     func(c *hubspot.Config) { c.Erasure = "delete" },
		`NEW_USER_LIST is "new"`:                  func(c *hubspot.Config) { c.NewUserList = "new" },
		"NEW_USER_PROPERTIES cannot be read":      func(c *hubspot.Config) { c.NewUserProperties = "x" },
		`PROPERTIES names "clerk_user_id"`:        func(c *hubspot.Config) { c.Properties = "clerk_user_id = id" },
		`PROPERTIES names "hs_email_optout"`:      func(c *hubspot.Config) { c.Properties = "hs_email_optout = banned" },
		`NEW_USER_PROPERTIES names "hs_legal_bas`: func(c *hubspot.Config) { c.NewUserProperties = "hs_legal_basis = 'yes'" },
		`PROPERTIES names "First"`:                func(c *hubspot.Config) { c.Properties = "First = first_name" },
	} {
		cfg := valid
		change(&cfg)
		err := cfg.Validate()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), token) {
			t.Errorf("Validate: got %v, want %q", err, want)
		}
		if _, err := hubspot.New(cfg); err == nil {
			t.Errorf("New with %q: got nil", want)
		}
	}
}
