package ledger

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"clerkconnect/schemas"
)

// State is how far one sink is with one erasure.
type State string

// The states, from the best to the worst.
const (
	// StateConfirmed: done, and read back.
	StateConfirmed State = "confirmed"
	// StateDone: done; this kind of sink reads nothing back, or this process
	// does not know whether it does.
	StateDone State = "done"
	// StateWaived: a person decided that this sink keeps the user.
	StateWaived State = "waived"
	// StateUnconfirmed: done, and not read back yet, though the sink can.
	StateUnconfirmed State = "unconfirmed"
	// StateHeld: not to be done yet, by SINK_<NAME>_ERASE_AFTER.
	StateHeld State = "held"
	// StateOwed: not done.
	StateOwed State = "owed"
)

// Open reports whether the sink has still something to do.
func (s State) Open() bool { return s == StateUnconfirmed || s == StateHeld || s == StateOwed }

// Entry is one erasure and what every sink says of it.
type Entry struct {
	ClerkID string `json:"clerk_id"`
	// Origin: WEBHOOK, RECONCILE, REQUEST, ... as in the records.
	Origin schemas.Origin `json:"origin"`
	// Inferred: concluded by reconciliation; may be revoked.
	Inferred bool   `json:"inferred"`
	EventID  string `json:"event_id"`
	// Reason that a person gave, "" if none.
	Reason      string    `json:"reason,omitempty"`
	RequestedAt time.Time `json:"requested_at"`
	SequencedAt time.Time `json:"sequenced_at"`
	// DueAt is RequestedAt and the deadline.
	DueAt      time.Time `json:"due_at"`
	AgeSeconds int64     `json:"age_seconds"`
	// Open: at least one sink has still something to do.
	Open bool `json:"open"`
	// Overdue: open, and DueAt has passed.
	Overdue bool `json:"overdue"`
	// CompletedAt is when the last sink was done; nil while Open.
	CompletedAt *time.Time `json:"completed_at"`
	// Late: completed after DueAt. What was only repeated later does not count.
	Late bool `json:"late"`
	// Earlier: asked for before the period of the report, and listed because
	// it is open.
	Earlier bool        `json:"earlier,omitempty"`
	Sinks   []SinkEntry `json:"sinks"`

	version schemas.Version
}

// SinkEntry is one sink's part of an erasure.
type SinkEntry struct {
	Sink  string `json:"sink"`
	State State  `json:"state"`
	// Outcome is how it was done; "" unless it was.
	Outcome schemas.Outcome `json:"outcome,omitempty"`
	// Reason is why it was done so, where the sink had a choice.
	Reason      string     `json:"reason,omitempty"`
	DoneAt      *time.Time `json:"done_at"`
	ConfirmedAt *time.Time `json:"confirmed_at"`
	WaivedAt    *time.Time `json:"waived_at"`
	HeldUntil   *time.Time `json:"held_until"`
	// Repeated is when a person had the erasures of the sink repeated, if
	// DoneAt is the time of the repetition; that of the first is not kept.
	Repeated *time.Time `json:"repeated,omitempty"`
	// Missing says in words what is missing, and why; "" if nothing is.
	Missing string `json:"missing,omitempty"`
}

// demand is an erasure as it stands in its topic.
type demand struct {
	erasure schemas.Erasure
	since   time.Time // when it was asked for, as far as it is known
}

// asked returns the demand of a record that was written then.
func asked(e schemas.Erasure, written time.Time) demand {
	at := cmp.Or(e.RequestedAt, e.SequencedAt)
	if at == 0 {
		return demand{e, written.UTC()}
	}
	return demand{e, time.UnixMilli(at).UTC()}
}

// frame is what every erasure is judged by.
type frame struct {
	expected  []Sink
	reapplied []Reapplied
	deadline  time.Duration
	now       time.Time
}

// judge says what a demand comes to, beside the receipts of its user by sink.
// Whoever is expected, or has a receipt, has an entry.
func (f frame) judge(d demand, receipts map[string]schemas.Receipt) Entry {
	e := Entry{
		ClerkID: d.erasure.ClerkID, Origin: d.erasure.Origin, Inferred: d.erasure.Inferred,
		EventID: d.erasure.EventID, Reason: reasonOf(d.erasure.EventID),
		RequestedAt: d.since, SequencedAt: time.UnixMilli(d.erasure.SequencedAt).UTC(),
		DueAt: d.since.Add(f.deadline), AgeSeconds: int64(f.now.Sub(d.since).Seconds()),
		Sinks:   []SinkEntry{},
		version: schemas.Version{Epoch: d.erasure.Epoch, Number: d.erasure.Version},
	}
	answered := map[string]bool{}
	for _, sink := range f.expected {
		receipt, ok := receipts[sink.Name]
		answered[sink.Name] = true
		e.Sinks = append(e.Sinks, f.judgeSink(sink, d, receipt, ok))
	}
	for name, receipt := range receipts {
		if !answered[name] && covers(receipt, e.version) {
			e.Sinks = append(e.Sinks, f.judgeSink(Sink{Name: name}, d, receipt, true))
		}
	}
	slices.SortFunc(e.Sinks, func(a, b SinkEntry) int { return strings.Compare(a.Sink, b.Sink) })
	e.conclude(f.now)
	return e
}

func covers(r schemas.Receipt, v schemas.Version) bool {
	return schemas.Version{Epoch: r.Epoch, Number: r.Version}.Compare(v) >= 0
}

// conclude sets what follows from the sinks.
func (e *Entry) conclude(now time.Time) {
	last := e.SequencedAt // with no sink at all it is done by then
	first := last         // the same, but for repetitions
	for _, s := range e.Sinks {
		e.Open = e.Open || s.State.Open()
		for _, at := range []*time.Time{s.DoneAt, s.WaivedAt} {
			if at != nil && at.After(last) {
				last = *at
			}
			if at != nil && at.After(first) && s.Repeated == nil {
				first = *at
			}
		}
	}
	if e.Open {
		e.Overdue = now.After(e.DueAt)
		return
	}
	e.CompletedAt, e.Late = &last, first.After(e.DueAt)
}

// judgeSink is judge for one sink. any says whether it has a receipt.
func (f frame) judgeSink(sink Sink, d demand, receipt schemas.Receipt, any bool) SinkEntry {
	s := SinkEntry{Sink: sink.Name}
	paid := any && covers(receipt, schemas.Version{Epoch: d.erasure.Epoch, Number: d.erasure.Version})
	switch {
	case paid && receipt.WaivedAt != nil:
		s.State, s.WaivedAt = StateWaived, at(*receipt.WaivedAt)
		s.Missing = "waived: a person decided that this sink keeps the user"
	case paid:
		s.State, s.Outcome, s.DoneAt = StateDone, receipt.Outcome, at(receipt.DoneAt)
		if receipt.Reason != nil {
			s.Reason = *receipt.Reason
		}
		switch {
		case receipt.ConfirmedAt != nil:
			s.State, s.ConfirmedAt = StateConfirmed, at(*receipt.ConfirmedAt)
		case sink.Confirms:
			s.State, s.Missing = StateUnconfirmed, "done, and not read back yet"
		}
		for _, r := range f.reapplied {
			if r.repeats(sink.Name, d.erasure.ClerkID, d.since, *s.DoneAt) {
				s.Repeated = &r.At
			}
		}
	case sink.EraseAfter > 0 && f.now.Before(d.since.Add(sink.EraseAfter)):
		until := d.since.Add(sink.EraseAfter)
		s.State, s.HeldUntil = StateHeld, &until
		s.Missing = "held back until " + until.Format(minute) + " by ERASE_AFTER"
	default:
		s.State, s.Missing = StateOwed, sink.whyOwed()
		if any {
			s.Missing += "; its receipt is for an earlier erasure"
		}
	}
	return s
}

// minute is how times are written for people; all are UTC.
const minute = "2006-01-02 15:04 UTC"

func at(millis int64) *time.Time { return new(time.UnixMilli(millis).UTC()) }

// whyOwed says what is known of a sink that has not done an erasure.
func (s Sink) whyOwed() string {
	switch {
	case s.Configured && !s.HasRun:
		return "the sink has not run yet: it will do it at its first start"
	case !s.Configured:
		return "not done; the sink is not configured here: another process runs it, or it was removed"
	}
	return "not done yet; the sink tries again for ever"
}
