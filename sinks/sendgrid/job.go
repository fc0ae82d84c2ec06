package sendgrid

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/rest"
)

// job is what SendGrid says of something that it has taken in: pending until it is
// completed, errored (in part) or failed (all of it). Whom it has refused it never
// says, but in a file whose form is described nowhere.
// https://www.twilio.com/docs/sendgrid/api-reference/contacts/import-contacts-status
type job struct {
	id      string
	Status  string `json:"status"`
	Results struct {
		Created float64 `json:"created_count"`
		Updated float64 `json:"updated_count"`
		Errored float64 `json:"errored_count"`
	} `json:"results"`
}

func (j job) ended() bool {
	return j.Status == "completed" || j.Status == "errored" || j.Status == "failed"
}

// took reports whether all of n contacts were taken. It is counted well before the
// status says so.
func (j job) took(n int) bool {
	if j.ended() {
		return j.Status == "completed"
	}
	return n > 0 && j.Results.Created+j.Results.Updated >= float64(n)
}

// Bounds of the asking after a job: first after firstAsk, then after twice as long
// each time, at most mostAsk, and in all for longestJob.
const (
	firstAsk   = 5 * time.Second
	mostAsk    = 30 * time.Second
	longestJob = 10 * time.Minute
)

// ids are what SendGrid's ids of jobs look like, so that errors may name one.
var ids = regexp.MustCompile(`^[0-9A-Za-z_-]{1,64}$`)

var errUnnamed = errors.New("SendGrid's answer names no job")

// await returns what has become of the job that an answer names, of n contacts, when
// that is known.
func (s *Sink) await(ctx context.Context, taken rest.Answer, n int) (job, error) {
	var named struct {
		ID string `json:"job_id"`
	}
	if err := taken.Decode(&named, "job_id"); err != nil {
		return job{}, err
	}
	if !ids.MatchString(named.ID) {
		return job{}, sinks.RetryAfter(sinks.ReasonUnavailable, 0, errUnnamed)
	}
	wait := firstAsk
	for waited := time.Duration(0); waited < longestJob; {
		if err := s.client.Sleep(ctx, wait); err != nil {
			return job{}, err
		}
		waited, wait = waited+wait, min(2*wait, mostAsk)
		if j, err := s.ask(ctx, named.ID); err != nil || j.ended() || j.took(n) {
			return j, err
		}
	}
	return job{}, sinks.RetryAfter(sinks.ReasonTimeout, 0, fmt.Errorf("SendGrid has not carried job %s out in %s", named.ID, longestJob))
}

// awaitAll waits for a job that must take all of n contacts.
func (s *Sink) awaitAll(ctx context.Context, taken rest.Answer, n int, what string) error {
	done, err := s.await(ctx, taken, n)
	if err == nil && !done.took(n) {
		err = sinks.RetryAfter(sinks.ReasonUnavailable, 0, done.problem(what))
	}
	return err
}

// ask returns what SendGrid says of a job now: nothing, if it does not show it yet.
func (s *Sink) ask(ctx context.Context, id string) (job, error) {
	j := job{id: id}
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "ask after a job", Method: http.MethodGet, Path: imports + id, Accept: []int{http.StatusNotFound},
	})
	if err == nil && answer.Status != http.StatusNotFound {
		err = answer.Decode(&j, "status")
	}
	return j, err
}

const imports = "/v3/marketing/contacts/imports/"

// problem is the error of a job that has not done all of what it was to do.
func (j job) problem(what string) error {
	return fmt.Errorf("%s: SendGrid's job has refused it; GET %s%s says where its errors are", what, imports, j.id)
}

// many is how many contacts a job does not refuse, all of them, for what is in them.
const many = 10

// carriedOut returns steps when SendGrid's job has taken them. If it has refused
// some, all are sent again in halves, until it is known whom. A job that has failed
// otherwise is repeated.
func (s *Sink) carriedOut(ctx context.Context, taken rest.Answer, steps []*step, failed *sinks.BatchError) ([]*step, error) {
	n := len(steps)
	done, err := s.await(ctx, taken, n)
	switch refused := int(done.Results.Errored); {
	case err != nil:
		return nil, err
	case done.took(n):
		return steps, nil
	case refused == 0, refused >= n && n >= many:
		for _, st := range steps {
			failed.Fail(st.index, sinks.RetryAfter(sinks.ReasonUnavailable, 0, done.problem("upsert contacts")))
		}
	case n == 1:
		failed.Fail(steps[0].index, sinks.Permanent(sinks.ReasonInvalidRecord, done.problem("upsert contacts")))
	default:
		return nil, sinks.Permanent(sinks.ReasonInvalidRecord, done.problem("upsert contacts"))
	}
	return nil, nil
}
