package mongodb

import (
	"context"
	"errors"
	"slices"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"

	"clerkconnect/sinks"
)

// transact runs work in a transaction, once.
func (d *database) transact(ctx context.Context, work func(context.Context) error) error {
	session, err := d.client.StartSession()
	if err != nil {
		return err
	}
	defer func() { // rolls back what was not committed
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
		defer cancel()
		session.EndSession(ctx)
	}()
	if err := session.StartTransaction(options.Transaction().SetReadConcern(readconcern.Snapshot())); err != nil {
		return err
	}
	if err := work(mongo.NewSessionContext(ctx, session)); err != nil {
		return err
	}
	return session.CommitTransaction(ctx)
}

// errMoved says that another process wrote one of the users.
func errMoved() error {
	return sinks.RetryAfter(sinks.ReasonConflict, 0, errors.New("another process writes the same user"))
}

// bulk sends a model of each write and returns how many documents these met.
// Models go by kind, a command each, because the driver sends the next one
// although the first was refused: in a transaction, that is then over, the
// second refusal would hide the reason of the first. Positions in a refusal
// are those in writes.
func (d *database) bulk(ctx context.Context, c *mongo.Collection, writes []*write, model func(*write) mongo.WriteModel) (int, error) {
	met := 0
	var inserts, updates, deletes batch
	for i, w := range writes {
		switch m := model(w).(type) {
		case *mongo.InsertOneModel:
			inserts.add(i, m)
		case *mongo.DeleteOneModel:
			deletes.add(i, m)
		default:
			updates.add(i, m)
		}
	}
	var refused mongo.BulkWriteException
	for _, part := range []batch{deletes, updates, inserts} {
		done, err := part.send(ctx, c)
		if done != nil {
			met += int(done.InsertedCount + done.MatchedCount + done.UpsertedCount + done.DeletedCount)
		}
		var e mongo.BulkWriteException
		switch {
		case err == nil:
		case d.transactions || !errors.As(err, &e) || e.WriteConcernError != nil:
			return met, d.overlap(err)
		default:
			refused.WriteErrors = append(refused.WriteErrors, e.WriteErrors...)
		}
	}
	if len(refused.WriteErrors) > 0 {
		return met, d.overlap(refused)
	}
	return met, nil
}

// batch is models of one kind, and their positions among all.
type batch struct {
	models    []mongo.WriteModel
	positions []int
}

func (b *batch) add(position int, model mongo.WriteModel) {
	b.models, b.positions = append(b.models, model), append(b.positions, position)
}

func (b *batch) send(ctx context.Context, c *mongo.Collection) (*mongo.BulkWriteResult, error) {
	if len(b.models) == 0 {
		return nil, nil
	}
	done, err := c.BulkWrite(ctx, b.models, options.BulkWrite().SetOrdered(false))
	var refused mongo.BulkWriteException
	if errors.As(err, &refused) {
		for i := range refused.WriteErrors {
			refused.WriteErrors[i].Index = b.positions[refused.WriteErrors[i].Index]
		}
		err = refused
	}
	return done, err
}

// overlap returns errMoved if err is that of a process that has inserted the
// same user since we looked, else err.
func (d *database) overlap(err error) error {
	var refused mongo.BulkWriteException
	if errors.As(err, &refused) && slices.ContainsFunc(refused.WriteErrors, func(e mongo.BulkWriteError) bool { return ourKey(e, d.plan.key) }) {
		return errMoved()
	}
	return err
}
