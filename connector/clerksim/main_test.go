package clerksim

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	svix "github.com/svix/svix-webhooks/go"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shared returns the folder of contracts and fixtures.
func shared(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("CLERK_CONNECT_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared")
	}
	if _, err := os.Stat(filepath.Join(dir, "contracts")); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("Clerk's descriptions are not there: %v", err)
		}
		t.Skipf("Clerk's descriptions are not there, set CLERK_CONNECT_SHARED: %v", err)
	}
	return dir
}

// virtual is a clock that stands still between the steps of a test.
type virtual struct {
	mu sync.Mutex
	at time.Time
}

func newVirtual() *virtual { return &virtual{at: time.UnixMilli(1764000000000)} }

func (v *virtual) now() time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.at
}

func (v *virtual) add(d time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.at = v.at.Add(d)
}

func newInstance(t *testing.T, cfg Config) *Instance {
	t.Helper()
	i, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return i
}

// get asks the API, with headers if they are given, and returns the answer.
func get(t *testing.T, i *Instance, target string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.Header.Set("Authorization", "Bearer "+i.SecretKey())
	w := httptest.NewRecorder()
	i.Handler().ServeHTTP(w, r)
	return w
}

// listed is what the tests look at in a user.
type listed struct {
	ID        string `json:"id"`
	CreatedAt int64  `json:"created_at"`
	UpdatedAt int64  `json:"updated_at"`
}

func list(t *testing.T, i *Instance, target string) []listed {
	t.Helper()
	w := get(t, i, target)
	if w.Code != http.StatusOK {
		t.Fatalf("GET %s: status %d: %s", target, w.Code, w.Body)
	}
	var users []listed
	if err := json.Unmarshal(w.Body.Bytes(), &users); err != nil {
		t.Fatalf("GET %s: %v", target, err)
	}
	return users
}

type envelope struct {
	Data      json.RawMessage `json:"data"`
	Type      string          `json:"type"`
	Timestamp int64           `json:"timestamp"`
}

// receiver is a server that verifies deliveries, answers what answer says, and
// keeps the newest state of each user by updated_at. Nil answer: always 200.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	answer   func(n int, w http.ResponseWriter) int
	n        int
	seen     map[string]int    // accepted deliveries by svix-id
	bodies   map[string]string // first body by svix-id
	order    []string          // types by acceptance
	updated  map[string]int64  // newest updated_at by user
	users    map[string]json.RawMessage
	gone     map[string]bool
	overtook int // deliveries older than what was there
}

func newReceiver(t *testing.T, secret string, answer func(n int, w http.ResponseWriter) int) *receiver {
	t.Helper()
	wh, err := svix.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{
		answer: answer, seen: map[string]int{}, bodies: map[string]string{}, updated: map[string]int64{},
		users: map[string]json.RawMessage{}, gone: map[string]bool{},
	}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err == nil {
			err = wh.Verify(body, req.Header)
		}
		if err != nil {
			t.Errorf("delivery: %v", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.n++
		status := http.StatusOK
		if r.answer != nil {
			status = r.answer(r.n, w)
		}
		if status == http.StatusOK {
			r.accept(t, req.Header.Get("svix-id"), body)
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) accept(t *testing.T, id string, body []byte) {
	if first, ok := r.bodies[id]; ok && first != string(body) {
		t.Errorf("message %s: body differs between deliveries", id)
	}
	r.bodies[id] = string(body)
	r.seen[id]++
	var e envelope
	var u listed
	if json.Unmarshal(body, &e) != nil || json.Unmarshal(e.Data, &u) != nil {
		t.Errorf("message %s: not JSON", id)
	}
	r.order = append(r.order, e.Type+" "+u.ID)
	switch {
	case e.Type == UserDeleted:
		r.gone[u.ID] = true
		delete(r.users, u.ID)
	case r.gone[u.ID] || u.UpdatedAt < r.updated[u.ID]:
		r.overtook++
	case u.UpdatedAt > r.updated[u.ID]:
		r.updated[u.ID], r.users[u.ID] = u.UpdatedAt, e.Data
	}
}
