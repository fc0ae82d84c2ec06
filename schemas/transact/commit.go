package transact

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// position is a place in a partition.
type position struct {
	offset int64
	epoch  int32 // of the leader
}

// begin returns where records begin, and notes it: from the next commit on the
// client takes them for done.
func (o *owner) begin(records []*kgo.Record) map[int32]position {
	first := maps.Clone(o.begun)
	if first == nil {
		first = map[int32]position{}
	}
	for _, r := range records {
		if at, ok := first[r.Partition]; !ok || r.Offset < at.offset {
			first[r.Partition] = position{r.Offset, r.LeaderEpoch}
		}
	}
	o.begun = first
	return first
}

// after returns the positions behind records.
func after(records []*kgo.Record) map[int32]position {
	next := map[int32]position{}
	for _, r := range records {
		if at, ok := next[r.Partition]; !ok || r.Offset >= at.offset {
			next[r.Partition] = position{r.Offset + 1, r.LeaderEpoch}
		}
	}
	return next
}

// end commits out and the positions, and reports whether that was done. If not,
// everything is forgotten and restored, or an error ends the session.
func (o *owner) end(ctx context.Context, out []*kgo.Record, positions map[int32]position, records int) (done bool, err error) {
	if o.cfg.CommitLock != nil {
		o.cfg.CommitLock.Lock()
		defer o.cfg.CommitLock.Unlock()
	}
	if len(positions) == 0 {
		positions = o.anchor()
	}
	started := time.Now()
	committed, err := o.commit(ctx, out, positions)
	if o.cfg.OnTransaction != nil {
		o.cfg.OnTransaction(records, committed, time.Since(started))
	}
	if err == nil && !committed {
		o.again = nil
		o.goBack()
		o.restoreAll()
	}
	return committed, err
}

// anchor returns the position of one partition as it is committed: a transaction
// without records is bound to the group by it, so that who has lost the
// partitions cannot commit it. Nothing, if nothing was ever committed.
func (o *owner) anchor() map[int32]position {
	committed := o.session.Client().CommittedOffsets()[o.cfg.Topic]
	o.mu.Lock()
	defer o.mu.Unlock()
	for number, p := range o.owned {
		if at, ok := committed[number]; ok && p.ready && at.Offset >= 0 {
			return map[int32]position{number: {at.Offset, at.Epoch}}
		}
	}
	return nil
}

// goBack makes the client read again what it takes for done.
func (o *owner) goBack() {
	if offsets := o.takeBegun(); len(offsets) > 0 {
		o.session.Client().SetOffsets(map[string]map[int32]kgo.EpochOffset{o.cfg.Topic: offsets})
	}
}

// takeBegun returns where the client has to go back to. A partition that was lost
// goes on where its next owner left it, also if it is ours again by now.
func (o *owner) takeBegun() map[int32]kgo.EpochOffset {
	o.forgetDropped()
	offsets := map[int32]kgo.EpochOffset{}
	for number, at := range o.begun {
		offsets[number] = kgo.EpochOffset{Epoch: at.epoch, Offset: at.offset}
	}
	o.begun = nil
	return offsets
}

// ending bounds the end of a transaction and is not ended by a shutdown, which
// finishes the transaction under way.
func (o *owner) ending(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 2*o.cfg.SessionTimeout)
}

func (o *owner) commit(ctx context.Context, out []*kgo.Record, positions map[int32]position) (bool, error) {
	ending, cancel := o.ending(ctx)
	defer cancel()
	ending = kgo.PreTxnCommitFnContext(ending, func(request *kmsg.TxnOffsetCommitRequest) error {
		o.place(request, positions)
		return nil
	})
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

// place sets the positions in a request to commit offsets. The client's own
// guess is where it has read to, and nothing if it takes that for done.
func (o *owner) place(request *kmsg.TxnOffsetCommitRequest, positions map[int32]position) {
	var topic *kmsg.TxnOffsetCommitRequestTopic
	for i := range request.Topics {
		if request.Topics[i].Topic == o.cfg.Topic {
			topic = &request.Topics[i]
		}
	}
	if topic == nil && len(positions) > 0 {
		added := kmsg.NewTxnOffsetCommitRequestTopic()
		added.Topic = o.cfg.Topic
		request.Topics = append(request.Topics, added)
		topic = &request.Topics[len(request.Topics)-1]
	}
	for number, at := range positions {
		i := slices.IndexFunc(topic.Partitions, func(p kmsg.TxnOffsetCommitRequestTopicPartition) bool { return p.Partition == number })
		if i < 0 {
			added := kmsg.NewTxnOffsetCommitRequestTopicPartition()
			added.Partition, added.Metadata = number, &request.MemberID
			topic.Partitions = append(topic.Partitions, added)
			i = len(topic.Partitions) - 1
		}
		topic.Partitions[i].Offset, topic.Partitions[i].LeaderEpoch = at.offset, at.epoch
	}
}

// rewind goes back to the committed offsets without having written anything.
func (o *owner) rewind(ctx context.Context) error {
	ending, cancel := o.ending(ctx)
	defer cancel()
	o.again = nil
	if _, err := o.session.End(ending, kgo.TryAbort); err != nil {
		return fmt.Errorf("rewind: %w", err)
	}
	o.goBack()
	return nil
}
