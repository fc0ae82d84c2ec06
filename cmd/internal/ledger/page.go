package ledger

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"time"

	"clerkconnect/schemas"
)

// cell is how a time stands in a table, where the head says that all are UTC.
const cell = "2006-01-02 15:04"

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"time": func(t time.Time) string { return t.UTC().Format(minute) },
	"cell": func(t time.Time) string { return t.UTC().Format(cell) },
	"day":  func(t time.Time) string { return t.UTC().Format(time.DateOnly) },
	"maybe": func(t *time.Time) string {
		if t == nil {
			return "–"
		}
		return t.UTC().Format(cell)
	},
	"days": func(seconds int64) string {
		if day := int64(24 * time.Hour / time.Second); seconds%day == 0 {
			return fmt.Sprintf("%d days", seconds/day)
		}
		return Span(time.Duration(seconds) * time.Second)
	},
	"span": func(seconds int64) string { return Span(time.Duration(seconds) * time.Second) },
	"took": func(e Entry) string { return Span(e.CompletedAt.Sub(e.RequestedAt)) },
}).Parse(pageText))

// WritePage writes the report as one HTML document that needs nothing else: to
// be printed, and filed.
func (r *Report) WritePage(w io.Writer) error { return pageTemplate.Execute(w, r) }

// Attention are the erasures that a person has to look at.
func (r *Report) Attention() (list []Entry) {
	for _, e := range r.Erasures {
		if e.Open || e.Late || e.hasWaiver() {
			list = append(list, e)
		}
	}
	return list
}

func (e Entry) hasWaiver() bool {
	for _, s := range e.Sinks {
		if s.State == StateWaived {
			return true
		}
	}
	return false
}

// Verdict is the state of an erasure in a word or two.
func (e Entry) Verdict() string {
	switch {
	case e.Overdue:
		return "overdue"
	case e.Open:
		return "open"
	case e.Late:
		return "complete, late"
	}
	return "complete"
}

// How says in words how an erasure came about.
func (e Entry) How() string {
	switch {
	case e.Inferred:
		return "concluded from a comparison with Clerk"
	case e.Origin == schemas.OriginRequest:
		return "asked for by a person"
	case e.Origin == schemas.OriginWebhook:
		return "deleted at Clerk"
	}
	return "found deleted at Clerk"
}

// KeepsData reports whether the destination marked the user as deleted and
// keeps what it knows of him.
func (s SinkEntry) KeepsData() bool { return s.Outcome == schemas.OutcomeSoftDeleted }

// Result says in words how a sink has done it.
func (s SinkEntry) Result() string {
	switch s.Outcome {
	case schemas.OutcomeDeleted:
		return "deleted"
	case schemas.OutcomeAnonymized:
		return "anonymized"
	case schemas.OutcomeSoftDeleted:
		return "marked as deleted, data kept"
	case schemas.OutcomeNotPresent:
		return "was not there"
	}
	return "–"
}
