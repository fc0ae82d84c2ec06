package control

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"clerkconnect/connector"
	"clerkconnect/schemas/deadletters"
	"clerkconnect/sinks/runner"
)

// States of a sink in one process.
const (
	StateRunning = "running" // the destination is open
	StateWaiting = "waiting" // it cannot be opened yet, or not reached
	StateStopped = "stopped" // until a person has mended something
	StatePaused  = "paused"  // a person wants it
	StateErasing = "erasing" // paused, but for erasures
)

// Status is what one process says of one sink. Times are Unix milliseconds.
type Status struct {
	At       int64  `json:"at"` // when it was said
	Kind     string `json:"kind"`
	State    string `json:"state"`
	Reason   string `json:"reason,omitempty"` // why the last call failed
	Owned    int    `json:"owned"`
	Ready    int    `json:"ready"`
	Lag      int64  `json:"lag_records"` // of the owned partitions; -1: not known yet
	LagMS    int64  `json:"lag_ms"`
	Owed     int    `json:"erasures_owed"`
	Held     int    `json:"erasures_held"`
	Unread   int    `json:"erasures_unconfirmed"`
	OldestAt int64  `json:"oldest_erasure_at,omitempty"`
	Letters  int    `json:"dead_letters"`
	Parked   int    `json:"dead_letters_parked"`

	HeldUpBy string `json:"held_up_by,omitempty"` // a record that fails alone: topic/partition/offset
	Attempts int    `json:"attempts,omitempty"`   // at it
	NextAt   int64  `json:"next_attempt_at,omitempty"`
}

// of returns what a runner does, as it is published.
func of(s runner.Status, now time.Time) Status {
	out := Status{
		At: now.UnixMilli(), Kind: s.Kind, State: StateWaiting, Reason: string(s.LastReason),
		Owned: len(s.Owned), Ready: len(s.Ready), Lag: s.LagRecords, LagMS: s.Lag.Milliseconds(),
		Owed: s.ErasuresOwed, Held: s.ErasuresHeld, Unread: s.ErasuresUnconfirmed,
		Letters: s.DeadLetters, Parked: s.DeadLettersParked,
	}
	if s.ErasuresOwed > 0 {
		out.OldestAt = s.OldestErasure.UnixMilli()
	}
	if s.Held != nil {
		out.HeldUpBy, out.Attempts, out.NextAt = deadletters.Origin(s.Held.Source).String(), s.Held.Attempts, s.Held.Next.UnixMilli()
	}
	switch {
	case s.Paused != nil && s.Paused.KeepErasing:
		out.State = StateErasing
	case s.Paused != nil:
		out.State = StatePaused
	case s.Stopped:
		out.State = StateStopped
	case s.Opened:
		out.State = StateRunning
	}
	return out
}

// changed reports whether something has happened that is worth telling before
// it is time to. Lag is none of it: it moves all the time, and Kafka knows it; nor
// is one more attempt.
func (s Status) changed(before Status) bool {
	s.At, s.Lag, s.LagMS = before.At, before.Lag, before.LagMS
	s.Attempts, s.NextAt = before.Attempts, before.NextAt
	return s != before
}

// Paces of publishing: connect-state is read from its start by whoever begins,
// and compacted only now and then.
const (
	LookEvery = 5 * time.Second // at what the sinks do, and so the least time between two words of one
	SayEvery  = time.Minute     // at least, so that a process that is gone is told from one that is calm
	StaleAge  = 3 * SayEvery    // what is older may be of a process that is gone
	goneAge   = 7 * 24 * time.Hour
)

// Store writes a value under a key of connect-state; nil removes the key.
type Store interface {
	StoreState(ctx context.Context, key string, value any) error
}

// Publisher says what the sinks of this process do.
type Publisher struct {
	Store    Store
	Instance string
	Sinks    map[string]Sink
	Logger   *slog.Logger
	// Said is what stands in connect-state at the start.
	Said func(ctx context.Context) (*State, error)

	last map[string]Status
}

func (p *Publisher) key(sink string) string {
	return connector.StateKeyStatusPrefix + p.Instance + "/" + sink
}

// Run publishes until ctx is done, takes back what it has said, and returns nil.
func (p *Publisher) Run(ctx context.Context) error {
	p.last = map[string]Status{}
	p.sweep(ctx)
	ticker := time.NewTicker(LookEvery)
	defer ticker.Stop()
	for {
		p.publish(ctx, time.Now())
		select {
		case <-ctx.Done():
			p.takeBack(ctx)
			return nil
		case <-ticker.C:
		}
	}
}

func (p *Publisher) publish(ctx context.Context, now time.Time) {
	for name, sink := range p.Sinks {
		status := of(sink.Status(), now)
		before, said := p.last[name]
		if said && !status.changed(before) && now.Sub(time.UnixMilli(before.At)) < SayEvery {
			continue
		}
		if err := p.Store.StoreState(ctx, p.key(name), status); err != nil {
			p.Logger.Debug("publish what the sink does", "sink", name, "err", err)
			continue
		}
		p.last[name] = status
	}
}

// sweep takes back what a predecessor of this name has said of sinks that are
// not run here any more, and what nobody has repeated for long.
func (p *Publisher) sweep(ctx context.Context) {
	state, err := p.Said(ctx)
	if err != nil {
		p.Logger.Debug("read what was said of sinks", "err", err)
		return
	}
	for id, s := range state.Statuses {
		instance, sink, _ := strings.Cut(id, "/")
		_, ours := p.Sinks[sink]
		if instance == p.Instance && !ours || time.Since(time.UnixMilli(s.At)) > goneAge {
			_ = p.Store.StoreState(ctx, connector.StateKeyStatusPrefix+id, nil)
		}
	}
}

// takeBackTimeout bounds the last words of a process.
const takeBackTimeout = 3 * time.Second

func (p *Publisher) takeBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackTimeout)
	defer cancel()
	for name := range p.last {
		_ = p.Store.StoreState(ctx, p.key(name), nil) // what stays is told by its age
	}
}
