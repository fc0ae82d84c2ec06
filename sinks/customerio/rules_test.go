package customerio_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/customerio"
	"clerkconnect/sinks/resttest"
	"clerkconnect/sinks/sinktest"
)

func openSink(t testing.TB, cfg customerio.Config) *customerio.Sink {
	return sinktest.Open(t, customerio.New, cfg)
}

func failures(t *testing.T, err error) *sinks.BatchError {
	t.Helper()
	var listed *sinks.BatchError
	if !errors.As(err, &listed) {
		t.Fatalf("got %v, want errors of records", err)
	}
	return listed
}

// What people edit at Customer.io stays until Clerk says something new of it, what
// a user has no more is cleared, and moments are Unix seconds.
func TestIdentify_OnlyWhatChanged(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	first := sinks.Track(sinktest.Change("user_1", 1))
	first.Change.User.CreatedAt = new(int64(1700000000123))
	sinktest.MustApply(t, sink, first)
	held := h.people["user_1"].attributes
	if held["created_at"] != float64(1700000000) {
		t.Errorf("created_at is %v, want 1700000000", held["created_at"])
	}
	held["email"] = "edited@example.com"
	second := sinks.Track(sinktest.Change("user_1", 2))
	second.State, second.Change.User = first.Result().State, first.Change.User
	second.Change.User.FirstName, second.Change.User.LastName = new("Grace"), nil
	sinktest.MustApply(t, sink, second)
	if _, kept := held["last_name"]; held["first_name"] != "Grace" || held["email"] != "edited@example.com" || kept {
		t.Errorf("after a change of the names: got %v", held)
	}
}

// Who is there is asked of a hundred at once, and only where a part is written.
func TestThere_AHundredAtOnce(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	var first, second []sinks.Record
	for i := range 150 {
		first = append(first, sinks.Track(sinktest.Change(fmt.Sprintf("user_%d", i), 1)))
	}
	before := h.Requests()
	sinktest.MustApply(t, sink, first...)
	if n := h.Requests() - before; n != 1 {
		t.Errorf("150 new people: %d requests, want 1", n)
	}
	delete(h.people, "user_7")
	for _, r := range first {
		next := sinks.Track(sinktest.Change(r.ClerkID, 2))
		next.State, next.Change.User = r.Result().State, r.Change.User
		next.Change.User.FirstName = new("Grace")
		second = append(second, next)
	}
	before = h.Requests()
	sinktest.MustApply(t, sink, second...)
	if n := h.Requests() - before; n != 3 {
		t.Errorf("150 changes: %d requests, want 3", n)
	}
	if email := h.people["user_7"].attributes["email"]; email != *second[7].Change.User.PrimaryEmailAddress {
		t.Errorf("one who was deleted in the workspace has the address %v", email)
	}
}

// Each of the two keys is told from a right one before anything is written.
func TestOpen_Keys(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	for name, change := range map[string]func(*customerio.Config){
		"API_KEY":     func(c *customerio.Config) { c.APIKey = "wrong" },
		"APP_API_KEY": func(c *customerio.Config) { c.AppAPIKey = "wrong" },
	} {
		cfg := config(h)
		change(&cfg)
		sink, err := customerio.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		err = sink.Open(t.Context())
		sinktest.ExpectClass(t, name, err, sinks.ClassFatal, sinks.ReasonUnauthorized)
		if !strings.Contains(err.Error(), name) {
			t.Errorf("Open: got %v, want it to name %s", err, name)
		}
	}
}

// Of a batch that goes in several requests exactly those are refused whom
// Customer.io refuses, and nothing of theirs is sent any more.
func TestApply_PartOfALargeBatch(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	cfg := config(h)
	var names []string
	for i := range 25 {
		names = append(names, fmt.Sprintf("a%d = first_name", i))
	}
	cfg.Properties = strings.Join(names, ", ")
	sink := openSink(t, cfg)
	before := h.Requests()
	var batch []sinks.Record
	const refused, tooLarge = 70, 75
	for i := range 80 {
		r := sinks.Track(sinktest.Change(fmt.Sprintf("user_%d", i), 1))
		r.New = true
		r.Change.User.CreatedAt = new(int64(1700000000000))
		length := map[int]int{refused: 1001, tooLarge: 1400}[i]
		r.Change.User.FirstName = new(strings.Repeat("x", max(length, 900)))
		batch = append(batch, r)
	}
	listed := failures(t, sink.Apply(t.Context(), batch))
	one, other := sinks.Classify(listed.Failed(refused)), sinks.Classify(listed.Failed(tooLarge))
	if listed.Len() != 2 || one.Reason != sinks.ReasonInvalidRecord || other.Reason != sinks.ReasonTooLarge || one.Class != sinks.ClassPermanent {
		t.Errorf("got %v, want records %d and %d", listed, refused, tooLarge)
	}
	if n := h.Requests() - before; len(h.people) != 78 || n < 5 || n > 6 {
		t.Errorf("%d people in %d requests, want 78 in 4 or 5, and one of events", len(h.people), n)
	}
	if h.events["user_0"] != 1 || h.events[fmt.Sprint("user_", refused)] != 0 || batch[refused].Result().Remembered || !batch[0].Result().Remembered {
		t.Errorf("events: %d and %d, want of those who were taken", h.events["user_0"], h.events[fmt.Sprint("user_", refused)])
	}
}

// An event that is refused is due again, under the same id.
func TestWelcome_Refused(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	r := sinks.Track(sinktest.Change("user_1", 1))
	r.New = true
	h.noEvents = true
	if listed := failures(t, sink.Apply(t.Context(), []sinks.Record{r})); listed.Failed(0) == nil || r.Result().Remembered {
		t.Errorf("a refused event: got %v, remembered %v", listed, r.Result().Remembered)
	}
	h.noEvents = false
	sinktest.MustApply(t, sink, r)
	sinktest.MustApply(t, sink, r)
	if h.events["user_1"] != 1 {
		t.Errorf("%d events after a repetition, want 1", h.events["user_1"])
	}
}

// Who cannot be looked up holds nobody else's erasure up.
func TestErase_LookFails(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	sinktest.MustApply(t, sink, sinktest.Change("user_1", 1), sinktest.Change("user_2", 1)) // what is remembered is lost
	h.away["user_1"] = true
	one, other := sinks.Track(sinktest.Erase("user_1", 2)), sinks.Track(sinktest.Erase("user_2", 2))
	listed := failures(t, sink.Apply(t.Context(), []sinks.Record{one, other}))
	if listed.Len() != 1 || sinks.Classify(listed.Failed(0)).Class != sinks.ClassRetry || one.Result().Outcome != "" {
		t.Errorf("got %v and outcome %q, want the first to be tried again", listed, one.Result().Outcome)
	}
	if got := other.Result(); got.Outcome != schemas.OutcomeDeleted || contact.Recall(got.State).RemoteID != "user_2" || h.people["user_2"] != nil {
		t.Errorf("the other erasure: outcome %q, memory %+v", got.Outcome, contact.Recall(got.State))
	}
}

// What an answer says counts, whatever its status; and if it cannot be understood,
// nobody is taken for written.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		body   string
		class  sinks.Class
		ok     bool
	}{
		"queued":              {200, `{}`, 0, true},
		"nothing":             {200, ``, 0, true},
		"refused with 200":    {200, `{"errors":[{"batch_index":0,"reason":"invalid"}]}`, sinks.ClassPermanent, false},
		"refused":             {207, `{"errors":[{"batch_index":0,"reason":"invalid","field":"ada@example.com"}]}`, sinks.ClassPermanent, false},
		"refused, not who":    {207, `{"errors":[{"reason":"invalid"}]}`, sinks.ClassPermanent, false},
		"refused, not what":   {207, `{"problems":[]}`, sinks.ClassPermanent, false},
		"somebody else's":     {207, `{"errors":[{"batch_index":7,"reason":"invalid"}]}`, sinks.ClassRetry, false},
		"cut":                 {200, `{"errors":[{"batch_in`, sinks.ClassRetry, false},
		"cut, of some":        {207, `{"errors":`, sinks.ClassRetry, false},
		"something before it": {200, `<html>`, sinks.ClassRetry, false},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(test.status)
			io.WriteString(w, test.body) //nolint:errcheck // the client reads it or not
		}))
		sink, err := customerio.New(customerio.Config{
			Config: contact.Config{BaseURL: server.URL}, SiteID: siteID, APIKey: apiKey, AppAPIKey: appAPIKey,
		})
		if err != nil {
			t.Fatal(err)
		}
		r := sinks.Track(sinktest.Change("user_1", 1))
		err = sink.Apply(t.Context(), []sinks.Record{r})
		sink.Close()
		server.Close()
		if (err == nil) != test.ok || r.Result().Remembered != test.ok {
			t.Errorf("%s: got %v, remembered %v", name, err, r.Result().Remembered)
			continue
		}
		var listed *sinks.BatchError
		if errors.As(err, &listed) {
			err = listed.Failed(0)
		}
		if err != nil && (sinks.Classify(err).Class != test.class || strings.Contains(err.Error(), "example.com")) {
			t.Errorf("%s: got %v, want %s", name, err, test.class)
		}
	}
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 151)
	err := customerio.Config{
		Config: contact.Config{BaseURL: "ftp://x", Properties: "unsubscribed = true, cio_id = email, " + long + " = email"},
		Region: "mars", Erasure: "maybe", AppBaseURL: "https://x/", NewUserEvent: strings.Repeat("x", 101),
	}.Validate()
	for _, text := range []string{
		"\nBASE_URL", "\nPROPERTIES names \"unsubscribed\"", "\nPROPERTIES names \"cio_id\"", "have at most 150", "\nREGION", "\nSITE_ID", "\nAPI_KEY",
		"\nAPP_API_KEY", "\nAPP_BASE_URL", "\nERASURE", "\nNEW_USER_EVENT",
	} {
		if err == nil || !strings.Contains("\n"+err.Error(), text) {
			t.Errorf("Validate says nothing of %q: %v", text, err)
		}
	}
	if err := (customerio.Config{SiteID: "a", APIKey: "b", AppAPIKey: "c", Region: customerio.EU}).Validate(); err != nil {
		t.Errorf("Validate of what is enough: %v", err)
	}
}

// Without NEW_USER_EVENT nobody is sent one.
func TestWelcome_None(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	cfg := config(h)
	cfg.NewUserEvent = ""
	sink := openSink(t, cfg)
	r := sinks.Track(sinktest.Change("user_1", 1))
	r.New = true
	before := h.Requests()
	sinktest.MustApply(t, sink, r)
	if n := h.Requests() - before; n != 1 || len(h.events) > 0 {
		t.Errorf("%d requests, events %v, want one request and none", n, h.events)
	}
}

// A key of the App API that is refused stops the sink, and is no error of records.
func TestErase_AppKeyRefused(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	cfg := config(h)
	cfg.AppAPIKey = "wrong"
	sink, err := customerio.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	err = sink.Apply(t.Context(), []sinks.Record{sinktest.Erase("user_1", 1), sinktest.Erase("user_2", 1)})
	var listed *sinks.BatchError
	if errors.As(err, &listed) {
		t.Fatalf("got %v, want it whole", err)
	}
	sinktest.ExpectClass(t, "a key that is refused", err, sinks.ClassFatal, sinks.ReasonUnauthorized)
}

// An erasure of somebody who is remembered costs one request, and one to read it
// back.
func TestErase_Requests(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	change := sinks.Track(sinktest.Change("user_1", 1))
	sinktest.MustApply(t, sink, change)
	erase := sinks.Track(sinktest.Erase("user_1", 2))
	erase.State = change.Result().State
	before := h.Requests()
	sinktest.MustApply(t, sink, erase)
	gone, err := sink.Confirm(t.Context(), "user_1", erase.Result().State)
	if n := h.Requests() - before; n != 2 || !gone || err != nil {
		t.Errorf("%d requests, gone %v, %v; want 2", n, gone, err)
	}
}
