package ledger

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
)

// Sink is who has to answer for an erasure. A sink is expected to if it is
// configured, or has its topics in Kafka. One that is neither, and is known by
// its receipts alone, was removed for good.
type Sink struct {
	Name string `json:"name"`
	// Kind, as postgres; "" if not configured here.
	Kind string `json:"kind,omitempty"`
	// Configured in SINKS of this process.
	Configured bool `json:"configured"`
	// HasRun: its topics are there, so that a process has run it. They are
	// deleted when a sink is removed for good.
	HasRun bool `json:"has_run"`
	// HasReceipts: it has receipts in the ledger.
	HasReceipts bool `json:"has_receipts"`
	// EraseAfter is how long it holds erasures back; 0 if not configured here.
	EraseAfter time.Duration `json:"-"`
	// Confirms: it reads erasures back; false if not configured here.
	Confirms bool `json:"confirms"`
}

// Standing says in words how a sink is known.
func (s Sink) Standing() string {
	switch {
	case s.Configured && s.HasRun:
		return "configured here"
	case s.Configured:
		return "configured here, has not run yet"
	case s.HasRun:
		return "not configured here: another process runs it, or it was removed"
	}
	return "removed: only its receipts are left"
}

// Expected returns the sinks that have to answer, by name: the configured ones,
// and those whose topics are there.
func (l *Ledger) Expected(ctx context.Context) ([]Sink, error) {
	client, err := kgo.NewClient(l.Client...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	found, err := kadm.NewClient(client).ListTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	return merge(l.Sinks, l.Topics, found.Names()), nil
}

func merge(configured []Sink, topics schemas.Topics, names []string) []Sink {
	sinks := slices.Clone(configured)
	for _, topic := range names {
		name, ok := strings.CutPrefix(topic, topics.SinkState(""))
		if !ok || name == "" {
			continue
		}
		i := slices.IndexFunc(sinks, func(s Sink) bool { return s.Name == name })
		if i < 0 {
			sinks = append(sinks, Sink{Name: name})
			i = len(sinks) - 1
		}
		sinks[i].HasRun = true
	}
	slices.SortFunc(sinks, func(a, b Sink) int { return strings.Compare(a.Name, b.Name) })
	return sinks
}

// withReceipts adds to sinks who has receipts.
func withReceipts(sinks []Sink, receipts map[string]bool) []Sink {
	sinks = slices.Clone(sinks)
	for name := range receipts {
		i := slices.IndexFunc(sinks, func(s Sink) bool { return s.Name == name })
		if i < 0 {
			sinks = append(sinks, Sink{Name: name})
			i = len(sinks) - 1
		}
		sinks[i].HasReceipts = true
	}
	slices.SortFunc(sinks, func(a, b Sink) int { return strings.Compare(a.Name, b.Name) })
	return sinks
}
