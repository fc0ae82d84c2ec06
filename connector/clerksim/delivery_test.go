package clerksim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	svix "github.com/svix/svix-webhooks/go"
)

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // a loaded machine is slow
	t.Cleanup(cancel)
	return ctx
}

var quick = []time.Duration{time.Millisecond, 2 * time.Millisecond}

// agree compares what the receiver made of the deliveries with the truth.
func agree(t *testing.T, i *Instance, r *receiver) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	truth := i.Truth()
	for id, got := range r.users {
		if want := truth[id]; !bytes.Equal(withoutLockout(t, got), withoutLockout(t, want)) {
			t.Errorf("user %s: delivered %s, want %s", id, got, want)
		}
	}
	for _, id := range i.Deleted() {
		if !r.gone[id] {
			t.Errorf("user %s: its deletion was not delivered", id)
		}
	}
	for _, m := range i.Messages() {
		if r.seen[m.ID] == 0 {
			t.Errorf("message %s was not delivered", m.ID)
		}
	}
}

// withoutLockout takes away what changes by being read.
func withoutLockout(t *testing.T, text []byte) []byte {
	t.Helper()
	var u map[string]json.RawMessage
	if err := json.Unmarshal(text, &u); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	delete(u, "lockout_expires_in_seconds")
	out, _ := json.Marshal(u)
	return out
}

func TestDrain_DeliversEverythingThroughDisorder(t *testing.T) {
	t.Parallel()
	disorder := DefaultDisorder()
	i := newInstance(t, Config{Users: 20, Seed: 9, Disorder: disorder, RetrySchedule: quick})
	r := newReceiver(t, i.SigningSecret(), func(n int, w http.ResponseWriter) int {
		switch n % 7 {
		case 1:
			w.Header().Set("Retry-After", "1")
			return http.StatusServiceUnavailable
		case 3:
			w.Header().Set("Location", "/elsewhere")
			return http.StatusFound // would arrive as a GET without signature if it were followed
		case 5:
			return http.StatusBadRequest
		}
		return http.StatusOK
	})
	i.SetWebhookURL(r.URL)
	act(t, i, 250)
	if err := i.Drain(bounded(t)); err != nil {
		t.Fatal(err)
	}
	agree(t, i, r)
	s := i.Stats()
	if s.Pending != 0 || s.Failures == 0 || s.Attempts != s.Failures+s.Deliveries || s.Deliveries <= len(i.Messages()) {
		t.Errorf("Stats: %+v: want nothing pending, failures, and duplicates", s)
	}
	if r.overtook == 0 {
		t.Error("no delivery came after a newer one")
	}
}

func TestRun_DeliversAtRateUntilStopped(t *testing.T) {
	t.Parallel()
	i := newInstance(t, Config{Users: 50, Seed: 4, Rate: 500, Disorder: Disorder{Duplicate: 0.2, Swapped: 0.3, Late: 0.1, LateBy: time.Minute}})
	r := newReceiver(t, i.SigningSecret(), nil)
	i.SetWebhookURL(r.URL)
	ctx, cancel := context.WithCancel(bounded(t))
	done := make(chan error, 1)
	go func() { done <- i.Run(ctx) }()
	for i.Stats().Deliveries < 200 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if s := i.Stats(); s.Pending == 0 {
		t.Errorf("Stats: %+v: want late messages pending", s)
	}
	if err := i.Drain(bounded(t)); err != nil {
		t.Fatal(err)
	}
	agree(t, i, r)
}

func TestSwapped_FollowsTheNewerMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // else the two could overtake each other on their way
		var mu sync.Mutex
		var order []string
		client := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, r.Header.Get("svix-id"))
			return &http.Response{StatusCode: 204, Header: http.Header{}, Body: http.NoBody}, nil
		})}
		i := newInstance(t, Config{Users: 1, WebhookURL: "http://receiver.example", HTTPClient: client, Disorder: Disorder{Swapped: 1, LateBy: time.Hour}})
		id := i.UserIDs()[0]
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- i.Run(ctx) }()
		_ = i.Ban(id)
		i.mu.Lock()
		i.cfg.Disorder = Disorder{}
		i.mu.Unlock()
		time.Sleep(time.Minute)
		_ = i.Unban(id)
		time.Sleep(time.Minute)
		cancel()
		messages := i.Messages()
		if err := <-done; err != nil || !slices.Equal(order, []string{messages[1].ID, messages[0].ID}) {
			t.Errorf("Run: %v, delivered %v, want the second before the first of %s, %s", err, order, messages[0].ID, messages[1].ID)
		}
	})
}

func TestSign_VerifiesWithSvix(t *testing.T) {
	t.Parallel()
	i := newInstance(t, Config{Seed: 1})
	body := []byte(`{"a":1}`)
	wh, err := svix.NewWebhook(i.SigningSecret())
	if err != nil {
		t.Fatal(err)
	}
	if err := wh.Verify(body, i.Sign("msg_1", body)); err != nil {
		t.Errorf("Verify: %v", err)
	}
	if wh.Verify([]byte(`{"a":2}`), i.Sign("msg_1", body)) == nil {
		t.Error("Verify: another body passed")
	}
}

// transport answers deliveries without a network, so that time can be false.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAttempts_FollowSvix(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		var ids, signatures, bodies []string
		client := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			at = append(at, time.Since(start))
			ids = append(ids, r.Header.Get("svix-id"))
			signatures = append(signatures, r.Header.Get("svix-signature"))
			body, _ := io.ReadAll(r.Body)
			bodies = append(bodies, string(body))
			answer := &http.Response{StatusCode: 503, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(""))}
			switch len(at) {
			case 1: // no answer at all
				<-r.Context().Done()
				return nil, context.Cause(r.Context())
			case 2: // stretched, but to twice the schedule at most
				answer.Header.Set("Retry-After", "3600")
			case 3:
				answer.Header.Set("Retry-After", time.Now().Add(40*time.Minute).UTC().Format(http.TimeFormat))
			case 4:
				answer.StatusCode = 204
			}
			return answer, nil
		})}
		i := newInstance(t, Config{Users: 1, WebhookURL: "http://receiver.example", HTTPClient: client, RetrySchedule: SvixSchedule})
		_ = i.Ban(i.UserIDs()[0])
		if err := i.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		// 15 s without an answer, then 5 s; 5 min doubled; 30 min stretched to 40.
		want := []time.Duration{0, 20 * time.Second, 20*time.Second + 10*time.Minute, 20*time.Second + 50*time.Minute}
		for n, w := range want {
			if len(at) != len(want) || at[n] < w-time.Second || at[n] > w+time.Second {
				t.Fatalf("attempts at %v, want about %v", at, want)
			}
		}
		if len(slices.Compact(ids)) != 1 || len(slices.Compact(bodies)) != 1 || len(slices.Compact(signatures)) != 4 {
			t.Errorf("attempts: want one svix-id, one body and four signatures: %v %v", ids, signatures)
		}
	})
}

func TestAttempts_CanEnd(t *testing.T) {
	t.Parallel()
	for _, abort := range []bool{false, true} {
		cfg := Config{Users: 1, RetrySchedule: quick}
		if !abort {
			cfg.MaxAttempts = 3
		}
		i := newInstance(t, cfg)
		r := newReceiver(t, i.SigningSecret(), func(n int, w http.ResponseWriter) int {
			if abort {
				w.Header().Set("webhook-delivery", "abort-message")
			}
			return http.StatusInternalServerError
		})
		i.SetWebhookURL(r.URL)
		_ = i.Ban(i.UserIDs()[0])
		if err := i.Drain(bounded(t)); err != nil {
			t.Fatal(err)
		}
		want := map[bool]int{false: 3, true: 1}[abort]
		if s := i.Stats(); s.GivenUp != 1 || s.Attempts != want {
			t.Errorf("abort %t: %+v, want 1 given up after %d attempts", abort, s, want)
		}
	}
}

func TestRun_AnAttemptThatItEndsIsStillOwed(t *testing.T) {
	t.Parallel()
	under := make(chan struct{})
	client := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
		close(under)
		<-r.Context().Done()
		return nil, r.Context().Err()
	})}
	i := newInstance(t, Config{Users: 1, WebhookURL: "http://receiver.example", HTTPClient: client})
	_ = i.Ban(i.UserIDs()[0])
	ctx, cancel := context.WithCancel(bounded(t))
	go func() { <-under; cancel() }()
	if err := i.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if s := i.Stats(); s.Pending != 1 || s.Failures != 0 || s.Attempts != 0 {
		t.Errorf("Stats: %+v: want one pending and nothing counted", s)
	}
}

func TestDrain_SaysWhyNot(t *testing.T) {
	t.Parallel()
	i := newInstance(t, Config{Users: 1, WebhookURL: "http://127.0.0.1:1"})
	if err := i.Drain(t.Context()); err != nil {
		t.Errorf("Drain with nothing owed: %v", err)
	}
	_ = i.Ban(i.UserIDs()[0])
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := i.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drain to nobody: %v, want the deadline", err)
	}
	i.SetWebhookURL("")
	if err := i.Drain(t.Context()); err == nil {
		t.Error("Drain without a URL: nil, want an error")
	}
	before := i.Stats().Pending
	_ = i.Unban(i.UserIDs()[0])
	if got := i.Stats().Pending; got != before || before != 1 {
		t.Errorf("pending with webhooks off: %d, then %d, want 1", before, got)
	}
}

func TestRedeliver_AnyMessageAgain(t *testing.T) {
	t.Parallel()
	i := newInstance(t, Config{Seed: 6, History: 30})
	r := newReceiver(t, i.SigningSecret(), nil)
	i.SetWebhookURL(r.URL)
	act(t, i, 60)
	if err := i.Drain(bounded(t)); err != nil {
		t.Fatal(err)
	}
	messages := i.Messages()
	if len(messages) != 30 {
		t.Fatalf("Messages: %d, want the 30 newest", len(messages))
	}
	if err := i.Redeliver(messages[2].ID, messages[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := i.Drain(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if status, err := i.Deliver(t.Context(), messages[0].ID); err != nil || status != http.StatusOK {
		t.Errorf("Deliver: %d, %v", status, err)
	}
	if got := []int{r.seen[messages[0].ID], r.seen[messages[1].ID], r.seen[messages[2].ID]}; !slices.Equal(got, []int{3, 1, 2}) {
		t.Errorf("deliveries: got %v, want 3, 1 and 2", got)
	}
	if err := i.Redeliver("msg_none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Redeliver: %v, want ErrNotFound", err)
	}
}

// TestSeed_GivesTheSameBytes runs two instances side by side, of which one is
// saved and loaded between two acts.
func TestSeed_GivesTheSameBytes(t *testing.T) {
	t.Parallel()
	run := func(seed uint64, file string) (string, map[string]json.RawMessage) {
		clock := newVirtual()
		cfg := Config{Users: 40, Seed: seed, Now: clock.now, Disorder: DefaultDisorder(), StateFile: file}
		i := newInstance(t, cfg)
		var all bytes.Buffer
		for n := range 300 {
			if n == 150 && file != "" {
				for _, m := range i.Messages() {
					fmt.Fprintln(&all, m.ID, string(m.Body))
				}
				if err := i.Close(); err != nil {
					t.Fatal(err)
				}
				i = newInstance(t, cfg)
			}
			act(t, i, 1, clock)
		}
		for _, m := range i.Messages() {
			fmt.Fprintln(&all, m.ID, string(m.Body))
		}
		fmt.Fprintln(&all, i.InstanceID(), i.SecretKey(), i.SigningSecret(), i.Deleted())
		return all.String(), i.Truth()
	}
	a, truth := run(1, "")
	b, again := run(1, t.TempDir()+"/state")
	if a != b || !maps.EqualFunc(truth, again, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
		t.Error("the same seed gave other bytes after a restart")
	}
	if c, _ := run(2, ""); a == c {
		t.Error("another seed gave the same bytes")
	}
}

func TestEvents_Times(t *testing.T) {
	t.Parallel()
	for _, tied := range []float64{0, 1} {
		clock := newVirtual() // stands still
		i := newInstance(t, Config{Users: 1, Now: clock.now, TiedUpdates: tied, SecondsTimestamps: tied == 1})
		id := i.UserIDs()[0]
		for range 5 {
			_ = i.SignIn(id)
		}
		i.SignUp()
		i.SignUp()
		var updated []int64
		for _, m := range i.Messages() {
			var e envelope
			var u listed
			if json.Unmarshal(m.Body, &e) != nil || json.Unmarshal(e.Data, &u) != nil {
				t.Fatal("not JSON")
			}
			if seconds := e.Timestamp < 1e11; seconds != (tied == 1) {
				t.Errorf("timestamp %d: in seconds: %t", e.Timestamp, seconds)
			}
			if e.Type == UserUpdated {
				updated = append(updated, u.UpdatedAt)
			}
		}
		if n := len(slices.Compact(updated)); n != map[float64]int{0: 5, 1: 1}[tied] {
			t.Errorf("tied %v: updated_at %v", tied, updated)
		}
		if users := list(t, i, "/v1/users"); users[0].CreatedAt == users[1].CreatedAt {
			t.Error("two sign-ups share their created_at")
		}
	}
}

// TestActs_NoTwoUsersShareAnAddress: not at the end, whatever was used again
// and swapped meanwhile.
func TestActs_NoTwoUsersShareAnAddress(t *testing.T) {
	t.Parallel()
	i := newInstance(t, Config{Users: 100, Seed: 3})
	act(t, i, 4000)
	holder := map[string]string{}
	reused := 0
	for _, u := range i.order {
		for _, e := range u.Emails {
			if other := holder[e.Value]; other != "" {
				t.Errorf("users %s and %s both have %s", other, u.ID, e.Value)
			}
			holder[e.Value] = u.ID
		}
	}
	former := map[string]bool{}
	for _, m := range i.history {
		for _, e := range m.User.Emails {
			if m.Type == UserDeleted {
				former[e.Value] = true
			} else if former[e.Value] {
				reused++
			}
		}
	}
	if reused < 20 {
		t.Errorf("addresses used again after a deletion: %d events, want some", reused)
	}
}

func TestActs_DoWhatTheySay(t *testing.T) {
	t.Parallel()
	i := newInstance(t, Config{Users: 200, Seed: 8})
	var withEmail []*user
	for _, u := range i.order {
		if u.primary() >= 0 {
			withEmail = append(withEmail, u)
		}
	}
	address := func(id string) string { u := i.users[id]; return u.Emails[u.primary()].Value }
	a, b := withEmail[0].ID, withEmail[1].ID
	ofA, ofB := address(a), address(b)
	if err := i.SwapEmails(a, b); err != nil || address(a) != ofB || address(b) != ofA {
		t.Errorf("SwapEmails: %v, %s and %s", err, address(a), address(b))
	}
	c, err := i.Rejoin(a)
	if err != nil || address(c) != ofB || c == a {
		t.Errorf("Rejoin: %v, %s", err, address(c))
	}
	if err := i.ChangeEmail(b); err != nil || address(b) == ofA {
		t.Errorf("ChangeEmail: %v, %s", err, address(b))
	}
	public := json.RawMessage(`{"z":1.10,"a":9007199254740993,"n":"\u0000"}`)
	if err := i.SetMetadata(b, public, nil); err != nil || !bytes.Contains(i.Truth()[b], public) {
		t.Errorf("SetMetadata: %v, %s", err, i.Truth()[b])
	}
	if i.SetMetadata(b, json.RawMessage(`[1]`), nil) == nil || i.SetMetadata(b, json.RawMessage(`null`), nil) == nil {
		t.Error("SetMetadata: took what is not an object")
	}
	if err := i.Lock(b); err != nil || !i.users[b].Locked {
		t.Errorf("Lock: %v", err)
	}
	if err := i.UpdateProfile(a); !errors.Is(err, ErrNotFound) {
		t.Errorf("UpdateProfile of a deleted user: %v, want ErrNotFound", err)
	}
	last := i.Messages()[5-1].Body // three of the swap, deletion, sign-up
	if !bytes.Contains(last, []byte(`"type":"user.created"`)) {
		t.Errorf("message 5: %s, want user.created", last)
	}
	_ = i.Close()
	if err := i.Ban(b); err == nil || i.SignUp() != "" {
		t.Errorf("after Close: %v, want an error", err)
	}
}

func TestSetProfile(t *testing.T) {
	t.Parallel()
	i := newInstance(t, Config{Users: 3})
	id := i.UserIDs()[1]
	if err := i.SetProfile(id, "Zoe", "Ä", "zoe@example.com"); err != nil {
		t.Fatal(err)
	}
	var u struct {
		FirstName string `json:"first_name"`
		LastName  string `json:"last_name"`
		Primary   string `json:"primary_email_address_id"`
		Emails    []struct {
			ID      string `json:"id"`
			Address string `json:"email_address"`
		} `json:"email_addresses"`
	}
	if err := json.Unmarshal(i.Truth()[id], &u); err != nil {
		t.Fatal(err)
	}
	if u.FirstName != "Zoe" || u.LastName != "Ä" || len(u.Emails) != 1 || u.Emails[0].Address != "zoe@example.com" || u.Emails[0].ID != u.Primary {
		t.Errorf("got %+v", u)
	}
	if err := i.SetProfile("user_none", "a", "b", "c@example.com"); err == nil {
		t.Error("SetProfile of nobody: got nil")
	}
}
