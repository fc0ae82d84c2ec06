package segment_test

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
	"clerkconnect/sinks/resttest"
	"clerkconnect/sinks/segment"
	"clerkconnect/sinks/sinktest"
)

func openSink(t testing.TB, cfg segment.Config) *segment.Sink {
	return sinktest.Open(t, segment.New, cfg)
}

// A call has all traits, nulls included, since what is behind Segment may see that
// one alone; and it has the same id however often it is made.
func TestIdentify_WholeAndOnce(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	first := sinks.Track(sinktest.Change("user_1", 1))
	first.New = true
	sinktest.MustApply(t, sink, first)
	sinktest.MustApply(t, sink, first) // nothing was remembered
	if len(h.messages) != 2 || h.tracked["user_1"] != 1 {
		t.Errorf("%d messages, %d events after a repetition, want 2 and 1", len(h.messages), h.tracked["user_1"])
	}
	delete(h.traits, "user_1") // as a destination that sees the next call alone
	second := sinks.Track(sinktest.Change("user_1", 2))
	second.State, second.Change.User = first.Result().State, first.Change.User
	second.Change.User.FirstName, second.Change.User.LastName = new("Grace"), nil
	sinktest.MustApply(t, sink, second)
	got := h.traits["user_1"]
	if got["firstName"] != "Grace" || got["email"] != *second.Change.User.PrimaryEmailAddress || len(h.messages) != 3 {
		t.Errorf("the second call has %v, %d messages, want all traits and 3", got, len(h.messages))
	}
	if source := h.contexts["user_1"]; source["clerk"] == nil || source["library"] == nil {
		t.Errorf("the context is %v, want the source", source)
	}
}

// A new user who is applied again with a later version, before anything was
// committed, is welcomed once all the same.
func TestWelcome_SameIDInEachVersion(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	for version := range int64(3) {
		r := sinktest.Change("user_1", version+1)
		r.New = true
		sinktest.MustApply(t, sink, sinks.Track(r))
	}
	if h.tracked["user_1"] != 1 {
		t.Errorf("%d events, want 1", h.tracked["user_1"])
	}
}

// Who is too large, or makes an id that Segment would drop without a word, is
// refused alone.
func TestApply_RefusedAlone(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	cfg := config(h)
	cfg.NewUserEvent = ""
	sink := openSink(t, cfg)
	fine, large, long := sinktest.Change("user_1", 1), sinktest.Change("user_2", 1), sinktest.Change("user_"+strings.Repeat("x", 100), 1)
	large.Change.User.FirstName = new(strings.Repeat("x", 33_000))
	fine.New = true
	err := sink.Apply(t.Context(), []sinks.Record{sinks.Track(large), sinks.Track(fine), sinks.Track(long)})
	var listed *sinks.BatchError
	if !errors.As(err, &listed) || listed.Len() != 2 {
		t.Fatalf("got %v, want errors of two records", err)
	}
	one, other := sinks.Classify(listed.Failed(0)), sinks.Classify(listed.Failed(2))
	if one.Class != sinks.ClassPermanent || one.Reason != sinks.ReasonTooLarge || other.Class != sinks.ClassPermanent || other.Reason != sinks.ReasonInvalidRecord {
		t.Errorf("got %v", listed)
	}
	if len(h.traits) != 1 || len(h.dropped) > 0 || len(h.tracked) > 0 {
		t.Errorf("%d users, dropped %q, events %v, want the one that is fine", len(h.traits), h.dropped, h.tracked)
	}
}

// What was not taken is not remembered, be it said by the status or not.
func TestApply_NotTaken(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]bool{`{"success":true}`: true, `OK`: true, ``: true, `{"success":false,"message":"no"}`: false} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, body) //nolint:errcheck // the client reads it or not
		}))
		sink := newSink(t, segment.Config{Config: contact.Config{BaseURL: server.URL}, WriteKey: "a", PublicAPIToken: "b"})
		r := sinks.Track(sinktest.Change("user_1", 1))
		err := sink.Apply(t.Context(), []sinks.Record{r})
		sink.Close()
		server.Close()
		if (err == nil) != want || r.Result().Remembered != want || err != nil && sinks.Classify(err).Class != sinks.ClassRetry {
			t.Errorf("%s: got %v, remembered %v", body, err, r.Result().Remembered)
		}
	}
}

// Only who was sent counts as deleted; who is erased again was not there; and an
// erasure without a regulation is none.
func TestErase_Outcomes(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	sent := sinks.Track(sinktest.Change("user_1", 1))
	sinktest.MustApply(t, sink, sent)
	erase := func(id string, state []byte, want schemas.Outcome) []byte {
		t.Helper()
		r := sinks.Track(sinktest.Erase(id, 2))
		r.State = state
		sinktest.MustApply(t, sink, r)
		if got := r.Result(); got.Outcome != want || !got.Remembered {
			t.Errorf("erasure of %s: got %q, want %q", id, got.Outcome, want)
		}
		return r.Result().State
	}
	again := erase("user_1", sent.Result().State, schemas.OutcomeDeleted)
	erase("user_1", again, schemas.OutcomeNotPresent)
	if state := erase("user_2", nil, schemas.OutcomeNotPresent); state != nil {
		t.Errorf("an erasure of nobody leaves %s", state)
	}
	h.noID = true
	r := sinks.Track(sinktest.Erase("user_1", 3))
	sinktest.ExpectClass(t, "no regulation", sink.Apply(t.Context(), []sinks.Record{r}), sinks.ClassRetry, sinks.ReasonUnavailable)
	if r.Result().Outcome != "" {
		t.Errorf("an erasure without a regulation: outcome %q", r.Result().Outcome)
	}
}

// Nobody is gone of whom no regulation is known, or whose regulation is lost.
func TestConfirm_WithoutRegulation(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast))
	sink := openSink(t, config(h))
	for name, test := range map[string]struct {
		state string
		gone  bool
	}{
		"nobody":       {"", true},
		"never erased": {`{"v":1,"id":"user_1"}`, false},
		"a lost one":   {`{"v":1,"id":"user_1","erased":true,"extra":{"regulation":"reg_unknown"}}`, false},
	} {
		if gone, err := sink.Confirm(t.Context(), "user_1", []byte(test.state)); gone != test.gone || err != nil {
			t.Errorf("%s: got %v, %v, want %v", name, gone, err, test.gone)
		}
	}
}

// A listing of sources that names the same page again ends.
func TestOpen_PagesThatRepeat(t *testing.T) {
	t.Parallel()
	calls := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if calls++; calls > 5 {
			t.Errorf("%d calls", calls)
			w.WriteHeader(500)
			return
		}
		fmt.Fprint(w, `{"data":{"sources":[],"pagination":{"next":"again"}}}`)
	}))
	t.Cleanup(server.Close)
	sink := newSink(t, segment.Config{Config: contact.Config{BaseURL: server.URL}, PublicBaseURL: server.URL, WriteKey: "a", PublicAPIToken: "b"})
	t.Cleanup(func() { sink.Close() })
	sinktest.ExpectClass(t, "a page that repeats", sink.Open(t.Context()), sinks.ClassFatal, sinks.ReasonMisconfigured)
}
