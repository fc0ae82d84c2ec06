package resttest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// complaints is a testing.TB whose errors are kept.
type complaints struct {
	testing.TB
	mu   sync.Mutex
	list []string
}

func (c *complaints) Errorf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, fmt.Sprintf(format, args...))
}

// fixed answers every request with one status and body.
func fixed(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func send(t *testing.T, s *Server, method, path, body string) (int, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}

const (
	read      = "/crm/v3/objects/contacts/batch/read"
	goodRead  = `{"inputs":[{"id":"1"}],"properties":[],"propertiesWithHistory":[]}`
	goodReads = `{"status":"COMPLETE","results":[],"startedAt":"2026-02-17T19:23:18.703Z","completedAt":"2026-02-17T19:23:18.790Z"}`
)

func TestContract_CatchesWhatIsNotDescribed(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		method, path, request string
		status                int
		answer                string
		want                  string // in the complaint; "": none
	}{
		"right":                     {"POST", read, goodRead, 200, goodReads, ""},
		"path":                      {"POST", read + "s", goodRead, 200, goodReads, "does not know it"},
		"method":                    {"PUT", read, goodRead, 200, goodReads, "does not know it"},
		"listed as not described":   {"GET", "/crm/v3/properties/contacts", "", 200, "whatever", ""},
		"missing member":            {"POST", read, `{"inputs":[{"id":"1"}],"properties":[]}`, 200, goodReads, "propertiesWithHistory"},
		"wrong type":                {"POST", read, strings.Replace(goodRead, `"1"`, `1`, 1), 200, goodReads, "string"},
		"unknown member":            {"POST", read, strings.Replace(goodRead, `"inputs"`, `"idProp":"x","inputs"`, 1), 200, goodReads, `the member "idProp"`},
		"unknown member within":     {"POST", read, strings.Replace(goodRead, `"id"`, `"iD":"1","id"`, 1), 200, goodReads, `the member "iD"`},
		"no body":                   {"POST", read, "", 200, goodReads, "request"},
		"answer, missing member":    {"POST", read, goodRead, 200, `{"status":"COMPLETE","results":[]}`, "imitation's answer"},
		"answer, wrong value":       {"POST", read, goodRead, 200, strings.Replace(goodReads, "COMPLETE", "DONE", 1), "imitation's answer"},
		"answer, described failure": {"POST", read, goodRead, 400, `{"message":1}`, "imitation's answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			contract := LoadContract(t, "hubspot-crm-contacts-v3.json")
			contract.Undescribed = []string{"GET /crm/v3/properties/*"}
			c := &complaints{TB: t}
			s := NewServer(c, Config{Tool: fixed(test.status, test.answer), Contract: contract})
			if _, err := send(t, s, test.method, test.path, test.request); err != nil {
				t.Fatal(err)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			got := strings.Join(c.list, "\n")
			if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("complaints: got %q, want %q", got, test.want)
			}
		})
	}
}

// All descriptions that there are can be read, and answer for contacts.
func TestLoadContract_All(t *testing.T) {
	t.Parallel()
	for file, path := range map[string]string{
		"hubspot-crm-contacts-v3.json":        "/crm/v3/objects/contacts/12",
		"intercom-2.14.yaml":                  "/contacts/12",
		"resend.json":                         "/contacts/ada%40example.com",
		"sendgrid-marketing-contacts-v3.json": "/v3/marketing/contacts/12",
	} {
		r := httptest.NewRequest(http.MethodGet, "http://tool"+path, nil)
		if input, err := LoadContract(t, file).find(r); err != nil || input == nil {
			t.Errorf("%s: GET %s: got %v, %v, want an operation", file, path, input, err)
		}
	}
}

func TestRecorded_CatchesOtherShapes(t *testing.T) {
	t.Parallel()
	recording := Recorded(t, "POST /update/*", "hubspot.json", "POST /crm/v3/objects/CONTACT/batch/update", 200, "results[].properties")
	right := `{"status":"COMPLETE","results":[{"id":"1","properties":{"mine":"x"},"createdAt":"a","updatedAt":"b","archived":false}],"startedAt":"c","completedAt":"d"}`
	for name, test := range map[string]struct{ body, want string }{
		"right":          {right, ""},
		"another member": {strings.Replace(right, `"id"`, `"more":1,"id"`, 1), `the member "more", which was never recorded`},
		"a missing one":  {strings.Replace(right, `"createdAt":"a",`, "", 1), `lacks the member "createdAt"`},
		"another type":   {strings.Replace(right, `"id":"1"`, `"id":1`, 1), "answer.results[].id is number, recorded: string"},
		"no JSON":        {"<html>", "no JSON"},
		"nothing":        {"", "answer is string, recorded: object"},
	} {
		answer := httptest.NewRecorder()
		answer.WriteString(test.body)
		err := recording.check(httptest.NewRequest("POST", "/update/1", nil), answer)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
		if err := recording.check(httptest.NewRequest("POST", "/else/1", nil), answer); err != nil {
			t.Errorf("%s, another path: got %v", name, err)
		}
	}
}

func TestShape_OptionalMembers(t *testing.T) {
	t.Parallel()
	s := &Shape{}
	for _, text := range []string{`{"a":1,"list":[{"x":"1"},{"x":null,"y":2}]}`, `{"a":2,"b":"x","list":[]}`} {
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
		s.add(value)
	}
	for text, ok := range map[string]bool{
		`{"a":1,"list":[]}`: true, `{"a":1,"b":"y","list":[{"x":"2"}]}`: true, `{"a":1,"list":[{"x":null,"y":1}]}`: true,
		`{"b":"y","list":[]}`: false, `{"a":1}`: false, `{"a":1,"list":[{"y":1}]}`: false, `{"a":"1","list":[]}`: false, `[]`: false,
	} {
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
		if err := s.Compare(value, "answer"); (err == nil) != ok {
			t.Errorf("Compare of %s: got %v, want it to fit: %v", text, err, ok)
		}
	}
}

func TestServer_EnforcesLimits(t *testing.T) {
	t.Parallel()
	clock := NewClock(1)
	s := NewServer(t, Config{Tool: fixed(200, "{}"), Limits: []Limit{{Requests: 3, Window: time.Hour}}, Clock: clock})
	var got []int
	for range 5 {
		status, err := send(t, s, "GET", "/", "")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, status)
	}
	if fmt.Sprint(got) != "[200 200 200 429 429]" || s.Share() != 1 || s.Requests() != 5 {
		t.Errorf("5 requests with a limit of 3: got %v, share %v, %d requests", got, s.Share(), s.Requests())
	}
	if s.Answers()["GET 429"] != 2 {
		t.Errorf("Answers: got %v", s.Answers())
	}
}

func TestMeter_Slides(t *testing.T) {
	t.Parallel()
	m := &meter{Limit: Limit{Requests: 2, Window: 10 * time.Second}}
	start := time.Now()
	at := func(seconds int) time.Duration {
		wait, _ := m.take(start.Add(time.Duration(seconds) * time.Second))
		return wait / time.Second
	}
	got := []time.Duration{at(0), at(6), at(9), at(10), at(11), at(16)}
	if fmt.Sprint(got) != fmt.Sprint([]time.Duration{0, 0, 1, 0, 5, 0}) || m.share() != 1 {
		t.Errorf("waits: got %v, want 0 0 1 0 5 0", got)
	}
}

func TestServer_Weather(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	served := 0
	s := NewServer(t, Config{Tool: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		served++
	})})
	s.SetWeather(Weather{RateLimited: 0.2, Unavailable: 0.2, Reset: 0.2, Seed: 1})
	answered := 0
	for range 300 {
		if status, err := send(t, s, "POST", "/", "{}"); err == nil && status == 200 {
			answered++
		}
	}
	kinds := s.Answers()
	for _, kind := range []string{"POST 200", "POST 429", "POST 503", "POST reset"} {
		if kinds[kind] < 30 {
			t.Errorf("%s: %d of 300, want about a fifth or more", kind, kinds[kind])
		}
	}
	if lost := served - answered; lost < 30 || lost > 90 {
		t.Errorf("%d requests were carried out and their answers lost, want about 60 of 300", lost)
	}
	s.SetWeather(Weather{})
	restore := s.Cut()
	if _, err := send(t, s, "POST", "/", "{}"); err == nil {
		t.Error("a request while the server is cut off: got an answer")
	}
	restore()
	if status, err := send(t, s, "POST", "/", "{}"); err != nil || status != 200 {
		t.Errorf("a request in fair weather: got %d, %v", status, err)
	}
}

func TestClock(t *testing.T) {
	t.Parallel()
	clock := NewClock(1e6)
	before := clock.Now()
	for began := time.Now(); time.Since(began) < time.Millisecond; {
	}
	if passed := clock.Now().Sub(before); passed < 10*time.Second {
		t.Errorf("in a millisecond %s have passed, want about 1000 s", passed)
	}
	if got := clock.Real(time.Second); got != time.Microsecond {
		t.Errorf("Real of a second: got %s, want 1µs", got)
	}
	var none *Clock
	if none.Real(time.Second) != time.Second || time.Since(none.Now()) > time.Minute {
		t.Error("a nil clock is not the real one")
	}
}
