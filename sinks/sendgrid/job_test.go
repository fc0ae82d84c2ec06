package sendgrid_test

import (
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
	"clerkconnect/sinks/sendgrid"
	"clerkconnect/sinks/sinktest"
)

// withVisits maps a field of type Number, for which a job takes no words.
func withVisits(cfg *sendgrid.Config) {
	cfg.Properties = "first_name = first_name, last_name = last_name, visits = public_metadata.visits"
}

func words(u *schemas.User) { u.PublicMetadata = new(`{"visits":"many"}`) }

// noted is the record of a user whose address Kafka has noted.
func noted(id string, change func(*schemas.User)) sinks.Record {
	r := named(id, 1, id+"@example.com")
	change(&r.Change.User)
	contact.Memory{Email: id + "@example.com", Creating: true}.Remember(r)
	r.State = r.Result().State
	return sinks.Track(r)
}

func unchanged(*schemas.User) {}

// What a job refuses of several is looked for by halves; alone it is refused for
// good. If it refuses all of many, or says of nobody that he was refused, that is
// no contact's fault.
func TestJob_Refuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		good, bad int
		fails     []string
		class     sinks.Class
		listed    bool
	}{
		"some":         {good: 2, bad: 1, class: sinks.ClassPermanent},
		"some of many": {good: 1, bad: 20, class: sinks.ClassPermanent},
		"all of a few": {bad: 2, class: sinks.ClassPermanent},
		"one":          {bad: 1, class: sinks.ClassPermanent, listed: true},
		"all of many":  {bad: 10, class: sinks.ClassRetry, listed: true},
		"unprocessed":  {good: 1, fails: []string{"PUT"}, class: sinks.ClassRetry, listed: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newImitation(t, resttest.NewClock(fast), true)
			h.fails = test.fails
			batch := []sinks.Record{sinks.Track(named("user_new", 1, "new@example.com"))}
			for i := range test.good {
				batch = append(batch, noted(fmt.Sprintf("user_good%d", i), unchanged))
			}
			for i := range test.bad {
				batch = append(batch, noted(fmt.Sprintf("user_bad%d", i), words))
			}
			err := openSink(t, h, withVisits).Apply(t.Context(), batch)
			var listed *sinks.BatchError
			if errors.As(err, &listed) != test.listed || err == nil {
				t.Fatalf("got %v; want an error, of single records: %v", err, test.listed)
			}
			for i, r := range batch[1:] {
				problem := err
				if listed != nil {
					problem = listed.Failed(i + 1)
				}
				if sinks.Classify(problem).Class != test.class || r.Result().Remembered {
					t.Errorf("record %d: got %v, remembered %v; want %s", i+1, problem, r.Result().Remembered, test.class)
				}
			}
			if listed != nil && !errors.Is(listed.Failed(0), sinks.ErrRememberFirst) {
				t.Errorf("the note of another: got %v", listed.Failed(0))
			}
		})
	}
}

// A job that SendGrid does not end is an outage.
func TestJob_DoesNotEnd(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast), true)
	h.stuck = true
	r := noted("user_1", unchanged)
	before := h.Requests()
	err := openSink(t, h).Apply(t.Context(), []sinks.Record{r})
	sinktest.ExpectClass(t, "a job without an end", err, sinks.ClassRetry, sinks.ReasonTimeout)
	if n := h.Requests() - before; n < 15 || n > 40 || r.Result().Remembered {
		t.Errorf("%d requests in ten minutes; remembered %v", n, r.Result().Remembered)
	}
}

// A job is not known at once, and counts before its status says that it has ended.
func TestJob_IsAskedAfter(t *testing.T) {
	t.Parallel()
	h := newImitation(t, resttest.NewClock(fast), true)
	h.late, h.behind = 2, true
	r := noted("user_1", unchanged)
	if err := openSink(t, h).Apply(t.Context(), []sinks.Record{r}); err != nil || !r.Result().Remembered {
		t.Errorf("got %v, remembered %v", err, r.Result().Remembered)
	}
	h.jobID = "d32c6eab?x"
	before := h.Requests()
	r = noted("user_1", unchanged)
	err := openSink(t, h).Apply(t.Context(), []sinks.Record{r})
	sinktest.ExpectClass(t, "no job", err, sinks.ClassRetry, sinks.ReasonUnavailable)
	if n := h.Requests() - before; n != 3 || strings.Contains(fmt.Sprint(err), h.jobID) {
		t.Errorf("%d requests, want those of Open, the search and the change; %v", n, err)
	}
}

// What follows a change, the deletion at the old address and the list of new users,
// is done by jobs as well. If one fails nothing is remembered, and it is done again.
func TestJob_OfWhatFollows(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"DELETE", "PUT " + newUsers} {
		h := newImitation(t, resttest.NewClock(fast), true)
		sink := openSink(t, h)
		made, err := settle(t, sink, named("user_1", 1, "old@example.com"), nil)
		if err != nil {
			t.Fatal(err)
		}
		moved := named("user_1", 2, "new@example.com")
		moved.New = true
		h.fails = []string{what}
		state, err := settle(t, sink, moved, made.State)
		sinktest.ExpectClass(t, what+" fails", err, sinks.ClassRetry, sinks.ReasonUnavailable)
		h.fails = nil
		if _, err := settle(t, sink, moved, state.State); err != nil {
			t.Fatal(err)
		}
		if p := h.people["new@example.com"]; len(h.people) != 1 || p == nil || !p.lists[newUsers] {
			t.Errorf("%s fails, and is done again: got %d contacts, %+v", what, len(h.people), p)
		}
	}
}

// Whom jobs refuse ends in the dead letters, and nobody else.
func TestStorm_RefusedByJobs(t *testing.T) {
	clock := resttest.NewClock(1000)
	h := newImitation(t, clock, false)
	d := destination(h, fields, func(cfg *sendgrid.Config) {
		withVisits(cfg)
		cfg.Clock, cfg.ConfirmAfter = clock.Now, time.Hour
	})
	d.Poison = words
	storm.Run(t, storm.Config{
		Harness:     sinktest.Harness{Remembers: true, NeedsEmail: true, Fields: fields},
		Destination: d, Server: h.Server, Clock: clock, Users: 300,
	})
}
