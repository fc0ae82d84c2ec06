package salesforce_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/resttest"
	"clerkconnect/sinks/runner/storm"
	"clerkconnect/sinks/salesforce"
	"clerkconnect/sinks/sinktest"
)

// fast is so fast that the windows of the limit do not matter to the contract's
// tests, which have no runner to wait for them.
const fast = 1e6

func config(h *imitation) salesforce.Config {
	return salesforce.Config{
		Config: contact.Config{BaseURL: h.URL}, ClientID: clientID, ClientSecret: clientSecret, NewUserProperties: "LeadSource = 'Clerk'",
	}
}

func openSink(t testing.TB, cfg salesforce.Config) *salesforce.Sink {
	return sinktest.Open(t, salesforce.New, cfg)
}

func destination(h *imitation, change func(*salesforce.Config)) sinktest.Destination {
	set := func(id string, change func(*record)) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if c := h.byKey(id); c != nil {
			h.change(c, func() { change(c) })
		}
	}
	return sinktest.Destination{
		Sink: func(t testing.TB) sinks.Sink {
			cfg := config(h)
			change(&cfg)
			return sinktest.New(t, salesforce.New, cfg)
		},
		Read: func(_ testing.TB, ids ...string) map[string]sinktest.Row {
			h.mu.Lock()
			defer h.mu.Unlock()
			rows := map[string]sinktest.Row{}
			for _, id := range ids {
				if c := h.byKey(id); c != nil {
					rows[id] = row(c)
				}
			}
			return rows
		},
		Dump: func(testing.TB) []byte {
			h.mu.Lock()
			defer h.mu.Unlock()
			var dump []byte
			cfg := config(h)
			change(&cfg)
			for _, c := range h.records {
				if !c.deleted || cfg.Erasure == salesforce.Scrub { // or the recycle bin
					dump = fmt.Appendf(dump, "%s %v\n", c.id, c.fields)
				}
			}
			return dump
		},
		Break:  func(testing.TB) func() { return h.Cut() },
		Poison: func(u *schemas.User) { u.PrimaryEmailAddress = new("no address") },
		Tool: sinktest.Tool{
			Requests: h.Requests,
			Contacts: func(testing.TB) int {
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.live()
			},
			Page:   func(testing.TB) func() { return h.Page() },
			Revoke: func(testing.TB) func() { return h.Revoke() },
			Delete: func(_ testing.TB, id string) { set(id, func(c *record) { c.deleted = true }) },
			Edit: func(_ testing.TB, id string) {
				set(id, func(c *record) { c.fields = map[string]any{"Email": "edited@example.com", "LastName": "Edited"} })
			},
			Unsubscribe: func(_ testing.TB, id string) { set(id, func(c *record) { c.fields["HasOptedOutOfEmail"] = true }) },
			Subscribed: func(_ testing.TB, id string) (subscribed bool) {
				set(id, func(c *record) { subscribed = c.fields["HasOptedOutOfEmail"] != true })
				return subscribed
			},
			Welcomes: func(_ testing.TB, id string) int {
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.welcomes[id]
			},
		},
	}
}

func row(c *record) sinktest.Row {
	row := sinktest.Row{}
	for name, field := range map[string]string{"Email": "primary_email_address", "FirstName": "first_name"} {
		if value := c.fields[name]; value != nil {
			row[field] = value
		}
	}
	return row
}

// The last name is not among them: it has a stand-in.
var fields = []string{"primary_email_address", "first_name"}

func TestSink(t *testing.T) {
	for erasure, outcome := range map[salesforce.Erasure]schemas.Outcome{
		salesforce.Delete: schemas.OutcomeSoftDeleted, salesforce.Scrub: schemas.OutcomeDeleted,
	} {
		t.Run(string(erasure), func(t *testing.T) {
			sinktest.Run(t, sinktest.Harness{
				Remembers: true, Fields: fields, Erased: outcome,
				New: func(t testing.TB) sinktest.Destination {
					return destination(newImitation(t, resttest.NewClock(fast)), func(cfg *salesforce.Config) { cfg.Erasure = erasure })
				},
			})
		})
	}
}

func TestStorm(t *testing.T) {
	clock := resttest.NewClock(1000)
	h := newImitation(t, clock)
	storm.Run(t, storm.Config{
		Harness:     sinktest.Harness{Remembers: true, Fields: fields},
		Destination: destination(h, func(cfg *salesforce.Config) { cfg.Clock, cfg.ConfirmAfter = clock.Now, 15*time.Minute }),
		Server:      h.Server, Clock: clock, CallsPerUser: 0.3,
	})
}

// A record that a person has removed comes back whole, though only one field has
// changed.
func TestUpsert_RecordRemoved(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	first := sinks.Track(sinktest.Change("user_1", 1))
	sinktest.MustApply(t, sink, first)
	removed := h.byKey("user_1")
	h.change(removed, func() { removed.deleted = true })
	second := sinks.Track(sinktest.Change("user_1", 2))
	second.State = first.Result().State
	second.Change.User.FirstName = new("Grace")
	sinktest.MustApply(t, sink, second)
	c := h.byKey("user_1")
	if c == nil || c.fields["FirstName"] != "Grace" || c.fields["Email"] != *second.Change.User.PrimaryEmailAddress {
		t.Errorf("after a change to a record that was removed: got %+v, want all fields", c)
	}
}

// A record of nobody's with the user's address becomes the user's; one of another
// user's, or two, is a conflict that names whose it is.
func TestUpsert_Duplicates(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	h.add("003other", map[string]any{"Email": "ada@example.com", "LastName": "From a form", "HasOptedOutOfEmail": true})
	change := func(id, email string) sinks.Record {
		r := sinks.Track(sinktest.Change(id, 1))
		r.Change.User.PrimaryEmailAddress = &email
		return r
	}
	ada := change("user_1", "Ada@example.com")
	sinktest.MustApply(t, sink, ada)
	got := h.records["003other"].fields
	if got[keyField] != "user_1" || got["HasOptedOutOfEmail"] != true || contact.Recall(ada.Result().State).RemoteID != "003other" {
		t.Errorf("adoption: got %v and memory %+v", got, contact.Recall(ada.Result().State))
	}
	err := sink.Apply(t.Context(), []sinks.Record{change("user_2", "ada@example.com")})
	var listed *sinks.BatchError
	if !errors.As(err, &listed) || sinks.Classify(listed.Failed(0)).HeldBy != "user_1" {
		t.Errorf("an address of another user's: got %v, want held by user_1", err)
	}
	h.add("003a", map[string]any{"Email": "twice@example.com", "LastName": "x"})
	h.twins = map[string][]string{"twice@example.com": {"003b"}}
	err = sink.Apply(t.Context(), []sinks.Record{change("user_3", "twice@example.com")})
	if !errors.As(err, &listed) || sinks.Classify(listed.Failed(0)).Reason != sinks.ReasonConflict || strings.Contains(err.Error(), "example.com") {
		t.Errorf("an address of two records: got %v, want a conflict without the address", err)
	}
}

// A token that has expired costs a login, and no record.
func TestLogin_TokenExpires(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	h.token = "expired at Salesforce"
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	if h.tokens != 2 {
		t.Errorf("got %d logins, want 2", h.tokens)
	}
}

// What an org's limit, a lock or a setting says of a record.
func TestErrors(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	h.locked["user_1"] = true
	err := sink.Apply(t.Context(), []sinks.Record{sinktest.Change("user_1", 1)})
	var listed *sinks.BatchError
	if !errors.As(err, &listed) || sinks.Classify(listed.Failed(0)).Class != sinks.ClassRetry {
		t.Errorf("a locked row: got %v, want to try again", err)
	}
	delete(h.fields, "FirstName")
	sinktest.ExpectClass(t, "a field that is gone", sink.Apply(t.Context(), []sinks.Record{sinktest.Change("user_1", 1)}), sinks.ClassFatal, sinks.ReasonMisconfigured)
	h.used = 15000
	err = sink.Apply(t.Context(), []sinks.Record{sinktest.Change("user_1", 1)})
	sinktest.ExpectClass(t, "the calls of the day are used up", err, sinks.ClassRetry, sinks.ReasonRateLimited)
	if after := sinks.Classify(err).After; after < time.Minute {
		t.Errorf("the calls of the day are used up: wait %s, want minutes", after)
	}
}

// pacer notes what it is told.
type pacer struct {
	sinks.Pacer
	remaining int
}

func (p *pacer) Heed(remaining int, _ time.Duration) { p.remaining = remaining }

// The last twentieth of the day's calls is for people.
func TestQuota(t *testing.T) {
	t.Parallel()
	for used, want := range map[int]int{0: -1, 14000: -1, 14500: 500, 15000: 0} {
		h := newImitation(t, resttest.NewClock(fast))
		sink, err := salesforce.New(config(h))
		if err != nil {
			t.Fatal(err)
		}
		p := &pacer{Pacer: unpaced{}, remaining: -1}
		sink.Pace(p)
		h.used = used
		_ = sink.Open(t.Context()) // fails when there is nothing left
		if p.remaining != want {
			t.Errorf("%d of 15000 used: told %d remaining, want %d", used, p.remaining, want)
		}
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*salesforce.Config)
		text   string
	}{
		"no key field":   {func(c *salesforce.Config) { c.KeyField = "LeadSource"; c.NewUserProperties = "" }, "KEY_FIELD"},
		"unknown field":  {func(c *salesforce.Config) { c.Properties = "LastName = 'x', Nope__c = email" }, "Nope__c"},
		"read only":      {func(c *salesforce.Config) { c.NewUserProperties = "CreatedDate = created_at" }, "CreatedDate"},
		"unknown object": {func(c *salesforce.Config) { c.Object = "Nothing" }, "OBJECT"},
	} {
		cfg := config(newImitation(t, resttest.NewClock(fast)))
		test.change(&cfg)
		sink, err := salesforce.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		err = sink.Open(t.Context())
		if sinks.Classify(err).Class != sinks.ClassFatal || !strings.Contains(fmt.Sprint(err), test.text) {
			t.Errorf("%s: got %v, want fatal and %q", name, err, test.text)
		}
	}
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	err := salesforce.Config{
		APIVersion: "61", Object: "A B", KeyField: "1x", EmailField: "x y", Erasure: "maybe", NewUserProperties: "HasOptedOutOfEmail = true",
	}.Validate()
	for _, variable := range []string{"BASE_URL", "CLIENT_ID", "CLIENT_SECRET", "API_VERSION", "OBJECT", "KEY_FIELD", "EMAIL_FIELD", "ERASURE", "NEW_USER_PROPERTIES"} {
		if err == nil || !strings.Contains("\n"+err.Error(), "\n"+variable) {
			t.Errorf("Validate says nothing of %s: %v", variable, err)
		}
	}
	for _, cfg := range []salesforce.Config{{Config: contact.Config{Properties: "Clerk_ID__c = email"}}, {NewUserProperties: "Id = external_id"}} {
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "which the sink sets itself") {
			t.Errorf("Validate of a mapping that writes the key: %v", err)
		}
	}
	if err := (salesforce.Config{Config: contact.Config{BaseURL: "https://acme.my.salesforce.com"}, ClientID: "a", ClientSecret: "b"}).Validate(); err != nil {
		t.Errorf("Validate of what is enough: %v", err)
	}
}

type unpaced struct{}

func (unpaced) Wait(ctx context.Context) error                   { return ctx.Err() }
func (unpaced) Heed(int, time.Duration)                          {}
func (unpaced) Sleep(ctx context.Context, _ time.Duration) error { return ctx.Err() }
