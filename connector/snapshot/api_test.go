package snapshot

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// TestAPI_FollowsNoRedirect: whoever is redirected to is not Clerk.
func TestAPI_FollowsNoRedirect(t *testing.T) {
	t.Parallel()
	a := newAPI(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/users" {
			http.Redirect(w, r, "https://elsewhere.test/users", http.StatusFound)
			return
		}
		body(w, `[{"id":"user_1","created_at":1}]`)
	}), 10)
	if p, err := a.oldest(t.Context(), "", ""); err == nil || len(p.rows) != 0 {
		t.Errorf("list: got %d rows, %v; want an error", len(p.rows), err)
	}
	if n := a.transport.(*direct).seen("/"); n != 1 {
		t.Errorf("got %d requests, want 1", n)
	}
}

// TestAPI_ErrorsQuoteNothing: neither what stands where Clerk's codes do, nor
// the address, which names a user, gets into an error.
func TestAPI_ErrorsQuoteNothing(t *testing.T) {
	t.Parallel()
	a := newAPI(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"errors":[{"code":"` + secret + `","message":"` + secret + `"}],"clerk_trace_id":"` + secret + `"}`))
	}), 10)
	if _, _, _, err := a.user(t.Context(), "user_1"); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("user: got %v, want an error without what the answer holds", err)
	}
	a.transport, a.cfg.MaxAttempts = unreachable{}, 1
	if _, _, _, err := a.user(t.Context(), "user_1"); err == nil || strings.Contains(err.Error(), "user_1") {
		t.Errorf("user: got %v, want an error without the address", err)
	}
}

// unreachable is a network that is down.
type unreachable struct{}

func (unreachable) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no route")
}

// TestAPI_KeepsToTheLimiter: no request is made that the limiter does not allow.
func TestAPI_KeepsToTheLimiter(t *testing.T) {
	t.Parallel()
	a := newAPI(&fakeUsers{}, 10)
	a.limiter = rate.NewLimiter(rate.Every(time.Hour), 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // the second would have to wait for longer
	defer cancel()
	_, _, first := a.count(ctx)
	_, _, second := a.count(ctx)
	if first != nil || second == nil || a.transport.(*direct).seen("/") != 1 {
		t.Errorf("got %v and %v after %d requests, want one request", first, second, a.transport.(*direct).seen("/"))
	}
}

// TestAPI_GivesUpARequest that is not answered.
func TestAPI_GivesUpARequest(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	a := newAPI(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), 10)
	a.cfg.RequestTimeout, a.cfg.MaxAttempts = 50*time.Millisecond, 1
	if _, _, err := a.count(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("count: got %v, %v; want that it gives up by itself", err, ctx.Err())
	}
}
