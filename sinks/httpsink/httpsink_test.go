package httpsink_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caarlos0/env/v11"
	svix "github.com/svix/svix-webhooks/go"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/httpsink"
	"clerkconnect/sinks/resttest"
	"clerkconnect/sinks/runner/storm"
	"clerkconnect/sinks/sinktest"
)

// fast is so fast that the windows of the limit do not matter to the contract's
// tests, which have no runner to wait for them.
const fast = 1e6

var secrets = map[string]map[string]string{
	"brevo": {"HEADERS": `{"api-key":"` + apiKey + `"}`},
	"loops": {"HEADERS": `{"Authorization":"Bearer ` + apiKey + `"}`},
	"hook":  {"SIGNING_SECRET": signingSecret},
}

// config is what README.md shows for a service, with the imitation's address and
// key: what strangers copy is what is tested.
func config(t testing.TB, h *imitation, service string) httpsink.Config {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	prefix := "SINK_" + strings.ToUpper(service) + "_"
	settings := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && strings.HasPrefix(line, "    "+prefix) && !strings.HasSuffix(name, "_FILE") {
			settings[name] = strings.Trim(value, "'")
		}
	}
	if len(settings) < 4 {
		t.Fatalf("README.md shows %d settings of %s, want some", len(settings), service)
	}
	for name, value := range secrets[service] {
		settings[prefix+name] = value
	}
	settings[prefix+"BASE_URL"] = h.URL
	settings[prefix+"CONFIRM_AFTER"] = "0s"
	var cfg httpsink.Config
	if err := env.ParseWithOptions(&cfg, env.Options{Prefix: prefix, Environment: settings}); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func newSink(t testing.TB, cfg httpsink.Config) sinks.Sink { return sinktest.New(t, httpsink.New, cfg) }

func openSink(t testing.TB, cfg httpsink.Config) sinks.Sink {
	return sinktest.Open(t, httpsink.New, cfg)
}

func destination(h *imitation, service string, change func(*httpsink.Config)) sinktest.Destination {
	with := func(id string, do func(*person)) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if p := h.byClerk[id]; p != nil {
			do(p)
		}
	}
	d := sinktest.Destination{
		Sink: func(t testing.TB) sinks.Sink {
			cfg := config(t, h, service)
			change(&cfg)
			return newSink(t, cfg)
		},
		Read: func(_ testing.TB, ids ...string) map[string]sinktest.Row {
			rows := map[string]sinktest.Row{}
			for _, id := range ids {
				with(id, func(p *person) {
					rows[id] = sinktest.Row{}
					for _, name := range []string{"first_name", "firstName", "FIRSTNAME"} {
						if value := p.values[name]; value != nil && value != "" {
							rows[id]["first_name"] = value
						}
					}
					if p.email != "" {
						rows[id]["primary_email_address"] = p.email
					}
				})
			}
			return rows
		},
		Dump: func(testing.TB) []byte {
			h.mu.Lock()
			defer h.mu.Unlock()
			var dump []byte
			for _, p := range h.people {
				dump = fmt.Appendf(dump, "%+v\n", *p)
			}
			return dump
		},
		Break:  func(testing.TB) func() { return h.Cut() },
		Poison: func(u *schemas.User) { u.PrimaryEmailAddress = new("no address") },
	}
	d.Tool = tool(h, service, with)
	return d
}

func tool(h *imitation, service string, with func(string, func(*person))) sinktest.Tool {
	tool := sinktest.Tool{
		Requests: h.Requests,
		Contacts: func(testing.TB) int {
			h.mu.Lock()
			defer h.mu.Unlock()
			return len(h.people)
		},
		Page:   func(testing.TB) func() { return h.Page() },
		Revoke: func(testing.TB) func() { return h.Revoke() },
		Edit: func(_ testing.TB, id string) {
			with(id, func(p *person) { // the ids of Loops and of the hook are the Clerk ID itself
				h.remove(p)
				if p.email = "edited@example.com"; service == "brevo" {
					p.clerkID = "edited"
				}
				h.people[p.id], h.byClerk[p.clerkID], h.byEmail[p.email] = p, p, p
			})
		},
		Welcomes: func(_ testing.TB, id string) (welcomes int) {
			with(id, func(p *person) { // a list or a group that is set again does nothing
				if p.welcomed {
					welcomes = 1
				}
			})
			return welcomes
		},
	}
	if service == "loops" { // Brevo itself lifts a block when the address changes, see README.md
		tool.Unsubscribe = func(_ testing.TB, id string) { with(id, func(p *person) { p.unsubscribed = true }) }
		tool.Subscribed = func(_ testing.TB, id string) (subscribed bool) {
			with(id, func(p *person) { subscribed = !p.unsubscribed })
			return subscribed
		}
	}
	return tool
}

var fields = []string{"primary_email_address", "first_name"}

func harness(service string) sinktest.Harness {
	return sinktest.Harness{
		Remembers: true, Fields: fields, NeedsEmail: service != "hook",
		New: func(t testing.TB) sinktest.Destination {
			return destination(newImitation(t, resttest.NewClock(fast), service), service, func(*httpsink.Config) {})
		},
	}
}

func TestSink(t *testing.T) {
	for _, service := range []string{"brevo", "loops", "hook"} {
		t.Run(service, func(t *testing.T) { sinktest.Run(t, harness(service)) })
	}
}

func TestStorm(t *testing.T) {
	for service, calls := range map[string]float64{"brevo": 3.5, "hook": 0.6} {
		t.Run(service, func(t *testing.T) {
			clock := resttest.NewClock(1000)
			h := newImitation(t, clock, service)
			storm.Run(t, storm.Config{
				Harness:     harness(service),
				Destination: destination(h, service, func(cfg *httpsink.Config) { cfg.Clock, cfg.ConfirmAfter = clock.Now, time.Hour }),
				Server:      h.Server, Clock: clock, CallsPerUser: calls,
			})
		})
	}
}

// plain is a sink with the fewest settings, to that handler.
func plain(t *testing.T, serve http.HandlerFunc) httpsink.Config {
	server := httptest.NewServer(serve)
	t.Cleanup(server.Close)
	return httpsink.Config{
		Config: contact.Config{BaseURL: server.URL}, Upsert: "PUT /users/{{path .id}}", Erase: "DELETE /users/{{path .id}}",
	}
}

// Without CONFIRM nothing is said to be confirmed, and an erasure leaves no state
// that nobody would ever forget.
func TestNew_WithoutConfirm(t *testing.T) {
	t.Parallel()
	cfg := plain(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
	sink := openSink(t, cfg)
	if _, ok := sink.(sinks.Confirmer); ok || cfg.Confirms() {
		t.Errorf("a sink without CONFIRM is a Confirmer")
	}
	written := sinks.Track(sinktest.Change("user_1", 1))
	sinktest.MustApply(t, sink, written)
	erase := sinks.Track(sinktest.Erase("user_1", 2))
	erase.State = written.Result().State
	sinktest.MustApply(t, sink, erase)
	if got := erase.Result(); got.Outcome != schemas.OutcomeDeleted || !got.Remembered || got.State != nil {
		t.Errorf("an erasure: got %+v, want DELETED and nothing remembered", got)
	}
	cfg.Confirm = "GET /users/{{path .id}}"
	if _, ok := openSink(t, cfg).(sinks.Confirmer); !ok || !cfg.Confirms() {
		t.Errorf("a sink with CONFIRM is no Confirmer")
	}
}

func readAll(r *http.Request) ([]byte, error) { return io.ReadAll(r.Body) }

// A call that is repeated has the same id, and a signature for each secret that
// the Standard Webhooks library takes; another call has another id.
func TestSigned(t *testing.T) {
	t.Parallel()
	const older = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	var ids []string
	cfg := plain(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := readAll(r)
		if err != nil {
			t.Error(err)
		}
		for _, secret := range []string{signingSecret, older} {
			signer, err := svix.NewWebhook(secret)
			if err == nil {
				err = signer.Verify(body, r.Header)
			}
			if err != nil {
				t.Errorf("%s: %v", r.Method, err)
			}
		}
		if got := r.Header.Get("Idempotency-Key"); got != r.Header.Get("Webhook-Id") {
			t.Errorf("Idempotency-Key is %q", got)
		}
		ids = append(ids, r.Header.Get("Webhook-Id"))
	})
	start := time.Now()
	cfg.Clock = func() time.Time { return start.Add(time.Duration(len(ids)) * time.Second) }
	cfg.SigningSecret, cfg.IDHeader = signingSecret+" "+older, "Idempotency-Key"
	sink := openSink(t, cfg)
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1)) // nothing was remembered
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 2))
	sinktest.MustApply(t, sink, sinktest.Erase("user_1", 3))
	if len(ids) != 4 || ids[0] == "" || ids[0] != ids[1] || ids[1] == ids[2] || ids[2] == ids[3] {
		t.Errorf("ids of a call, its repetition, another version and an erasure: %q", ids)
	}
}

// Nobody is created who is there: after a lost answer, and after a person has
// removed and imported the contact.
func TestCreate_LooksFirst(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast), "brevo")
	sink := openSink(t, config(t, h, "brevo"))
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1)) // its state is lost
	r := sinks.Track(sinktest.Change("user_1", 2))
	sinktest.MustApply(t, sink, r)
	id := contact.Recall(r.Result().State).RemoteID
	if len(h.people) != 1 || h.people[id] == nil {
		t.Fatalf("%d contacts, remembered %q, want the one", len(h.people), id)
	}
	imported := h.people[id]
	h.remove(imported)
	imported.id = "4711"
	delete(imported.values, "LASTNAME")
	h.people["4711"], h.byClerk["user_1"] = imported, imported
	again := sinks.Track(sinktest.Change("user_1", 3))
	again.State, again.Change.User.FirstName = r.Result().State, new("Grace")
	sinktest.MustApply(t, sink, again)
	if got := contact.Recall(again.Result().State).RemoteID; len(h.people) != 1 || got != "4711" || imported.values["FIRSTNAME"] != "Grace" || imported.values["LASTNAME"] == nil {
		t.Errorf("%d contacts, remembered %q, %v, want the imported one", len(h.people), got, imported.values)
	}
	h.remove(imported)
	again.Change.User.FirstName = new("Ada")
	sinktest.MustApply(t, sink, again)
	if len(h.people) != 1 || h.byClerk["user_1"].values["FIRSTNAME"] != "Ada" || h.byClerk["user_1"].values["LASTNAME"] == nil {
		t.Errorf("%d contacts after one was removed there, want a whole one", len(h.people))
	}
}

// The address of another user's contact is a conflict, told without it.
func TestConflict(t *testing.T) {
	t.Parallel()
	for _, service := range []string{"brevo", "loops"} {
		h := newImitation(t, resttest.NewClock(fast), service)
		sink := openSink(t, config(t, h, service))
		for i, id := range []string{"user_1", "user_2"} {
			r := sinktest.Change(id, 1)
			r.Change.User.PrimaryEmailAddress = new("shared@example.com")
			err := sink.Apply(t.Context(), []sinks.Record{sinks.Track(r)})
			if i == 0 && err != nil {
				t.Fatal(err)
			}
			if i == 1 {
				sinktest.ExpectClass(t, service, err, sinks.ClassRetry, sinks.ReasonConflict)
				if strings.Contains(fmt.Sprint(err), "example.com") || len(h.people) != 1 {
					t.Errorf("%s: %v, %d contacts", service, err, len(h.people))
				}
			}
		}
	}
}

// A service that answers 200 to everything says at FAILED_AT that a user is not
// there.
func TestGone_SaidWithSuccess(t *testing.T) {
	t.Parallel()
	body := `{"error":"not_found"}`
	cfg := plain(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }) //nolint:errcheck // the client reads it or not
	cfg.FailedAt, cfg.Gone, cfg.Confirm = "error", "not_found", "GET /users/{{path .id}}"
	sink := openSink(t, cfg)
	erase := sinks.Track(sinktest.Erase("user_1", 1))
	sinktest.MustApply(t, sink, erase)
	if gone, err := sink.(sinks.Confirmer).Confirm(t.Context(), "user_1", nil); !gone || err != nil || erase.Result().Outcome != schemas.OutcomeNotPresent {
		t.Errorf("got %q, and Confirm %v, %v", erase.Result().Outcome, gone, err)
	}
	body = `{"error":"internal_error"}`
	if gone, err := sink.(sinks.Confirmer).Confirm(t.Context(), "user_1", nil); gone || err == nil {
		t.Errorf("Confirm, failed: got %v, %v, want an error", gone, err)
	}
}

// Who is not known to the service is looked for, and nothing is asked to be erased
// without an id: a path that ends early may mean all.
func TestErase_NobodyKnown(t *testing.T) {
	t.Parallel()
	var asked []string
	cfg := plain(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		w.WriteHeader(404)
	})
	cfg.Upsert, cfg.Create, cfg.Update, cfg.Find = "", "POST /users", "PUT /users/{{path .remote_id}}", "GET /users/by/{{path .id}}"
	cfg.RemoteID, cfg.Erase = "id", "DELETE /users/{{path .remote_id}}"
	erase := sinks.Track(sinktest.Erase("user_1", 1))
	sinktest.MustApply(t, openSink(t, cfg), erase)
	if got := strings.Join(asked, ", "); got != "GET /users/by/user_1" || erase.Result().Outcome != schemas.OutcomeNotPresent {
		t.Errorf("asked %s, outcome %q", got, erase.Result().Outcome)
	}
}

// A creation that does not say the service's id stops the sink: nobody could be
// changed or erased by it.
func TestCreate_WithoutID(t *testing.T) {
	t.Parallel()
	cfg := plain(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.WriteHeader(404)
			return
		}
		io.WriteString(w, `{"uid":"4711"}`) //nolint:errcheck // the client reads it or not
	})
	cfg.Upsert, cfg.Create, cfg.Update, cfg.Find, cfg.RemoteID = "", "POST /users", "PUT /users/{{path .remote_id}}", "GET /users/{{path .id}}", "id"
	r := sinks.Track(sinktest.Change("user_1", 1))
	sinktest.ExpectClass(t, "no id", openSink(t, cfg).Apply(t.Context(), []sinks.Record{r}), sinks.ClassFatal, sinks.ReasonMisconfigured)
	if r.Result().Remembered {
		t.Errorf("it is remembered")
	}
}

// A call that only reads has another id each time, or a cache would answer it.
func TestRead_HasItsOwnID(t *testing.T) {
	t.Parallel()
	var ids []string
	cfg := plain(t, func(w http.ResponseWriter, r *http.Request) {
		ids = append(ids, r.Header.Get("Idempotency-Key"))
		w.WriteHeader(404)
	})
	start := time.Now()
	cfg.Clock = func() time.Time { return start.Add(time.Duration(len(ids)) * time.Second) }
	cfg.IDHeader, cfg.Confirm = "Idempotency-Key", "GET /users/{{path .id}}"
	sink := openSink(t, cfg).(sinks.Confirmer)
	for range 2 {
		if gone, err := sink.Confirm(t.Context(), "user_1", nil); !gone || err != nil {
			t.Fatalf("Confirm: %v, %v", gone, err)
		}
	}
	if len(ids) != 2 || ids[0] == ids[1] {
		t.Errorf("ids %q, want two", ids)
	}
}

// A key that is refused stops the sink, however many erasures there are; one that
// may be tried again ends the round, and those before it count.
func TestErasures_OfABatch(t *testing.T) {
	t.Parallel()
	status, calls := 401, 0
	cfg := plain(t, func(w http.ResponseWriter, _ *http.Request) {
		if calls++; status == 503 && calls == 1 {
			w.WriteHeader(204)
			return
		}
		w.WriteHeader(status)
	})
	cfg.Batch, cfg.Upsert = 3, "POST /users"
	sink := openSink(t, cfg)
	batch := func() []sinks.Record {
		return []sinks.Record{sinktest.Erase("user_1", 1), sinktest.Erase("user_2", 1), sinktest.Erase("user_3", 1)}
	}
	err := sink.Apply(t.Context(), batch())
	var listed *sinks.BatchError
	if errors.As(err, &listed) || sinks.Classify(err).Class != sinks.ClassFatal {
		t.Errorf("a wrong key: got %v, want it whole and fatal", err)
	}
	status, calls = 503, 0
	err = sink.Apply(t.Context(), batch())
	if !errors.As(err, &listed) || listed.Failed(0) != nil || listed.Failed(1) == nil || listed.Failed(2) == nil || calls != 2 {
		t.Errorf("an outage: got %v after %d calls, want the second and third to fail after 2", err, calls)
	}
}
