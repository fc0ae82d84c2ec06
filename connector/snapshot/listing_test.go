package snapshot

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"
	"pgregory.net/rapid"

	"clerkconnect/connector/clerksim"
	"clerkconnect/connector/throttle"
)

func newAPI(handler http.Handler, pageSize int) *api {
	cfg := testConfig()
	cfg.PageSize = pageSize
	cfg.RequestTimeout = 0 // its timer would outlive a check that rapid gives up
	return &api{
		cfg: cfg, transport: &direct{handler: handler}, limiter: rate.NewLimiter(rate.Inf, 1),
		metrics: newMetrics(nil), log: slog.New(slog.DiscardHandler), warnings: throttle.New(slog.New(slog.DiscardHandler)), retryWait: time.Microsecond,
	}
}

// TestListing_HasEverybodyWhoExistsThroughout creates and deletes users before
// any request of a walk, preferably the one that the next cursor names, with
// many users of the same millisecond, under each answer to a deleted cursor,
// with restarts from the checkpoint.
func TestListing_HasEverybodyWhoExistsThroughout(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		fake := &fakeUsers{
			mode:      fakeCursor(rapid.IntRange(0, int(cursorModes)-1).Draw(t, "mode")),
			inclusive: rapid.Bool().Draw(t, "inclusive"),
		}
		clock, number := int64(1_700_000_000_000), 0
		size := rapid.IntRange(1, 5).Draw(t, "page")
		if fake.mode == cursorUnknown {
			size = 5 // without cursors, a page must hold more than the users of two milliseconds
		}
		tied := 0
		signUp := func() {
			if tied++; rapid.Bool().Draw(t, "later") || fake.mode == cursorUnknown && tied == 2 {
				clock, tied = clock+1, 0
			}
			number++
			fake.add(fakeUser{ID: fmt.Sprintf("user_%d_%d", rapid.IntRange(0, 9).Draw(t, "id"), number), Created: clock})
		}
		for range rapid.IntRange(0, 20).Draw(t, "users") {
			signUp()
		}
		throughout := map[string]bool{}
		for _, u := range fake.users {
			throughout[u.ID] = true
		}
		remove := func(id string) {
			fake.remove(id)
			delete(throughout, id)
		}
		var place *listing
		acts, restarts := 6, 5 // no more, or the walk never gets to an end
		churn := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for acts > 0 && rapid.Bool().Draw(t, "act") {
				acts--
				switch kind := rapid.IntRange(0, 3).Draw(t, "kind"); {
				case kind == 0 || len(fake.users) == 0:
					signUp()
				case kind == 1:
					remove(place.id)
				default:
					remove(rapid.SampledFrom(fake.users).Draw(t, "whom").ID)
				}
			}
			fake.ServeHTTP(w, r)
		})
		place = &listing{api: newAPI(churn, size)}
		place.api.cfg.MaxAttempts = 8 // more than acts can spoil
		read := map[string]bool{}
		for pages := 0; ; pages++ {
			rows, err := place.next(t.Context())
			if err != nil || pages > 200 {
				t.Fatalf("next: %v after %d pages", err, pages)
			}
			if len(rows) == 0 {
				break
			}
			for _, r := range rows {
				read[r.id] = true
			}
			place.advance(rows)
			if restarts > 0 && rapid.IntRange(0, 4).Draw(t, "restart") == 0 { // from the checkpoint
				restarts--
				place = &listing{api: place.api, id: place.id, created: place.created}
			}
		}
		for id := range throughout {
			if !read[id] {
				t.Errorf("%s existed throughout and is missing; %d read", id, len(read))
			}
		}
	})
}

// TestListing_GarbageIsNeverTheEnd has a Clerk with users that answers
// everything, or everything but the count, with garbage.
func TestListing_GarbageIsNeverTheEnd(t *testing.T) {
	t.Parallel()
	sim := newSim(t, clerksim.Config{Users: 30, Seed: 9})
	real := sim.Handler()
	date := time.Now().UTC().Format(http.TimeFormat)
	for name, answer := range map[string]string{
		"nobody": `[]`, "null": `null`, "object": `{}`, "data": `{"data":[],"total_count":0}`, "empty users": `[{},{}]`,
		"no users": `[null]`, "HTML": `<html></html>`, "truncated": `[{"id":"user_1","created_at":1}`, "nothing": ``,
		"two values": `[] []`, "errors": `{"errors":[]}`, "wrong order": `[{"id":"user_1","created_at":2},{"id":"user_2","created_at":1}]`,
	} {
		for _, from := range []string{"start", "middle"} {
			t.Run(name+" at the "+from, func(t *testing.T) {
				t.Parallel()
				garbage := false
				handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if !garbage || r.URL.Path == "/v1/users/count" {
						real.ServeHTTP(w, r)
						return
					}
					w.Header().Set("Date", date)
					_, _ = w.Write([]byte(answer))
				})
				place := &listing{api: newAPI(handler, 10)}
				if from == "middle" {
					rows, err := place.next(t.Context())
					if err != nil || len(rows) != 10 {
						t.Fatalf("first page: got %d rows, %v", len(rows), err)
					}
					place.advance(rows)
				}
				garbage = true
				if rows, err := place.next(t.Context()); err == nil {
					t.Errorf("next: got %d rows and no error", len(rows))
				}
			})
		}
	}
}

func TestListing_AnswerWithoutADateIsRefused(t *testing.T) {
	t.Parallel()
	sim := newSim(t, clerksim.Config{Users: 3, Seed: 10})
	place := &listing{api: newAPI(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorder := httptest.NewRecorder()
		sim.Handler().ServeHTTP(recorder, r)
		_, _ = w.Write(recorder.Body.Bytes())
	}), 10)}
	if _, err := place.next(t.Context()); err == nil || !strings.Contains(err.Error(), "Date") {
		t.Errorf("next: got %v, want an error that names the Date header", err)
	}
}

// TestListing_ServerThatCapsThePage must not take a page shorter than asked for
// as the last one.
func TestListing_ServerThatCapsThePage(t *testing.T) {
	t.Parallel()
	sim := newSim(t, clerksim.Config{Users: 30, Seed: 11})
	place := &listing{api: newAPI(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		if query.Get("limit") == "20" {
			query.Set("limit", "7")
			r.URL.RawQuery = query.Encode()
		}
		sim.Handler().ServeHTTP(w, r)
	}), 20)}
	if read := readAll(t, place, nil); len(read) != 30 {
		t.Errorf("read %d users, want 30", len(read))
	}
}

// readAll walks to the end, in 100 pages at most, and calls after each page.
func readAll(t *testing.T, place *listing, after func()) map[string]bool {
	t.Helper()
	read := map[string]bool{}
	for range 100 {
		rows, err := place.next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) == 0 {
			return read
		}
		for _, r := range rows {
			read[r.id] = true
		}
		if place.advance(rows); after != nil {
			after()
		}
	}
	t.Fatal("the walk does not end")
	return nil
}

// TestListing_ServerWithoutCursors is an API that does not know starting_after
// and ignores it, as it does unknown parameters.
func TestListing_ServerWithoutCursors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ users, perMillisecond int }{{30, 1}, {30, 4}, {3, 3}} {
		fake := &fakeUsers{mode: cursorUnknown}
		for i := range test.users {
			fake.add(fakeUser{ID: fmt.Sprint("user_", i), Created: int64(1000 + i/test.perMillisecond)})
		}
		if read := readAll(t, &listing{api: newAPI(fake, 10)}, nil); len(read) != test.users {
			t.Errorf("%+v: read %d users", test, len(read))
		}
	}
}

// TestListing_ManyUsersOfOneMillisecond deletes the place after every second
// page, while more users were created, and read, in its millisecond than a page
// holds.
func TestListing_ManyUsersOfOneMillisecond(t *testing.T) {
	t.Parallel()
	fake := &fakeUsers{mode: cursor422}
	for i := range 13 {
		fake.add(fakeUser{ID: fmt.Sprint("user_", i), Created: int64(1000 + i/12)})
	}
	place, pages := &listing{api: newAPI(fake, 3)}, 0
	read := readAll(t, place, func() {
		if pages++; pages%2 == 0 {
			fake.remove(place.id)
		}
	})
	if len(read) != 13 {
		t.Errorf("read %d users, want 13", len(read))
	}
}

func TestListing_NoUsersAtAll(t *testing.T) {
	t.Parallel()
	place := &listing{api: newAPI(newSim(t, clerksim.Config{}).Handler(), 10)}
	if rows, err := place.next(t.Context()); err != nil || len(rows) != 0 {
		t.Errorf("next: got %d rows, %v; want the end", len(rows), err)
	}
}

func TestAPI_BoundsTheBody(t *testing.T) {
	t.Parallel()
	chunk := []byte(`"` + strings.Repeat("x", 1<<20) + `",`)
	a := newAPI(nil, 10)
	a.transport = &toServer{httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("["))
		for range maxBodyBytes>>20 + 1 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))}
	t.Cleanup(a.transport.(*toServer).server.Close)
	a.cfg.MaxAttempts = 1
	_, err := a.oldest(t.Context(), "", "")
	if err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("list: got %v, want an error about the size", err)
	}
}

// TestAPI_NamesTheSettingOfARefusal: an answer of a status alone does not say
// what there is to mend.
func TestAPI_NamesTheSettingOfARefusal(t *testing.T) {
	t.Parallel()
	for status, setting := range map[int]string{
		http.StatusUnauthorized: "CLERK_SECRET_KEY", http.StatusForbidden: "CLERK_SECRET_KEY", http.StatusNotFound: "CLERK_API_URL",
	} {
		a := newAPI(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }), 10)
		if _, _, err := a.count(t.Context()); err == nil || !strings.Contains(err.Error(), setting) {
			t.Errorf("answer of %d: got %v, want an error that names %s", status, err, setting)
		}
	}
}

// TestAPI_UserIsTheOneAskedFor: a repair of one user must not be written from
// what Clerk, or a cache on the way, says of another.
func TestAPI_UserIsTheOneAskedFor(t *testing.T) {
	t.Parallel()
	sim := newSim(t, clerksim.Config{Users: 2, Seed: 13})
	asked, another := sim.UserIDs()[0], sim.UserIDs()[1]
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.Replace(r.URL.Path, asked, another, 1)
		sim.Handler().ServeHTTP(w, r)
	})
	if raw, _, found, err := newAPI(handler, 10).user(t.Context(), asked); err == nil || found || raw != nil {
		t.Errorf("user: got found %t, %v; want an error", found, err)
	}
}

// TestAPI_UserIsMissingOnlyIfClerkSaysSo has a gateway that answers 404.
func TestAPI_UserIsMissingOnlyIfClerkSaysSo(t *testing.T) {
	t.Parallel()
	sim := newSim(t, clerksim.Config{Users: 1, Seed: 12})
	if _, _, found, err := newAPI(sim.Handler(), 10).user(t.Context(), "user_nobody"); found || err != nil {
		t.Errorf("user: got found %t, %v; want neither", found, err)
	}
	if _, _, found, err := newAPI(http.NotFoundHandler(), 10).user(t.Context(), "user_nobody"); found || err == nil {
		t.Errorf("user by a gateway: got found %t, %v; want an error", found, err)
	}
}
