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
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
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
	// Committed follows.
	Process(ctx context.Context, records []*kgo.Record) ([]*kgo.Record, error)

	// Committed says that what Process returned last is committed.
	Committed()
}

// Waker is implemented by a [Processor] that has work besides records.
type Waker interface {
	// Due returns when Process is to be called at the latest, without records
	// if there are none. The zero time means that nothing waits. It is asked
	// before each poll, on the goroutine of Process.
	Due() time.Time
}

// ErrAgain is what Process returns to be called again with the same records
// and those that have come since, up to MaxRecords. Nothing is forgotten.
var ErrAgain = errors.New("process again")

// Config says what to own and as whom.
type Config struct {
	// Client are the options that name the brokers and the security.
	Client []kgo.Opt
	// Topic is what is consumed, Group the consumer group. A new group starts
	// at the earliest offset.
	Topic, Group string
	// TransactionalID must be stable per instance, so that a restart ends what
	// its predecessor left open at once, and unique among live ones.
	TransactionalID string
	// MaxRecords of one transaction, at least 1.
	MaxRecords int
	// SessionTimeout of the group and timeout of transactions. 0 means 10 s:
	// a paused owner holds up every read_committed reader for this long.
	SessionTimeout time.Duration
	// Logger must not be nil.
	Logger *slog.Logger
	// OnTransaction, if set, is told of every transaction: how many input
	// records, whether it committed, and how long it took to end.
	OnTransaction func(records int, committed bool, took time.Duration)
	// OnOwned, if set, is told the partitions owned and those of them that are
	// restored, whenever either changes.
	OnOwned func(owned, ready []int32)
	// Progress, if set, is kept up to date.
	Progress *Progress
	// CommitLock, if set, is held from the begin to the end of a transaction.
	// The embedded broker compacts under it, because its compaction ignores
	// open transactions.
	CommitLock sync.Locker
}

const (
	defaultSessionTimeout = 10 * time.Second
	restoreRetry          = time.Second
	ghostSessions         = 3 // session timeouts until it is clear who has fenced us
	maxRestores           = 4 // at once, so that a start does not read twelve partitions side by side

	// fetchMaxWait is the default of Kafka's Java consumer. A partition that
	// becomes ready joins the next fetch, so it waits for the one under way:
	// up to 5 s by franz-go's default.
	fetchMaxWait = 500 * time.Millisecond

	// maxRecordBytes is Kafka's default message.max.bytes: what one topic could
	// take must fit into the next. franz-go's own default is smaller.
	maxRecordBytes = 1_048_588
)

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

	mu       sync.Mutex
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

func (o *owner) run(ctx context.Context) error {
	session, err := kgo.NewGroupTransactSession(append(o.cfg.Client[:len(o.cfg.Client):len(o.cfg.Client)],
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
		kgo.OnPartitionsLost(o.lost),
	)...)
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

func (o *owner) tellOwned() {
	o.mu.Lock()
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
		o.cfg.OnOwned(owned, ready)
	}
}

// step does one turn: forget what was lost, start restores, poll, install the
// restores that have finished, process, commit.
func (o *owner) step(ctx context.Context) error {
	due := o.due()
	polling, stop := context.WithCancel(ctx)
	if !due.IsZero() {
		polling, stop = context.WithDeadline(ctx, due)
	}
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
	fetches := o.session.PollRecords(polling, o.cfg.MaxRecords)
	dropped := o.forgetDropped()
	o.installRestored()
	o.startRestores()
	if fetches.IsClientClosed() {
		return errors.New("client closed")
	}
	var fenced error
	fetches.EachError(func(topic string, number int32, err error) {
		if errors.Is(err, kerr.FencedInstanceID) {
			fenced = err
		} else if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			o.cfg.Logger.Warn("fetch", "topic", topic, "partition", number, "err", err)
		}
	})
	if fenced != nil {
		return fenced
	}
	if dropped {
		// The session would refuse the next commit, and would not tell of
		// another revocation before that: let it begin anew.
		return o.rewind(ctx)
	}
	if fetches.NumRecords() > 0 || !due.IsZero() && !time.Now().Before(due) {
		return o.transaction(ctx, fetches.Records())
	}
	return nil
}

func (o *owner) due() time.Time {
	if waker, ok := o.processor.(Waker); ok {
		return waker.Due()
	}
	return time.Time{}
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
	}
	return len(dropped) > 0
}

func (o *owner) startRestores() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for number, p := range o.owned {
		if !p.started {
			p.started = true
			o.running.Add(1)
			go o.restore(number, p)
		}
	}
}

// restore reads a partition's memory until it succeeds or the assignment ends.
func (o *owner) restore(number int32, p *partition) {
	defer o.running.Done()
	for p.ctx.Err() == nil {
		o.slots <- struct{}{}
		install, err := o.processor.Restore(p.ctx, number)
		<-o.slots
		if err == nil {
			o.mu.Lock()
			o.restored = append(o.restored, func() { o.install(number, p, install) })
			o.wake()
			o.mu.Unlock()
			return
		}
		if p.ctx.Err() != nil {
			return
		}
		o.cfg.Logger.Warn("restore, will retry", "topic", o.cfg.Topic, "partition", number, "err", err)
		select {
		case <-p.ctx.Done():
		case <-time.After(restoreRetry):
		}
	}
}

func (o *owner) installRestored() {
	o.mu.Lock()
	restored := o.restored
	o.restored = nil
	o.mu.Unlock()
	for _, install := range restored {
		install()
	}
}

// install makes a restored partition ready if it is still the same assignment.
func (o *owner) install(number int32, p *partition, install func()) {
	o.mu.Lock()
	current := o.owned[number] == p
	p.ready = current
	o.mu.Unlock()
	if !current {
		return
	}
	install()
	o.session.Client().ResumeFetchPartitions(map[string][]int32{o.cfg.Topic: {number}})
	o.tellOwned()
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
	switch {
	case err != nil && processing.Err() != nil:
		return o.rollBack(ctx)
	case errors.Is(err, ErrAgain):
		return o.rewind(ctx)
	case err != nil:
		return &processError{err}
	}
	if o.cfg.CommitLock != nil {
		o.cfg.CommitLock.Lock()
		defer o.cfg.CommitLock.Unlock()
	}
	started := time.Now()
	committed, err := o.commit(ctx, out)
	if o.cfg.OnTransaction != nil {
		o.cfg.OnTransaction(len(data), committed, time.Since(started))
	}
	if err != nil {
		return err
	}
	if !committed {
		o.restoreAll()
		return nil
	}
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

// ending bounds the end of a transaction and is not ended by a shutdown, which
// finishes the transaction under way.
func (o *owner) ending(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 2*o.cfg.SessionTimeout)
}

func (o *owner) commit(ctx context.Context, out []*kgo.Record) (bool, error) {
	ending, cancel := o.ending(ctx)
	defer cancel()
	if err := o.session.Begin(); err != nil {
		return false, fmt.Errorf("begin transaction: %w", err)
	}
	var mu sync.Mutex
	var failed error
	for _, r := range out {
		o.session.Produce(ending, r, func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
		})
	}
	if err := o.session.Client().Flush(ending); err != nil {
		return false, fmt.Errorf("flush transaction: %w", err)
	}
	mu.Lock()
	produced := failed
	mu.Unlock()
	committed, err := o.session.End(ending, kgo.TransactionEndTry(produced == nil))
	if err != nil {
		return false, fmt.Errorf("end transaction: %w", errors.Join(err, produced))
	}
	if produced != nil {
		return false, fmt.Errorf("produce in transaction: %w", produced)
	}
	return committed, nil
}

// rewind goes back to the committed offsets without having written anything.
func (o *owner) rewind(ctx context.Context) error {
	ending, cancel := o.ending(ctx)
	defer cancel()
	if _, err := o.session.End(ending, kgo.TryAbort); err != nil {
		return fmt.Errorf("rewind: %w", err)
	}
	return nil
}

// rollBack rewinds and restores.
func (o *owner) rollBack(ctx context.Context) error {
	if err := o.rewind(ctx); err != nil {
		return err
	}
	o.restoreAll()
	return nil
}

// restoreAll forgets every partition and restores it again.
func (o *owner) restoreAll() {
	o.forgetDropped()
	o.mu.Lock()
	numbers := make([]int32, 0, len(o.owned))
	for number := range o.owned {
		o.add(number)
		numbers = append(numbers, number)
	}
	o.mu.Unlock()
	if len(numbers) > 0 {
		o.session.Client().PauseFetchPartitions(map[string][]int32{o.cfg.Topic: numbers})
	}
	for _, number := range numbers {
		o.processor.Forget(number)
	}
	o.tellOwned()
	o.startRestores()
}

// leave tells the group that this instance will not come back soon, so that
// others take over at once: a static member does not leave by closing. memberID
// is this process's own, so that it cannot make a successor of its name leave.
func (o *owner) leave(ctx context.Context, memberID string) {
	client, err := kgo.NewClient(o.cfg.Client...)
	if err != nil {
		return
	}
	defer client.Close()
	request := kmsg.NewPtrLeaveGroupRequest()
	request.Group = o.cfg.Group
	member := kmsg.NewLeaveGroupRequestMember()
	member.MemberID, member.InstanceID = memberID, &o.cfg.TransactionalID
	request.Members = append(request.Members, member)
	leaving, cancel := o.ending(ctx)
	defer cancel()
	if _, err := request.RequestWith(leaving, client); err != nil {
		o.cfg.Logger.Warn("leave group, others take over after the session timeout", "group", o.cfg.Group, "err", err)
	}
}

// diagnose tells a fencing by another live process of the same name, which no
// retry can mend, from one by a ghost: a transaction that timed out while we
// were paused, or our own request to join that a slow network delivered after
// its repetition. A ghost sends no heartbeats, so the group forgets it, after
// the rebalance and the session timeout at the latest. What cannot be found
// out counts as a ghost.
func (o *owner) diagnose(ctx context.Context, err error) error {
	fenced := []error{kerr.FencedInstanceID, kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping}
	if !slices.ContainsFunc(fenced, func(f error) bool { return errors.Is(err, f) }) {
		return err
	}
	memberID, _ := o.session.Client().GroupMetadata()
	o.session.Close() // it would take part in the group
	client, failed := kgo.NewClient(o.cfg.Client...)
	if failed != nil {
		return errors.Join(err, failed)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	waiting, cancel := context.WithTimeout(ctx, ghostSessions*o.cfg.SessionTimeout)
	defer cancel()
	live := false
	for {
		if other, failed := o.otherMember(waiting, admin, memberID); failed == nil && !other {
			return err
		} else if waiting.Err() == nil {
			live = failed == nil
		}
		select {
		case <-time.After(o.cfg.SessionTimeout / 10):
			continue
		case <-waiting.Done():
		}
		if live && ctx.Err() == nil {
			return fmt.Errorf("%w: %s in group %s", ErrDuplicateInstance, o.cfg.TransactionalID, o.cfg.Group)
		}
		return err
	}
}

// otherMember reports whether the group has a member of our name that is not
// we ourselves.
func (o *owner) otherMember(ctx context.Context, admin *kadm.Client, memberID string) (bool, error) {
	groups, err := admin.DescribeGroups(ctx, o.cfg.Group)
	if err != nil {
		return false, err
	}
	group := groups[o.cfg.Group]
	return slices.ContainsFunc(group.Members, func(m kadm.DescribedGroupMember) bool {
		return m.InstanceID != nil && *m.InstanceID == o.cfg.TransactionalID && m.MemberID != memberID
	}), group.Err
}
