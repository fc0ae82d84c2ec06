package sequencer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/schemas"
)

// sequence handles one record of the event log.
func (s *Sequencer) sequence(ctx context.Context, r *kgo.Record, now int64) ([]*kgo.Record, error) {
	key := string(r.Key)
	if key == schemas.TickKey {
		return s.forwardTick(r), nil
	}
	if want := schemas.Partition(key, s.cfg.Pins.Partitions); want != r.Partition {
		return nil, fmt.Errorf("a user of partition %d stands in partition %d of %s: the number of partitions was changed from the pinned %d; restore it, or rebuild the topics under a new prefix",
			want, r.Partition, r.Topic, s.cfg.Pins.Partitions)
	}
	event, err := s.decode(ctx, r)
	if err != nil {
		return nil, err
	}
	if event == nil {
		return s.reread(key, nil, "unreadable", now)
	}
	at, known := s.position(key, r.Partition)
	d := decide(at, known, s.cfg.Pins.Epoch, event)
	s.pending = append(s.pending, observation{outcome: d.outcome, origin: event.Origin, receivedAt: event.ReceivedAt, tie: d.tie})
	var out []*kgo.Record
	if d.accepted {
		if out, err = s.render(event, at, known, d, now); err != nil {
			return nil, err
		}
		s.overlay[key] = d.next
	}
	if d.tie {
		reread, err := s.reread(key, &d.next.Version, "tie", now)
		return append(out, reread...), err
	}
	return out, nil
}

func (s *Sequencer) position(clerkID string, partition int32) (schemas.Position, bool) {
	if at, ok := s.overlay[clerkID]; ok {
		return at, true
	}
	return s.memory[partition].get(clerkID)
}

// decode reads an event. nil without an error: the record cannot be read, now
// or ever; it stays in the log, and the user is read again from Clerk. While a
// registry does not answer, decode waits for it: skipping would lose a user.
func (s *Sequencer) decode(ctx context.Context, r *kgo.Record) (*schemas.UserEvent, error) {
	for {
		var event schemas.UserEvent
		err := s.cfg.Codec.Decode(ctx, r.Value, &event)
		switch {
		case err == nil && event.ClerkID == string(r.Key) && (event.User != nil || !statesUser(event.Operation)):
			return &event, nil
		case err == nil || errors.Is(err, schemas.ErrUnknownSchema) || errors.Is(err, schemas.ErrMalformed):
			s.metrics.undecodable.Inc()
			s.cfg.Logger.Error("event cannot be read", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "err", err)
			return nil, nil
		}
		s.cfg.Logger.Warn("event cannot be decoded yet, will retry", "err", err)
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(decodeRetry):
		}
	}
}

func statesUser(o schemas.EventOperation) bool {
	return o == schemas.EventUpsert || o == schemas.EventRevoke
}

// render makes the records that follow from an accepted event.
func (s *Sequencer) render(e *schemas.UserEvent, before schemas.Position, known bool, d decision, now int64) ([]*kgo.Record, error) {
	position, err := s.record(s.cfg.Topics.SequencerState(), e.ClerkID, &d.next)
	if err != nil {
		return nil, err
	}
	out := []*kgo.Record{position}
	if !d.publishes() {
		return out, nil
	}
	headers := schemas.ChangeHeaders{
		Version:    schemas.Version{Epoch: d.next.Epoch, Number: d.next.Version},
		Operation:  schemas.OperationDelete,
		EventID:    e.EventID,
		Origin:     e.Origin,
		OccurredAt: e.OccurredAt,
		Snapshot:   ifElse(e.Origin == schemas.OriginSnapshot, schemas.SnapshotTrue, schemas.SnapshotFalse),
	}
	if d.outcome == OutcomeDeleted {
		erasure, err := s.record(s.cfg.Topics.Erasures(), e.ClerkID, &schemas.Erasure{
			ClerkID: e.ClerkID, Epoch: d.next.Epoch, Version: d.next.Version, Origin: e.Origin,
			Inferred: inferred(d.next), EventID: e.EventID, RequestedAt: e.StatedAt, SequencedAt: now,
		})
		if err != nil {
			return nil, err
		}
		return append(out, erasure, s.tombstone(s.cfg.Topics.Users(), e.ClerkID, headers.Headers())), nil
	}
	if d.outcome == OutcomeRevived {
		out = append(out, s.tombstone(s.cfg.Topics.Erasures(), e.ClerkID, nil))
	}
	operation := changeOperation(e, before, known)
	headers.Operation = string(operation)
	change, err := s.record(s.cfg.Topics.Users(), e.ClerkID, &schemas.UserChange{
		ClerkID: e.ClerkID, Operation: operation, Epoch: d.next.Epoch, Version: d.next.Version,
		EventID: e.EventID, EventType: e.EventType, Origin: e.Origin, InstanceID: e.InstanceID,
		OccurredAt: e.OccurredAt, ReceivedAt: e.ReceivedAt, SequencedAt: now,
		PolicyHash: e.PolicyHash, ClientIP: e.ClientIP, UserAgent: e.UserAgent, User: *e.User,
	})
	if err != nil {
		return nil, err
	}
	change.Headers = headers.Headers()
	return append(out, change), nil
}

// changeOperation: a row of a snapshot is a read, as Debezium's r; the first
// state of a user, or the first after a deletion was taken back, a creation.
func changeOperation(e *schemas.UserEvent, before schemas.Position, known bool) schemas.ChangeOperation {
	switch {
	case e.Origin == schemas.OriginSnapshot:
		return schemas.ChangeSnapshot
	case !known || deleted(before):
		return schemas.ChangeCreate
	}
	return schemas.ChangeUpdate
}

func (s *Sequencer) record(topic, clerkID string, value any) (*kgo.Record, error) {
	encoded, err := s.cfg.Codec.Encode(value)
	if err != nil {
		return nil, err
	}
	r := s.tombstone(topic, clerkID, nil)
	r.Value = encoded
	return r, nil
}

func (s *Sequencer) tombstone(topic, clerkID string, headers []kgo.RecordHeader) *kgo.Record {
	return &kgo.Record{
		Topic:     topic,
		Partition: schemas.Partition(clerkID, s.cfg.Pins.Partitions),
		Key:       []byte(clerkID),
		Headers:   headers,
	}
}

// reread asks the snapshot task to read one user again.
func (s *Sequencer) reread(clerkID string, ifVersion *int64, reason string, now int64) ([]*kgo.Record, error) {
	r, err := connector.StateRecord(s.cfg.Topics, connector.StateKeyRereadPrefix+clerkID,
		connector.Reread{IfVersion: ifVersion, Reason: reason, RequestedAt: now, NotBefore: now + rereadDelay.Milliseconds()})
	return []*kgo.Record{r}, err
}

// forwardTick passes the end of a snapshot on, behind all of its rows.
func (s *Sequencer) forwardTick(r *kgo.Record) []*kgo.Record {
	return []*kgo.Record{{Topic: s.cfg.Topics.Users(), Partition: r.Partition, Key: r.Key, Headers: r.Headers}}
}
