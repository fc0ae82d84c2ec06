package runner

import (
	"context"
	"errors"
	"sync"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/schemas/transact"
	"clerkconnect/sinks"
)

// check is an erasure done earlier whose time to be read back has come.
type check struct {
	partition int32
	id        string
	debt      *debt
	receipt   schemas.Receipt
	asked     bool
	confirmed time.Time   // zero: not gone, or not known
	problem   sinks.Error // why it is not known
}

// question asks whether nothing of a user is left.
type question struct {
	id    string
	state []byte
	gone  bool
	err   error
}

var errStillThere = errors.New("read back: something of the user is still there: does a trigger keep it, or another program write it?")

// confirmDue reads back the erasures of b.checks. What is not gone is erased
// again in this batch.
func (p *processor) confirmDue(ctx context.Context, b *batch) error {
	var checks []*check
	var questions []*question
	for _, c := range b.checks {
		if !c.asked {
			checks = append(checks, c)
			questions = append(questions, &question{id: c.id, state: p.stateOf(b, c.id, c.partition)})
		}
	}
	if err := p.ask(ctx, questions); err != nil {
		return err
	}
	failed := 0
	for i, c := range checks {
		c.asked = true
		switch q := questions[i]; {
		case q.err != nil:
			failed++
			c.problem = p.refused(q.err)
			if failed == 1 && c.debt.unanswered == 0 { // or it is told already
				p.logger.Warn("read back erasures, will retry", "reason", c.problem.Reason, "err", c.problem.Err)
			}
		case q.gone:
			c.confirmed = time.Now()
			b.states[c.id] = remembered{partition: c.partition}
		default:
			p.logger.Error("erasure is not confirmed, erasing again", "partition", c.partition)
			p.logger.Debug("erasure is not confirmed", "key", c.id)
			b.items = append([]*item{c.debt.item(c.partition)}, b.items...) // before what was read of the user
		}
	}
	return nil
}

// confirmDone reads back the erasures of this batch, if the sink's are to be
// read back at once. One that is not confirmed is not done.
func (p *processor) confirmDone(ctx context.Context, b *batch) error {
	if p.confirmer == nil || p.facts.ConfirmAfter > 0 {
		return nil
	}
	var items []*item
	var questions []*question
	for _, it := range b.items {
		if it.fate == applied && it.record.Erase() && it.confirmed.IsZero() {
			items = append(items, it)
			questions = append(questions, &question{id: it.record.ClerkID, state: p.stateOf(b, it.record.ClerkID, it.record.Source.Partition)})
		}
	}
	if err := p.ask(ctx, questions); err != nil {
		return err
	}
	for i, it := range items {
		q := questions[i]
		if q.err == nil && !q.gone {
			q.err = errStillThere
		}
		if q.err != nil {
			it.attempts++
			it.giveUp(p.refused(q.err), parked)
			continue
		}
		it.confirmed = time.Now()
		b.states[it.record.ClerkID] = remembered{partition: it.record.Source.Partition}
	}
	return nil
}

func (p *processor) refused(err error) sinks.Error {
	problem := sinks.Classify(err)
	p.metrics.failed(problem)
	return problem
}

// ask puts questions to the sink, as many at once as it takes calls. An error
// is that of ctx, when not all have an answer.
func (p *processor) ask(ctx context.Context, questions []*question) error {
	calls, cancel := p.outlive(ctx)
	defer cancel()
	waiting := make(chan *question, len(questions))
	for _, q := range questions {
		waiting <- q
	}
	close(waiting)
	var mu sync.Mutex
	var down error // no answer to one: the others are not kept waiting for theirs
	var asking sync.WaitGroup
	for range min(p.facts.MaxInFlight, len(questions)) {
		asking.Go(func() {
			for q := range waiting {
				mu.Lock()
				q.err = down
				mu.Unlock()
				if q.err == nil {
					q.gone, q.err = p.confirm(calls, q)
				}
				if q.err != nil && sinks.Classify(q.err).Class != sinks.ClassPermanent {
					mu.Lock()
					down = q.err
					mu.Unlock()
				}
			}
		})
	}
	asking.Wait()
	if calls.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (p *processor) confirm(calls context.Context, q *question) (gone bool, err error) {
	err = p.call(calls, func(ctx context.Context) (err error) {
		gone, err = p.confirmer.Confirm(ctx, q.id, q.state)
		return err
	})
	return gone && err == nil, err
}

// settleCheck takes over what a committed check has shown.
func (p *processor) settleCheck(m *memory, c *check, now time.Time) {
	switch d := m.unconfirmed[c.id]; {
	case d == nil:
	case c.confirmed.IsZero():
		d.due = now.Add(p.askAgain(d, c.problem)) // unless it was erased again
	default:
		delete(m.unconfirmed, c.id)
		m.receipts.set(c.receipt)
	}
}

// askAgain returns how long to wait with another question: what a person has to
// mend takes long, what passes by itself is asked again soon, or one that fails
// among many would put all of them off.
func (p *processor) askAgain(d *debt, problem sinks.Error) time.Duration {
	if problem.Err == nil || problem.Class != sinks.ClassRetry {
		return p.cfg.SlowRetry
	}
	d.unanswered++
	return min(p.cfg.SlowRetry, max(problem.After, p.backoff(d.unanswered)))
}

// lost reports whether ctx has ended because a partition was taken away, so
// that nothing of a batch can be committed.
func lost(ctx context.Context) bool {
	return errors.Is(context.Cause(ctx), transact.ErrPartitionLost)
}
