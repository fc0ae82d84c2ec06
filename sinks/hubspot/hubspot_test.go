package hubspot_test

import (
	"fmt"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/hubspot"
	"clerkconnect/sinks/resttest"
	"clerkconnect/sinks/runner/storm"
	"clerkconnect/sinks/sinktest"
)

// fast is so fast that the windows of the limit do not matter to the contract's
// tests, which have no runner to wait for them.
const fast = 1e6

func config(h *imitation) hubspot.Config {
	cfg := hubspot.Config{Token: token, NewUserProperties: newcomerProperty + " = 'Clerk'", NewUserList: "7"}
	cfg.BaseURL = h.URL
	return cfg
}

func destination(h *imitation, change func(*hubspot.Config)) sinktest.Destination {
	return sinktest.Destination{
		Sink: func(t testing.TB) sinks.Sink {
			cfg := config(h)
			change(&cfg)
			return sinktest.New(t, hubspot.New, cfg)
		},
		Read: func(_ testing.TB, ids ...string) map[string]sinktest.Row {
			rows := map[string]sinktest.Row{}
			h.mu.Lock()
			defer h.mu.Unlock()
			for _, id := range ids {
				if p := h.find("clerk_user_id", id); p != nil {
					rows[id] = row(p)
				}
			}
			return rows
		},
		Dump: func(testing.TB) []byte {
			h.mu.Lock()
			defer h.mu.Unlock()
			var dump []byte
			for _, p := range h.contacts {
				if !p.archived || p.properties["clerk_user_id"] == "" {
					dump = fmt.Appendf(dump, "%+v\n", *p)
				}
			}
			return fmt.Appendf(dump, "%v %v", h.unique, h.blocked)
		},
		Break: func(testing.TB) func() { return h.Cut() },
		Poison: func(u *schemas.User) {
			u.PrimaryEmailAddress = new("no address")
		},
		Tool: sinktest.Tool{
			Requests: h.Requests,
			Contacts: func(testing.TB) int { return len(h.live()) },
			Page:     func(testing.TB) func() { return h.Page() },
			Revoke:   func(testing.TB) func() { return h.Revoke() },
			Delete: func(_ testing.TB, id string) {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.archive(h.find("clerk_user_id", id))
			},
			Edit: func(_ testing.TB, id string) {
				h.edit(id, func(p *person) {
					p.properties = map[string]string{"email": "edited@example.com", "firstname": "Edited"}
				})
			},
			Unsubscribe: func(_ testing.TB, id string) {
				h.edit(id, func(p *person) { p.properties["hs_email_optout"] = "true" })
			},
			Subscribed: func(_ testing.TB, id string) bool {
				subscribed := false
				h.edit(id, func(p *person) { subscribed = p.properties["hs_email_optout"] != "true" })
				return subscribed
			},
			Welcomes: func(_ testing.TB, id string) int {
				welcomes := 0
				h.edit(id, func(p *person) {
					if welcomes = p.welcomes; h.lists["7"][p.id] != (welcomes > 0) {
						welcomes = -1
					}
				})
				return welcomes
			},
		},
	}
}

func row(p *person) sinktest.Row {
	row := sinktest.Row{}
	for property, field := range map[string]string{"email": "primary_email_address", "firstname": "first_name", "lastname": "last_name"} {
		if value := p.properties[property]; value != "" {
			row[field] = value
		}
	}
	return row
}

var fields = []string{"primary_email_address", "first_name", "last_name"}

func TestSink(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{
		Remembers: true, Fields: fields, Erased: schemas.OutcomeSoftDeleted,
		New: func(t testing.TB) sinktest.Destination {
			return destination(newImitation(t, resttest.NewClock(fast)), func(*hubspot.Config) {})
		},
	})
}

// The same with what cannot be undone, and with dated paths.
func TestSink_GDPRDelete(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{
		Remembers: true, Fields: fields,
		New: func(t testing.TB) sinktest.Destination {
			h := newImitation(t, resttest.NewClock(fast))
			return destination(h, func(cfg *hubspot.Config) { cfg.Erasure, cfg.APIVersion = hubspot.GDPRDelete, "v3" })
		},
	})
}

func TestStorm(t *testing.T) {
	clock := resttest.NewClock(1000)
	h := newImitation(t, clock)
	d := destination(h, func(cfg *hubspot.Config) { cfg.Clock, cfg.ConfirmAfter = clock.Now, time.Hour })
	storm.Run(t, storm.Config{
		Harness:     sinktest.Harness{Remembers: true, Fields: fields},
		Destination: d,
		Server:      h.Server, Clock: clock, CallsPerUser: 0.2,
	})
}
