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

// upTo finds the user unless the document has a version higher than v. One
// that the application wrote has none and is found.
func upTo(clerkID string, v schemas.Version) bson.D {
	return bson.D{
		{Key: keyPath, Value: clerkID},
		{Key: rankPath, Value: bson.D{{Key: "$not", Value: bson.D{{Key: "$gt", Value: rank(v)}}}}},
	}
}

// applyChecked is write, check, undo: see the package's documentation.
func (s *Sink) applyChecked(ctx context.Context, db *database, writes []*write, failed *sinks.BatchError) error {
	if err := db.look(ctx, writes); err != nil {
		return err
	}
	moved := sift(writes, func(w *write) bool { return w.moved })
	if err := db.advanceAll(ctx, moved); err != nil {
		return err
	}
	s.between()
	_, err := bulk(ctx, db.users, moved, db.write)
	if err := blame(moved, failed, err); err != nil {
		return err
	}
	return db.check(ctx, writes, sift(moved, func(w *write) bool { return failed.Failed(w.index) == nil }))
}

// check takes the marks off the guards of moved and deletes the users that
// must not be there: those erased while they were written, and those of whom a
// late change came again, because the first time may have ended before here.
func (d *database) check(ctx context.Context, writes, moved []*write) error {
	undo := sift(writes, func(w *write) bool { return !w.moved && !w.record.Erase() && w.held.Deleted })
	changes := sift(moved, func(w *write) bool { return !w.record.Erase() })
	done, err := bulk(ctx, d.versions, changes, func(w *write) mongo.WriteModel {
		g := guard{ID: w.record.ClerkID, Epoch: w.next.Rank.Epoch, Version: w.next.Rank.Number}
		return mongo.NewReplaceOneModel().SetFilter(g.filter()).SetReplacement(g)
	})
	if err != nil {
		return err
	}
	if done.MatchedCount != int64(len(changes)) {
		err := d.overtaken(ctx, changes, func(w *write, g guard) {
			w.moved, w.held = false, g
			if g.Deleted {
				undo = append(undo, w)
			}
		})
		if err != nil {
			return err
		}
	}
	_, err = bulk(ctx, d.users, undo, func(w *write) mongo.WriteModel {
		return mongo.NewDeleteOneModel().SetFilter(upTo(w.record.ClerkID, w.held.rule().Rank))
	})
	return err
}

// overtaken calls then for each write whose guard is not as it was advanced.
func (d *database) overtaken(ctx context.Context, writes []*write, then func(*write, guard)) error {
	guards, err := d.guards(ctx, writes)
	if err != nil {
		return err
	}
	for _, w := range writes {
		if g := guards[w.record.ClerkID]; g.rule() != w.next {
			then(w, g)
		}
	}
	return nil
}

// blame fails the records whose users the server refused, and returns any
// other error, a race with another process among them.
func blame(writes []*write, failed *sinks.BatchError, err error) error {
	var refused mongo.BulkWriteException
	if !errors.As(err, &refused) || refused.WriteConcernError != nil || len(refused.WriteErrors) == 0 {
		return err
	}
	for _, e := range refused.WriteErrors {
		if ourKey(e) {
			return errMoved()
		}
		failed.Fail(writes[e.Index].index, byWriteError("write the user", 1, e))
	}
	return nil
}
