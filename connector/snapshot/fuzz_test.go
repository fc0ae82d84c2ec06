package snapshot

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"clerkconnect/connector/clerk"
	"clerkconnect/schemas"
)

// FuzzAnswer: whatever Clerk, or something between, answers, it is a page in
// order, a number or the user asked for, or else an error that quotes nothing.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		`[]`, `[{"id":"user_1","created_at":1,"updated_at":2}]`, `[{"id":"user_1","created_at":2},{"id":"user_2","created_at":1}]`,
		`[null,{"id":5},{"id":"../x","created_at":1},{"id":"user_1","ID":"user_2"}]`, `{"total_count":3}`, `{"total_count":-1}`, `{"total_count":1e3}`,
		`{"id":"user_1","created_at":1.5}`, `{"id":"user_1","updated_at":1,"public_metadata":{"n":1e999}}`, `{"errors":[{"code":"resource_not_found","message":"CANARY"}]}`,
		`<html>CANARY`, "[\"\xff\"]", `[[[[`, `{} {}`, ``,
	} {
		for _, status := range []int{http.StatusOK, http.StatusNotFound, http.StatusBadGateway} {
			f.Add(status, "Sun, 29 Nov 2026 16:00:00 GMT", seed)
		}
	}
	f.Add(http.StatusOK, "yesterday", `[]`)
	policy, err := clerk.NewPolicy(clerk.PolicyConfig{Include: clerk.FieldNames()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, status int, date, body string) {
		if status < 200 || status > 599 || status == http.StatusTooManyRequests {
			return // others are no final answer, or waited for
		}
		a := newAPI(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", date)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}), 10)
		a.cfg.MaxAttempts = 1
		quotesNothing := func(err error) {
			t.Helper()
			if err != nil && strings.Contains(body, "CANARY") && strings.Contains(err.Error(), "CANARY") {
				t.Fatalf("the error quotes the answer: %v", err)
			}
		}
		p, err := a.list(t.Context(), url.Values{})
		if quotesNothing(err); err == nil {
			checkPage(t, policy, p)
		}
		total, _, err := a.count(t.Context())
		if quotesNothing(err); err == nil && total < 0 {
			t.Fatalf("count: got %d", total)
		}
		raw, at, found, err := a.user(t.Context(), "user_1")
		if quotesNothing(err); found != (raw != nil) || found && (err != nil || at.IsZero()) {
			t.Fatalf("user: got found %v, %q at %v, %v", found, raw, at, err)
		}
		if status != http.StatusOK && (p.rows != nil || total != 0 || found) {
			t.Fatalf("an answer of %d was believed", status)
		}
	})
}

// checkPage: a page is in order, holds ids of users alone, and each of its rows
// is an event or one of the errors that a walk survives.
func checkPage(t *testing.T, policy *clerk.Policy, p page) {
	t.Helper()
	last := int64(0)
	for _, r := range p.rows {
		if r.id != "" && !userID.MatchString(r.id) || r.created != 0 && r.created < last {
			t.Fatalf("list: got id %q of %d after %d", r.id, r.created, last)
		}
		last = max(last, r.created)
		event, err := policy.Row(r.raw, clerk.ReadAt{Date: p.date, ReceivedAt: time.Now(), Origin: schemas.OriginSnapshot, Snapshot: "s"})
		var malformed *clerk.MalformedError
		switch {
		case err == nil && userID.MatchString(event.ClerkID):
		case errors.As(err, &malformed), errors.Is(err, clerk.ErrMissingID), errors.Is(err, clerk.ErrTooFarAhead):
		default:
			t.Fatalf("Row: got %+v, %v", event, err)
		}
	}
}

// FuzzRetryAfter: no header makes the task hurry or wait for ever.
func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"", "0", "7", "-1", "300", "301", "99999999999999999999", "1.5", " 3", "Sun, 29 Nov 2026 16:00:00 GMT", "0x10", "+5"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got := retryAfter(http.Header{"Retry-After": {value}})
		if got < 0 || got > maxRetryAfter {
			t.Fatalf("%q: got %v, want 0 to %v", value, got, maxRetryAfter)
		}
		if seconds, err := strconv.ParseUint(value, 10, 16); err == nil && time.Duration(seconds)*time.Second <= maxRetryAfter && got != time.Duration(seconds)*time.Second {
			t.Fatalf("%q: got %v", value, got)
		}
	})
}
