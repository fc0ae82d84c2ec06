package ledger

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/schemas"
)

const hold = 72 * time.Hour

// filled is a ledger with one of everything.
func filled(t *testing.T) *deployment {
	d := newDeployment(t, []string{"crm", "db", "left"},
		Sink{Name: "crm", Kind: "hubspot", Configured: true, EraseAfter: hold},
		Sink{Name: "db", Kind: "postgres", Configured: true, Confirms: true},
		Sink{Name: "new", Kind: "sqlite", Configured: true})
	for _, e := range []schemas.Erasure{
		erasure("user_done", 7, monday), erasure("user_held", 8, monday.Add(24*time.Hour)),
		erasure("user_back", 9, monday), erasure("user_twice", 4, monday.Add(-50*24*time.Hour)), erasure("user_twice", 5, monday.Add(-40*24*time.Hour)),
	} {
		d.asks(e)
	}
	d.withdraws("user_back")
	d.write(d.Topics.Erasures(), "user_done", schemas.TickKey, nil)
	for _, sink := range []string{"crm", "db", "left", "new", "gone"} {
		r := receipt("user_done", sink, 7, monday.Add(hold+time.Minute))
		if sink == "db" {
			r = confirmed(receipt("user_done", sink, 7, monday.Add(time.Minute)))
			r.Outcome, r.Reason = schemas.OutcomeAnonymized, new("rows of orders refer to it")
		}
		d.answers(r, 0)
	}
	d.answers(confirmed(receipt("user_back", "db", 9, monday)), 0)
	d.answers(confirmed(receipt("user_held", "db", 8, monday.Add(25*time.Hour))), 0)
	d.answers(receipt("user_held", "left", 8, monday.Add(25*time.Hour)), 0)
	d.answers(receipt("user_held", "new", 8, monday.Add(25*time.Hour)), 0)
	d.answers(receipt("user_twice", "db", 4, monday.Add(-50*24*time.Hour)), 0)
	return d
}

// now is when the filled ledger is looked at.
var now = monday.Add(hold + 2*time.Hour)

func TestRead_JoinsAllPartitions(t *testing.T) {
	t.Parallel()
	d := filled(t)
	r, err := d.Report(t.Context(), Filter{}, now)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range r.Erasures {
		got[e.ClerkID] = e.Verdict()
	}
	if want := map[string]string{"user_done": "complete", "user_held": "open", "user_twice": "overdue"}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if want := (Summary{Erasures: 3, Complete: 1, Open: 2, Overdue: 1, Held: 1}); r.Summary != want {
		t.Errorf("got %+v, want %+v", r.Summary, want)
	}
	if !slices.IsSortedFunc(r.Erasures, func(a, b Entry) int { return a.RequestedAt.Compare(b.RequestedAt) }) {
		t.Error("the oldest is not the first")
	}
	var standing []string
	for _, s := range r.Sinks {
		standing = append(standing, s.Name+": "+s.Standing())
	}
	if got, want := strings.Join(standing, "\n"), `crm: configured here
db: configured here
gone: removed: only its receipts are left
left: not configured here: another process runs it, or it was removed
new: configured here, has not run yet`; got != want {
		t.Errorf("sinks: got\n%s\nwant\n%s", got, want)
	}
	if got, want := d.states("user_held", now), (map[string]State{"crm": StateHeld, "db": StateConfirmed, "left": StateDone, "new": StateDone}); !maps.Equal(got, want) {
		t.Errorf("user_held: got %v, want %v", got, want)
	}
	_, found, earlier, err := d.Find(t.Context(), "user_back", now)
	if found || err != nil || !slices.Equal(earlier, []string{"db"}) {
		t.Errorf("a user who came back: got found %v, earlier %v, %v", found, earlier, err)
	}
}

func TestReport_Filters(t *testing.T) {
	t.Parallel()
	d := filled(t)
	for _, test := range []struct {
		name   string
		filter Filter
		want   []string
	}{
		{"open", Filter{Open: true}, []string{"user_twice", "user_held"}},
		{"overdue", Filter{Overdue: true}, []string{"user_twice"}},
		{"open for a sink", Filter{Open: true, Sink: "crm"}, []string{"user_twice", "user_held"}},
		{"open for a sink that has done one", Filter{Open: true, Sink: "db"}, []string{"user_twice"}},
		{"a removed sink", Filter{Sink: "gone"}, []string{"user_done"}},
		{"since", Filter{Since: monday}, []string{"user_done", "user_held"}},
		{"until", Filter{Until: monday}, []string{"user_twice"}},
		{"until is not part of it", Filter{Since: monday, Until: monday.Add(24 * time.Hour)}, []string{"user_done"}},
		{"what is open is carried on", Filter{Since: monday, Carry: true}, []string{"user_twice", "user_done", "user_held"}},
		{"what is complete is not", Filter{Since: monday.Add(time.Hour), Carry: true}, []string{"user_twice", "user_held"}},
	} {
		r, err := d.Report(t.Context(), test.filter, now)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range r.Erasures {
			got = append(got, e.ClerkID)
			if e.Earlier != (test.filter.Carry && e.RequestedAt.Before(test.filter.Since)) {
				t.Errorf("%s: %s: earlier is %v", test.name, e.ClerkID, e.Earlier)
			}
			if test.filter.Sink != "" && len(e.Sinks) != 1 {
				t.Errorf("%s: got %d sinks, want that one", test.name, len(e.Sinks))
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
	if _, err := d.Report(t.Context(), Filter{Sink: "crmm"}, now); err == nil || !strings.Contains(err.Error(), "there are: crm, db, gone, left, new") {
		t.Errorf("a sink that is none: got %v", err)
	}
}

// TestReceipt_TakenBack: the ledger believes what the runner believes.
func TestReceipt_TakenBack(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, []string{"db"}, Sink{Name: "db", Configured: true})
	d.asks(erasure("u", 7, monday))
	d.answers(receipt("u", "db", 7, monday), 0)
	states := func() State { return d.states("u", now)["db"] }
	if got := states(); got != StateDone {
		t.Fatalf("got %s, want done", got)
	}
	words, err := d.TakeBack(t.Context(), d.client, "db", []string{"u"})
	if err != nil {
		t.Fatal(err)
	}
	if got := states(); got != StateOwed {
		t.Errorf("taken back: got %s, want owed", got)
	}
	d.answers(receipt("u", "db", 7, monday), words["u"]) // had not heard of it
	if got := states(); got != StateOwed {
		t.Errorf("a receipt that crossed the word: got %s, want owed", got)
	}
	d.answers(receipt("u", "db", 7, monday), words["u"]+1)
	if got := states(); got != StateDone {
		t.Errorf("the answer: got %s, want done", got)
	}
	d.write(d.Topics.ErasureReceipts(), "u", "u/db", &schemas.Erasure{ClerkID: "u", Origin: schemas.OriginWebhook}) // no receipt
	if got := states(); got != StateOwed {
		t.Errorf("a receipt that cannot be read: got %s, want owed", got)
	}
}

func TestWaive(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, []string{"crm"}, Sink{Name: "crm", Configured: true, EraseAfter: hold})
	d.asks(erasure("u", 7, monday))
	if err := d.Waive(t.Context(), d.client, d.find("u", monday), "crm", monday.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	e := d.find("u", now)
	if e.Open || e.Sinks[0].State != StateWaived || !e.Sinks[0].WaivedAt.Equal(monday.Add(time.Hour)) {
		t.Errorf("got %+v, want a waiver", e)
	}
	d.asks(erasure("u", 8, monday)) // a later demand is owed anew
	if got := d.states("u", now)["crm"]; got != StateOwed {
		t.Errorf("a later demand: got %s, want owed", got)
	}
}

func TestFollower(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, []string{"db"})
	d.asks(erasure("before", 1, monday))
	f, err := d.Follow(t.Context(), d.Topics.Erasures())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := 0
	count := func(*kgo.Record) (bool, bool) { seen++; return true, false }
	if err := f.Until(t.Context(), 200*time.Millisecond, count); !errors.Is(err, ErrNoEffect) || seen != 0 {
		t.Errorf("nothing written: got %v after %d records, want ErrNoEffect", err, seen)
	}
	d.asks(erasure("other", 1, monday))
	d.asks(erasure("u", 1, monday))
	err = f.Until(t.Context(), 2*time.Minute, func(k *kgo.Record) (bool, bool) {
		return false, d.Standing(t.Context(), k, "u", "msg_u")
	})
	if err != nil {
		t.Error(err)
	}
	d.withdraws("u")
	if err := f.Until(t.Context(), 2*time.Minute, func(k *kgo.Record) (bool, bool) { return false, Withdrawn(k, "u") }); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Until(ctx, 2*time.Minute, count); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: got %v", err)
	}
}

func TestReapplied_IsKept(t *testing.T) {
	t.Parallel()
	d := filled(t)
	writer := connector.NewWriter(d.client, d.codec(), d.Topics, partitions)
	word := NewReapplied("db", now, monday, 1, []string{"user_twice"})
	if err := writer.StoreState(t.Context(), word.StateKey(), word); err != nil {
		t.Fatal(err)
	}
	d.answers(confirmed(receipt("user_done", "db", 7, now.Add(time.Minute))), 100)
	d.answers(confirmed(receipt("user_twice", "db", 5, now.Add(time.Minute))), 100)
	for id, want := range map[string]bool{"user_done": true, "user_twice": false} {
		e := d.find(id, now.Add(time.Hour))
		i := slices.IndexFunc(e.Sinks, func(s SinkEntry) bool { return s.Sink == "db" })
		if (e.Sinks[i].Repeated != nil) != want {
			t.Errorf("%s: repeated is %v, want %v", id, e.Sinks[i].Repeated, want)
		}
	}
	r, err := d.Report(t.Context(), Filter{}, now)
	if err != nil || len(r.Reapplied) != 1 || r.Reapplied[0].Erasures != 1 || !r.Reapplied[0].At.Equal(now) {
		t.Errorf("got %+v, %v", r.Reapplied, err)
	}
}

// TestReport_Shape compares the JSON that README.md describes, and the page,
// with files that a person has looked at: -update by UPDATE_GOLDEN=1.
func TestReport_Shape(t *testing.T) {
	t.Parallel()
	d := filled(t)
	d.asks(schemas.Erasure{ClerkID: "user_asked", Epoch: 1, Version: 3, Origin: schemas.OriginRequest, EventID: "request/abc/ticket DSR-118", RequestedAt: monday.UnixMilli(), SequencedAt: monday.UnixMilli()})
	r, err := d.Report(t.Context(), Filter{Since: monday, Carry: true}, now)
	if err != nil {
		t.Fatal(err)
	}
	r.Program, r.InstanceID = "clerk-connect test", "ins_1"
	r.Copies = []Copy{{Topic: "test.users", AtMostSeconds: new(int64(345600)), Why: "max.compaction.lag.ms is 3 days"}, {Topic: "test.user-events", Why: "retention.ms is -1"}}
	r.Reapplied = []Reapplied{NewReapplied("db", monday.Add(time.Hour), monday, 3, nil)}
	var text, page bytes.Buffer
	if err := errors.Join(WriteJSON(&text, r), r.WritePage(&page)); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{"report.golden.json": text.Bytes(), "report.golden.html": page.Bytes()} {
		path := filepath.Join("testdata", name)
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what is written now; look at it, and set UPDATE_GOLDEN=1:\n%s", name, got)
		}
	}
	if found := regexp.MustCompile(`(?i)https?://|<script|<link|<img|url\(|@import`).FindString(page.String()); found != "" {
		t.Errorf("the page needs something else: %q", found)
	}
	for _, field := range regexp.MustCompile(`"([a-z_]+)":`).FindAllStringSubmatch(text.String(), -1) {
		readme, err := os.ReadFile("README.md")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(readme), "`"+field[1]+"`") {
			t.Errorf("README.md does not describe %s", field[1])
		}
	}
}

// An event id comes from outside, and is text.
func TestPage_Escapes(t *testing.T) {
	t.Parallel()
	r := &Report{Erasures: []Entry{{ClerkID: "u", EventID: "<script>x</script>", Open: true}}}
	var page bytes.Buffer
	if err := r.WritePage(&page); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(page.String(), "<script>") {
		t.Error("the page holds a script")
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	d := filled(t)
	registry := prometheus.NewRegistry()
	w := NewWatch(d.Ledger, registry, nil)
	value := func(name, sink string) float64 {
		t.Helper()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, m := range family.Metric {
				if family.GetName() == "clerk_connect_erasure_"+name && (sink == "" || len(m.Label) == 1 && m.Label[0].GetValue() == sink) {
					return m.GetGauge().GetValue()
				}
			}
		}
		return -1
	}
	if got := value("ledger_read_timestamp_seconds", ""); got != 0 {
		t.Errorf("before the first look: got %v, want 0", got)
	}
	if err := w.look(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, sink string
		want       float64
	}{
		{"open", "crm", 2}, {"overdue", "crm", 1},
		{"open", "left", 1}, {"overdue", "left", 1}, // nobody has it in SINKS
		{"open", "db", 1}, {"open", "gone", -1},
		{"deadline_seconds", "", deadline.Seconds()}, {"ledger_read_timestamp_seconds", "", float64(now.Unix())},
	} {
		if got := value(test.name, test.sink); got != test.want {
			t.Errorf("%s of %q: got %v, want %v", test.name, test.sink, got, test.want)
		}
	}
	want := time.Since(monday.Add(-40 * 24 * time.Hour)).Seconds()
	if got := value("oldest_open_seconds", "crm"); got < want-60 || got > want+60 {
		t.Errorf("oldest_open_seconds: got %v, want about %v", got, want)
	}
}
