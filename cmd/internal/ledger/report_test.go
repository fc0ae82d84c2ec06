package ledger

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/sinks/runner"
)

// TestFilter_OneSinkOfAnOverdueErasure: of an erasure that is overdue because of
// another, a sink that has done it is not.
func TestFilter_OneSinkOfAnOverdueErasure(t *testing.T) {
	t.Parallel()
	f := frame{expected: []Sink{{Name: "crm", HasRun: true}, {Name: "db", HasRun: true}}, deadline: deadline, now: monday.Add(2 * deadline)}
	for sink, want := range map[string]bool{"": true, "crm": true, "db": false, "other": false} {
		e := f.judge(asked(erasure("u", 7, monday), time.Time{}), map[string]schemas.Receipt{"db": receipt("u", "db", 7, monday.Add(time.Hour))})
		if got := (Filter{Overdue: true, Sink: sink}).take(&e); got != want || want && !e.Overdue {
			t.Errorf("overdue of %q: taken %v, overdue %v, want %v", sink, got, e.Overdue, want)
		}
		e = f.judge(asked(erasure("u", 7, monday), time.Time{}), map[string]schemas.Receipt{"db": receipt("u", "db", 7, monday.Add(time.Hour))})
		if (Filter{Sink: sink}).take(&e) && sink == "db" && (e.Open || e.Overdue || e.Late || e.CompletedAt == nil) {
			t.Errorf("the part of db: got %+v, want it complete in time", e)
		}
	}
}

// TestReport_Attention: what is open, late, or kept by decision is put before a
// person, and counted; what is complete is not. Data that is only marked as
// deleted is counted as kept.
func TestReport_Attention(t *testing.T) {
	t.Parallel()
	f := frame{expected: []Sink{{Name: "crm", HasRun: true}}, deadline: deadline, now: monday.Add(2 * deadline)}
	waived := receipt("user_waived", "crm", 7, monday.Add(time.Hour))
	waived.WaivedAt = new(monday.Add(time.Hour).UnixMilli())
	marked := receipt("user_marked", "crm", 7, monday.Add(time.Hour))
	marked.Outcome = schemas.OutcomeSoftDeleted
	r := &Report{}
	for _, given := range []schemas.Receipt{
		receipt("user_done", "crm", 7, monday.Add(time.Hour)), receipt("user_late", "crm", 7, monday.Add(deadline+time.Hour)),
		waived, marked, receipt("user_open", "crm", 6, monday),
	} {
		r.Erasures = append(r.Erasures, f.judge(asked(erasure(given.ClerkID, 7, monday), time.Time{}), map[string]schemas.Receipt{"crm": given}))
	}
	for i := range r.Erasures {
		r.Summary.add(&r.Erasures[i])
	}
	if want := (Summary{Erasures: 5, Complete: 4, Late: 1, Open: 1, Overdue: 1, Waived: 1, Kept: 1}); r.Summary != want {
		t.Errorf("got %+v, want %+v", r.Summary, want)
	}
	var got []string
	for _, e := range r.Attention() {
		got = append(got, e.ClerkID)
	}
	if want := []string{"user_late", "user_waived", "user_open"}; !slices.Equal(got, want) {
		t.Errorf("to be looked at: got %v, want %v", got, want)
	}
}

// TestHeard: the answer to a word is a receipt of that sink, about that user,
// by a writer who had read beyond the word.
func TestHeard(t *testing.T) {
	t.Parallel()
	words := map[string]int64{"user_1": 7}
	for name, test := range map[string]struct {
		key, heard string
		value      []byte
		want       bool
	}{
		"the answer":                     {"user_1/crm", "8", []byte("x"), true},
		"had read up to the word":        {"user_1/crm", "7", []byte("x"), false},
		"nobody says what he had read":   {"user_1/crm", "", []byte("x"), false},
		"another sink":                   {"user_1/db", "8", []byte("x"), false},
		"another user":                   {"user_2/crm", "8", []byte("x"), false},
		"the word itself, or one more":   {"user_1/crm", "8", nil, false},
		"a key that is none of receipts": {"user_1", "8", []byte("x"), false},
	} {
		k := &kgo.Record{Key: []byte(test.key), Value: test.value}
		if test.heard != "" {
			k.Headers = []kgo.RecordHeader{{Key: runner.HeaderHeard, Value: []byte(test.heard)}}
		}
		if id, ok := Heard(k, "crm", words); ok != test.want || ok && id != "user_1" {
			t.Errorf("%s: got %q, %v, want %v", name, id, ok, test.want)
		}
	}
}

// TestStanding: the erasure that a person has asked for is told from one that
// stood already, by its event.
func TestStanding(t *testing.T) {
	t.Parallel()
	l := &Ledger{}
	for _, test := range []struct {
		key, eventID string
		want         bool
	}{{"user_1", "msg_user_1", true}, {"user_1", "request/abc", false}, {"user_2", "msg_user_1", false}} {
		value, err := l.codec().Encode(new(erasure("user_1", 7, monday)))
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Standing(t.Context(), &kgo.Record{Key: []byte(test.key), Value: value}, "user_1", test.eventID); got != test.want {
			t.Errorf("%s, %s: got %v, want %v", test.key, test.eventID, got, test.want)
		}
	}
	if l.Standing(t.Context(), &kgo.Record{Key: []byte("user_1")}, "user_1", "msg_user_1") {
		t.Error("a withdrawal stands")
	}
}

// TestState_Open: an erasure that is done and not read back yet is not complete.
func TestState_Open(t *testing.T) {
	t.Parallel()
	for state, want := range map[State]bool{
		StateConfirmed: false, StateDone: false, StateWaived: false, StateUnconfirmed: true, StateHeld: true, StateOwed: true,
	} {
		if got := state.Open(); got != want {
			t.Errorf("%s: open %v, want %v", state, got, want)
		}
	}
}

// TestJudge_Waived: what a person has decided ends an erasure at that time, be
// it too late.
func TestJudge_Waived(t *testing.T) {
	t.Parallel()
	decided := monday.Add(deadline + time.Hour)
	waived := receipt("u", "crm", 7, monday)
	waived.WaivedAt = new(decided.UnixMilli())
	f := frame{expected: []Sink{{Name: "crm", HasRun: true}}, deadline: deadline, now: decided.Add(time.Hour)}
	e := f.judge(asked(erasure("u", 7, monday), time.Time{}), map[string]schemas.Receipt{"crm": waived})
	if e.Open || !e.Late || e.CompletedAt == nil || !e.CompletedAt.Equal(decided) {
		t.Errorf("got open %v, late %v, completed %v, want it late, at %s", e.Open, e.Late, e.CompletedAt, decided)
	}
}

// TestJudge_FromTheFuture: a sink that holds nothing back owes what was asked for
// by a clock that is ahead.
func TestJudge_FromTheFuture(t *testing.T) {
	t.Parallel()
	f := frame{expected: []Sink{{Name: "crm", HasRun: true}}, deadline: deadline, now: monday.Add(-time.Minute)}
	if e := f.judge(asked(erasure("u", 7, monday), time.Time{}), nil); e.Sinks[0].State != StateOwed {
		t.Errorf("got %s, want owed", e.Sinks[0].State)
	}
}
