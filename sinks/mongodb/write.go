package mongodb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// maxDocument is how large the update of one document may be, in bytes:
// MongoDB's limit of a document (16 MiB), less room for what stands around it.
const maxDocument = 16<<20 - 16<<10

// guard is a document of the side collection.
type guard struct {
	ID      string `bson:"_id"`
	Epoch   int32  `bson:"epoch"`
	Version int64  `bson:"version"`
	Deleted bool   `bson:"deleted"`
	// Pending: this change may not have reached the user yet. Only where there
	// are no transactions.
	Pending bool `bson:"pending,omitempty"`
}

func (g guard) rule() sinks.Guard {
	return sinks.Guard{Rank: schemas.Version{Epoch: g.Epoch, Number: g.Version}, Deleted: g.Deleted}
}

// filter finds the guard if it still is as it was read.
func (g guard) filter() bson.D {
	return bson.D{{Key: "_id", Value: g.ID}, {Key: "epoch", Value: g.Epoch}, {Key: "version", Value: g.Version}, {Key: "deleted", Value: g.Deleted}}
}

// write is one record of a batch on its way.
type write struct {
	index  int // in the batch
	record sinks.Record
	update bson.Raw // of a change

	held    guard       // as it was read; its zero value: none
	next    sinks.Guard // as it shall be
	moved   bool        // the user is to be written
	present bool        // of an erasure: the user was there
}

// Apply implements [sinks.Sink].
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	db, err := s.opened()
	if err != nil {
		return err
	}
	var failed sinks.BatchError
	writes := s.arrange(db, batch, &failed)
	if db.transactions {
		err = db.transact(ctx, func(ctx context.Context) error { return db.applyAtOnce(ctx, writes) })
	} else {
		err = s.applyChecked(ctx, db, writes, &failed)
	}
	if err != nil {
		return classify(fmt.Sprintf("write %d records", len(writes)), len(writes), err)
	}
	for _, w := range writes {
		switch {
		case failed.Failed(w.index) != nil:
		case !w.moved:
			w.record.Superseded()
		case w.record.Erase() && w.present:
			w.record.Erased(schemas.OutcomeDeleted)
		case w.record.Erase():
			w.record.Erased(schemas.OutcomeNotPresent)
		}
	}
	return failed.Err()
}

// arrange prepares a batch: sorted by id, so that of two transactions that
// share some the first one passes and not both are refused. Records that can
// never be written are failed and left out.
func (s *Sink) arrange(db *database, batch []sinks.Record, failed *sinks.BatchError) []*write {
	writes := make([]*write, 0, len(batch))
	for i, r := range batch {
		w := &write{index: i, record: r}
		if !r.Erase() {
			var err error
			if w.update, err = s.update(db, r); err != nil {
				failed.Fail(i, err)
				continue
			}
		}
		writes = append(writes, w)
	}
	slices.SortFunc(writes, func(a, b *write) int { return cmp.Compare(a.record.ClerkID, b.record.ClerkID) })
	return writes
}

// update returns the update of a change.
func (s *Sink) update(db *database, r sinks.Record) (bson.Raw, error) {
	set, unset, err := content(s.columns, &r.Change.User)
	if err != nil {
		return nil, sinks.Permanent(sinks.ReasonInvalidRecord, err)
	}
	if !db.transactions {
		set = append(set, bson.E{Key: rankPath, Value: rank(r.Version)})
	}
	var update bson.D
	if len(set) > 0 {
		update = append(update, bson.E{Key: "$set", Value: set})
	}
	if len(unset) > 0 {
		update = append(update, bson.E{Key: "$unset", Value: unset})
	}
	raw, err := bson.Marshal(update)
	switch {
	case err != nil: // nested beyond all measure
		return nil, sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("the user is no BSON"))
	case len(raw) > maxDocument:
		return nil, sinks.Permanent(sinks.ReasonTooLarge, fmt.Errorf("the user takes %d bytes, a document at most %d", len(raw), maxDocument))
	}
	return raw, nil
}

// look reads the guards, decides what moves, and finds which users that are to
// be erased are there.
func (d *database) look(ctx context.Context, writes []*write) error {
	guards, err := d.guards(ctx, writes)
	if err != nil {
		return err
	}
	erased, at := bson.A{}, map[string]*write{}
	for _, w := range writes {
		w.held = guards[w.record.ClerkID]
		held := w.held.rule()
		w.next, w.moved = held.Advance(w.record)
		if w.record.Erase() {
			erased = append(erased, w.record.ClerkID)
			at[w.record.ClerkID] = w
		} else if w.held.Pending && held == (sinks.Guard{Rank: w.record.Rank()}) {
			w.moved = true
		}
	}
	if len(erased) == 0 {
		return nil
	}
	present, err := d.ids(ctx, in(keyPath, erased), options.Find())
	for _, id := range present {
		at[id].present = true
	}
	return err
}

func (d *database) guards(ctx context.Context, writes []*write) (map[string]guard, error) {
	ids := make(bson.A, len(writes))
	for i, w := range writes {
		ids[i] = w.record.ClerkID
	}
	found, err := d.versions.Find(ctx, in("_id", ids))
	if err != nil {
		return nil, err
	}
	var list []guard
	if err := found.All(ctx, &list); err != nil {
		return nil, err
	}
	guards := make(map[string]guard, len(list))
	for _, g := range list {
		guards[g.ID] = g
	}
	return guards, nil
}

func in(path string, ids bson.A) bson.D {
	return bson.D{{Key: path, Value: bson.D{{Key: "$in", Value: ids}}}}
}

// advance returns the write of a guard, under the condition that it is still
// as it was read.
func (d *database) advance(w *write) mongo.WriteModel {
	next := guard{
		ID: w.record.ClerkID, Epoch: w.next.Rank.Epoch, Version: w.next.Rank.Number, Deleted: w.next.Deleted,
		Pending: !d.transactions && !w.next.Deleted,
	}
	if w.held.ID == "" {
		return mongo.NewInsertOneModel().SetDocument(next)
	}
	return mongo.NewReplaceOneModel().SetFilter(w.held.filter()).SetReplacement(next)
}

// write returns the write of a user. Without transactions it spares a user
// whose document has a higher version.
func (d *database) write(w *write) mongo.WriteModel {
	filter := bson.D{{Key: keyPath, Value: w.record.ClerkID}}
	if !d.transactions {
		filter = upTo(w.record.ClerkID, w.next.Rank)
	}
	if w.record.Erase() {
		return mongo.NewDeleteOneModel().SetFilter(filter)
	}
	return mongo.NewUpdateOneModel().SetFilter(filter).SetUpdate(w.update).SetUpsert(true)
}

// bulk sends a model of each write, in no order.
func bulk(ctx context.Context, c *mongo.Collection, writes []*write, model func(*write) mongo.WriteModel) (*mongo.BulkWriteResult, error) {
	if len(writes) == 0 {
		return &mongo.BulkWriteResult{}, nil
	}
	models := make([]mongo.WriteModel, len(writes))
	for i, w := range writes {
		models[i] = model(w)
	}
	return c.BulkWrite(ctx, models, options.BulkWrite().SetOrdered(false))
}

// sift returns the writes for which keep is true.
func sift(writes []*write, keep func(*write) bool) []*write {
	var kept []*write
	for _, w := range writes {
		if keep(w) {
			kept = append(kept, w)
		}
	}
	return kept
}

// transact runs work in a transaction, once: the runner repeats it.
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

// applyAtOnce is what a transaction does. MongoDB refuses the advance of a
// guard that another has moved since it was read.
func (d *database) applyAtOnce(ctx context.Context, writes []*write) error {
	if err := d.look(ctx, writes); err != nil {
		return err
	}
	moved := sift(writes, func(w *write) bool { return w.moved })
	if err := d.advanceAll(ctx, moved); err != nil {
		return err
	}
	for _, erase := range []bool{false, true} { // of one kind, as above
		part := sift(moved, func(w *write) bool { return w.record.Erase() == erase })
		if _, err := bulk(ctx, d.users, part, d.write); err != nil {
			return err
		}
	}
	return nil
}

// advanceAll advances the guards of moved, or returns an error if another
// process has moved one of them since it was read. Without transactions some
// are then advanced, which their marks tell the next attempt.
func (d *database) advanceAll(ctx context.Context, moved []*write) error {
	// The driver sends a command for each kind of write, and the next one
	// although the first was refused: in a transaction, that is then over, the
	// second refusal would hide the reason of the first.
	for _, known := range []bool{false, true} {
		part := sift(moved, func(w *write) bool { return (w.held.ID != "") == known })
		done, err := bulk(ctx, d.versions, part, d.advance)
		if err == nil && done.InsertedCount+done.MatchedCount != int64(len(part)) {
			err = errMoved()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// errMoved says that another process wrote one of the users.
func errMoved() error {
	return sinks.RetryAfter(sinks.ReasonConflict, 0, errors.New("another process writes the same user"))
}
