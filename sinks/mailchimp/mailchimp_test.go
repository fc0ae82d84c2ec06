package mailchimp_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/mailchimp"
	"clerkconnect/sinks/resttest"
	"clerkconnect/sinks/runner/storm"
	"clerkconnect/sinks/sinktest"
)

// fast is so fast that the windows of the limit do not matter to the contract's
// tests, which have no runner to wait for them.
const fast = 1e6

func config(h *imitation) mailchimp.Config {
	return mailchimp.Config{
		Config: contact.Config{BaseURL: h.URL}, Key: key, Audience: audience, NewMembers: mailchimp.Subscribed, NewUserTag: tag,
	}
}

func newSink(t testing.TB, cfg mailchimp.Config) *mailchimp.Sink {
	return sinktest.New(t, mailchimp.New, cfg)
}

func openSink(t testing.TB, cfg mailchimp.Config) *mailchimp.Sink {
	return sinktest.Open(t, mailchimp.New, cfg)
}

// with does something to the member of a user, if there is one outside of the
// archive.
func (h *imitation) with(id string, do func(*member)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.byOwner[id]; m != nil && h.byContact[m.contact] == m && m.fields["CLERK_ID"] == id && m.status != "archived" {
		do(m)
	}
}

// live returns the members outside of the archive.
func (h *imitation) live() (list []*member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.byContact {
		if m.status != "archived" {
			list = append(list, m)
		}
	}
	return list
}

func destination(h *imitation, change func(*mailchimp.Config)) sinktest.Destination {
	return sinktest.Destination{
		Sink: func(t testing.TB) sinks.Sink {
			cfg := config(h)
			change(&cfg)
			return newSink(t, cfg)
		},
		Read: func(_ testing.TB, ids ...string) map[string]sinktest.Row {
			rows := map[string]sinktest.Row{}
			for _, id := range ids {
				h.with(id, func(m *member) {
					rows[id] = sinktest.Row{"primary_email_address": m.email}
					for name, tag := range map[string]string{"first_name": "FNAME", "last_name": "LNAME"} {
						if value := m.fields[tag]; value != nil && value != "" {
							rows[id][name] = value
						}
					}
				})
			}
			return rows
		},
		Dump: func(testing.TB) []byte {
			var dump []byte
			for _, m := range h.live() { // or archived, as ERASURE says
				dump = fmt.Appendf(dump, "%+v\n", *m)
			}
			return dump
		},
		Break:  func(testing.TB) func() { return h.Cut() },
		Poison: func(u *schemas.User) { u.PrimaryEmailAddress = new("no address") },
		Tool:   tool(h),
	}
}

func tool(h *imitation) sinktest.Tool {
	return sinktest.Tool{
		Requests: h.Requests,
		Contacts: func(testing.TB) int { return len(h.live()) },
		Page:     func(testing.TB) func() { return h.Page() },
		Revoke:   func(testing.TB) func() { return h.Revoke() },
		Delete:   func(_ testing.TB, id string) { h.with(id, func(m *member) { m.status = "archived" }) },
		Edit: func(_ testing.TB, id string) {
			h.with(id, func(m *member) {
				h.set(m, object{"email_address": "edited@example.com", "merge_fields": object{"CLERK_ID": "edited"}})
			})
		},
		Unsubscribe: func(_ testing.TB, id string) { h.with(id, func(m *member) { m.status = "unsubscribed" }) },
		Subscribed: func(_ testing.TB, id string) (subscribed bool) {
			h.with(id, func(m *member) { subscribed = m.status == "subscribed" })
			return subscribed
		},
		Welcomes: func(_ testing.TB, id string) (welcomes int) {
			h.with(id, func(m *member) { welcomes = len(m.tags) })
			return welcomes
		},
	}
}

var fields = []string{"primary_email_address", "first_name", "last_name"}

// ofSuite leaves out the first name, since the suite has one that is longer than what
// Mailchimp takes: TestChange and TestCut have it.
var ofSuite = []string{"primary_email_address", "last_name"}

// The suite brings users back, with their addresses, which Mailchimp refuses after
// delete-permanent: TestErasure_DeletePermanent has that.
func TestSink(t *testing.T) {
	for erasure, outcome := range map[mailchimp.Erasure]schemas.Outcome{
		mailchimp.Archive: schemas.OutcomeSoftDeleted, mailchimp.DeletePermanent: schemas.OutcomeDeleted,
	} {
		t.Run(string(erasure), func(t *testing.T) {
			sinktest.Run(t, sinktest.Harness{
				Remembers: true, Fields: ofSuite, NeedsEmail: true, Erased: outcome,
				New: func(t testing.TB) sinktest.Destination {
					d := destination(newImitation(t, resttest.NewClock(fast)), func(cfg *mailchimp.Config) { cfg.Erasure = erasure })
					all := d.Read
					d.Read = func(t testing.TB, ids ...string) map[string]sinktest.Row {
						rows := all(t, ids...)
						for _, row := range rows {
							delete(row, "first_name")
						}
						return rows
					}
					return d
				},
			})
		})
	}
}

func TestStorm(t *testing.T) {
	clock := resttest.NewClock(1000)
	h := newImitation(t, clock)
	h.forgets = true
	storm.Run(t, storm.Config{
		Harness:     sinktest.Harness{Remembers: true, Fields: fields, NeedsEmail: true},
		Destination: destination(h, func(cfg *mailchimp.Config) { cfg.Clock, cfg.ConfirmAfter = clock.Now, time.Hour }),
		Server:      h.Server, Clock: clock, CallsPerUser: 5,
	})
}

// apply applies a record as the runner does: what is to be remembered first is,
// and the record comes again.

func mustApply(t *testing.T, sink *mailchimp.Sink, r sinks.Record) sinks.Result {
	t.Helper()
	result, err := sinktest.Apply(t, sink, r)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func named(id string, version int64, email string, state []byte) sinks.Record {
	r := sinktest.Change(id, version)
	r.Change.User.PrimaryEmailAddress, r.State = &email, state
	return r
}

func erasure(id string, state []byte) sinks.Record {
	r := sinktest.Erase(id, 9)
	r.State = state
	return r
}

func (h *imitation) put(email, status string, fields object) *member {
	h.serial++
	m := &member{contact: fmt.Sprintf("%032x", h.serial), status: status, fields: map[string]any{}}
	h.byContact[m.contact] = m
	h.set(m, object{"email_address": email, "merge_fields": fields})
	return m
}

// A member who is nobody's becomes the user's, with what he has agreed to; another
// user's does not.
func TestAdoption(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"subscribed", "unsubscribed", "pending", "cleaned"} {
		h := newImitation(t, resttest.NewClock(fast))
		sink := openSink(t, config(h))
		m := h.put("Ada@example.com", status, object{"PLAN": "gold"})
		mustApply(t, sink, named("user_1", 1, "ada@example.com", nil))
		if m.status != status || m.fields["CLERK_ID"] != "user_1" || m.fields["PLAN"] != "gold" || len(h.byContact) != 1 || h.consents != 0 {
			t.Errorf("a %s member who was nobody's: got %+v of %d", status, m, len(h.byContact))
		}
		_, err := sinktest.Apply(t, sink, named("user_2", 1, "ada@example.com", nil))
		if got := sinks.Classify(err); got.HeldBy != "user_1" || got.Reason != sinks.ReasonConflict || strings.Contains(err.Error(), "example.com") {
			t.Errorf("another user's member: got %v, want held by user_1, without the address", err)
		}
		grace := mustApply(t, sink, named("user_3", 1, "grace@example.com", nil))
		_, err = sinktest.Apply(t, sink, named("user_3", 2, "ada@example.com", grace.State))
		if got := sinks.Classify(err); got.HeldBy != "user_1" {
			t.Errorf("another user's address: got %v, want held by user_1", err)
		}
		if live := h.live(); len(live) != 2 {
			t.Errorf("after a change that waits: %d members, want both as they were", len(live))
		}
	}
}

// Somebody subscribes between looking and creating: the sink looks again.
func TestCreate_Race(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	h.rival = func() {
		h.put("ada@example.com", "unsubscribed", nil)
		h.rival = nil
	}
	_, err := sinktest.Apply(t, sink, named("user_1", 1, "ada@example.com", nil))
	sinktest.ExpectClass(t, "a member who is there by now", err, sinks.ClassRetry, sinks.ReasonConflict)
	mustApply(t, sink, named("user_1", 1, "ada@example.com", nil))
	if live := h.live(); len(live) != 1 || live[0].status != "unsubscribed" {
		t.Errorf("after it: got %+v, want the one who was there", live)
	}
}

// Who comes back from the archive has to agree again, whatever new members are.
func TestArchive_BringsBackUnsubscribed(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	m := h.put("ada@example.com", "archived", object{"CLERK_ID": "user_9"})
	first := mustApply(t, sink, named("user_1", 1, "ada@example.com", nil))
	if m.status != "unsubscribed" || m.fields["CLERK_ID"] != "user_1" {
		t.Errorf("an archived member with the user's address: got %+v", m)
	}
	m.status = "archived" // by a person
	changed := named("user_1", 2, "ada@example.com", first.State)
	changed.Change.User.FirstName = new("Grace")
	mustApply(t, sink, changed)
	if m.status != "unsubscribed" || m.fields["FNAME"] != "Grace" || len(h.byContact) != 1 {
		t.Errorf("a member whom a person has archived: got %+v", m)
	}
}

// A member who has the new address already, and is archived or nobody's, takes the
// place of the old one; the old one is archived.
func TestGiveWay(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"archived", "subscribed", "unsubscribed"} {
		h := newImitation(t, resttest.NewClock(fast))
		sink := openSink(t, config(h))
		first := mustApply(t, sink, named("user_1", 1, "old@example.com", nil))
		h.put("new@example.com", status, nil)
		second := mustApply(t, sink, named("user_1", 2, "new@example.com", first.State))
		live, want := h.live(), status
		if status == "archived" {
			want = "unsubscribed"
		}
		if len(live) != 1 || live[0].email != "new@example.com" || live[0].status != want {
			t.Fatalf("a new address that a member has who is %s: got %d members, the first %+v", status, len(live), live)
		}
		mustApply(t, sink, erasure("user_1", second.State))
		if len(h.live()) != 0 {
			t.Errorf("after the erasure: %d members", len(h.live()))
		}
	}
}

// With delete-permanent nothing may be left in the archive, so a person decides.
func TestGiveWay_DeletePermanent(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	cfg := config(h)
	cfg.Erasure = mailchimp.DeletePermanent
	sink := openSink(t, cfg)
	first := mustApply(t, sink, named("user_1", 1, "old@example.com", nil))
	h.put("new@example.com", "archived", nil)
	_, err := sinktest.Apply(t, sink, named("user_1", 2, "new@example.com", first.State))
	sinktest.ExpectClass(t, "a new address that an archived member has", err, sinks.ClassRetry, sinks.ReasonConflict)
	if live := h.live(); len(live) != 1 || live[0].email != "old@example.com" {
		t.Errorf("after it: got %+v, want the member as he was", live)
	}
}

func TestErasure_DeletePermanent(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	h.forgets = true
	cfg := config(h)
	cfg.Erasure = mailchimp.DeletePermanent
	sink := openSink(t, cfg)
	first := mustApply(t, sink, named("user_1", 1, "ada@example.com", nil))
	h.with("user_1", func(m *member) { m.status = "archived" }) // by a person
	if result := mustApply(t, sink, erasure("user_1", first.State)); result.Outcome != schemas.OutcomeDeleted || len(h.byContact) != 0 {
		t.Errorf("erasure of an archived member: got %s and %d members, want all of him deleted", result.Outcome, len(h.byContact))
	}
	_, err := sinktest.Apply(t, sink, named("user_2", 1, "ada@example.com", nil))
	sinktest.ExpectClass(t, "an address that was deleted for ever", err, sinks.ClassPermanent, sinks.ReasonInvalidRecord)
	if !strings.Contains(err.Error(), "Forgotten_Email_Not_Subscribed") {
		t.Errorf("got %v, want Mailchimp's code", err)
	}
}

// What Mailchimp does not archive.
func TestErasure_Archive(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	first := mustApply(t, sink, named("user_1", 1, "ada@example.com", nil))
	h.with("user_1", func(m *member) { m.status = "cleaned" })
	_, err := sinktest.Apply(t, sink, erasure("user_1", first.State))
	sinktest.ExpectClass(t, "a member whose mail bounces", err, sinks.ClassPermanent, sinks.ReasonInvalidRecord)
	h.with("user_1", func(m *member) { m.status = "pending" })
	if result := mustApply(t, sink, erasure("user_1", first.State)); result.Outcome != schemas.OutcomeSoftDeleted || len(h.live()) != 0 {
		t.Errorf("a member who has yet to agree: got %s and %d members", result.Outcome, len(h.live()))
	}
}

// The archived member of somebody who is gone has become another user's, who is not
// erased for him.
func TestErasure_SparesWhoHasTheAddressNow(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	first := mustApply(t, sink, named("user_1", 1, "ada@example.com", nil))
	gone := mustApply(t, sink, erasure("user_1", first.State))
	mustApply(t, sink, named("user_2", 1, "ada@example.com", nil))
	if result := mustApply(t, sink, erasure("user_1", gone.State)); result.Outcome != schemas.OutcomeNotPresent || len(h.live()) != 1 {
		t.Errorf("the erasure again: got %s and %d members, want another's left alone", result.Outcome, len(h.live()))
	}
	if confirmed, err := sink.Confirm(t.Context(), "user_1", gone.State); !confirmed || err != nil {
		t.Errorf("Confirm: got %v, %v, want true", confirmed, err)
	}
}

func TestNewMembers(t *testing.T) {
	t.Parallel()
	for setting, status := range map[mailchimp.Status]string{"": "transactional", mailchimp.Pending: "pending", mailchimp.Subscribed: "subscribed"} {
		h := newImitation(t, resttest.NewClock(fast))
		cfg := config(h)
		cfg.NewMembers = setting
		mustApply(t, openSink(t, cfg), named("user_1", 1, "ada@example.com", nil))
		if live := h.live(); len(live) != 1 || live[0].status != status {
			t.Errorf("NEW_MEMBERS=%q: got %+v, want %s", setting, live, status)
		}
	}
}

// Only what changed is sent, and a member whom a person has deleted is created
// again.
func TestChange(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	first := mustApply(t, sink, named("user_1", 1, "ada@example.com", nil))
	h.with("user_1", func(m *member) { m.fields["LNAME"] = "edited" })
	second := named("user_1", 2, "ada@example.com", first.State)
	second.Change.User.FirstName = new("Grace")
	changed := mustApply(t, sink, second)
	h.with("user_1", func(m *member) {
		if m.fields["FNAME"] != "Grace" || m.fields["LNAME"] != "edited" {
			t.Errorf("after a change of the first name: got %v", m.fields)
		}
	})
	clear(h.byContact)
	clear(h.byHash)
	mustApply(t, sink, named("user_1", 3, "ada@example.com", changed.State))
	if len(h.live()) != 1 {
		t.Errorf("after a change of one whom a person had deleted: %d members, want 1", len(h.live()))
	}
}

// A text that is too long is cut between characters: it must not keep the user off
// the list.
func TestCut(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	r := named("user_1", 1, "ada@example.com", nil)
	r.Change.User.FirstName = new(strings.Repeat("\u00e9", 300))
	r.Change.User.LastName = new(strings.Repeat("x", 255))
	mustApply(t, sink, r)
	h.with("user_1", func(m *member) {
		if m.fields["FNAME"] != strings.Repeat("\u00e9", 127) || m.fields["LNAME"] != strings.Repeat("x", 255) {
			t.Errorf("long names: got %v", m.fields)
		}
	})
}

func TestClassify_BareForbiddenIsAThrottle(t *testing.T) {
	t.Parallel()
	for body, class := range map[string]sinks.Class{"": sinks.ClassRetry, "<html>": sinks.ClassRetry, `{"title":"Forbidden"}`: sinks.ClassFatal} {
		server := resttest.NewServer(t, resttest.Config{Tool: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, body)
		})})
		cfg := config(&imitation{Server: server})
		if err := newSink(t, cfg).Open(t.Context()); sinks.Classify(err).Class != class {
			t.Errorf("403 with the body %q: got %v, want %s", body, err, class)
		}
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	for problem, change := range map[string]func(*mailchimp.Config){
		"COLOR":       func(cfg *mailchimp.Config) { cfg.Properties = "PLAN = public_metadata.plan, COLOR = 'red'" },
		"KEY_FIELD":   func(cfg *mailchimp.Config) { cfg.KeyField = "LTV" },
		"AUDIENCE_ID": func(cfg *mailchimp.Config) { cfg.Audience = "b36b032126" },
	} {
		cfg := config(h)
		change(&cfg)
		err := newSink(t, cfg).Open(t.Context())
		sinktest.ExpectClass(t, problem, err, sinks.ClassFatal, sinks.ReasonMisconfigured)
		if err != nil && (!strings.Contains(err.Error(), problem) || strings.Contains(err.Error(), "PLAN")) {
			t.Errorf("got %v, want %s named alone", err, problem)
		}
	}
}

func TestInit(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	h.fields = []string{"FNAME", "LNAME", "A", "B", "C", "D", "E", "F", "G", "H", "PLAN"} // more than a page
	cfg := config(h)
	cfg.Properties = "FNAME = first_name, PLAN = public_metadata.plan, COLOR = 'red'"
	sink := newSink(t, cfg)
	before := slices.Clone(h.fields)
	for range 2 { // it may run twice
		if err := sink.Init(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if want := append(before, "CLERK_ID", "COLOR"); !slices.Equal(h.fields, want) {
		t.Errorf("merge fields after Init: got %v, want %v", h.fields, want)
	}
	if script := sink.InitScript(); !strings.Contains(script, "COLOR") || !strings.Contains(script, "CLERK_ID") || strings.Contains(script, key) {
		t.Errorf("InitScript: got %s", script)
	}
	if err := sink.Open(t.Context()); err != nil {
		t.Errorf("Open after Init: %v", err)
	}
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	valid := mailchimp.Config{Key: key, Audience: audience}
	if err := valid.Validate(); err != nil {
		t.Errorf("Validate of the least that is needed: %v", err)
	}
	for name, change := range map[string]func(*mailchimp.Config){
		`"status"`:     func(cfg *mailchimp.Config) { cfg.Properties = "status = 'subscribed'" },
		`"EMAIL"`:      func(cfg *mailchimp.Config) { cfg.Properties = "EMAIL = email" },
		`"fname"`:      func(cfg *mailchimp.Config) { cfg.Properties = "fname = first_name" },
		"API_KEY is":   func(cfg *mailchimp.Config) { cfg.Key = "" },
		"data center":  func(cfg *mailchimp.Config) { cfg.Key = "0123456789abcdef0123456789abcdef" },
		"AUDIENCE_ID":  func(cfg *mailchimp.Config) { cfg.Audience = "" },
		"KEY_FIELD":    func(cfg *mailchimp.Config) { cfg.Properties = "CLERK_ID = id" },
		"KEY_FIELD is": func(cfg *mailchimp.Config) { cfg.KeyField = "clerk id" },
		"NEW_MEMBERS":  func(cfg *mailchimp.Config) { cfg.NewMembers = "maybe" },
		"ERASURE":      func(cfg *mailchimp.Config) { cfg.Erasure = "maybe" },
		"TIMEOUT":      func(cfg *mailchimp.Config) { cfg.Timeout = 1 },
	} {
		cfg := valid
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "BASE_URL:") {
			t.Errorf("Validate says nothing of %s, or of what is well: %v", name, err)
		}
	}
	all := mailchimp.Config{Erasure: "maybe", NewMembers: "maybe"}.Validate()
	for _, name := range []string{"API_KEY", "AUDIENCE_ID", "ERASURE", "NEW_MEMBERS"} {
		if !strings.Contains(fmt.Sprint(all), name) {
			t.Errorf("Validate does not tell all problems at once: %v", all)
		}
	}
}
