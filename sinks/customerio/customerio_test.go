package customerio_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/customerio"
	"clerkconnect/sinks/resttest"
	"clerkconnect/sinks/runner/storm"
	"clerkconnect/sinks/sinktest"
)

// fast is so fast that the windows of the limit do not matter to the contract's
// tests, which have no runner to wait for them.
const fast = 1e6

func config(h *imitation) customerio.Config {
	return customerio.Config{
		Config: contact.Config{BaseURL: h.URL}, AppBaseURL: h.URL,
		SiteID: siteID, APIKey: apiKey, AppAPIKey: appAPIKey, NewUserEvent: "signed_up",
	}
}

func destination(h *imitation, change func(*customerio.Config)) sinktest.Destination {
	attributes := func(id string) map[string]any {
		h.mu.Lock()
		defer h.mu.Unlock()
		if p := h.people[id]; p != nil {
			return p.attributes
		}
		return nil
	}
	return sinktest.Destination{
		Sink: func(t testing.TB) sinks.Sink {
			cfg := config(h)
			change(&cfg)
			return sinktest.New(t, customerio.New, cfg)
		},
		Read: func(_ testing.TB, ids ...string) map[string]sinktest.Row {
			rows := map[string]sinktest.Row{}
			for _, id := range ids {
				if held := attributes(id); held != nil {
					rows[id] = row(held)
				}
			}
			return rows
		},
		Dump: func(testing.TB) []byte {
			h.mu.Lock()
			defer h.mu.Unlock()
			var dump []byte
			for id, p := range h.people {
				dump = fmt.Appendf(dump, "%s %+v\n", id, p.attributes)
			}
			return fmt.Appendf(dump, "%v", h.suppressed)
		},
		Break:  func(testing.TB) func() { return h.Cut() },
		Poison: func(u *schemas.User) { u.FirstName = new(strings.Repeat("x", 1001)) },
		Tool: sinktest.Tool{
			Requests: h.Requests,
			Contacts: func(testing.TB) int {
				h.mu.Lock()
				defer h.mu.Unlock()
				return len(h.people)
			},
			Page:   func(testing.TB) func() { return h.Page() },
			Revoke: func(testing.TB) func() { return h.Revoke() },
			Delete: func(_ testing.TB, id string) {
				h.mu.Lock()
				defer h.mu.Unlock()
				delete(h.people, id)
			},
			Edit:        func(_ testing.TB, id string) { attributes(id)["email"] = "edited@example.com" },
			Unsubscribe: func(_ testing.TB, id string) { attributes(id)["unsubscribed"] = true },
			Subscribed:  func(_ testing.TB, id string) bool { return attributes(id)["unsubscribed"] != true },
			Welcomes: func(_ testing.TB, id string) int {
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.events[id]
			},
		},
	}
}

func row(attributes map[string]any) sinktest.Row {
	row := sinktest.Row{}
	for attribute, field := range map[string]string{"email": "primary_email_address", "first_name": "first_name", "last_name": "last_name"} {
		if value := attributes[attribute]; value != nil {
			row[field] = value
		}
	}
	return row
}

var fields = []string{"primary_email_address", "first_name", "last_name"}

func TestSink(t *testing.T) {
	for _, erasure := range []customerio.Erasure{customerio.Delete} {
		t.Run(string(erasure), func(t *testing.T) {
			sinktest.Run(t, sinktest.Harness{
				Remembers: true, Fields: fields,
				New: func(t testing.TB) sinktest.Destination {
					return destination(newImitation(t, resttest.NewClock(fast)), func(cfg *customerio.Config) { cfg.Erasure = erasure })
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
		Destination: destination(h, func(cfg *customerio.Config) { cfg.Clock, cfg.ConfirmAfter = clock.Now, 15*time.Minute }),
		Server:      h.Server, Clock: clock, CallsPerUser: 0.3,
	})
}

// Suppress blocks the id for good: what is sent of it later is dropped.
func TestErasure_Suppress(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	d := destination(h, func(cfg *customerio.Config) { cfg.Erasure = customerio.Suppress })
	sink := d.Sink(t)
	if err := sink.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	erase := sinks.Track(sinktest.Erase("user_1", 2))
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1))
	sinktest.MustApply(t, sink, erase)
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 3))
	if n := d.Contacts(t); n != 0 || !h.suppressed["user_1"] {
		t.Errorf("after an erasure and a late change: %d people, suppressed %v, want none and true", n, h.suppressed["user_1"])
	}
	if gone, err := sink.(sinks.Confirmer).Confirm(t.Context(), "user_1", nil); !gone || err != nil {
		t.Errorf("Confirm: got %v, %v, want true", gone, err)
	}
}
