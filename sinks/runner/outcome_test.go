package runner

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas/transact"
	"clerkconnect/sinks"
)

// counted returns the value of a counter or gauge.
func counted(t *testing.T, metric prometheus.Metric) float64 {
	t.Helper()
	var m dto.Metric
	if err := metric.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}

func (m *metrics) outcome(t *testing.T, name string) float64 {
	t.Helper()
	return counted(t, m.records.WithLabelValues(name))
}

// Where nothing was sent, the outcome says so, and what the sink remembers is
// kept as of an applied record.
func TestProcess_WhatIsNotSentIsCounted(t *testing.T) {
	t.Parallel()
	sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
		for _, r := range batch {
			r.Remember([]byte("of " + r.ClerkID))
			switch r.ClerkID {
			case user(0):
				r.Skipped()
			case user(1), user(2):
				r.Unchanged()
			}
		}
		return nil
	})
	p := bare(t, sink)
	out := process(t, p, upserts(6)...)
	for outcome, want := range map[string]float64{outcomeSkipped: 1, outcomeUnchanged: 2, outcomeApplied: 3, outcomeDead: 0} {
		if got := p.metrics.outcome(t, outcome); got != want {
			t.Errorf("records_total of %s: %v, want %v", outcome, got, want)
		}
	}
	if states := count(out, topics.SinkState(sinkName)); states != 6 || len(out) != 6 {
		t.Errorf("output %v, want six states and nothing else", out)
	}
}

// A record that always fails is not given up because of others of which
// nothing was sent: they do not show that the destination lives.
func TestProcess_WhatIsNotSentShowsNothing(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]func(sinks.Record){"skipped": sinks.Record.Skipped, "unchanged": sinks.Record.Unchanged} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
					switch id := batch[0].ClerkID; id {
					case user(3):
						return errDown
					case "lives":
					default:
						say(batch[0])
					}
					return nil
				})
				sink.facts.MaxBatch, sink.facts.MaxInFlight = 1, 1
				p := bare(t, sink)
				records := upserts(5)
				for range 3 {
					if _, err := p.Process(t.Context(), records); !errors.Is(err, transact.ErrAgain) {
						t.Fatalf("Process: %v, want ErrAgain: the destination may be down", err)
					}
				}
				out := process(t, p, append(records, upsert("lives", 9))...)
				if count(out, topics.DeadLetters(sinkName)) != 1 {
					t.Errorf("output %v, want the dead letter", out)
				}
			})
		})
	}
}

// Sent again to see whether the destination lives, a record comes with the
// state from before: with the one it was sent with, a sink that compares would
// send nothing.
func TestProcess_ProbeIsReallySent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
			r := batch[0]
			if r.ClerkID == "bad" {
				return errDown
			}
			if string(r.State) == "sent" {
				r.Unchanged()
				return nil
			}
			sent++
			r.Remember([]byte("sent"))
			return nil
		})
		sink.facts.MaxBatch, sink.facts.MaxInFlight = 1, 1
		p := bare(t, sink)
		out, err := p.Process(t.Context(), []*kgo.Record{upsert("good", 1), upsert("bad", 2)})
		if err != nil || count(out, topics.DeadLetters(sinkName)) != 1 || sent != 2 {
			t.Errorf("output %v, %v, the good record was sent %d times; want one dead letter, 2", out, err, sent)
		}
	})
}
