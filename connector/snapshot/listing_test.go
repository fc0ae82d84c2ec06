package snapshot

import (
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"
	"pgregory.net/rapid"

	"clerkconnect/connector/clerksim"
)

func newAPI(handler http.Handler, pageSize int) *api {
	cfg := testConfig()
	cfg.PageSize = pageSize
	cfg.RequestTimeout = 0 // its timer would outlive a check that rapid gives up
	return &api{
		cfg: cfg, transport: &direct{handler: handler}, limiter: rate.NewLimiter(rate.Inf, 1),
		metrics: newMetrics(nil), log: slog.New(slog.DiscardHandler), retryWait: time.Microsecond,
	}
}

// TestListing_HasEverybodyWhoExistsThroughout creates and deletes users before
// any request of a walk, preferably the one that the next cursor names, with
// many users of the same millisecond, under each answer to a deleted cursor.
func TestListing_HasEverybodyWhoExistsThroughout(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		clock := time.UnixMilli(1_700_000_000_000)
		sim, err := clerksim.New(clerksim.Config{
			Seed: rapid.Uint64().Draw(t, "seed"), SecretKey: testKey, RateLimit: -1,
			DeletedCursor: clerksim.CursorMode(rapid.IntRange(0, 3).Draw(t, "mode")),
			Now:           func() time.Time { return clock },
		})
		if err != nil {
			t.Fatal(err)
		}
		signUp := func() {
			clock = clock.Add(time.Duration(rapid.IntRange(0, 1).Draw(t, "ms")) * time.Millisecond)
			sim.SignUp()
		}
		for range rapid.IntRange(0, 20).Draw(t, "users") {
			signUp()
		}
		handler := sim.Handler()
		switch rapid.IntRange(0, 3).Draw(t, "api") {
		case 0:
			handler = ignoringCursor(sim)
		case 1:
			handler = failingCursor(sim)
		}
		throughout := sim.Truth()
		var place *listing
		acts := 6 // or the walk never gets to an end
		churn := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for acts > 0 && rapid.Bool().Draw(t, "act") {
				acts--
				switch rapid.IntRange(0, 3).Draw(t, "kind") {
				case 0:
					signUp()
				case 1: // the place itself
					if sim.Delete(place.id) == nil {
						delete(throughout, place.id)
					}
				default:
					if all := slices.Sorted(maps.Keys(sim.Truth())); len(all) > 0 {
						id := rapid.SampledFrom(all).Draw(t, "whom")
						if err := sim.Delete(id); err != nil {
							t.Fatal(err)
						}
						delete(throughout, id)
					}
				}
			}
			handler.ServeHTTP(w, r)
		})
		size := rapid.IntRange(1, 5).Draw(t, "page")
		place = &listing{api: newAPI(churn, size)}
		place.api.cfg.MaxAttempts = 8 // more than acts can spoil
		read := map[string]bool{}
		for {
			rows, err := place.next(t.Context())
			if err != nil {
				t.Fatalf("next: %v", err)
			}
			if len(rows) == 0 {
				break
			}
			for _, r := range rows {
				read[r.id] = true
			}
			place.advance(rows)
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 { // from the checkpoint
				place = &listing{api: place.api, id: place.id, created: place.created}
			}
		}
		for id := range throughout {
			if !read[id] {
				t.Errorf("%s existed throughout and is missing; %d read, page size %d", id, len(read), size)
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
	sim := newSim(t, clerksim.Config{Users: 30, Seed: 13})
	place := &listing{api: newAPI(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		query.Del("starting_after")
		r.URL.RawQuery = query.Encode()
		sim.Handler().ServeHTTP(w, r)
	}), 10)}
	if read := readAll(t, place, nil); len(read) != 30 {
		t.Errorf("read %d users, want 30", len(read))
	}
}

// TestListing_ManyUsersOfOneMillisecond deletes the place after every second
// page, while more users were created, and read, in its millisecond than a page
// holds.
func TestListing_ManyUsersOfOneMillisecond(t *testing.T) {
	t.Parallel()
	clock := time.UnixMilli(1_700_000_000_000)
	sim := newSim(t, clerksim.Config{Seed: 14, Now: func() time.Time { return clock }})
	for range 12 {
		sim.SignUp()
	}
	clock = clock.Add(time.Second)
	sim.SignUp()
	place := &listing{api: newAPI(sim.Handler(), 3)}
	pages := 0
	read := readAll(t, place, func() {
		if pages++; pages%2 == 0 {
			if err := sim.Delete(place.id); err != nil {
				t.Fatal(err)
			}
		}
	})
	for id := range sim.Truth() {
		if !read[id] {
			t.Errorf("%s is missing; %d read", id, len(read))
		}
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
