package resttest

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Config says what a [Server] plays.
type Config struct {
	// Tool answers as the tool does: its state and its rules.
	Tool http.Handler
	// Contract is the vendor's description; nil: there is none.
	Contract *Contract
	// Recorded says which answers are held against which recorded ones.
	Recorded []Recording
	// Limits are the tool's rate limits. A request beyond one is answered by
	// TooMany and not carried out.
	Limits []Limit
	// TooMany writes the tool's answer to a request beyond the limit, which is
	// allowed again after wait; nil: 429 with Retry-After in whole seconds.
	TooMany func(w http.ResponseWriter, wait time.Duration)
	// Quota, if set, writes the headers that tell what is left of Limits[0].
	Quota func(header http.Header, remaining int)
	// Clock times the limits; nil: the real one.
	Clock *Clock
}

// Server plays a tool. Safe for concurrent use.
type Server struct {
	// URL is the base URL to configure.
	URL string

	t        testing.TB
	cfg      Config
	meters   []*meter
	sky      sky
	cut      atomic.Bool
	revoked  atomic.Bool
	page     atomic.Bool
	requests atomic.Int64
	mu       sync.Mutex
	kinds    map[string]int // requests by method and status
	http     *httptest.Server
}

// NewServer starts a server that ends with t.
func NewServer(t testing.TB, cfg Config) *Server {
	if cfg.TooMany == nil {
		cfg.TooMany = tooMany
	}
	s := &Server{t: t, cfg: cfg, kinds: map[string]int{}}
	for _, limit := range cfg.Limits {
		s.meters = append(s.meters, &meter{Limit: limit})
	}
	s.http = httptest.NewServer(s)
	s.URL = s.http.URL
	t.Cleanup(func() {
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

// RetryAfter renders a wait for the header of that name: whole seconds, rounded
// up.
func RetryAfter(wait time.Duration) string {
	return strconv.Itoa(int((wait + time.Second - 1) / time.Second))
}

func tooMany(w http.ResponseWriter, wait time.Duration) {
	w.Header().Set("Retry-After", RetryAfter(wait))
	w.WriteHeader(http.StatusTooManyRequests)
}

// Requests returns how many requests have come, failed ones too.
func (s *Server) Requests() int { return int(s.requests.Load()) }

// Answers returns how many requests were answered how, by method and status, as
// "POST 200"; "POST reset" for connections that were reset.
func (s *Server) Answers() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.kinds)
}

// Share returns how much of the tool's tightest limit the busiest window has
// used, 0 to 1; 0 if there is no limit.
func (s *Server) Share() float64 {
	share := 0.0
	for _, m := range s.meters {
		share = max(share, m.share())
	}
	return share
}

// SetWeather has failures strike from now on. The zero value ends them.
func (s *Server) SetWeather(w Weather) { s.sky.set(w) }

// Cut resets every connection, and each new one, until restore is called.
func (s *Server) Cut() (restore func()) {
	s.cut.Store(true)
	return func() { s.cut.Store(false) }
}

// Revoke has the credentials of the sink be refused until restore is called. The
// tool has to ask for it, see [Server.Revoked]: its answer is its own.
func (s *Server) Revoke() (restore func()) {
	s.revoked.Store(true)
	return func() { s.revoked.Store(false) }
}

// Revoked reports whether credentials that were right are to be refused.
func (s *Server) Revoked() bool { return s.revoked.Load() }

// Page has every request answered by a web page with status 200, as something
// before the tool does, until restore is called.
func (s *Server) Page() (restore func()) {
	s.page.Store(true)
	return func() { s.page.Store(false) }
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client hung up
	}
	fate := s.sky.draw()
	if s.cut.Load() {
		fate = reset
	}
	switch {
	case s.page.Load():
		page := httptest.NewRecorder()
		page.Header().Set("Content-Type", "text/html")
		page.WriteString("<!DOCTYPE html><html><title>We will be back soon</title></html>") //nolint:errcheck // to a recorder
		s.answer(w, r, page)
		return
	case fate == reset:
		s.reset(w, r)
		return
	case fate == unavailable:
		s.answer(w, r, failing(http.StatusServiceUnavailable))
		return
	case fate == limited:
		answer := httptest.NewRecorder()
		s.cfg.TooMany(answer, time.Second)
		s.compare(r, answer)
		s.answer(w, r, answer)
		return
	}
	answer := s.serve(r, body)
	switch fate {
	case resetAfter:
		s.reset(w, r)
	case unavailableAfter:
		s.answer(w, r, failing(http.StatusServiceUnavailable))
	default:
		s.answer(w, r, answer)
	}
}

// serve carries a request out, unless it is beyond a limit.
func (s *Server) serve(r *http.Request, body []byte) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	for i, m := range s.meters {
		if m.Path != nil && !m.Path.MatchString(r.Method+" "+r.URL.Path) {
			continue
		}
		wait, remaining := m.take(s.cfg.Clock.Now())
		if s.cfg.Quota != nil && i == 0 {
			s.cfg.Quota(answer.Header(), remaining)
		}
		if wait > 0 {
			s.cfg.TooMany(answer, wait)
			s.compare(r, answer)
			return answer
		}
	}
	if s.cfg.Contract != nil {
		if err := s.cfg.Contract.checkRequest(r, body); err != nil {
			s.t.Errorf("request %s %s: %v", r.Method, r.URL.Path, err)
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	s.cfg.Tool.ServeHTTP(answer, r)
	if s.cfg.Contract != nil {
		if err := s.cfg.Contract.checkAnswer(r, answer); err != nil {
			s.t.Errorf("the imitation's answer to %s %s: %v", r.Method, r.URL.Path, err)
		}
	}
	s.compare(r, answer)
	return answer
}

// compare holds an answer against what was recorded.
func (s *Server) compare(r *http.Request, answer *httptest.ResponseRecorder) {
	for _, recording := range s.cfg.Recorded {
		if err := recording.check(r, answer); err != nil {
			s.t.Errorf("the imitation's answer to %s %s, held against %s: %v", r.Method, r.URL.Path, recording.Theirs, err)
		}
	}
}

func failing(status int) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	answer.WriteHeader(status)
	return answer
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, answer *httptest.ResponseRecorder) {
	s.count(r.Method + " " + strconv.Itoa(answer.Code))
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	w.Write(answer.Body.Bytes()) //nolint:errcheck // the client may have hung up
}

// reset ends the connection without an answer.
func (s *Server) reset(w http.ResponseWriter, r *http.Request) {
	s.count(r.Method + " reset")
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

func (s *Server) count(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kinds[kind]++
}
