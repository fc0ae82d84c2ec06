package process

import (
	"context"
	"errors"
	"sync"
	"time"

	"clerkconnect/cmd/internal/control"
	"clerkconnect/connector/topics"
	"clerkconnect/sinks/runner"
)

// part is something that runs until its context is done. An error of it ends
// the process.
type part struct {
	name string
	run  func(context.Context) error
}

// stages are the parts in the order of the flow, which is the order in which
// they stop: what takes in first, the destinations last, the answers to
// operators after them.
func (p *Process) stages() [][]part {
	var stages [][]part
	if p.Receiver != nil {
		stages = append(stages, []part{{"receiver", p.Receiver.Run}})
	}
	if p.Snapshot != nil {
		stages = append(stages, []part{{"snapshot", p.Snapshot.Run}})
	}
	if p.Sequencer != nil {
		stages = append(stages, []part{{"sequencer", p.Sequencer.Run}, {"erasures", p.Erasures.Run}})
	}
	var sinks []part
	for _, r := range p.Sinks {
		sinks = append(sinks, part{r.Group(), p.asWanted(r)})
	}
	if len(sinks) > 0 {
		sinks = append(sinks, part{"wishes", p.wishes.Run}, part{"status", p.publisher().Run})
		sinks = append(sinks, part{"ticks", p.tickSinkState})
	}
	stages = append(stages, sinks)
	return append(stages, []part{{"admin", p.serve}})
}

// asWanted runs a sink when it is known whether it is paused.
func (p *Process) asWanted(r *runner.Runner) func(context.Context) error {
	return func(ctx context.Context) error {
		if p.wishes.Ready(ctx) != nil {
			return nil // ended before it began
		}
		return r.Run(ctx)
	}
}

// publisher tells operators what the sinks of this process do.
func (p *Process) publisher() *control.Publisher {
	return &control.Publisher{
		Store: p.writer, Instance: p.settings.Config.InstanceName, Sinks: p.wishes.Sinks, Logger: p.logger("status"),
		Said: func(ctx context.Context) (*control.State, error) { return control.Read(ctx, p.Client, p.Topics) },
	}
}

// tickSinkState writes to every owned partition of what the sinks remember,
// once in a while, as the sequencer does to the topics that are its own: a
// broker compacts only what is written to, and what a sink remembered of an
// erased user must really go.
func (p *Process) tickSinkState(ctx context.Context) error {
	timer := time.NewTimer(topics.TickInterval / 24) // early, so that a process that is restarted daily ticks as well
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			timer.Reset(topics.TickInterval)
		}
		p.tickOwned(ctx)
	}
}

func (p *Process) tickOwned(ctx context.Context) {
	for _, r := range p.Sinks {
		s := r.Status()
		for _, partition := range s.Owned {
			if err := p.writer.Tick(ctx, p.Topics.SinkState(s.Name), partition); err != nil && ctx.Err() == nil {
				p.logger("sink").Warn("tick", "sink", s.Name, "partition", partition, "err", err)
			}
		}
	}
}

// Run runs all roles until ctx is done, or until one of them ends with an
// error, and then stops them in the order of the flow: each finishes what it
// has in hand. It returns nil after a shutdown that lost nothing.
func (p *Process) Run(ctx context.Context) error {
	defer p.Close()
	return run(ctx, p.stages(), func(name string, err error) {
		p.settings.Logger.Error("role ended, stopping the process", "role", name, "err", err)
	})
}

func run(ctx context.Context, stages [][]part, failing func(name string, err error)) error {
	running := make([]struct {
		cancel context.CancelFunc
		parts  sync.WaitGroup
	}, len(stages))
	ending, end := context.WithCancel(ctx)
	defer end()
	var mu sync.Mutex
	var errs error
	for i, parts := range stages {
		stage, cancel := context.WithCancel(context.WithoutCancel(ctx))
		running[i].cancel = cancel
		for _, part := range parts {
			running[i].parts.Go(func() {
				err := part.run(stage)
				if err == nil {
					return
				}
				if ending.Err() == nil {
					failing(part.name, err)
				}
				mu.Lock()
				errs = errors.Join(errs, err)
				mu.Unlock()
				end()
			})
		}
	}
	<-ending.Done()
	for i := range running {
		running[i].cancel()
		running[i].parts.Wait()
	}
	return errs
}
