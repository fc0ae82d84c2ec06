package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Report is what the ledger says of a period, or of all time. Its JSON is
// documented in README.md.
type Report struct {
	GeneratedAt time.Time `json:"generated_at"`
	// Program that made it, with its version.
	Program string `json:"program"`
	// Prefix of the topics; InstanceID is Clerk's, "" if none is pinned.
	Prefix     string `json:"topic_prefix"`
	InstanceID string `json:"instance_id"`
	// Since and Until bound the time of the request; nil: no bound. Until is
	// not part of the period.
	Since           *time.Time `json:"since"`
	Until           *time.Time `json:"until"`
	DeadlineSeconds int64      `json:"deadline_seconds"`
	Summary         Summary    `json:"summary"`
	Sinks           []Sink     `json:"sinks"`
	// Copies are the topics of Kafka that hold users.
	Copies []Copy `json:"copies"`
	// Reapplied are the times at which a sink's erasures were repeated.
	Reapplied []Reapplied `json:"reapplied"`
	Erasures  []Entry     `json:"erasures"`
}

// Copy is a topic that holds users, and how long it keeps an erased one.
type Copy struct {
	Topic string `json:"topic"`
	// AtMostSeconds after the request; null: without end.
	AtMostSeconds *int64 `json:"at_most_seconds"`
	// Why names the settings.
	Why string `json:"why"`
}

// Summary counts erasures.
type Summary struct {
	Erasures int `json:"erasures"`
	Complete int `json:"complete"` // nothing left to do for any sink
	Late     int `json:"late"`     // of the complete ones, after the deadline
	Open     int `json:"open"`
	Overdue  int `json:"overdue"` // of the open ones
	Held     int `json:"held"`    // of the open ones, with a sink that holds back
	Waived   int `json:"waived"`  // with a sink that keeps the user by decision
	Kept     int `json:"kept"`    // with a sink that marked the user as deleted and keeps the data
	Inferred int `json:"inferred"`
}

// Filter says which erasures are wanted. The zero value wants all.
type Filter struct {
	Open, Overdue bool
	// Sink that has to be open or overdue; "" any. Entries keep that sink alone.
	Sink string
	// Since and Until bound the time of the request; zero: no bound.
	Since, Until time.Time
	// Carry keeps what was asked for before Since and is still open.
	Carry bool
}

// take reports whether e is wanted, and cuts it to what is wanted of it.
func (f Filter) take(e *Entry) bool {
	if f.Sink != "" {
		e.Sinks = slices.DeleteFunc(e.Sinks, func(s SinkEntry) bool { return s.Sink != f.Sink })
		if len(e.Sinks) == 0 {
			return false
		}
		past := e.Overdue
		e.Open, e.Overdue, e.Late, e.CompletedAt = false, false, false, nil
		e.conclude(e.RequestedAt.Add(time.Duration(e.AgeSeconds) * time.Second))
		e.Overdue = e.Open && past
	}
	if !f.Since.IsZero() && e.RequestedAt.Before(f.Since) {
		if !f.Carry || !e.Open {
			return false
		}
		e.Earlier = true
	}
	if !f.Until.IsZero() && !e.RequestedAt.Before(f.Until) {
		return false
	}
	return (!f.Open || e.Open) && (!f.Overdue || e.Overdue)
}

// Report reads the ledger as it is now. The oldest erasure is the first. The
// caller sets Program, InstanceID and Copies.
func (l *Ledger) Report(ctx context.Context, f Filter, now time.Time) (*Report, error) {
	r := &Report{
		GeneratedAt: now.UTC().Truncate(time.Second), Prefix: l.Topics.Prefix,
		DeadlineSeconds: int64(l.Deadline.Seconds()), Copies: []Copy{}, Erasures: []Entry{},
	}
	bound := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return new(t.UTC())
	}
	r.Since, r.Until = bound(f.Since), bound(f.Until)
	by, err := l.frame(ctx, now)
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	sinks, err := l.read(ctx, by, func(e Entry) {
		if f.take(&e) {
			r.Erasures = append(r.Erasures, e)
		}
	})
	if err != nil {
		return nil, err
	}
	r.Sinks, r.Reapplied = sinks, by.reapplied
	if f.Sink != "" {
		r.Sinks = slices.DeleteFunc(slices.Clone(sinks), func(s Sink) bool { return s.Name != f.Sink })
		if len(r.Sinks) == 0 {
			return nil, UnknownSinkError(f.Sink, sinks)
		}
	}
	slices.SortFunc(r.Erasures, func(a, b Entry) int {
		return cmp.Or(a.RequestedAt.Compare(b.RequestedAt), cmp.Compare(a.ClerkID, b.ClerkID))
	})
	for i := range r.Erasures {
		r.Summary.add(&r.Erasures[i])
	}
	return r, nil
}

// UnknownSinkError says which sinks there are instead.
func UnknownSinkError(name string, sinks []Sink) error {
	names := make([]string, len(sinks))
	for i, s := range sinks {
		names[i] = s.Name
	}
	return fmt.Errorf("there is no sink %q: none is configured here, has topics or has receipts by that name; there are: %s", name, cmp.Or(strings.Join(names, ", "), "none"))
}

func (s *Summary) add(e *Entry) {
	count := func(n *int, is bool) {
		if is {
			*n++
		}
	}
	has := func(is func(SinkEntry) bool) bool { return slices.ContainsFunc(e.Sinks, is) }
	s.Erasures++
	count(&s.Complete, !e.Open)
	count(&s.Late, e.Late)
	count(&s.Open, e.Open)
	count(&s.Overdue, e.Overdue)
	count(&s.Inferred, e.Inferred)
	count(&s.Held, has(func(s SinkEntry) bool { return s.State == StateHeld }))
	count(&s.Waived, has(func(s SinkEntry) bool { return s.State == StateWaived }))
	count(&s.Kept, has(SinkEntry.KeepsData))
}

// WriteJSON writes v, a report or an entry, for machines.
func WriteJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// Span writes a duration as people say it: 3d 4h, 5h 2m, 12m, 40s.
func Span(d time.Duration) string {
	const day = 24 * time.Hour
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	two := func(a time.Duration, au string, b time.Duration, bu string) string {
		text := fmt.Sprintf("%s%d%s", sign, d/a, au)
		if rest := d % a / b; rest > 0 {
			text += fmt.Sprintf(" %d%s", rest, bu)
		}
		return text
	}
	switch {
	case d >= day:
		return two(day, "d", time.Hour, "h")
	case d >= time.Hour:
		return two(time.Hour, "h", time.Minute, "m")
	case d >= time.Minute:
		return two(time.Minute, "m", time.Second, "s")
	}
	return fmt.Sprintf("%s%ds", sign, d/time.Second)
}
