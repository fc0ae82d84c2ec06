package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"clerkconnect/connector"
	"clerkconnect/schemas"
)

func TestHandler_Codes(t *testing.T) {
	t.Parallel()
	plain := func(method, target, body string) func(*testing.T) *http.Request {
		return func(*testing.T) *http.Request {
			return httptest.NewRequest(method, target, strings.NewReader(body))
		}
	}
	with := func(change func(*http.Request)) func(*testing.T) *http.Request {
		return func(t *testing.T) *http.Request {
			req := signed(t, secretA, "msg_1", good, time.Now())
			change(req)
			return req
		}
	}
	body := func(text string) func(*testing.T) *http.Request {
		return func(t *testing.T) *http.Request { return signed(t, secretA, "msg_1", text, time.Now()) }
	}
	for _, test := range []struct {
		name   string
		req    func(*testing.T) *http.Request
		want   outcome
		events int
	}{
		{"good", body(good), accepted, 1},
		{"white label", func(t *testing.T) *http.Request {
			return signedAs(t, "webhook-", secretA, "msg_1", good, time.Now())
		}, accepted, 1},
		{"get", plain("GET", path, ""), wrongMethod, 0},
		{"put", plain("PUT", path, good), wrongMethod, 0},
		{"head elsewhere", plain("HEAD", "/", ""), wrongPath, 0},
		{"trailing slash", plain("POST", path+"/", good), wrongPath, 0},
		{"double slash", plain("POST", "//webhooks//clerk", good), wrongPath, 0},
		{"dots", plain("POST", "/x/../webhooks/clerk", good), wrongPath, 0},
		{"no headers", plain("POST", path, good), missingHeader, 0},
		{"no id", with(func(r *http.Request) { r.Header.Del("svix-id") }), missingHeader, 0},
		{"no timestamp", with(func(r *http.Request) { r.Header.Del("svix-timestamp") }), missingHeader, 0},
		{"no signature", with(func(r *http.Request) { r.Header.Del("svix-signature") }), missingHeader, 0},
		{"timestamp unreadable", with(func(r *http.Request) { r.Header.Set("svix-timestamp", "soon") }), missingHeader, 0},
		{"id unprintable", func(t *testing.T) *http.Request { return signed(t, secretA, "msg \x80", good, time.Now()) }, missingHeader, 0},
		{"id too long", func(t *testing.T) *http.Request {
			return signed(t, secretA, strings.Repeat("m", 257), good, time.Now())
		}, missingHeader, 0},
		{"other secret", func(t *testing.T) *http.Request { return signed(t, secretB, "msg_1", good, time.Now()) }, noMatch, 0},
		{"other id", with(func(r *http.Request) { r.Header.Set("svix-id", "msg_2") }), noMatch, 0},
		{"other body", with(func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(good + " ")) }), noMatch, 0},
		{"signature of another version", with(func(r *http.Request) {
			r.Header.Set("svix-signature", strings.Replace(r.Header.Get("svix-signature"), "v1,", "v2,", 1))
		}), noMatch, 0},
		{"one of several signatures", with(func(r *http.Request) {
			r.Header.Set("svix-signature", "v1a,x v1 v1,AAAA "+r.Header.Get("svix-signature"))
		}), accepted, 1},
		{"clock behind", func(t *testing.T) *http.Request {
			return signed(t, secretA, "msg_1", good, time.Now().Add(-6*time.Minute))
		}, wrongClock, 0},
		{"clock ahead", func(t *testing.T) *http.Request {
			return signed(t, secretA, "msg_1", good, time.Now().Add(6*time.Minute))
		}, wrongClock, 0},
		{"old and forged", func(t *testing.T) *http.Request {
			return signed(t, secretB, "msg_1", good, time.Now().Add(-6*time.Minute))
		}, noMatch, 0},
		{"body declared too large", body(strings.Repeat(" ", maxBodyBytes) + good), bodyTooLarge, 0},
		{"body found too large", func(t *testing.T) *http.Request {
			req := signed(t, secretA, "msg_1", strings.Repeat(" ", maxBodyBytes)+good, time.Now())
			req.ContentLength = -1
			return req
		}, bodyTooLarge, 0},
		{"largest body", body(strings.Repeat(" ", maxBodyBytes-len(good)) + good), accepted, 1},
		{"body cut off", with(func(r *http.Request) { r.Body = io.NopCloser(io.MultiReader(strings.NewReader("{"), broken{})) }), bodyUnread, 0},
		{"deletion", body(userBody("user.deleted", "")), accepted, 1},
		{"type not taken", body(userBody("session.created", "")), typeNotTaken, 0},
		{"type never heard of", body(userBody(canary, "")), typeNotTaken, 0},
		{"other instance", body(strings.ReplaceAll(good, instance, "ins_"+canary)), otherInstance, 0},
		{"no instance", body(strings.ReplaceAll(good, `"instance_id":"`+instance+`",`, "")), accepted, 1},
		{"sample", body(strings.ReplaceAll(good, "user_1", "user_29w83sxmDNGwOuEthce5gg56FcC")), sampleEvent, 0},
		{"deletion without id", body(`{"type":"user.deleted","data":{"deleted":true}}`), deletionWithoutID, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil)
			recorder := b.send(test.req(t))
			if recorder.Code != test.want.code {
				t.Errorf("code: got %d, want %d", recorder.Code, test.want.code)
			}
			if recorder.Body.Len() != 0 {
				t.Errorf("body: got %q, want none", recorder.Body)
			}
			if got := recorder.Header().Get("Allow"); (got == "POST") != (test.want == wrongMethod) {
				t.Errorf("Allow: got %q", got)
			}
			if location := recorder.Header().Get("Location"); location != "" {
				t.Errorf("redirected to %q", location)
			}
			if got := len(b.broker.taken()); got != test.events {
				t.Errorf("records: got %d, want %d", got, test.events)
			}
			b.wantCounted(test.want, 1)
		})
	}
}

// TestHandler_NamesThePinnedInstance: who has pinned a wrong one by a slip sees
// which, since all deliveries are dropped then.
func TestHandler_NamesThePinnedInstance(t *testing.T) {
	t.Parallel()
	const slip = "ins_slip"
	b := setup(t, func(cfg *Config, _ *Dependencies) { cfg.InstanceID = slip })
	b.send(signed(t, secretA, "msg_1", userBody("user.created", ""), time.Now()))
	b.wantCounted(otherInstance, 1)
	if !strings.Contains(b.logs.String(), slip) || !strings.Contains(b.logs.String(), "CLERK_INSTANCE_ID") {
		t.Errorf("log: got %s, want the setting and %s", b.logs, slip)
	}
}

// broken is a body that cannot be read to its end.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

func TestHandler_Fixtures(t *testing.T) {
	t.Parallel()
	wants := map[string]outcome{
		"organization.created.json":                   typeNotTaken,
		"organizationMembership.created.json":         typeNotTaken,
		"session.created.json":                        typeNotTaken,
		"unknown.event_type.json":                     typeNotTaken,
		"user.deleted.no_id.json":                     deletionWithoutID,
		"user.created.dashboard_example_seconds.json": sampleEvent,
	}
	paths, _ := filepath.Glob(filepath.Join(fixtures(t), "*.json"))
	for _, file := range paths {
		name := filepath.Base(file)
		if strings.HasPrefix(name, "bapi.") || strings.HasPrefix(name, "v1_") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want, other := wants[name]
			if !other {
				want = accepted
			}
			b := setup(t, nil)
			if code := b.deliver("msg_1", string(body)).Code; code != 200 {
				t.Errorf("code: got %d, want 200", code)
			}
			b.wantCounted(want, 1)
			if got := b.broker.events(); (len(got) == 1) != (want == accepted) {
				t.Errorf("events: got %v", got)
			}
			for _, r := range b.broker.taken() {
				if r.Event.ReceivedAt != receivedAt.UnixMilli() || r.Event.EventID != "msg_1" || r.Event.InstanceID != instance {
					t.Errorf("got %+v", r.Event)
				}
			}
		})
	}
}

func TestHandler_Rotation(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config, _ *Dependencies) { c.SigningSecrets = []string{secretA, secretB} })
	for i, secret := range []string{secretA, secretB} {
		if code := b.send(signed(t, secret, fmt.Sprint("msg_", i), good, time.Now())).Code; code != 200 {
			t.Errorf("secret %d: got %d", i, code)
		}
	}
	// What was signed by either key does not verify a message of the other.
	forged := signed(t, secretA, "msg_3", good, time.Now())
	forged.Header.Set("svix-signature", signed(t, secretB, "msg_4", good, time.Now()).Header.Get("svix-signature"))
	if code := b.send(forged).Code; code != 400 {
		t.Errorf("forged: got %d", code)
	}
}

// TestHandler_AnswersAfterAcknowledgement is G1: no 200 before the writer said
// that the broker has the record.
func TestHandler_AnswersAfterAcknowledgement(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, body := range []string{good, userBody("user.updated", `,"updated_at":"x"`)} { // an event, a dead letter
			acknowledge := make(chan error)
			b := setup(t, nil)
			b.broker.set(func(context.Context, []connector.SourceRecord) error { return <-acknowledge })
			req, recorder, returned := signed(t, secretA, "msg_1", body, time.Now()), httptest.NewRecorder(), false
			recorder.Code = 0
			go func() {
				b.Handler().ServeHTTP(recorder, req)
				returned = true
			}()
			synctest.Wait()
			if returned || recorder.Code != 0 {
				t.Fatalf("answered %d before the acknowledgement", recorder.Code)
			}
			acknowledge <- nil
			synctest.Wait()
			if !returned || recorder.Code != 200 {
				t.Fatalf("after the acknowledgement: returned %v, code %d, want 200", returned, recorder.Code)
			}
		}
	})
}

func TestHandler_SlowBroker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, nil)
		b.broker.set(func(context.Context, []connector.SourceRecord) error { // deaf to its context, like a stuck produce request
			time.Sleep(20 * time.Second)
			return errBroker
		})
		start := time.Now()
		recorder := b.deliver("msg_1", good)
		if recorder.Code != 503 || recorder.Header().Get("Retry-After") != "5" {
			t.Errorf("got %d, Retry-After %q", recorder.Code, recorder.Header().Get("Retry-After"))
		}
		if took := time.Since(start); took != 8*time.Second {
			t.Errorf("answered after %v, want 8s", took)
		}
		b.wantCounted(timedOut, 1)
		b.broker.set(nil)
		time.Sleep(time.Minute)
		if code := b.deliver("msg_1", good).Code; code != 200 {
			t.Errorf("repeated: got %d, want 200", code)
		}
		if got := b.broker.events(); !slices.Equal(got, []string{"msg_1"}) {
			t.Errorf("events: got %v, want msg_1: it must not be lost", got)
		}
		if got := b.metrics()["repeated_total{}"]; got != 1 {
			t.Errorf("repeated_total: got %v, want 1", got)
		}
	})
}

// TestHandler_LateAcknowledgement: what the broker acknowledges after the
// answer is there, and harms nothing when Svix repeats it.
func TestHandler_LateAcknowledgement(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, nil)
		b.broker.set(func(context.Context, []connector.SourceRecord) error { time.Sleep(9 * time.Second); return nil })
		if code := b.deliver("msg_1", good).Code; code != 503 {
			t.Errorf("got %d, want 503", code)
		}
		time.Sleep(2 * time.Second)
		if got := b.broker.events(); !slices.Equal(got, []string{"msg_1"}) {
			t.Errorf("events: got %v", got)
		}
	})
}

func TestHandler_BrokerError(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.broker.set(func(context.Context, []connector.SourceRecord) error { return errBroker })
	for range 3 {
		recorder := b.deliver("msg_1", good)
		if recorder.Code != 503 || recorder.Header().Get("Retry-After") == "" {
			t.Errorf("got %d, Retry-After %q", recorder.Code, recorder.Header().Get("Retry-After"))
		}
	}
	b.wantCounted(writeFailed, 3)
	if got := strings.Count(b.logs.String(), errBroker.Error()); got != 1 {
		t.Errorf("the error is logged %d times in a minute, want once:\n%s", got, b.logs)
	}
}

func TestHandler_Panic(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.broker.set(func(context.Context, []connector.SourceRecord) error { panic(canary) })
	if code := b.deliver("msg_1", good).Code; code != 500 {
		t.Errorf("got %d, want 500", code)
	}
	b.wantCounted(panicked, 1)
	if len(b.slots) != 0 {
		t.Error("the slot is not given back")
	}
}

func TestHandler_Sheds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, func(c *Config, _ *Dependencies) { c.MaxWaiting = 3 })
		acknowledge := make(chan error)
		b.broker.set(func(context.Context, []connector.SourceRecord) error { return <-acknowledge })
		codes := make(chan int, 3)
		for i := range 3 {
			go func() { codes <- b.deliver(fmt.Sprint("msg_", i), good).Code }()
		}
		synctest.Wait()
		start := time.Now()
		if code := b.deliver("msg_3", good).Code; code != 503 || time.Since(start) != 0 {
			t.Errorf("got %d after %v, want 503 at once", code, time.Since(start))
		}
		b.wantCounted(tooMany, 1)
		if got := b.metrics()["in_flight{}"]; got != 3 {
			t.Errorf("in_flight: got %v, want 3", got)
		}
		// An unsigned request takes nobody's place and is told nothing of it.
		if code := b.send(httptest.NewRequest(http.MethodPost, path, nil)).Code; code != 400 {
			t.Errorf("unsigned: got %d, want 400", code)
		}
		for range 3 {
			acknowledge <- nil
			if code := <-codes; code != 200 {
				t.Errorf("got %d, want 200", code)
			}
		}
		b.broker.set(nil)
		if code := b.deliver("msg_3", good).Code; code != 200 {
			t.Errorf("repeated: got %d, want 200", code)
		}
	})
}

// TestHandler_ClientGone: who hangs up does not stop the write, and is not
// answered 200 before it is done.
func TestHandler_ClientGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, nil)
		b.broker.set(func(ctx context.Context, _ []connector.SourceRecord) error {
			select {
			case <-time.After(2 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		recorder := b.send(signed(t, secretA, "msg_1", good, time.Now()).WithContext(ctx))
		if recorder.Code != 503 || recorder.Header().Get("Retry-After") == "" { // a proxy may still listen
			t.Errorf("got %d, Retry-After %q; want 503", recorder.Code, recorder.Header().Get("Retry-After"))
		}
		b.wantCounted(clientGone, 1)
		time.Sleep(2 * time.Second)
		if got := b.broker.events(); !slices.Equal(got, []string{"msg_1"}) {
			t.Errorf("events: got %v, want msg_1", got)
		}
	})
}

func TestHandler_DeadLetters(t *testing.T) {
	t.Parallel()
	now := receivedAt.UnixMilli()
	user := func(members string) string { return userBody("user.updated", members) }
	notUTF8 := user(`,"last_name":"` + "\xff" + `"`)
	for _, test := range []struct {
		name, body string
		noKey      bool
		want       outcome
		eventType  string
		offset     int64
		reread     *connector.Reread
	}{
		{name: "not JSON", body: `{"type":"user.updated",` + canary, want: malformedJSON, offset: 24},
		{name: "empty", body: "", want: malformedJSON},
		{name: "not UTF-8", body: notUTF8, want: malformedJSON, offset: int64(strings.Index(notUTF8, "\xff")),
			reread: &connector.Reread{ClerkID: "user_1", Reason: "unreadable", RequestedAt: now}},
		{name: "no envelope", body: `["` + canary + `"]`, want: malformedEnvelope},
		{name: "no user", body: user(`,"updated_at":"` + canary + `"`), want: malformedUser, eventType: "user.updated",
			offset: int64(strings.LastIndex(user(`,"updated_at":"`+canary+`"`), `"`+canary+`"},"event`)),
			reread: &connector.Reread{ClerkID: "user_1", Reason: "unreadable", RequestedAt: now}},
		{name: "no user and no key", noKey: true, body: user(`,"updated_at":0`), want: malformedUser, eventType: "user.updated", offset: int64(strings.Index(user(`,"updated_at":0`), `0},"event`))},
		{name: "no id", body: `{"type":"user.created","data":{"updated_at":5}}`, want: missingID, eventType: "user.created", offset: -1},
		{name: "a minute too far ahead", body: user(fmt.Sprintf(`,"updated_at":%d`, now+660_000)), want: tooFarAhead, eventType: "user.updated", offset: -1,
			reread: &connector.Reread{ClerkID: "user_1", Reason: "clock_ahead", RequestedAt: now, NotBefore: now + 60_000}},
		{name: "years ahead", body: user(`,"updated_at":9223372036854775807`), want: tooFarAhead, eventType: "user.updated", offset: -1,
			reread: &connector.Reread{ClerkID: "user_1", Reason: "clock_ahead", RequestedAt: now, NotBefore: now + 600_000}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, func(_ *Config, d *Dependencies) { d.HasKey = !test.noKey })
			b.broker.set(func(context.Context, []connector.SourceRecord) error { return errBroker })
			if code := b.deliver("msg_1", test.body).Code; code != 503 {
				t.Errorf("without an acknowledgement: got %d, want 503", code)
			}
			b.broker.set(nil)
			if code := b.deliver("msg_1", test.body).Code; code != 200 {
				t.Errorf("got %d, want 200", code)
			}
			b.wantCounted(test.want, 1)
			records := b.broker.taken()
			if len(records) == 0 || records[0].DeadLetter == nil {
				t.Fatalf("records: got %+v", records)
			}
			letter := *records[0].DeadLetter
			if len(letter.SHA256) != 64 {
				t.Errorf("SHA256: got %q", letter.SHA256)
			}
			letter.SHA256 = ""
			want := connector.DeadLetter{EventID: "msg_1", EventType: test.eventType, Reason: test.want.reason, Bytes: len(test.body), Offset: test.offset, ReceivedAt: now}
			if test.reread != nil || test.noKey {
				want.ClerkID = "user_1"
			}
			if letter != want {
				t.Errorf("dead letter: got %+v, want %+v", letter, want)
			}
			switch {
			case test.reread == nil && len(records) != 1:
				t.Errorf("records: got %+v", records)
			case test.reread != nil && (len(records) != 2 || records[1].Reread == nil || *records[1].Reread != *test.reread):
				t.Errorf("re-read: got %+v, want %+v", records[1:], test.reread)
			}
			if text, _ := json.Marshal(records); strings.Contains(string(text), "CANARY") {
				t.Errorf("the body is in the records: %s", text)
			}
		})
	}
}

func TestHandler_RecordTooLarge(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.broker.set(func(_ context.Context, records []connector.SourceRecord) error {
		if records[0].Event != nil {
			return fmt.Errorf("produce 1 records: %w", kerr.MessageTooLarge)
		}
		return nil
	})
	if code := b.deliver("msg_1", good).Code; code != 200 {
		t.Errorf("got %d, want 200", code)
	}
	b.wantCounted(recordTooLarge, 1)
	if records := b.broker.taken(); len(records) != 1 || records[0].DeadLetter.Reason != "too_large" || records[0].DeadLetter.ClerkID != "user_1" {
		t.Errorf("records: got %+v", records)
	}
}

func TestHandler_PinsInstance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pinned, calls, failing := "", 0, true
		b := setup(t, func(c *Config, d *Dependencies) {
			c.InstanceID = ""
			d.PinInstance = func(_ context.Context, id string) (string, error) {
				calls++
				time.Sleep(time.Second)
				if failing {
					return "", errBroker
				}
				if pinned == "" {
					pinned = id
				}
				return pinned, nil
			}
		})
		b.deliver("msg_0", strings.ReplaceAll(good, "user_1", "user_29w83sxmDNGwOuEthce5gg56FcC"))
		b.deliver("msg_1", userBody("session.created", ""))
		if calls != 0 {
			t.Error("a sample or a type not taken was pinned")
		}
		if code := b.deliver("msg_2", good).Code; code != 503 {
			t.Errorf("without a pin: got %d, want 503", code)
		}
		b.wantCounted(pinFailed, 1)
		failing, calls = false, 0
		codes := make(chan int)
		for i := range 5 {
			go func() { codes <- b.deliver(fmt.Sprint("msg_3", i), good).Code }()
		}
		for range 5 {
			if code := <-codes; code != 200 {
				t.Errorf("got %d, want 200", code)
			}
		}
		b.deliver("msg_4", strings.ReplaceAll(good, instance, "ins_other"))
		b.wantCounted(otherInstance, 1)
		if calls != 1 || pinned != instance || len(b.broker.events()) != 5 {
			t.Errorf("calls %d, pinned %s, events %v", calls, pinned, b.broker.events())
		}
	})
}

func TestHandler_AllowedCIDRs(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config, _ *Dependencies) {
		c.AllowedCIDRs, c.TrustedProxies = []string{"44.228.126.217", "2600:1f24:64:8000::/56"}, []string{"10.0.0.0/8"}
	})
	for _, test := range []struct {
		remote, forwarded string
		want              int
	}{
		{"44.228.126.217:1", "", 200},
		{"[2600:1f24:64:8000::1]:1", "", 200},
		{"198.51.100.7:1", "", 403},
		{"198.51.100.7:1", "44.228.126.217", 403},
		{"10.0.0.1:1", "44.228.126.217", 200},
		{"10.0.0.1:1", "44.228.126.217, 198.51.100.7", 403},
		{"10.0.0.1:1", "", 403},
		{"10.0.0.1:1", "nonsense", 403},
	} {
		req := signed(t, secretA, "msg_1", good, time.Now())
		req.RemoteAddr = test.remote
		if test.forwarded != "" {
			req.Header.Set("X-Forwarded-For", test.forwarded)
		}
		if code := b.send(req).Code; code != test.want {
			t.Errorf("%s for %q: got %d, want %d", test.remote, test.forwarded, code, test.want)
		}
	}
	b.wantCounted(wrongAddress, 5)
}

func TestMetrics_AreInitialised(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	values := b.metrics()
	for _, o := range outcomes {
		name := fmt.Sprintf("requests_total{%d,%s}", o.code, o.reason)
		if _, ok := values[name]; !ok {
			t.Errorf("%s is not there at the start", name)
		}
	}
	before := len(values)
	b.deliver("msg_1", good)
	b.deliver("msg_2", userBody("user.deleted", ""))
	b.deliver("msg_3", userBody("a.type", ""))
	values = b.metrics()
	if len(values) != before {
		t.Errorf("%d series at the start, %d later", before, len(values))
	}
	for name, want := range map[string]float64{"events_total{user.updated}": 1, "events_total{user.deleted}": 1, "events_total{other}": 1,
		"event_age_seconds{}": 2, "duration_seconds{}": 3, "in_flight{}": 0} {
		if values[name] != want {
			t.Errorf("%s: got %v, want %v", name, values[name], want)
		}
	}
}

// TestHandler_Record shows that the policy is applied before the first write.
func TestHandler_Record(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.deliver("msg_1", good)
	event := b.broker.taken()[0].Event
	if event.ClerkID != "user_1" || event.Operation != schemas.EventUpsert || event.User.PrivateMetadata != nil || event.ClientIP != nil || *event.User.FirstName != canary {
		t.Errorf("got %+v", event)
	}
}

// FuzzVerify: whatever the body and the headers, only what one of our secrets
// signed is accepted, under the id that was signed.
func FuzzVerify(f *testing.F) {
	v, err := newVerifier([]string{secretA, secretB})
	if err != nil {
		f.Fatal(err)
	}
	now := time.Now()
	for _, secret := range []string{secretA, secretB} {
		req := signed(f, secret, "msg_1", good, now)
		f.Add([]byte(good), "msg_1", req.Header.Get("svix-timestamp"), req.Header.Get("svix-signature"), "", "", "")
		f.Add([]byte(good), "", "", "", "msg_1", req.Header.Get("svix-timestamp"), req.Header.Get("svix-signature"))
		f.Add([]byte(good), "msg_2", req.Header.Get("svix-timestamp"), "", "msg_1", req.Header.Get("svix-timestamp"), req.Header.Get("svix-signature"))
	}
	f.Add([]byte("{}"), "a", "0", "v1,", "b", "-1", "v1, v1,v1,")
	f.Fuzz(func(t *testing.T, body []byte, id, timestamp, signature, whiteID, whiteTimestamp, whiteSignature string) {
		header := http.Header{}
		for name, value := range map[string]string{"svix-id": id, "svix-timestamp": timestamp, "svix-signature": signature,
			"webhook-id": whiteID, "webhook-timestamp": whiteTimestamp, "webhook-signature": whiteSignature} {
			if value != "" {
				header.Set(name, value)
			}
		}
		got, end := v.verify(body, header)
		if end != verified {
			if got != "" {
				t.Fatal("an id without a verification")
			}
			return
		}
		for _, set := range [][3]string{{id, timestamp, signature}, {whiteID, whiteTimestamp, whiteSignature}} {
			if got != set[0] {
				continue
			}
			for _, webhook := range v {
				var seconds int64
				fmt.Sscan(set[1], &seconds)
				ours, _ := webhook.Sign(got, time.Unix(seconds, 0), body)
				if slices.ContainsFunc(strings.Split(set[2], " "), func(s string) bool {
					return s == ours || strings.HasPrefix(s, ours+",")
				}) {
					return
				}
			}
		}
		t.Fatalf("accepted without a signature of ours: id %q", got)
	})
}

func BenchmarkHandler(b *testing.B) {
	bench := setup(b, nil)
	body := good[:len(good)-1] + `,"padding":"` + strings.Repeat("x", 2048) + `"}`
	template := signed(b, secretA, "msg_1", body, time.Now())
	handler := bench.Handler()
	bench.broker.set(func(context.Context, []connector.SourceRecord) error { return nil })
	b.ReportAllocs()
	for b.Loop() {
		req := template.Clone(b.Context())
		req.Body = io.NopCloser(strings.NewReader(body))
		recorder := httptest.NewRecorder()
		if handler.ServeHTTP(recorder, req); recorder.Code != 200 {
			b.Fatal(recorder.Code)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}
