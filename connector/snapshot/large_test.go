package snapshot

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"clerkconnect/connector"
	"clerkconnect/connector/clerksim"
	"clerkconnect/schemas"
)

// TestTooLarge: a user that no broker takes is dead-lettered, by a walk and by
// a re-read, and holds neither up.
func TestTooLarge(t *testing.T) {
	onBoth(t, clerksim.Config{Users: 25}, func(t *testing.T, h *harness) {
		large := h.sim.UserIDs()[7]
		handler := h.sim.Handler()
		grown := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, r)
			w.Header().Set("Date", answer.Header().Get("Date"))
			w.WriteHeader(answer.Code)
			body := answer.Body.Bytes()
			grow := func(user map[string]any) {
				if user["id"] == large {
					user["public_metadata"] = map[string]any{"text": strings.Repeat("x", 1<<20)}
				}
			}
			var list []map[string]any
			var one map[string]any
			if json.Unmarshal(body, &list) == nil {
				for _, user := range list {
					grow(user)
				}
				body, _ = json.Marshal(list)
			} else if json.Unmarshal(body, &one) == nil {
				grow(one)
				body, _ = json.Marshal(one)
			}
			_, _ = w.Write(body)
		})
		p := h.process(t, func(p *process, _ *Config, _ *Dependencies) { p.api.handler = grown }).start(t)
		h.finished(t, "initial")
		key := connector.StateKeyRereadPrefix + large
		if err := h.writer.StoreState(t.Context(), key, connector.Reread{Reason: "test"}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the re-read is settled", func() bool { return h.state(t)[key] == "" })
		p.stop(t)
		l := h.log(t)
		if got := len(l.events); got != 24 || len(l.events[large]) != 0 {
			t.Errorf("users in the log: got %d, want all 24 others", got)
		}
		if len(l.letters) != 2 {
			t.Fatalf("dead letters: got %d, want one of the walk and one of the re-read", len(l.letters))
		}
		for _, letter := range l.letters {
			if reason := schemas.Header(letter.Headers, "dlq-reason"); reason != "too_large" {
				t.Errorf("reason: got %q, want too_large", reason)
			}
			if id := schemas.Header(letter.Headers, "dlq-clerk-id"); id != large {
				t.Errorf("user: got %q, want %q, so that he can be read again", id, large)
			}
		}
	})
}
