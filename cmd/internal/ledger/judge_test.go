package ledger

import (
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
)

func TestJudgeSink(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	done := receipt("u", "crm", 7, monday.Add(time.Hour))
	waived := done
	waived.WaivedAt, waived.Outcome = new(monday.Add(2*time.Hour).UnixMilli()), schemas.OutcomeNotPresent
	reasoned := done
	reasoned.Outcome, reasoned.Reason = schemas.OutcomeAnonymized, new("rows of orders refer to it")
	older := receipt("u", "crm", 6, monday.Add(-day))
	newer := receipt("u", "crm", 8, monday.Add(time.Hour))
	for _, test := range []struct {
		name    string
		sink    Sink
		receipt *schemas.Receipt
		state   State
		missing string // "" nothing
	}{
		{"confirmed", Sink{Confirms: true}, new(confirmed(done)), StateConfirmed, ""},
		{"done by a sink that reads nothing back", Sink{Configured: true}, &done, StateDone, ""},
		{"done by a sink that reads back later", Sink{Configured: true, Confirms: true}, &done, StateUnconfirmed, "not read back"},
		{"a receipt for a later erasure covers", Sink{}, &newer, StateDone, ""},
		{"waived", Sink{Configured: true, EraseAfter: 100 * day}, &waived, StateWaived, "a person decided"},
		{"held", Sink{Configured: true, HasRun: true, EraseAfter: 72 * time.Hour}, nil, StateHeld, "held back until 2026-11-05 09:00 UTC"},
		{"held although an earlier one was done", Sink{Configured: true, HasRun: true, EraseAfter: 72 * time.Hour}, &older, StateHeld, "held back"},
		{"the hold has ended", Sink{Configured: true, HasRun: true, EraseAfter: 48 * time.Hour}, nil, StateOwed, "tries again for ever"},
		{"owed", Sink{Configured: true, HasRun: true}, nil, StateOwed, "tries again for ever"},
		{"an earlier one was done", Sink{Configured: true, HasRun: true}, &older, StateOwed, "its receipt is for an earlier erasure"},
		{"a newer sink", Sink{Configured: true}, nil, StateOwed, "has not run yet"},
		{"removed, or of another process", Sink{HasRun: true}, nil, StateOwed, "not configured here"},
		{"anonymised", Sink{}, &reasoned, StateDone, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.sink.Name = "crm"
			f := frame{expected: []Sink{test.sink}, deadline: deadline, now: monday.Add(2 * day)}
			receipts := map[string]schemas.Receipt{}
			if test.receipt != nil {
				receipts["crm"] = *test.receipt
			}
			e := f.judge(asked(erasure("u", 7, monday), time.Time{}), receipts)
			if len(e.Sinks) != 1 {
				t.Fatalf("got %d sinks, want 1", len(e.Sinks))
			}
			s := e.Sinks[0]
			if s.State != test.state || (s.Missing == "") != (test.missing == "") || !strings.Contains(s.Missing, test.missing) {
				t.Errorf("got %s, missing %q; want %s, %q", s.State, s.Missing, test.state, test.missing)
			}
			if e.Open != s.State.Open() || e.Overdue || (e.CompletedAt == nil) != e.Open {
				t.Errorf("got open %v, overdue %v, completed %v", e.Open, e.Overdue, e.CompletedAt)
			}
			if s.Reason != "" && s.Reason != "rows of orders refer to it" {
				t.Errorf("got the reason %q", s.Reason)
			}
		})
	}
}

func TestJudge_Deadline(t *testing.T) {
	t.Parallel()
	due := monday.Add(deadline)
	sink := Sink{Name: "crm", Configured: true, HasRun: true}
	judge := func(now time.Time, receipts ...schemas.Receipt) Entry {
		by := map[string]schemas.Receipt{}
		for _, r := range receipts {
			by[r.Sink] = r
		}
		return frame{expected: []Sink{sink, {Name: "db", HasRun: true}}, deadline: deadline, now: now}.judge(asked(erasure("u", 7, monday), time.Time{}), by)
	}
	db := receipt("u", "db", 7, monday.Add(time.Minute))
	if e := judge(due, db); !e.Open || e.Overdue || !e.DueAt.Equal(due) {
		t.Errorf("at the deadline: got open %v, overdue %v, due %s", e.Open, e.Overdue, e.DueAt)
	}
	if e := judge(due.Add(time.Second), db); !e.Overdue {
		t.Error("a second after the deadline: got not overdue")
	}
	if e := judge(due.Add(time.Hour), db, receipt("u", "crm", 7, due)); e.Open || e.Overdue || e.Late || !e.CompletedAt.Equal(due) {
		t.Errorf("done at the deadline: got %+v", e)
	}
	if e := judge(due.Add(time.Hour), db, receipt("u", "crm", 7, due.Add(time.Millisecond))); e.Open || !e.Late {
		t.Errorf("done a moment after the deadline: got open %v, late %v", e.Open, e.Late)
	}
	// Removed for good: not expected, shown where it has answered.
	if e := judge(monday, db, receipt("u", "crm", 7, monday), receipt("u", "gone", 7, monday)); len(e.Sinks) != 3 || e.Open {
		t.Errorf("got %d sinks, open %v, want 3 and complete", len(e.Sinks), e.Open)
	}
	if e := judge(monday, db, receipt("u", "crm", 7, monday), receipt("u", "gone", 6, monday)); len(e.Sinks) != 2 || e.Open {
		t.Errorf("an earlier receipt of a removed sink: got %d sinks, open %v, want 2 and complete", len(e.Sinks), e.Open)
	}
}

// What is repeated after a restored backup was not late the first time; what
// was done for the first time after it was.
func TestJudge_Repeated(t *testing.T) {
	t.Parallel()
	due := monday.Add(deadline)
	word := NewReapplied("db", due.Add(time.Hour), monday, 1, []string{"owed"})
	for _, test := range []struct {
		id       string
		word     Reapplied
		done     time.Time
		late     bool
		repeated bool
	}{
		{"u", word, due.Add(2 * time.Hour), false, true},
		{"u", word, due.Add(time.Minute), true, false}, // before the word
		{"owed", word, due.Add(2 * time.Hour), true, false},
		{"u", NewReapplied("other", word.At, monday, 1, nil), due.Add(2 * time.Hour), true, false},
		{"u", NewReapplied("db", word.At, monday, 1, make([]string, mostOwed+1)), due.Add(2 * time.Hour), true, false},
		{"u", NewReapplied("db", monday.Add(-time.Hour), monday, 1, nil), due.Add(2 * time.Hour), true, false}, // before the request
	} {
		f := frame{expected: []Sink{{Name: "db"}}, reapplied: []Reapplied{test.word}, deadline: deadline, now: due.Add(3 * time.Hour)}
		e := f.judge(asked(erasure(test.id, 7, monday), time.Time{}), map[string]schemas.Receipt{"db": receipt(test.id, "db", 7, test.done)})
		if e.Open || e.Late != test.late || (e.Sinks[0].Repeated != nil) != test.repeated || !e.CompletedAt.Equal(test.done) {
			t.Errorf("%s, done %s, word %+v: got late %v, repeated %v", test.id, test.done, test.word, e.Late, e.Sinks[0].Repeated)
		}
	}
}

func TestAsked(t *testing.T) {
	t.Parallel()
	e := erasure("u", 1, monday)
	if got := asked(e, time.Now()).since; !got.Equal(monday) {
		t.Errorf("got %s, want when it was requested", got)
	}
	e.RequestedAt = 0
	if got := asked(e, time.Now()).since; !got.Equal(monday.Add(time.Second)) {
		t.Errorf("got %s, want when it was sequenced", got)
	}
	e.SequencedAt = 0
	if got := asked(e, monday).since; !got.Equal(monday) {
		t.Errorf("got %s, want when it was written", got)
	}
}

func TestCheckClerkID(t *testing.T) {
	t.Parallel()
	for id, ok := range map[string]bool{
		"user_2abCdEfGhIjKlMnOpQrStUvWxYz": true, "": false, "jane@example.com": false, "jane_doe": false, "user_a b": false, schemas.TickKey: false, "user_a/crm": false, "user_" + strings.Repeat("a", 124): false,
	} {
		err := CheckClerkID(id)
		if (err == nil) != ok {
			t.Errorf("%q: got %v", id, err)
		}
		if err != nil && id != "" && strings.Contains(err.Error(), id) {
			t.Errorf("%q is repeated in %q", id, err)
		}
	}
}

func TestRequest_KeepsTheReason(t *testing.T) {
	t.Parallel()
	for _, reason := range []string{"", "ticket DSR-118", "https://desk/118"} {
		if err := CheckReason(reason); err != nil {
			t.Errorf("%q: %v", reason, err)
		}
		if got := reasonOf(Request("u", "ins_1", reason, monday).EventID); got != reason {
			t.Errorf("got %q, want %q", got, reason)
		}
	}
	for _, reason := range []string{"jane@example.com", "Müller", strings.Repeat("a", 101), "two\nlines", "<b>"} {
		if CheckReason(reason) == nil {
			t.Errorf("%q is taken", reason)
		}
	}
	if reasonOf("msg_1/not a reason") != "" {
		t.Error("a webhook's id has no reason")
	}
}

func TestSpan(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", 40 * time.Second: "40s", 12 * time.Minute: "12m", 125 * time.Minute: "2h 5m", 76 * time.Hour: "3d 4h", 72 * time.Hour: "3d", -time.Hour: "-1h",
	} {
		if got := Span(d); got != want {
			t.Errorf("%d: got %q, want %q", d, got, want)
		}
	}
}
