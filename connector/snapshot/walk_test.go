package snapshot

import (
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"clerkconnect/connector"
	"clerkconnect/connector/clerk"
	"clerkconnect/connector/clerksim"
	"clerkconnect/schemas"
)

func TestRun_WalksAllUsersOnce(t *testing.T) {
	onBoth(t, clerksim.Config{Users: 237, Seed: 1}, walksAllUsersOnce)
}

func walksAllUsersOnce(t *testing.T, h *harness) {
	if _, err := topicsPin(t, h); err != nil {
		t.Fatal(err)
	}
	p := h.run(t)
	offset := h.finished(t, "initial")
	if offset.Users != 237 || offset.Total != 237 || offset.StartedAt == 0 || offset.LastCompleted != offset.StartedAt || offset.FinishedAt < offset.StartedAt {
		t.Errorf("SourceOffset: got %+v", offset)
	}
	l := h.log(t)
	h.hasAll(t, l)
	for id, events := range l.events {
		e := events[0]
		if len(events) != 1 || e.Origin != schemas.OriginSnapshot || e.Operation != schemas.EventUpsert || e.EventID != "snapshot/"+offset.Snapshot+"/"+id ||
			e.Snapshot == nil || *e.Snapshot != offset.Snapshot || e.IfVersion != nil || e.InstanceID != h.sim.InstanceID() || e.PolicyHash != h.policy.Hash() ||
			e.StatedAt > e.ReceivedAt-59_000 || e.StatedAt < e.ReceivedAt-70_000 {
			t.Fatalf("events of %s: got %d, first %+v", id, len(events), e)
		}
	}
	if l.ticks[offset.Snapshot] != partitions {
		t.Errorf("ticks: got %v, want %d of %s", l.ticks, partitions, offset.Snapshot)
	}
	eventually(t, "idle", func() bool { return p.Progress().Phase == PhaseIdle })
	if got := p.metric(t, "snapshot_rows_total", "written"); got != 237 {
		t.Errorf("snapshot_rows_total: got %v, want 237", got)
	}
	if p.metric(t, "snapshot_last_success_timestamp_seconds") == 0 || p.metric(t, "snapshot_owner") != 1 {
		t.Error("metrics: the success or the ownership is missing")
	}
	p.stop(t)

	again := h.run(t)
	eventually(t, "idle", func() bool { return again.Progress().Phase == PhaseIdle })
	if n := again.api.seen("/"); n != 0 {
		t.Errorf("second start: got %d requests, want none", n)
	}
}

// TestRun_GoesOnFromTheCheckpoint kills the task after the third page is
// written and before its checkpoint is.
func TestRun_GoesOnFromTheCheckpoint(t *testing.T) {
	t.Parallel()
	h := newHarness(t, clerksim.Config{Users: 95, Seed: 2})
	var before connector.SourceOffset
	first := h.process(t, func(p *process, _ *Config, _ *Dependencies) {
		p.writer.before = func(_ string, value any) error {
			if offset, ok := value.(connector.SourceOffset); ok {
				if offset.Users == 30 {
					p.kill(errors.New("killed"))
					return errors.New("killed")
				}
				before = offset
			}
			return nil
		}
	}).start(t)
	<-first.ctx.Done()
	first.stop(t)
	if before.Users != 20 || len(h.log(t).events) != 30 {
		t.Fatalf("before the restart: %d users at the checkpoint, %d written; want 20 and 30", before.Users, len(h.log(t).events))
	}
	second := h.run(t)
	offset := h.finished(t, "initial")
	if offset.Snapshot != before.Snapshot || offset.Users != 95 {
		t.Errorf("SourceOffset: got %+v, want it to go on from %+v", offset, before)
	}
	h.hasAll(t, h.log(t))
	if second.api.seen("/count") != 0 || second.api.seen("starting_after="+before.After) != 1 {
		t.Errorf("requests after the restart: %v", second.api.requests)
	}
}

// ignoringCursor is an API that answers a cursor whose user is gone with the
// first page, as if there were none.
func ignoringCursor(sim *clerksim.Instance) http.Handler {
	real := sim.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		if after := query.Get("starting_after"); after != "" {
			if _, exists := sim.Truth()[after]; !exists {
				query.Del("starting_after")
				r.URL.RawQuery = query.Encode()
			}
		}
		real.ServeHTTP(w, r)
	})
}

// failingCursor is an API that breaks on a cursor whose user is gone.
func failingCursor(sim *clerksim.Instance) http.Handler {
	real := sim.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if after := r.URL.Query().Get("starting_after"); after != "" {
			if _, exists := sim.Truth()[after]; !exists {
				http.Error(w, "<html>oops</html>", http.StatusInternalServerError)
				return
			}
		}
		real.ServeHTTP(w, r)
	})
}

func TestRun_SurvivesTheCursorsUserBeingDeleted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mode clerksim.CursorMode
		wrap func(*clerksim.Instance) http.Handler
	}{
		"422":         {mode: clerksim.CursorUnprocessable},
		"404":         {mode: clerksim.CursorNotFound},
		"empty page":  {mode: clerksim.CursorEmptyPage},
		"keeps place": {mode: clerksim.CursorKeepsPlace},
		"first page":  {wrap: ignoringCursor},
		"500":         {wrap: failingCursor},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, clerksim.Config{Users: 64, Seed: 3, DeletedCursor: test.mode})
			deleted := 0
			h.process(t, func(p *process, _ *Config, _ *Dependencies) {
				if test.wrap != nil {
					p.api.handler = test.wrap(h.sim)
				}
				p.writer.before = func(_ string, value any) error {
					if offset, ok := value.(connector.SourceOffset); ok && offset.After != "" && offset.FinishedAt == 0 {
						if err := h.sim.Delete(offset.After); err != nil {
							t.Error(err)
						}
						deleted++
					}
					return nil
				}
			}).start(t)
			h.finished(t, "initial")
			if deleted < 6 {
				t.Errorf("deleted %d cursors, want one a page", deleted)
			}
			h.hasAll(t, h.log(t))
		})
	}
}

// flaky answers each request badly some times before it lets it through.
func flaky(real http.Handler, times int, bad http.HandlerFunc) http.Handler {
	var n atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%int64(times+1) != 0 {
			bad(w, r)
			return
		}
		real.ServeHTTP(w, r)
	})
}

const secret = "ada.lovelace@example.com"

func TestRun_RetriesWhatCanBeRetried(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]http.HandlerFunc{
		"502 HTML": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>"+secret, http.StatusBadGateway) },
		"503 Clerk": func(w http.ResponseWriter, _ *http.Request) {
			clerkError(w, http.StatusServiceUnavailable, "maintenance")
		},
		"200 HTML":       func(w http.ResponseWriter, _ *http.Request) { body(w, "<html>"+secret) },
		"200 empty":      func(w http.ResponseWriter, _ *http.Request) { body(w, "") },
		"truncated JSON": func(w http.ResponseWriter, _ *http.Request) { body(w, `[{"id":"user_1","name":"`+secret) },
		"aborted":        func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, clerksim.Config{Users: 25, Seed: 4})
			p := h.process(t, func(p *process, _ *Config, deps *Dependencies) {
				server := httptest.NewServer(flaky(h.sim.Handler(), 2, bad))
				t.Cleanup(server.Close)
				deps.Transport = &toServer{server}
			}).start(t)
			h.finished(t, "initial")
			h.hasAll(t, h.log(t))
			if strings.Contains(p.logs.String(), secret) {
				t.Errorf("logs hold an answer's body: %s", p.logs)
			}
		})
	}
}

// toServer sends requests for any host to a test server.
type toServer struct{ server *httptest.Server }

func (s *toServer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", s.server.Listener.Addr().String()
	return s.server.Client().Transport.RoundTrip(r)
}

func clerkError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
	w.WriteHeader(status)
	_, _ = w.Write([]byte(`{"errors":[{"message":"` + secret + `","long_message":"x","code":"` + code + `"}],"clerk_trace_id":"0f3a"}`))
}

func body(w http.ResponseWriter, text string) {
	w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
	_, _ = w.Write([]byte(text))
}

func TestRun_WaitsWhenClerkLimitsTheRate(t *testing.T) {
	t.Parallel()
	h := newHarness(t, clerksim.Config{Users: 25, Seed: 5})
	p := h.process(t, func(p *process, cfg *Config, _ *Dependencies) {
		cfg.MaxAttempts = 1 // an answer of 429 is no attempt
		p.api.handler = flaky(h.sim.Handler(), 2, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "0")
			clerkError(w, http.StatusTooManyRequests, "too_many_requests")
		})
	}).start(t)
	h.finished(t, "initial")
	h.hasAll(t, h.log(t))
	if p.metric(t, "clerk_throttled_seconds_total") <= 0 || p.metric(t, "clerk_requests_total", "429") == 0 || p.metric(t, "snapshot_failures_total") != 0 {
		t.Error("metrics: throttling must be counted, and not as a failure")
	}
}

// TestRun_OutlivesAnOutage has every request fail until the test ends that.
func TestRun_OutlivesAnOutage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		code   string
		ready  error
	}{
		"down":        {http.StatusServiceUnavailable, "maintenance", nil},
		"key refused": {http.StatusUnauthorized, "clerk_key_invalid", errRefused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, clerksim.Config{Users: 15, Seed: 6})
			var up atomic.Bool
			p := h.process(t, func(p *process, _ *Config, _ *Dependencies) {
				real := p.api.handler
				p.api.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if up.Load() {
						real.ServeHTTP(w, r)
						return
					}
					clerkError(w, test.status, test.code)
				})
			}).start(t)
			eventually(t, "two failures", func() bool { return p.metric(t, "snapshot_failures_total") >= 2 })
			if err := p.Ready(); !errors.Is(err, test.ready) {
				t.Errorf("Ready: got %v, want %v", err, test.ready)
			}
			if logs := p.logs.String(); !strings.Contains(logs, test.code) || strings.Contains(logs, secret) || strings.Contains(logs, testKey) {
				t.Errorf("logs: want Clerk's code and neither its text nor the key: %s", logs)
			}
			up.Store(true)
			h.finished(t, "initial")
			h.hasAll(t, h.log(t))
			eventually(t, "ready", func() bool { return p.Ready() == nil })
		})
	}
}

// TestRun_SaysThatClerkFails while it still tries: all attempts of one request
// take minutes.
func TestRun_SaysThatClerkFails(t *testing.T) {
	t.Parallel()
	h := newHarness(t, clerksim.Config{Users: 1, Seed: 6})
	p := h.process(t, func(p *process, cfg *Config, _ *Dependencies) {
		cfg.MaxAttempts = math.MaxInt32
		p.api.handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			clerkError(w, http.StatusServiceUnavailable, "maintenance")
		})
	}).start(t)
	eventually(t, "a warning", func() bool {
		return strings.Contains(p.logs.String(), `msg="request to Clerk failed; trying again"`) && strings.Contains(p.logs.String(), "503 maintenance")
	})
	if p.metric(t, "snapshot_failures_total") != 0 {
		t.Error("the request was given up: the warning is to come before that")
	}
}

func TestRun_GoesOnAfterARowThatCannotBeUnderstood(t *testing.T) {
	t.Parallel()
	h := newHarness(t, clerksim.Config{Users: 25, Seed: 7})
	p := h.process(t, func(p *process, cfg *Config, _ *Dependencies) {
		cfg.PageSize = 100
		real := p.api.handler
		p.api.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/users" || strings.Contains(r.URL.RawQuery, "starting_after") || strings.Contains(r.URL.RawQuery, "limit=1&") {
				real.ServeHTTP(w, r)
				return
			}
			recorder := httptest.NewRecorder()
			real.ServeHTTP(recorder, r)
			w.Header().Set("Date", recorder.Header().Get("Date"))
			odd := `[{"id":"user_odd","created_at":1,"updated_at":"` + secret + `"},{"created_at":2},` +
				`{"id":"user_ahead","created_at":3,"updated_at":99999999999999},`
			_, _ = w.Write([]byte(odd + strings.TrimPrefix(recorder.Body.String(), "[")))
		})
	}).start(t)
	h.finished(t, "initial")
	l := h.log(t)
	h.hasAll(t, l)
	if len(l.letters) != 2 || schemas.Header(l.letters[0].Headers, "dlq-sha256") == "" {
		t.Errorf("dead letters: got %d, want 2", len(l.letters))
	}
	for _, letter := range l.letters {
		if letter.Value != nil || strings.Contains(string(letter.Key), "user_odd") {
			t.Errorf("dead letter: got key %s, value %q; want no content", letter.Key, letter.Value)
		}
	}
	if strings.Contains(p.logs.String(), secret) || strings.Contains(p.logs.String(), "user_odd") {
		t.Errorf("logs hold content: %s", p.logs)
	}
	if wish := h.state(t)["reread/user_ahead"]; !strings.Contains(wish, `"reason":"clock_ahead"`) {
		t.Errorf("re-read of a user whose time is ahead: got %q", wish)
	}
}

func TestRun_PolicyChangeNeedsANewWalk(t *testing.T) {
	t.Parallel()
	h := newHarness(t, clerksim.Config{Users: 12, Seed: 8})
	p := h.run(t)
	first := h.finished(t, "initial")
	p.stop(t)
	h.policy = newPolicy(t, clerk.PolicyConfig{Include: []string{"phone_numbers"}})
	h.run(t)
	second := h.finished(t, "policy")
	if second.Snapshot == first.Snapshot || second.PolicyHash != h.policy.Hash() || second.Users != 12 {
		t.Errorf("SourceOffset: got %+v after %+v", second, first)
	}
}
