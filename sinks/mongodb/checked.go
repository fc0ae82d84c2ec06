package mongodb

import (
	"context"
	"errors"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// rankPath is the path of the version in a user's document, where there are no
// transactions.
const rankPath = "clerkConnect"

// rank returns the value at rankPath. MongoDB compares documents field by
// field in their order, and numbers by value.
func rank(v schemas.Version) bson.D {
	return bson.D{{Key: "epoch", Value: v.Epoch}, {Key: "version", Value: v.Number}}
}

// rankOf returns the version in a user's document, if it has one.
func rankOf(user bson.Raw) (v schemas.Version, ok bool) {
	epoch, hasEpoch := user.Lookup(rankPath, "epoch").AsInt64OK()
	number, hasNumber := user.Lookup(rankPath, "version").AsInt64OK()
	return schemas.Version{Epoch: int32(epoch), Number: number}, hasEpoch && hasNumber //nolint:gosec // we wrote an int32
}

// upTo leaves out documents that have a version higher than v. One that the
// application wrote has none and passes.
func upTo(v schemas.Version) bson.E {
	return bson.E{Key: rankPath, Value: bson.D{{Key: "$not", Value: bson.D{{Key: "$gt", Value: rank(v)}}}}}
}

// applyChecked is write, check, undo: see the package's documentation.
func (s *Sink) applyChecked(ctx context.Context, db *database, batch []sinks.Record, failed *sinks.BatchError) ([]*write, error) {
	writes := arrange(batch)
	moved, err := db.prepare(ctx, writes, failed)
	if err != nil {
		return nil, err
	}
	s.looked()
	// An error leaves some guards advanced. The same change, given again,
	// finds its version missing in the document and is written.
	if err := db.advance(ctx, sift(moved, func(w *write) bool { return w.next != w.held.rule() })); err != nil {
		return nil, err
	}
	// Whoever writes an erased user after this look checks the guard after it.
	if err := db.decide(ctx, moved); err != nil {
		return nil, err
	}
	s.between()
	err = db.writeChecked(ctx, moved, failed)
	// After a failure too: part of it may be written, and a process that was
	// paused is not given the batch again.
	if checkErr := db.check(ctx, writes, moved); err == nil {
		err = checkErr
	}
	return writes, err
}

// writeChecked writes the users, and settles who has what several claim.
func (d *database) writeChecked(ctx context.Context, moved []*write, failed *sinks.BatchError) error {
	refused, err := d.refused(ctx, moved, failed)
	if err == nil && len(refused) > 0 {
		err = d.settleChecked(ctx, refused, failed)
	}
	if err != nil {
		return err
	}
	return d.restore(ctx, sift(moved, func(w *write) bool { return failed.Failed(w.index) == nil }))
}

// refused writes the users, fails the records that the server refuses, and
// returns those that a unique key of the application's is in the way of.
func (d *database) refused(ctx context.Context, moved []*write, failed *sinks.BatchError) ([]*write, error) {
	due := sift(moved, func(w *write) bool { return w.model != nil })
	done, err := d.bulk(ctx, d.users, due, func(w *write) mongo.WriteModel { return w.model })
	var refused mongo.BulkWriteException
	if err != nil && (!errors.As(err, &refused) || refused.WriteConcernError != nil) {
		return nil, err
	}
	var waiting []*write
	for _, e := range refused.WriteErrors {
		w := due[e.Index]
		if e.Code == codeDuplicateKey {
			waiting = append(waiting, w)
			continue
		}
		failed.Fail(w.index, byWriteError("write the user", 1, e))
	}
	if done+len(refused.WriteErrors) != len(due) {
		return nil, errMoved() // a higher version came in between, or the document went
	}
	return waiting, nil
}

// settleChecked settles who may have the keys that writes were refused for,
// and writes them again.
func (d *database) settleChecked(ctx context.Context, writes []*write, failed *sinks.BatchError) error {
	if err := d.settle(ctx, writes, failed); err != nil {
		return err
	}
	still, err := d.refused(ctx, writes, failed)
	for _, w := range still {
		failed.Fail(w.index, sinks.HeldBy("", errTaken))
	}
	return err
}

// check deletes the users that must not be there: those erased while they were
// written, and those of whom a late change came again, because the first time
// may have ended before here.
func (d *database) check(ctx context.Context, writes, moved []*write) error {
	undo := sift(writes, func(w *write) bool { return !w.moved && !w.erase() && w.held.Deleted })
	changes := sift(moved, func(w *write) bool { return !w.erase() })
	if len(changes) > 0 {
		guards, err := d.guards(ctx, idsOf(changes))
		if err != nil {
			return err
		}
		for _, w := range changes {
			g := guards[w.record.ClerkID]
			if g.rule() == w.next {
				continue
			}
			w.moved, w.held = false, g
			if g.Deleted {
				undo = append(undo, w)
			}
		}
	}
	_, err := d.bulk(ctx, d.users, undo, func(w *write) mongo.WriteModel { return mongo.NewDeleteOneModel().SetFilter(d.stray(w)) })
	return err
}

// stray finds the document of a user who was erased unless it is what the
// erasure left.
func (d *database) stray(w *write) bson.D {
	filter := bson.D{{Key: d.plan.key, Value: w.record.ClerkID}, upTo(w.held.rule().Rank)}
	if d.plan.deletedAt != "" {
		filter = append(filter, bson.E{Key: d.plan.deletedAt, Value: nil})
	}
	return filter
}
