package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func get(t *testing.T, s *Server, path string) (int, string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	s.Handler().ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return recorder.Code, recorder.Body.String()
}

func TestHandler(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "things_total"})
	registry.MustRegister(counter)
	s := New(registry, "v1")
	s.Add("kafka", func(context.Context) (any, error) { return map[string]int{"brokers": 3}, nil })
	broken := errors.New("2 of 12 partitions are restored")
	s.Add("sequencer", func(context.Context) (any, error) { return nil, broken })

	if code, body := get(t, s, "/livez"); code != http.StatusOK || !strings.Contains(body, "v1") {
		t.Errorf("/livez: got %d %s, want 200: the process answers", code, body)
	}
	if code, body := get(t, s, "/metrics"); code != http.StatusOK || !strings.Contains(body, "things_total 0") {
		t.Errorf("/metrics: got %d %s", code, body)
	}
	if code, _ := get(t, s, "/"); code != http.StatusNotFound {
		t.Errorf("/: got %d, want 404", code)
	}
	code, body := get(t, s, "/readyz")
	var readiness Readiness
	if err := json.Unmarshal([]byte(body), &readiness); err != nil {
		t.Fatal(err)
	}
	if code != http.StatusServiceUnavailable || readiness.Ready || readiness.Parts["sequencer"].Error != broken.Error() || !readiness.Parts["kafka"].Ready {
		t.Errorf("/readyz with a broken part: got %d %s", code, body)
	}
	for path, want := range map[string]int{"/readyz/kafka": http.StatusOK, "/readyz/sequencer": http.StatusServiceUnavailable, "/readyz/receiver": http.StatusNotFound} {
		if code, body := get(t, s, path); code != want || code == http.StatusOK && strings.Contains(body, "sequencer") {
			t.Errorf("%s: got %d %s, want %d and nothing of other parts", path, code, body, want)
		}
	}
	s.Add("sequencer", func(context.Context) (any, error) { return nil, nil })
	if code, body := get(t, s, "/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: got %d %s, want 200", code, body)
	}
}

// TestReadiness_IsBounded: a part that does not answer is not ready, and does
// not keep the asker.
func TestReadiness_IsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New(prometheus.NewRegistry(), "v1")
		s.Add("kafka", func(ctx context.Context) (any, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		})
		began := time.Now()
		readiness := s.Readiness(t.Context())
		if readiness.Ready || time.Since(began) != checkTimeout || !strings.Contains(readiness.Parts["kafka"].Error, "no answer within 3s") {
			t.Errorf("Readiness: got %+v after %v", readiness, time.Since(began))
		}
	})
}

func TestServe_EndsWithItsContext(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- New(prometheus.NewRegistry(), "v1").Serve(ctx, listener) }()
	request, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listener.Addr().String()+"/livez", nil)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Serve: got %v, want nil after its context", err)
	}
}
