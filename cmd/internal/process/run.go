package process

import (
	"context"
	"errors"
	"sync"
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
		stages = append(stages, []part{{"sequencer", p.Sequencer.Run}})
	}
	var sinks []part
	for _, r := range p.Sinks {
		sinks = append(sinks, part{r.Group(), r.Run})
	}
	stages = append(stages, sinks)
	return append(stages, []part{{"admin", p.serve}})
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
