// Package transact runs an exactly-once owner of partitions: it consumes a
// topic in a group, hands what it reads to a [Processor], and writes what the
// processor returns together with the input offsets in one transaction. The
// sequencer and every sink's runner are such owners.
//
// What it guarantees, each by the mechanism named:
//
//   - A record is processed only by a processor that has restored everything
//     its predecessors committed: partitions are paused when they are assigned,
//     [Processor.Restore] runs outside the assignment callback, and only then
//     does fetching resume.
//   - Output and offsets are visible together or not at all: one transaction,
//     with the group's metadata, so that an owner that was paused and has lost
//     its partitions cannot commit (KIP-447).
//   - A transaction that did not commit leaves nothing behind in memory: every
//     partition is forgotten and restored again.
package transact

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ErrDuplicateInstance means that another live process uses the same
// transactional id, and therefore the same instance name.
var ErrDuplicateInstance = errors.New("another live process uses the same instance name")

// Processor is what an owner of partitions does. Its methods are called from
// one goroutine, except Restore, which may run for several partitions at once
// and beside the others.
type Processor interface {
	// Restore reads what Process will need of a partition. It changes nothing
	// by itself: the function that it returns installs the result, and is
	// called only if the partition is still owned. ctx ends when it is not.
	// An error is retried.
	Restore(ctx context.Context, partition int32) (install func(), err error)

	// Forget drops everything of a partition, also what was never installed.
	Forget(partition int32)

	// Process handles records of restored partitions, in order per partition,
	// and returns what is to be written. ctx ends when one of the partitions
	// is lost or the owner shuts down; an error then means nothing, otherwise
	// it stops the owner, unless it is ErrAgain. Nothing of it may last unless
	// Committed follows, or it is called again after an ErrAgain.
	Process(ctx context.Context, records []*kgo.Record) ([]*kgo.Record, error)

	// Committed says that what Process returned last is committed.
	Committed()
}

// Waker is implemented by a [Processor] that has work besides records.
type Waker interface {
	// Due returns when Process is to be called at the latest, without records
	// if there are none. The zero time means that nothing waits. It is asked
	// before and after each poll, on the goroutine of Process, and at least
	// every 2 s, so that the answer may depend on what others do meanwhile.
	Due() time.Time
}

// ErrAgain is what Process returns to be called again with the same records
// and, behind them, those that have come since, of whatever partition. Up to
// ten times MaxRecords are taken in like this. Nothing is forgotten, unless
// Forget says so in between.
//
// What Process returns beside it is written and committed first, in a
// transaction that leaves the offsets where the records begin: it outlives a
// crash, and the records come again. Only an owner that still has its
// partitions can commit it. Then Process is called again at once, without
// further records; if it is not committed, everything is forgotten.
var ErrAgain = errors.New("process again")

// Run owns partitions until ctx is done, and returns nil then; the transaction
// under way is finished first. A fencing error, or any error that leaves the
// client unusable, makes a new session. Run returns an error when Process
// does, and [ErrDuplicateInstance].
func Run(ctx context.Context, cfg Config, processor Processor) error {
	if cfg.SessionTimeout == 0 {
		cfg.SessionTimeout = defaultSessionTimeout
	}
	for ctx.Err() == nil {
		o := newOwner(cfg, processor)
		err := o.run(ctx)
		switch {
		case err == nil || ctx.Err() != nil && !errors.As(err, new(*processError)):
			return nil
		case errors.Is(err, ErrDuplicateInstance) || errors.As(err, new(*processError)):
			return err
		}
		cfg.Logger.Warn("transaction session lost, starting another", "group", cfg.Group, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(restoreRetry):
		}
	}
	return nil
}

// processError is an error of Process: it ends the owner.
type processError struct{ err error }

func (e *processError) Error() string { return e.err.Error() }
func (e *processError) Unwrap() error { return e.err }

// partition is the state of one assigned partition.
type partition struct {
	ctx     context.Context // ends when this assignment does
	cancel  context.CancelFunc
	started bool // its restore is under way
	ready   bool // restored and resumed
}

// ErrPartitionLost is the cause with which the context of Process ends when a
// partition was taken away. A shutdown ends it with context.Canceled.
var ErrPartitionLost = errors.New("partition lost")

// owner is one session: one client, from its first join to its close.
type owner struct {
	cfg       Config
	processor Processor
	session   *kgo.GroupTransactSession
	slots     chan struct{} // bounds concurrent restores
	running   sync.WaitGroup
	again     []*kgo.Record      // what Process wants to be called with once more
	begun     map[int32]position // where records begin that are not done, of which something is committed

	fetchFailed bool // since the last records, or the last partition that became ready

	mu       sync.Mutex
	joined   bool
	owned    map[int32]*partition
	dropped  []int32                 // lost since the loop last looked
	restored []func()                // installs of restores that have finished
	wake     context.CancelFunc      // ends the poll under way
	abandon  context.CancelCauseFunc // ends the Process under way
}

func newOwner(cfg Config, processor Processor) *owner {
	return &owner{
		cfg:       cfg,
		processor: processor,
		slots:     make(chan struct{}, maxRestores),
		owned:     map[int32]*partition{},
		wake:      func() {},
		abandon:   func(error) {},
	}
}

// options are those of the session's client.
func (o *owner) options() []kgo.Opt {
	opts := append(o.cfg.Client[:len(o.cfg.Client):len(o.cfg.Client)],
		kgo.ClientID(o.cfg.TransactionalID),
		kgo.ConsumerGroup(o.cfg.Group),
		// A restart takes its predecessor's place at once instead of waiting for
		// the session timeout of a killed one, and a second process of the same
		// name is told from a pause: the broker fences the older one.
		kgo.InstanceID(o.cfg.TransactionalID),
		kgo.ConsumeTopics(o.cfg.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // they show how far the read has come
		kgo.FetchMaxWait(fetchMaxWait),
		kgo.TransactionalID(o.cfg.TransactionalID),
		kgo.TransactionTimeout(o.cfg.SessionTimeout),
		kgo.SessionTimeout(o.cfg.SessionTimeout),
		kgo.RebalanceTimeout(o.cfg.SessionTimeout),
		kgo.HeartbeatInterval(o.cfg.SessionTimeout/10),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchMaxBytes(maxRecordBytes),
		kgo.OnPartitionsAssigned(o.assigned),
		kgo.OnPartitionsRevoked(o.lost),
		kgo.OnPartitionsLost(o.expelled),
	)
	if o.cfg.Heartbeat != nil {
		o.cfg.Heartbeat.begin(o.cfg.SessionTimeout)
		opts = append(opts, kgo.WithHooks(o.cfg.Heartbeat))
	}
	return opts
}

func (o *owner) run(ctx context.Context) error {
	session, err := kgo.NewGroupTransactSession(o.options()...)
	if err != nil {
		return &processError{fmt.Errorf("client of group %s: %w", o.cfg.Group, err)}
	}
	o.session = session
	defer o.close()
	// Asking for the producer's id now ends what a predecessor of this name
	// left open, which every restore would wait for otherwise.
	if _, _, err := session.Client().ProducerID(ctx); err != nil {
		return o.diagnose(ctx, fmt.Errorf("producer id of %s: %w", o.cfg.TransactionalID, err))
	}
	for ctx.Err() == nil {
		if err := o.step(ctx); err != nil {
			return o.diagnose(ctx, err)
		}
	}
	memberID, _ := session.Client().GroupMetadata()
	o.session.Close()
	o.leave(ctx, memberID)
	return nil
}

// close ends the client, waits for restores and forgets every partition.
func (o *owner) close() {
	o.session.Close()
	o.mu.Lock()
	o.joined = false
	for number, p := range o.owned {
		p.cancel()
		o.dropped = append(o.dropped, number)
	}
	o.owned = map[int32]*partition{}
	o.mu.Unlock()
	o.running.Wait()
	o.forgetDropped()
	o.tellOwned()
}

// assigned runs in the group's callback: it only pauses, because offsets are
// fetched after it returns and a predecessor may still commit until then.
func (o *owner) assigned(_ context.Context, client *kgo.Client, partitions map[string][]int32) {
	client.PauseFetchPartitions(partitions)
	o.mu.Lock()
	o.joined = true
	for _, number := range partitions[o.cfg.Topic] {
		o.add(number)
	}
	o.wake()
	o.mu.Unlock()
	o.tellOwned()
}

// add starts an assignment of a partition. The caller holds o.mu.
func (o *owner) add(number int32) {
	if p, ok := o.owned[number]; ok {
		p.cancel()
	}
	p := &partition{}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	o.owned[number] = p
}

// lost runs in the group's callback. It never ends a transaction: the session
// holds its lock here.
func (o *owner) lost(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	o.mu.Lock()
	for _, number := range partitions[o.cfg.Topic] {
		if p, ok := o.owned[number]; ok {
			p.cancel()
			delete(o.owned, number)
		}
		o.dropped = append(o.dropped, number)
	}
	if len(partitions[o.cfg.Topic]) > 0 {
		o.abandon(ErrPartitionLost)
	}
	o.wake()
	o.mu.Unlock()
	o.tellOwned()
}

// expelled is lost, when the group has forgotten this member.
func (o *owner) expelled(ctx context.Context, client *kgo.Client, partitions map[string][]int32) {
	o.mu.Lock()
	o.joined = false
	o.mu.Unlock()
	o.lost(ctx, client, partitions)
}

func (o *owner) tellOwned() {
	o.mu.Lock()
	joined := o.joined
	var owned, ready []int32
	for number, p := range o.owned {
		owned = append(owned, number)
		if p.ready {
			ready = append(ready, number)
		}
	}
	o.mu.Unlock()
	if o.cfg.Progress != nil {
		o.cfg.Progress.own(owned)
	}
	if o.cfg.OnOwned != nil {
		o.cfg.OnOwned(Ownership{Joined: joined, Owned: owned, Ready: ready})
	}
}

// step does one turn: forget what was lost, start restores, poll, install the
// restores that have finished, process, commit.
func (o *owner) step(ctx context.Context) error {
	polling, stop := o.polling(ctx)
	defer stop()
	o.mu.Lock()
	o.wake = stop
	pending := len(o.dropped)+len(o.restored) > 0
	for _, p := range o.owned {
		pending = pending || !p.started
	}
	o.mu.Unlock()
	if pending {
		stop() // arrived between two polls
	}
	fetches := o.poll(polling)
	dropped := o.forgetDropped()
	o.installRestored()
	o.startRestores()
	if fetches.IsClientClosed() {
		return errors.New("client closed")
	}
	if err := o.fetchErrors(fetches); err != nil {
		return err
	}
	if dropped {
		// The session would refuse the next commit, and would not tell of
		// another revocation before that: let it begin anew.
		return o.rewind(ctx)
	}
	records := append(o.again[:len(o.again):len(o.again)], fetches.Records()...)
	if due := o.due(); len(records) > 0 || !due.IsZero() && !time.Now().Before(due) {
		return o.transaction(ctx, records)
	}
	return nil
}

// fetchErrors returns the error that ends the session, if there is one, and
// warns of the first of others; franz-go tries again by itself.
func (o *owner) fetchErrors(fetches kgo.Fetches) (fenced error) {
	fetches.EachError(func(topic string, number int32, err error) {
		switch {
		case errors.Is(err, kerr.FencedInstanceID):
			fenced = err
		case !o.fetchFailed && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded):
			o.fetchFailed = true
			o.cfg.Logger.Warn("fetch, will retry", "topic", topic, "partition", number, "err", err)
		}
	})
	if len(fetches.Records()) > 0 {
		o.fetchFailed = false
	}
	return fenced
}

func (o *owner) due() time.Time {
	if waker, ok := o.processor.(Waker); ok {
		return waker.Due()
	}
	return time.Time{}
}

// pollAtLeast is how long a poll waits for records although the processor has
// work: what was fetched is taken in at once.
const pollAtLeast = 10 * time.Millisecond

// polling returns the context of one poll.
func (o *owner) polling(ctx context.Context) (context.Context, context.CancelFunc) {
	if len(o.again) > 0 {
		return context.WithTimeout(ctx, againWait)
	}
	if _, ok := o.processor.(Waker); !ok {
		return context.WithCancel(ctx)
	}
	until := time.Now().Add(wakerInterval)
	if due := o.due(); !due.IsZero() && due.Before(until) {
		until = due
	}
	if least := time.Now().Add(pollAtLeast); until.Before(least) {
		until = least // else nothing is taken in as long as something is due
	}
	return context.WithDeadline(ctx, until)
}

// poll returns records, none if a transaction cannot take in more.
func (o *owner) poll(ctx context.Context) kgo.Fetches {
	if len(o.again) > (againBatches-1)*o.cfg.MaxRecords {
		<-ctx.Done()
		return nil
	}
	most := o.cfg.MaxRecords
	if o.cfg.Limit != nil {
		most = max(1, min(most, o.cfg.Limit()))
	}
	return o.session.PollRecords(ctx, most)
}

// forgetDropped forgets what was lost, even if it was assigned again since,
// and reports whether there was any.
func (o *owner) forgetDropped() bool {
	o.mu.Lock()
	dropped := o.dropped
	o.dropped = nil
	o.mu.Unlock()
	for _, number := range dropped {
		o.processor.Forget(number)
		delete(o.begun, number)
	}
	return len(dropped) > 0
}

// transaction processes records, none if the processor is due without any, and
// writes the result with their offsets.
func (o *owner) transaction(ctx context.Context, records []*kgo.Record) error {
	processing, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	o.mu.Lock()
	o.abandon = cancel
	ready := true
	for _, r := range records {
		p, ok := o.owned[r.Partition]
		ready = ready && ok && p.ready
	}
	o.mu.Unlock()
	if !ready {
		return o.rollBack(ctx)
	}
	data := slices.DeleteFunc(slices.Clone(records), func(r *kgo.Record) bool { return r.Attrs.IsControl() })
	if len(data) == 0 && len(records) > 0 { // only the marks of transactions: nothing to do, nor to commit
		o.reached(records)
		return nil
	}
	out, err := o.processor.Process(processing, data)
	for errors.Is(err, ErrAgain) && len(out) > 0 && processing.Err() == nil {
		if done, err := o.end(ctx, out, o.begin(records), 0); !done {
			return err
		}
		out, err = o.processor.Process(processing, data)
	}
	switch {
	case err != nil && processing.Err() != nil:
		return o.rollBack(ctx)
	case errors.Is(err, ErrAgain):
		o.again = records
		return nil
	case err != nil:
		return &processError{err}
	}
	if len(records)+len(out) > 0 { // else there is nothing to commit
		if done, err := o.end(ctx, out, after(records), len(data)); !done {
			return err
		}
	}
	o.again, o.begun = nil, nil
	o.processor.Committed()
	o.reached(records)
	return nil
}

func (o *owner) reached(records []*kgo.Record) {
	if o.cfg.Progress == nil {
		return
	}
	for _, r := range records {
		o.cfg.Progress.reached(r.Partition, r.Offset+1)
	}
}

// rollBack rewinds and restores.
func (o *owner) rollBack(ctx context.Context) error {
	if err := o.rewind(ctx); err != nil {
		return err
	}
	o.restoreAll()
	return nil
}
