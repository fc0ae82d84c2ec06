// Package control is what people want of sinks, and what processes say of them.
// Both stand in <prefix>.connect-state, so that a command needs nothing but
// Kafka: the processes follow the wishes and publish what their sinks do.
package control

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
	"clerkconnect/sinks/runner"
)

// Sink is a sink that can be controlled; [runner.Runner] is one.
type Sink interface {
	SetPause(*runner.Pause)
	Restart()
	Status() runner.Status
}

// State is what connect-state holds of sinks: the last value of each key. The
// zero value is empty and ready to use.
type State struct {
	Pauses   map[string]connector.Pause   // by sink
	Restarts map[string]connector.Restart // by sink
	Statuses map[string]Status            // by instance/sink
}

// add takes in one record of connect-state. One that cannot be read is taken
// for none.
func (s *State) add(k *kgo.Record) {
	if s.Pauses == nil {
		s.Pauses, s.Restarts, s.Statuses = map[string]connector.Pause{}, map[string]connector.Restart{}, map[string]Status{}
	}
	key := string(k.Key)
	if name, ok := strings.CutPrefix(key, connector.StateKeyPausePrefix); ok {
		take(s.Pauses, name, k.Value)
	} else if name, ok := strings.CutPrefix(key, connector.StateKeyRestartPrefix); ok {
		take(s.Restarts, name, k.Value)
	} else if name, ok := strings.CutPrefix(key, connector.StateKeyStatusPrefix); ok {
		take(s.Statuses, name, k.Value)
	}
}

func take[V any](into map[string]V, name string, value []byte) {
	var v V
	if value == nil || json.Unmarshal(value, &v) != nil {
		delete(into, name)
		return
	}
	into[name] = v
}

// Read returns what connect-state holds now.
func Read(ctx context.Context, opts []kgo.Opt, topics schemas.Topics) (*State, error) {
	state := &State{}
	err := compacted.Read(ctx, opts, topics.ConnectState(), 0, func(k *kgo.Record) error {
		state.add(k)
		return nil
	})
	return state, err
}

// pauseOf returns p as a runner takes it.
func pauseOf(p connector.Pause, ok bool) *runner.Pause {
	if !ok {
		return nil
	}
	return &runner.Pause{Since: time.UnixMilli(p.Since), By: p.By, Reason: p.Reason, KeepErasing: p.KeepErasing}
}

// Follower has sinks do what people want.
type Follower struct {
	Client []kgo.Opt
	Topics schemas.Topics
	Logger *slog.Logger
	Sinks  map[string]Sink

	ready chan struct{}
	known map[string]connector.Restart // those that are done; nil before the start
}

// NewFollower returns one that is to be run.
func NewFollower(opts []kgo.Opt, topics schemas.Topics, logger *slog.Logger, sinks map[string]Sink) *Follower {
	return &Follower{Client: opts, Topics: topics, Logger: logger, Sinks: sinks, ready: make(chan struct{})}
}

// Ready waits until the wishes that there were at the start are passed on, so
// that a paused sink does not work for a moment. It returns why ctx ended
// before.
func (f *Follower) Ready(ctx context.Context) error {
	select {
	case <-f.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// retryWait is the pause after Kafka could not be reached.
const retryWait = 2 * time.Second

// Run follows until ctx is done, and returns nil then.
func (f *Follower) Run(ctx context.Context) error {
	for attempt := 1; ctx.Err() == nil; attempt++ {
		if err := f.follow(ctx); err != nil && ctx.Err() == nil && attempt == 1 {
			f.Logger.Warn("follow what people want of sinks, will retry", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryWait):
		}
	}
	return nil
}

func (f *Follower) follow(ctx context.Context) error {
	topic := f.Topics.ConnectState()
	client, err := kgo.NewClient(append(f.Client[:len(f.Client):len(f.Client)],
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), // they show how far the read has come
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))...)
	if err != nil {
		return err
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err != nil {
		return err
	}
	end, ok := ends.Lookup(topic, 0)
	if !ok || end.Err != nil {
		return fmt.Errorf("end of %s: %w", topic, end.Err)
	}
	state, next := &State{}, int64(0)
	caughtUp := end.Offset == 0
	if caughtUp {
		f.start(state)
	}
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := fetches.Err0(); err != nil {
			return err
		}
		fetches.EachRecord(func(k *kgo.Record) {
			next = k.Offset + 1
			if !k.Attrs.IsControl() {
				state.add(k)
			}
		})
		if !caughtUp && next >= end.Offset {
			caughtUp = true
			f.start(state)
		}
		if caughtUp {
			f.pass(state)
		}
	}
}

// start passes on what people wanted before this process began. A restart that
// was asked for before is done by the start itself.
func (f *Follower) start(state *State) {
	if f.known == nil {
		f.known = map[string]connector.Restart{}
		maps.Copy(f.known, state.Restarts)
	}
	f.pass(state)
	select {
	case <-f.ready:
	default:
		close(f.ready)
	}
}

func (f *Follower) pass(state *State) {
	for name, sink := range f.Sinks {
		pause, ok := state.Pauses[name]
		sink.SetPause(pauseOf(pause, ok))
		if wish, ok := state.Restarts[name]; ok && f.known[name] != wish {
			f.known[name] = wish
			f.Logger.Info("sink is to be opened anew", "sink", name, "by", wish.By)
			sink.Restart()
		}
	}
}
