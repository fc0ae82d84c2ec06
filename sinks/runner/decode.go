package runner

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// decode returns what k says, nil if it says nothing about a user. What cannot
// be understood comes back as given up. It waits out a schema registry that
// does not answer; an error means that ctx has ended.
func (r *Runner) decode(ctx context.Context, k *kgo.Record) (*item, error) {
	if string(k.Key) == schemas.TickKey {
		return nil, nil
	}
	it := newItem(k, string(k.Key))
	if k.Value == nil {
		r.decodeTombstone(it)
		return it, nil
	}
	change := &schemas.UserChange{}
	err := r.decodeValue(ctx, k, change)
	switch {
	case errors.Is(err, errUndecodable):
		it.invalid(err)
	case err != nil:
		return nil, err
	case change.ClerkID != it.record.ClerkID:
		it.invalid(errForeignKey)
	default:
		it.record.Change, it.occurred = change, change.OccurredAt
		it.record.Version = schemas.Version{Epoch: change.Epoch, Number: change.Version}
		it.snapshot = change.Operation == schemas.ChangeSnapshot
	}
	return it, nil
}

// decodeReceipt is decode for <prefix>.erasure-receipts: nil for receipts that
// were taken back and for the sink's own.
func (r *Runner) decodeReceipt(ctx context.Context, k *kgo.Record) (*item, error) {
	id, sink, ok := schemas.SplitReceiptKey(string(k.Key))
	if !ok || sink == r.cfg.Name || k.Value == nil {
		return nil, nil
	}
	it := newItem(k, id)
	receipt := &schemas.Receipt{}
	err := r.decodeValue(ctx, k, receipt)
	switch {
	case errors.Is(err, errUndecodable):
		it.invalid(err)
	case err != nil:
		return nil, err
	case receipt.ClerkID != id || receipt.Sink != sink:
		it.invalid(errForeignKey)
	default:
		it.record.Receipt, it.record.Version = receipt, receiptVersion(*receipt)
	}
	return it, nil
}

func newItem(k *kgo.Record, clerkID string) *item {
	return &item{raw: k, record: sinks.Record{
		ClerkID: clerkID, Source: sinks.Source{Topic: k.Topic, Partition: k.Partition, Offset: k.Offset},
	}}
}

func (it *item) invalid(err error) {
	it.giveUp(sinks.Error{Class: sinks.ClassPermanent, Reason: sinks.ReasonInvalidRecord, Err: err}, dead)
}

// decodeValue waits out a schema registry that does not answer. An error is
// errUndecodable, or ctx has ended.
func (r *Runner) decodeValue(ctx context.Context, k *kgo.Record, into any) error {
	for attempt := 1; ; attempt++ {
		err := r.options.Codec.Decode(ctx, k.Value, into)
		switch {
		case err == nil:
			return nil
		case undecodable(err):
			return errUndecodable // the decoder's text may quote the value
		}
		if attempt == 1 {
			r.logger.Warn("decode, will retry", "partition", k.Partition, "offset", k.Offset, "err", err)
		}
		if err := sleep(ctx, r.backoff(attempt)); err != nil {
			return err
		}
	}
}

func undecodable(err error) bool {
	return errors.Is(err, schemas.ErrMalformed) || errors.Is(err, schemas.ErrUnknownSchema)
}

var (
	errForeignKey  = errors.New("the value names another user, or another sink, than the key")
	errUndecodable = errors.New("the value is not what this topic holds")
)

// decodeTombstone takes what is known of an erasure from the headers. One
// without a version still erases: nothing better can be assumed of it.
func (r *Runner) decodeTombstone(it *item) {
	headers, err := schemas.ParseChangeHeaders(it.raw.Headers)
	it.since = askedFor(schemas.Erasure{RequestedAt: headers.OccurredAt}, it.raw.Timestamp)
	if err != nil {
		r.logger.Warn("tombstone without a version", "partition", it.raw.Partition, "offset", it.raw.Offset, "err", err)
		return
	}
	it.record.Version, it.occurred = headers.Version, headers.OccurredAt
	it.record.Erasure = &schemas.Erasure{
		ClerkID: it.record.ClerkID, Epoch: headers.Version.Epoch, Version: headers.Version.Number,
		Origin: headers.Origin, Inferred: headers.Origin == schemas.OriginReconcile,
		EventID: headers.EventID, RequestedAt: headers.OccurredAt,
	}
}
