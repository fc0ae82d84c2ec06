package rest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"clerkconnect/sinks"
	"clerkconnect/sinks/rest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// now is the time of all tests.
var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

const secret = "ada@example.com"

func client(t *testing.T, handler http.HandlerFunc, change ...func(*rest.Config)) *rest.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	cfg := rest.Config{
		BaseURL: server.URL, Header: http.Header{"Authorization": {"Bearer key"}}, Clock: func() time.Time { return now },
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := rest.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	t.Cleanup(c.Close)
	return c
}

// request has personal data wherever there is room for it.
func request() rest.Request {
	return rest.Request{
		Name: "write contact", Method: http.MethodPost, Path: "/contacts/" + url.PathEscape(secret),
		Query: url.Values{"email": {secret}}, Body: map[string]string{"email": secret},
	}
}

func TestDo_ClassifiesStatuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		header string // name: value
		class  sinks.Class
		reason sinks.Reason
		after  time.Duration
	}{
		"request timeout":           {status: 408, class: sinks.ClassRetry, reason: sinks.ReasonTimeout},
		"too early":                 {status: 425, class: sinks.ClassRetry, reason: sinks.ReasonUnavailable},
		"rate limit":                {status: 429, class: sinks.ClassRetry, reason: sinks.ReasonRateLimited},
		"rate limit, seconds":       {status: 429, header: "Retry-After: 7", class: sinks.ClassRetry, reason: sinks.ReasonRateLimited, after: 7 * time.Second},
		"rate limit, part":          {status: 429, header: "Retry-After: 0.5", class: sinks.ClassRetry, reason: sinks.ReasonRateLimited, after: time.Second / 2},
		"rate limit, date":          {status: 429, header: "Retry-After: Wed, 25 Nov 2026 12:00:42 GMT", class: sinks.ClassRetry, reason: sinks.ReasonRateLimited, after: 42 * time.Second},
		"rate limit, past":          {status: 429, header: "Retry-After: Wed, 25 Nov 2026 11:00:42 GMT", class: sinks.ClassRetry, reason: sinks.ReasonRateLimited},
		"rate limit, nonsense":      {status: 429, header: "Retry-After: soon", class: sinks.ClassRetry, reason: sinks.ReasonRateLimited},
		"rate limit, huge":          {status: 429, header: "Retry-After: 1e30", class: sinks.ClassRetry, reason: sinks.ReasonRateLimited, after: time.Hour},
		"rate limit, reset":         {status: 429, header: "X-RateLimit-Reset: 1795608009", class: sinks.ClassRetry, reason: sinks.ReasonRateLimited, after: 9 * time.Second},
		"rate limit, reset in":      {status: 429, header: "RateLimit-Reset: 3", class: sinks.ClassRetry, reason: sinks.ReasonRateLimited, after: 3 * time.Second},
		"rate limit, Brevo's reset": {status: 429, header: "x-sib-ratelimit-reset: 4", class: sinks.ClassRetry, reason: sinks.ReasonRateLimited, after: 4 * time.Second},
		"internal":                  {status: 500, class: sinks.ClassRetry, reason: sinks.ReasonUnavailable},
		"unavailable, seconds":      {status: 503, header: "Retry-After: 9", class: sinks.ClassRetry, reason: sinks.ReasonUnavailable, after: 9 * time.Second},
		"no key":                    {status: 401, class: sinks.ClassFatal, reason: sinks.ReasonUnauthorized},
		"no right":                  {status: 403, class: sinks.ClassFatal, reason: sinks.ReasonUnauthorized},
		"redirect":                  {status: 302, header: "Location: /elsewhere", class: sinks.ClassFatal, reason: sinks.ReasonMisconfigured},
		"bad":                       {status: 400, class: sinks.ClassPermanent, reason: sinks.ReasonInvalidRecord},
		"not there":                 {status: 404, class: sinks.ClassPermanent, reason: sinks.ReasonInvalidRecord},
		"conflict":                  {status: 409, class: sinks.ClassPermanent, reason: sinks.ReasonConflict},
		"too large":                 {status: 413, class: sinks.ClassPermanent, reason: sinks.ReasonTooLarge},
		"invalid":                   {status: 422, class: sinks.ClassPermanent, reason: sinks.ReasonInvalidRecord},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := client(t, func(w http.ResponseWriter, _ *http.Request) {
				if key, value, ok := strings.Cut(test.header, ": "); ok {
					w.Header().Set(key, value)
				}
				w.WriteHeader(test.status)
				fmt.Fprintf(w, `{"code":"invalid_email","message":"%s is taken"}`, secret)
			})
			_, err := c.Do(t.Context(), request())
			got := sinks.Classify(err)
			if err == nil || got.Class != test.class || got.Reason != test.reason || got.After != test.after {
				t.Errorf("Do: got %v after %s, want %s (%s) after %s", err, got.After, test.reason, test.class, test.after)
			}
			want := fmt.Sprintf("%s (%s): write contact: HTTP %d invalid_email", test.reason, test.class, test.status)
			if err.Error() != want {
				t.Errorf("Do: got the text %q, want %q", err, want)
			}
		})
	}
}

func TestDo_Accepts(t *testing.T) {
	t.Parallel()
	c := client(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) })
	r := request()
	r.Accept = []int{404}
	if answer, err := c.Do(t.Context(), r); err != nil || answer.Status != 404 {
		t.Errorf("Do with 404 accepted: got %d, %v", answer.Status, err)
	}
}

// A page of a proxy is no word of the tool's: believed, it would be a user who was
// never written, or an erasure that was never made.
func TestDo_PageInPlaceOfTheTool(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		body   string
		pages  bool
		class  sinks.Class
		ok     bool
	}{
		"success":              {status: 200, body: "<!DOCTYPE html><html>" + secret},
		"success, spaces":      {status: 200, body: "\ufeff\r\n <HTML lang=en>"},
		"accepted":             {status: 410, body: "<html>gone"},
		"nothing at that path": {status: 404, body: "<html>404"},
		"method not allowed":   {status: 405, body: "<html>405"},
		"refused":              {status: 400, body: "<html>400", class: sinks.ClassPermanent},
		"forbidden":            {status: 403, body: "<html>403", class: sinks.ClassFatal},
		"unavailable":          {status: 502, body: "<html>502"},
		"a service's own page": {status: 200, body: "<html>done", pages: true, ok: true},
		"its own 404":          {status: 404, body: "<html>404", pages: true, class: sinks.ClassPermanent},
		"other text":           {status: 200, body: "OK", ok: true},
		"nothing":              {status: 204, ok: true},
		"JSON about pages":     {status: 200, body: `{"a":"<html>"}`, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := client(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
			}, func(cfg *rest.Config) { cfg.Pages = test.pages })
			r := request()
			r.Accept = []int{410}
			_, err := c.Do(t.Context(), r)
			if (err == nil) != test.ok || err != nil && sinks.Classify(err).Class != test.class || err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("Do: got %v, want success %v or %s", err, test.ok, test.class)
			}
		})
	}
}

func TestDo_ToolHasTheFirstWord(t *testing.T) {
	t.Parallel()
	throttled := func(f rest.Failure) error {
		if f.Status == 403 && len(f.Body) == 0 {
			return sinks.RetryAfter(sinks.ReasonRateLimited, time.Minute, f.Err())
		}
		return nil
	}
	body := ""
	c := client(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(403)
		io.WriteString(w, body)
	}, func(cfg *rest.Config) { cfg.Classify = throttled })
	if _, err := c.Do(t.Context(), request()); sinks.Classify(err).Reason != sinks.ReasonRateLimited {
		t.Errorf("Do: got %v, want what the tool says", err)
	}
	body = "{}"
	if _, err := c.Do(t.Context(), request()); sinks.Classify(err).Class != sinks.ClassFatal {
		t.Errorf("Do: got %v, want the usual rule", err)
	}
}

func TestDo_QuotesCodesOnly(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"code":"rate_limited"}`:                                     "rate_limited",
		`{"category":"VALIDATION_ERROR","message":"x"}`:               "VALIDATION_ERROR",
		`{"title":"Invalid Resource"}`:                                "Invalid_Resource",
		`[{"errorCode":"INVALID_FIELD","message":"x"}]`:               "INVALID_FIELD",
		`{"type":"error.list","errors":[{"code":"not_found"}]}`:       "not_found",
		`{"code":"` + secret + `"}`:                                   "",
		`{"code":42,"title":"Member Exists"}`:                         "Member_Exists",
		`{"title":"Your Campaign <b>` + secret + `</b>"}`:             "",
		`{"code":"` + strings.Repeat("a", 100) + `"}`:                 "",
		`no JSON, ` + secret:                                          "",
		`{"errors":[{"message":"` + secret + `"}],"code":"whatever"}`: "whatever",
	} {
		c := client(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(400)
			io.WriteString(w, body)
		})
		_, err := c.Do(t.Context(), request())
		var status *rest.StatusError
		if !errors.As(err, &status) || status.Code != want || strings.Contains(err.Error(), secret) {
			t.Errorf("Do of %s: got %v, want the code %q", body, err, want)
		}
	}
}

func TestDo_WithoutAnAnswer(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		change  func(*rest.Config)
		ctx     func(*testing.T) context.Context
		reason  sinks.Reason
	}{
		"refused": {change: func(cfg *rest.Config) { cfg.BaseURL = "http://" + closed.Addr().String() }, reason: sinks.ReasonUnavailable},
		"reset": {handler: func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.Close()
		}, reason: sinks.ReasonUnavailable},
		"nonsense": {handler: func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			io.WriteString(conn, "HELO "+secret+"\r\n\r\n")
			conn.Close()
		}, reason: sinks.ReasonUnavailable},
		"cut": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, secret)
		}, reason: sinks.ReasonUnavailable},
		"too long": {handler: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat("x", 101)) },
			change: func(cfg *rest.Config) { cfg.MaxAnswer = 100 }, reason: sinks.ReasonUnavailable},
		"silent": {handler: func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}, change: func(cfg *rest.Config) { cfg.Timeout = 20 * time.Millisecond }, reason: sinks.ReasonTimeout},
		"canceled": {handler: func(http.ResponseWriter, *http.Request) {}, ctx: func(t *testing.T) context.Context {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx
		}, reason: sinks.ReasonUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			change, ctx := test.change, t.Context()
			if change == nil {
				change = func(*rest.Config) {}
			}
			if test.ctx != nil {
				ctx = test.ctx(t)
			}
			c := client(t, test.handler, change)
			_, err := c.Do(ctx, request())
			got := sinks.Classify(err)
			if err == nil || got.Class != sinks.ClassRetry || got.Reason != test.reason {
				t.Errorf("Do: got %v, want %s (retry)", err, test.reason)
			}
			if strings.Contains(fmt.Sprint(err), "ada") || strings.Contains(fmt.Sprint(err), "contacts/") {
				t.Errorf("Do: the error quotes the request or the answer: %v", err)
			}
		})
	}
}

func TestDecode_OfWhatIsNoJSON(t *testing.T) {
	t.Parallel()
	err := rest.Answer{Status: 200, Body: []byte("<html>" + secret)}.Decode(&struct{}{})
	if got := sinks.Classify(err); got.Class != sinks.ClassRetry || strings.Contains(err.Error(), secret) {
		t.Errorf("Decode: got %v, want an error that is retried and quotes nothing", err)
	}
}

func TestDecode_Members(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]bool{
		`{"id":"1"}`: true, `{"id":0}`: true, `{"id":[]}`: true, `{}`: false, `{"id":null}`: false, `{"id":""}`: false,
		`{"error":"` + secret + `"}`: false, `null`: false, `{"id": "1`: false,
	} {
		err := rest.Answer{Status: 200, Body: []byte(body)}.Decode(&struct{}{}, "id")
		if (err == nil) != want || err != nil && (sinks.Classify(err).Reason != sinks.ReasonUnavailable || strings.Contains(err.Error(), secret)) {
			t.Errorf("Decode of %s with id: got %v, want success %v", body, err, want)
		}
	}
}

func TestDo_Sends(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body string
	c := client(t, func(_ http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		got, body = r, string(text)
	}, func(cfg *rest.Config) {
		cfg.Authorize = func(_ context.Context, header http.Header) error {
			header.Set("X-Token", "fresh")
			return nil
		}
	})
	r := request()
	r.Header = http.Header{"x-version": {"2"}}
	if _, err := c.Do(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if got.URL.EscapedPath() != "/contacts/ada@example.com" || got.URL.Query().Get("email") != secret || body != `{"email":"ada@example.com"}` {
		t.Errorf("got %s and the body %s", got.URL, body)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer key", "X-Token": "fresh", "X-Version": "2", "Content-Type": "application/json", "Accept": "application/json",
	} {
		if got.Header.Get(name) != want {
			t.Errorf("header %s: got %q, want %q", name, got.Header.Get(name), want)
		}
	}
	r.Body = rest.Form{"a": {"b c"}}
	if _, err := c.Do(t.Context(), r); err != nil || body != "a=b+c" || got.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		t.Errorf("a form: got %q as %q, %v", body, got.Header.Get("Content-Type"), err)
	}
}

// pacer is one that lets nothing through when it is shut, and notes what it
// hears.
type pacer struct {
	waits     atomic.Int64
	shut      error
	remaining int
	reset     time.Duration
	slept     time.Duration
}

func (p *pacer) Wait(context.Context) error {
	p.waits.Add(1)
	return p.shut
}

func (p *pacer) Heed(remaining int, reset time.Duration) { p.remaining, p.reset = remaining, reset }

func (p *pacer) Sleep(_ context.Context, d time.Duration) error {
	p.slept += d
	return p.shut
}

func TestDo_GoesThroughThePacer(t *testing.T) {
	t.Parallel()
	requests := 0
	c := client(t, func(w http.ResponseWriter, _ *http.Request) {
		requests++
		w.Header().Set("X-RateLimit-Remaining", "17")
		w.Header().Set("X-RateLimit-Reset", "1795608009")
	})
	p := &pacer{}
	c.Pace(p)
	for range 3 {
		if _, err := c.Do(t.Context(), request()); err != nil {
			t.Fatal(err)
		}
	}
	if p.waits.Load() != 3 || p.remaining != 17 || p.reset != 9*time.Second {
		t.Errorf("3 requests: %d waits, heeded %d within %s, want 3, 17 and 9s", p.waits.Load(), p.remaining, p.reset)
	}
	p.shut = context.Canceled
	if _, err := c.Do(t.Context(), request()); sinks.Classify(err).Class != sinks.ClassRetry || requests != 3 {
		t.Errorf("with a pacer that gives up: got %v and %d requests, want an error that is retried and no further request", err, requests)
	}
	if err := c.Sleep(t.Context(), time.Hour); sinks.Classify(err).Class != sinks.ClassRetry || p.slept != time.Hour {
		t.Errorf("a sleep that ends early: got %v of %s, want an error that is retried, of the pacer's", err, p.slept)
	}
}

func TestSleep_WithoutPacer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, err := rest.New(rest.Config{BaseURL: "https://api.example.com"})
		if err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		if err := c.Sleep(t.Context(), time.Hour); err != nil || time.Since(started) != time.Hour {
			t.Errorf("got %v after %s, want an hour", err, time.Since(started))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.Sleep(ctx, time.Hour); sinks.Classify(err).Class != sinks.ClassRetry || sinks.Classify(err).Reason != sinks.ReasonUnavailable {
			t.Errorf("with a context that has ended: got %v", err)
		}
	})
}

func TestDo_ReusesConnections(t *testing.T) {
	t.Parallel()
	connections := map[string]bool{}
	c := client(t, func(w http.ResponseWriter, r *http.Request) {
		connections[r.RemoteAddr] = true
		w.WriteHeader(400)
		io.WriteString(w, strings.Repeat("x", 10000))
	})
	for range 5 {
		if _, err := c.Do(t.Context(), request()); err == nil {
			t.Fatal("got nil, want an error")
		}
	}
	if len(connections) != 1 {
		t.Errorf("5 requests on %d connections, want 1", len(connections))
	}
}

func TestClose_RefusesUntilOpen(t *testing.T) {
	t.Parallel()
	c := client(t, func(http.ResponseWriter, *http.Request) {})
	c.Close()
	if _, err := c.Do(t.Context(), request()); err == nil {
		t.Error("Do after Close: got nil, want an error")
	}
	c.Open()
	if _, err := c.Do(t.Context(), request()); err != nil {
		t.Errorf("Do after Open: %v", err)
	}
}

func TestCheckBaseURL(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"https://api.example.com": true, "http://127.0.0.1:8080/v1": true,
		"": false, "api.example.com": false, "https://api.example.com/": false, "https://user:key@host": false, "https://host?a=b": false, "ftp://host": false,
	} {
		if err := rest.CheckBaseURL(text); (err == nil) != ok {
			t.Errorf("CheckBaseURL(%q): got %v", text, err)
		}
	}
	if _, err := rest.New(rest.Config{}); err == nil {
		t.Error("New without a base URL: got nil, want an error")
	}
}
