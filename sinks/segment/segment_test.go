package segment_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/resttest"
	"clerkconnect/sinks/runner/storm"
	"clerkconnect/sinks/segment"
	"clerkconnect/sinks/sinktest"
)

// fast is so fast that the windows of the limit do not matter to the contract's
// tests, which have no runner to wait for them.
const fast = 1e6

func config(h *imitation) segment.Config {
	return segment.Config{
		Config: contact.Config{BaseURL: h.URL}, PublicBaseURL: h.URL,
		WriteKey: writeKey, PublicAPIToken: publicToken, NewUserEvent: "Signed Up",
	}
}

func newSink(t testing.TB, cfg segment.Config) *segment.Sink {
	return sinktest.New(t, segment.New, cfg)
}

func destination(h *imitation, change func(*segment.Config)) sinktest.Destination {
	traits := func(id string) map[string]any {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.traits[id]
	}
	return sinktest.Destination{
		Sink: func(t testing.TB) sinks.Sink {
			cfg := config(h)
			change(&cfg)
			return newSink(t, cfg)
		},
		Read: func(_ testing.TB, ids ...string) map[string]sinktest.Row {
			rows := map[string]sinktest.Row{}
			for _, id := range ids {
				if held := traits(id); held != nil {
					rows[id] = row(held)
				}
			}
			return rows
		},
		Dump: func(testing.TB) []byte {
			h.mu.Lock()
			defer h.mu.Unlock()
			return fmt.Appendf(nil, "%v %v", h.traits, h.suppressed)
		},
		Break:  func(testing.TB) func() { return h.Cut() },
		Poison: func(u *schemas.User) { u.FirstName = new(strings.Repeat("x", 33_000)) },
		Tool: sinktest.Tool{
			Requests: h.Requests,
			Contacts: func(testing.TB) int {
				h.mu.Lock()
				defer h.mu.Unlock()
				return len(h.traits)
			},
			Page:   func(testing.TB) func() { return h.Page() },
			Revoke: func(testing.TB) func() { return h.Revoke() },
			Edit:   func(_ testing.TB, id string) { traits(id)["email"] = "edited@example.com" },
			Welcomes: func(_ testing.TB, id string) int {
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.tracked[id]
			},
		},
	}
}

func row(traits map[string]any) sinktest.Row {
	row := sinktest.Row{}
	for trait, field := range map[string]string{
		"email": "primary_email_address", "firstName": "first_name", "lastName": "last_name", "username": "username", "avatar": "image_url",
	} {
		if value := traits[trait]; value != nil {
			row[field] = value
		}
	}
	return row
}

var fields = []string{"primary_email_address", "first_name", "last_name", "username", "image_url"}

func TestSink(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{
		Remembers: true, Fields: fields,
		New: func(t testing.TB) sinktest.Destination {
			h := newImitation(t, resttest.NewClock(fast))
			t.Cleanup(func() {
				if len(h.dropped) > 0 {
					t.Errorf("Segment dropped %q without a word", h.dropped)
				}
			})
			return destination(h, func(*segment.Config) {})
		},
	})
}

func TestStorm(t *testing.T) {
	clock := resttest.NewClock(1000)
	h := newImitation(t, clock)
	storm.Run(t, storm.Config{
		Harness:     sinktest.Harness{Remembers: true, Fields: fields},
		Destination: destination(h, func(cfg *segment.Config) { cfg.Clock, cfg.ConfirmAfter = clock.Now, 15*time.Minute }),
		Server:      h.Server, Clock: clock, CallsPerUser: 0.3,
	})
	if len(h.dropped) > 0 {
		t.Errorf("Segment dropped %q without a word", h.dropped)
	}
}

// A write key of another workspace is noticed, though the Tracking API takes it.
func TestOpen_WriteKey(t *testing.T) {
	t.Parallel()
	cfg := config(newImitation(t, resttest.NewClock(fast)))
	if err := newSink(t, cfg).Open(t.Context()); err != nil {
		t.Errorf("Open with the key of the second page: %v", err)
	}
	cfg.WriteKey = "somebody else's"
	err := newSink(t, cfg).Open(t.Context())
	sinktest.ExpectClass(t, "Open with a foreign key", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
	cfg.PublicAPIToken = "wrong"
	err = newSink(t, cfg).Open(t.Context())
	sinktest.ExpectClass(t, "Open with a wrong token", err, sinks.ClassFatal, sinks.ReasonUnauthorized)
}

// What becomes of a regulation decides whether an erasure is confirmed.
func TestConfirm_Regulation(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]struct{ gone, fails bool }{
		"FINISHED": {gone: true}, "FAILED": {}, "INVALID": {},
		"RUNNING": {fails: true}, "INITIALIZED": {fails: true}, "PARTIAL_SUCCESS": {fails: true}, "NOT_SUPPORTED": {fails: true},
	} {
		h := newImitation(t, resttest.NewClock(fast))
		sink := newSink(t, config(h))
		if err := sink.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.status = status
		change := sinks.Track(sinktest.Change("user_1", 1))
		sinktest.MustApply(t, sink, change)
		erase := sinks.Track(sinktest.Erase("user_1", 2))
		erase.State = change.Result().State
		sinktest.MustApply(t, sink, erase)
		gone, err := sink.Confirm(t.Context(), "user_1", erase.Result().State)
		if gone != want.gone || (err != nil) != want.fails {
			t.Errorf("%s: got %v, %v, want %+v", status, gone, err, want)
		}
		if want.fails && sinks.Classify(err).Class != sinks.ClassPermanent {
			t.Errorf("%s: %v holds up the confirmation of others", status, err)
		}
	}
}

// Suppress drops whatever is sent of the user later; one regulation does for all
// of a batch.
func TestErasure_Suppress(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	cfg := config(h)
	cfg.Erasure = segment.Suppress
	sink := newSink(t, cfg)
	if err := sink.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1), sinktest.Change("user_2", 1))
	sinktest.MustApply(t, sink, sinktest.Erase("user_1", 2), sinktest.Erase("user_2", 2))
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 3))
	if len(h.traits) != 0 || len(h.regulations) != 1 {
		t.Errorf("after erasures and a late change: %d users, %d regulations, want none and 1", len(h.traits), len(h.regulations))
	}
}

// A large batch goes in requests that Segment takes.
func TestApply_LargeUsers(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := newSink(t, config(h))
	if err := sink.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := h.Requests()
	var batch []sinks.Record
	for i := range 100 {
		r := sinktest.Change(fmt.Sprintf("user_%d", i), 1)
		r.Change.User.FirstName = new(strings.Repeat("x", 20_000))
		batch = append(batch, r)
	}
	sinktest.MustApply(t, sink, batch...)
	if n := h.Requests() - before; len(h.traits) != 100 || n < 5 || n > 6 {
		t.Errorf("2 MB: %d users in %d requests, want 100 in 5 or 6", len(h.traits), n)
	}
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	err := segment.Config{
		Config: contact.Config{BaseURL: "ftp://x", Properties: "unsubscribed = true"}, Region: "mars", Erasure: "maybe", PublicBaseURL: "https://x/",
	}.Validate()
	for _, variable := range []string{"BASE_URL", "PROPERTIES", "REGION", "WRITE_KEY", "PUBLIC_API_TOKEN", "PUBLIC_BASE_URL", "ERASURE"} {
		if err == nil || !strings.Contains("\n"+err.Error(), "\n"+variable) {
			t.Errorf("Validate says nothing of %s: %v", variable, err)
		}
	}
	if err := (segment.Config{WriteKey: "a", PublicAPIToken: "b", Region: segment.EU}).Validate(); err != nil {
		t.Errorf("Validate of what is enough: %v", err)
	}
}

// What is sent keeps the types of metadata and says where it is from.
func TestMessages(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	cfg := config(h)
	cfg.Properties = "email = email, plan = public_metadata.plan, seats = public_metadata.seats, tags = public_metadata.tags"
	sink := newSink(t, cfg)
	if err := sink.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := sinktest.Change("user_1", 1)
	r.Change.User.PublicMetadata = new(`{"plan":"pro","seats":3,"tags":["a","b"]}`)
	sinktest.MustApply(t, sink, r)
	got, err := json.Marshal(h.traits["user_1"])
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"email":"` + *r.Change.User.PrimaryEmailAddress + `","plan":"pro","seats":3,"tags":["a","b"]}`; string(got) != want {
		t.Errorf("traits: got %s, want %s", got, want)
	}
}
