package clerksim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestList_WalkUnderChanges walks by cursor while users come, change and go,
// the cursor's user too: whoever existed throughout is found, and nobody twice.
func TestList_WalkUnderChanges(t *testing.T) {
	t.Parallel()
	for _, order := range []string{"%2Bcreated_at", "created_at", "-created_at"} {
		i := newInstance(t, Config{Users: 700, Seed: 11, DeletedCursor: CursorKeepsPlace, RateLimit: -1})
		before := i.UserIDs()
		found := map[string]bool{}
		cursor, pages := "", 0
		for {
			page := list(t, i, "/v1/users?limit=37&order_by="+order+"&starting_after="+cursor)
			for _, u := range page {
				if found[u.ID] {
					t.Fatalf("%s: user %s listed twice", order, u.ID)
				}
				found[u.ID] = true
			}
			if len(page) < 37 {
				break
			}
			cursor = page[len(page)-1].ID
			act(t, i, 40)
			if pages++; pages%2 == 0 {
				_ = i.Delete(cursor) // if it is not deleted yet
			}
		}
		deleted := i.Deleted()
		missing := slices.DeleteFunc(before, func(id string) bool { return found[id] || slices.Contains(deleted, id) })
		if len(missing) > 0 || pages < 10 {
			t.Errorf("%s: missing %d users that existed throughout, %d deleted", order, len(missing), len(deleted))
		}
	}
}

func TestList_InvalidParameters(t *testing.T) {
	t.Parallel()
	i := newInstance(t, Config{Users: 20, Seed: 1})
	id := i.UserIDs()[3]
	for _, query := range []string{
		"limit=0", "limit=501", "limit=x", "offset=-1", "order_by=phone", "created_at_after=then",
		"starting_after=" + id + "&order_by=updated_at", "starting_after=" + id + "&order_by=-username",
		"starting_after=" + id + "&offset=1", "starting_after=user_never",
		strings.Repeat("user_id=user_1&", 101),
	} {
		if w := get(t, i, "/v1/users?"+query); w.Code != http.StatusUnprocessableEntity {
			t.Errorf("GET /v1/users?%s: status %d, want 422: %s", query, w.Code, w.Body)
		}
	}
	if w := get(t, i, "/v1/nothing"); w.Code != http.StatusNotFound {
		t.Errorf("unknown endpoint: status %d, want 404", w.Code)
	}
	if got := list(t, i, "/v1/users?starting_after="+id+"&offset=0"); len(got) != 3 {
		t.Errorf("newest first after the fourth oldest: got %d users, want 3", len(got))
	}
}

// TestErrors_AsRecorded compares error bodies with those known of Clerk.
func TestErrors_AsRecorded(t *testing.T) {
	t.Parallel()
	i := newInstance(t, Config{Users: 2, Seed: 1, RateLimit: 1})
	for _, c := range []struct{ query, fixture string }{
		{"order_by=username&starting_after=user_1", "bapi.error_422_starting_after.json"},
		{"", "bapi.error_429.json"},
	} {
		want, err := os.ReadFile(filepath.Join(shared(t), "fixtures", c.fixture))
		if err != nil {
			t.Fatal(err)
		}
		got := get(t, i, "/v1/users?"+c.query)
		var g, w map[string]any
		if json.Unmarshal(got.Body.Bytes(), &g) != nil || json.Unmarshal(want, &w) != nil {
			t.Fatalf("%s: not JSON: %s", c.fixture, got.Body)
		}
		if g["clerk_trace_id"] != got.Header().Get("Clerk-Trace-Id") {
			t.Errorf("%s: trace id: body %v, header %q", c.fixture, g["clerk_trace_id"], got.Header().Get("Clerk-Trace-Id"))
		}
		if fmt.Sprint(g["errors"]) != fmt.Sprint(w["errors"]) {
			t.Errorf("%s: got %v, want %v", c.fixture, g["errors"], w["errors"])
		}
	}
}

func TestList_DeletedCursor(t *testing.T) {
	t.Parallel()
	for mode, want := range map[CursorMode]struct{ status, users int }{
		CursorUnprocessable: {422, 0}, CursorNotFound: {404, 0}, CursorEmptyPage: {200, 0}, CursorKeepsPlace: {200, 6},
	} {
		i := newInstance(t, Config{Users: 10, Seed: 1, DeletedCursor: mode})
		cursor := i.UserIDs()[3]
		if err := i.Delete(cursor); err != nil {
			t.Fatal(err)
		}
		target := "/v1/users?order_by=created_at&starting_after=" + cursor
		if w := get(t, i, target); w.Code != want.status {
			t.Errorf("mode %d: status %d, want %d", mode, w.Code, want.status)
		} else if want.status == 200 && len(list(t, i, target)) != want.users {
			t.Errorf("mode %d: %d users, want %d", mode, len(list(t, i, target)), want.users)
		}
	}
}

func TestRateLimit_AnswersRetryAfter(t *testing.T) {
	t.Parallel()
	clock := newVirtual()
	i := newInstance(t, Config{Users: 1, RateLimit: 3, Now: clock.now})
	status := func(wait time.Duration) int {
		clock.add(wait)
		w := get(t, i, "/v1/users/count")
		if w.Code == 429 && w.Header().Get("Retry-After") != "8" {
			t.Errorf("Retry-After: got %q, want 8", w.Header().Get("Retry-After"))
		}
		if want := clock.now().UTC().Format(http.TimeFormat); w.Header().Get("Date") != want {
			t.Errorf("Date: got %q, want %q", w.Header().Get("Date"), want)
		}
		return w.Code
	}
	got := []int{status(0), status(time.Second), status(0), status(1500 * time.Millisecond), status(7500 * time.Millisecond)}
	if want := []int{200, 200, 200, 429, 200}; !slices.Equal(got, want) {
		t.Errorf("statuses: got %v, want %v", got, want)
	}
	if s := i.Stats(); s.Requests != 5 || s.Limited != 1 {
		t.Errorf("Stats: %d requests, %d limited, want 5 and 1", s.Requests, s.Limited)
	}
}

func TestAuthentication_Refuses(t *testing.T) {
	t.Parallel()
	i := newInstance(t, Config{Users: 1})
	for _, key := range []string{"", "Bearer sk_test_other", i.SecretKey()} {
		r := httptest.NewRequest(http.MethodGet, "/v1/users", nil)
		r.Header.Set("Authorization", key)
		w := httptest.NewRecorder()
		i.Handler().ServeHTTP(w, r)
		if w.Code != http.StatusUnauthorized {
			t.Errorf("a wrong key: status %d, want 401", w.Code)
		}
	}
}

func TestList_FiltersAndOrders(t *testing.T) {
	t.Parallel()
	i := newInstance(t, Config{Users: 300, Seed: 5, RateLimit: -1})
	act(t, i, 200)
	ids := i.UserIDs()
	all := list(t, i, "/v1/users?limit=500&order_by=%2Bcreated_at")
	if len(all) != len(ids) || !slices.IsSortedFunc(all, func(a, b listed) int { return int(a.CreatedAt - b.CreatedAt) }) {
		t.Errorf("by created_at: %d users of %d, or not sorted", len(all), len(ids))
	}
	newest := list(t, i, "/v1/users?limit=500&order_by=-updated_at")
	if !slices.IsSortedFunc(newest, func(a, b listed) int { return int(b.UpdatedAt - a.UpdatedAt) }) {
		t.Error("by -updated_at: not sorted")
	}
	if def := list(t, i, "/v1/users"); len(def) != 10 || def[0].ID != ids[len(ids)-1] {
		t.Errorf("default: %d users, first %s, want 10, newest first", len(def), def[0].ID)
	}
	mid := all[100].CreatedAt
	after, before := 0, 0
	for _, u := range all {
		if u.CreatedAt > mid {
			after++
		}
		if u.CreatedAt < mid {
			before++
		}
	}
	var first100 strings.Builder
	for _, id := range ids[:100] {
		first100.WriteString("&user_id=" + id)
	}
	for _, c := range []struct {
		query string
		want  int
	}{
		{fmt.Sprintf("created_at_after=%d", mid), after},
		{fmt.Sprintf("created_at_before=%d", mid), before},
		{fmt.Sprintf("created_at_after=%d&created_at_before=%d", mid-1, mid+1), len(all) - after - before},
		{first100.String(), 100},
		{"user_id=-" + ids[0], len(ids) - 1},
		{"user_id=%2B" + ids[0] + "&user_id=user_nobody", 1},
		{"offset=20", len(ids) - 20},
	} {
		if got := list(t, i, "/v1/users?limit=500&"+c.query); len(got) != c.want {
			t.Errorf("%.60s: %d users, want %d", c.query, len(got), c.want)
		}
	}
	banned, not := get(t, i, "/v1/users/count?banned=true"), get(t, i, "/v1/users/count?banned=false")
	var a, b struct {
		N int `json:"total_count"`
	}
	if json.Unmarshal(banned.Body.Bytes(), &a) != nil || json.Unmarshal(not.Body.Bytes(), &b) != nil || a.N == 0 || a.N+b.N != len(ids) {
		t.Errorf("count: %s banned and %s not, of %d", banned.Body, not.Body, len(ids))
	}
}

func TestTruth_IsWhatTheAPIAnswers(t *testing.T) {
	t.Parallel()
	clock := newVirtual()
	i := newInstance(t, Config{Users: 100, Seed: 2, Now: clock.now, RateLimit: -1})
	act(t, i, 300, clock)
	truth := i.Truth()
	if len(truth) != len(i.UserIDs()) {
		t.Fatalf("Truth: %d users, want %d", len(truth), len(i.UserIDs()))
	}
	for id, want := range truth {
		if w := get(t, i, "/v1/users/"+id); !bytes.Equal(w.Body.Bytes(), want) {
			t.Fatalf("GET /v1/users/%s: got %s, want %s", id, w.Body, want)
		}
	}
	for _, id := range i.Deleted() {
		if w := get(t, i, "/v1/users/"+id); w.Code != http.StatusNotFound || truth[id] != nil {
			t.Fatalf("deleted user %s: status %d, in Truth: %t", id, w.Code, truth[id] != nil)
		}
	}
}

// TestUsers_Variety proves that what the connector must survive does occur.
func TestUsers_Variety(t *testing.T) {
	t.Parallel()
	i := newInstance(t, Config{Users: 3000, Seed: 1})
	counts := map[string]int{}
	for id, text := range i.Truth() {
		if len(id) != len("user_")+27 {
			t.Fatalf("id %s: not like Clerk's", id)
		}
		var u struct {
			First    *string               `json:"first_name"`
			Primary  *string               `json:"primary_email_address_id"`
			Emails   []struct{ ID string } `json:"email_addresses"`
			Phones   []any                 `json:"phone_numbers"`
			Passkeys []any                 `json:"passkeys"`
			Wallets  []any                 `json:"web3_wallets"`
			Accounts []any                 `json:"external_accounts"`
			Banned   bool                  `json:"banned"`
			Locked   bool                  `json:"locked"`
			Lockout  *int64                `json:"lockout_expires_in_seconds"`
		}
		if err := json.Unmarshal(text, &u); err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(u.Emails, func(e struct{ ID string }) bool { return u.Primary != nil && e.ID == *u.Primary })
		for what, is := range map[string]bool{
			"null name": u.First == nil, "phone only": len(u.Emails) == 0 && len(u.Phones) > 0, "passkey": len(u.Passkeys) > 0,
			"web3": len(u.Wallets) > 0, "account": len(u.Accounts) > 0, "primary not first": at > 0,
			"dangling primary": u.Primary != nil && at < 0, "banned": u.Banned, "locked": u.Locked, "lock that ends": u.Lockout != nil,
			"no identifier": len(u.Emails)+len(u.Phones)+len(u.Wallets)+len(u.Passkeys) == 0,
			"big number":    bytes.Contains(text, []byte(`:900719925474`)), "nul": bytes.Contains(text, []byte(`\u0000`)),
			"four-byte": bytes.Contains(text, []byte("🚀")),
		} {
			if is {
				counts[what]++
			}
		}
	}
	if len(counts) != 14 {
		t.Errorf("kinds of users: got %d, want 14: %v", len(counts), counts)
	}
}
