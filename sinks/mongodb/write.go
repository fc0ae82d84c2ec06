package mongodb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// maxDocument is how large what we write of one document may be, in bytes:
// MongoDB's limit of a document (16 MiB), less room for what stands around it.
const maxDocument = 16<<20 - 16<<10

// guard is a document of the side collection.
type guard struct {
	ID      string `bson:"_id"`
	Epoch   int32  `bson:"epoch"`
	Version int64  `bson:"version"`
	Deleted bool   `bson:"deleted"`
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

	held  guard       // as it was read; its zero value: none
	next  sinks.Guard // as it shall be
	moved bool        // the user is to be written
	user  bson.Raw    // what was read of the user's document, nil: not there

	values  bson.D // of a change, by path
	inserts bson.D // besides, if the user is inserted
	model   mongo.WriteModel
	waits   error // another user holds what this one needs: its guard stays
	outcome schemas.Outcome
	reason  string
}

func (w *write) erase() bool { return w.record.Erase() }

// known reports whether the user's document is there, as far as the guard can
// tell: only the application itself could have taken it away.
func (w *write) known() bool { return w.held.ID != "" && !w.held.Deleted }

// idsOf returns the Clerk IDs of writes.
func idsOf(writes []*write) bson.A {
	ids := make(bson.A, len(writes))
	for i, w := range writes {
		ids[i] = w.record.ClerkID
	}
	return ids
}

// Apply implements [sinks.Sink].
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	db, err := s.opened()
	if err != nil {
		return err
	}
	apply := s.applyChecked
	if db.transactions {
		apply = s.applyAtOnce
	}
	var failed sinks.BatchError
	writes, err := apply(ctx, db, batch, &failed)
	if err != nil {
		return classify(fmt.Sprintf("write %d records", len(batch)), len(batch), err)
	}
	for _, w := range writes {
		switch {
		case failed.Failed(w.index) != nil:
		case !w.moved:
			w.record.Superseded()
		case w.reason != "":
			w.record.ErasedBecause(w.outcome, w.reason)
		case w.erase():
			w.record.Erased(w.outcome)
		}
	}
	return failed.Err()
}

// arrange sorts a batch by id, so that of two transactions that share some the
// first one passes and not both are refused.
func arrange(batch []sinks.Record) []*write {
	writes := make([]*write, len(batch))
	for i, r := range batch {
		writes[i] = &write{index: i, record: r}
	}
	slices.SortFunc(writes, func(a, b *write) int { return cmp.Compare(a.record.ClerkID, b.record.ClerkID) })
	return writes
}

// applyAtOnce writes a batch in a transaction, once: the runner repeats it. If
// a unique key of the application's refuses it, a second one settles who may
// have the key first.
func (s *Sink) applyAtOnce(ctx context.Context, db *database, batch []sinks.Record, failed *sinks.BatchError) (writes []*write, err error) {
	for _, settle := range []bool{false, true} {
		*failed = sinks.BatchError{}
		writes = arrange(batch)
		err = db.transact(ctx, func(ctx context.Context) error {
			moved, err := db.prepare(ctx, writes, failed)
			if err == nil {
				err = db.decide(ctx, moved)
			}
			if err == nil && settle {
				err = db.settle(ctx, moved, failed)
			}
			if err != nil {
				return err
			}
			// MongoDB refuses the advance of a guard that another has moved
			// since it was read.
			if err := db.advance(ctx, sift(moved, func(w *write) bool { return w.waits == nil })); err != nil {
				return err
			}
			return db.write(ctx, moved)
		})
		if !taken(err) {
			break
		}
	}
	return writes, err
}

// prepare decides what moves, and makes the writes of changes. Records that can
// never be written are failed and left out.
func (d *database) prepare(ctx context.Context, writes []*write, failed *sinks.BatchError) ([]*write, error) {
	if err := d.look(ctx, writes); err != nil {
		return nil, err
	}
	var moved []*write
	for _, w := range writes {
		if !w.moved {
			continue
		}
		if !w.erase() {
			if err := d.compose(w); err != nil {
				failed.Fail(w.index, err)
				continue
			}
		}
		moved = append(moved, w)
	}
	return moved, nil
}

// look reads the guards, and what matters of the users where that decides how
// they are written, and decides what moves.
func (d *database) look(ctx context.Context, writes []*write) error {
	guards, err := d.guards(ctx, idsOf(writes))
	if err != nil {
		return err
	}
	var unclear []*write
	for _, w := range writes {
		w.held = guards[w.record.ClerkID]
		if w.next, w.moved = w.held.rule().Advance(w.record); !w.erase() && (!w.moved || !w.known()) {
			unclear = append(unclear, w)
		}
	}
	err = d.find(ctx, unclear)
	for _, w := range unclear {
		if !w.moved && w.held.rule() == (sinks.Guard{Rank: w.record.Rank()}) {
			w.moved = d.unwritten(w)
		}
	}
	return err
}

// unwritten reports whether a process died after it had advanced the guard and
// before it had written the user, which can be without transactions alone.
func (d *database) unwritten(w *write) bool {
	if w.user == nil {
		return true
	}
	written, ok := rankOf(w.user)
	return !ok && !d.transactions || ok && written.Compare(w.record.Rank()) < 0
}

func (d *database) guards(ctx context.Context, ids bson.A) (map[string]guard, error) {
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

func in(path string, values bson.A) bson.D {
	return bson.D{{Key: path, Value: bson.D{{Key: "$in", Value: values}}}}
}

// find reads what matters of the users of writes.
func (d *database) find(ctx context.Context, writes []*write) error {
	if len(writes) == 0 {
		return nil
	}
	found, err := d.users.Find(ctx, in(d.plan.key, idsOf(writes)), options.Find().SetProjection(d.projection))
	if err != nil {
		return err
	}
	var list []bson.Raw
	if err := found.All(ctx, &list); err != nil {
		return err
	}
	users := make(map[string]bson.Raw, len(list))
	for _, user := range list {
		id, _ := lookup(user, d.plan.key).StringValueOK()
		users[id] = user
	}
	for _, w := range writes {
		w.user = users[w.record.ClerkID]
	}
	return nil
}

// lookup returns the value at a path, a zero one if there is none.
func lookup(document bson.Raw, path string) bson.RawValue {
	return document.Lookup(strings.Split(path, ".")...)
}

// advance advances the guards of moved, or returns an error if another process
// has moved one of them since it was read.
func (d *database) advance(ctx context.Context, moved []*write) error {
	done, err := d.bulk(ctx, d.versions, moved, func(w *write) mongo.WriteModel {
		next := guard{ID: w.record.ClerkID, Epoch: w.next.Rank.Epoch, Version: w.next.Rank.Number, Deleted: w.next.Deleted}
		switch {
		case w.held.ID == "":
			return mongo.NewInsertOneModel().SetDocument(next)
		case d.transactions:
			return mongo.NewReplaceOneModel().SetFilter(bson.D{{Key: "_id", Value: next.ID}}).SetReplacement(next)
		}
		return mongo.NewReplaceOneModel().SetFilter(w.held.filter()).SetReplacement(next)
	})
	if err == nil && done != len(moved) {
		err = errMoved()
	}
	return err
}

// compose makes the write of a change. It fails if the user can never be
// written.
func (d *database) compose(w *write) (err error) {
	if w.values, err = content(d.plan.fields, w.record); err != nil {
		return err
	}
	if w.user == nil {
		if w.inserts, err = content(d.plan.inserts, w.record); err != nil {
			return err
		}
	}
	return d.model(w)
}

// model makes the write of a change from its values. A user who is not there
// is inserted, which is several times cheaper than an upsert. Without
// transactions a user whose document has a higher version is spared.
func (d *database) model(w *write) error {
	values := slices.Clone(w.values)
	if !d.transactions && w.waits == nil {
		values = append(values, bson.E{Key: rankPath, Value: rank(w.next.Rank)})
	}
	if w.user == nil && !w.known() {
		whole := append(bson.D{{Key: d.plan.key, Value: w.record.ClerkID}}, w.inserts...)
		raw, err := marshal(document(append(whole, values...)))
		w.model = mongo.NewInsertOneModel().SetDocument(raw)
		return err
	}
	if d.transactions {
		values = append(values, bson.E{Key: rankPath}) // of a time without
	}
	if d.plan.deletedAt != "" {
		values = append(values, bson.E{Key: d.plan.deletedAt})
	}
	change := update(values)
	if inserts := present(w.inserts); len(inserts) > 0 {
		change = append(change, bson.E{Key: "$setOnInsert", Value: inserts})
	}
	raw, err := marshal(change)
	w.model = mongo.NewUpdateOneModel().SetFilter(d.self(w)).SetUpdate(raw).SetUpsert(w.user == nil)
	return err
}

func marshal(document bson.D) (bson.Raw, error) {
	raw, err := bson.Marshal(document)
	switch {
	case err != nil: // nested beyond all measure
		return nil, sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("the user is no BSON"))
	case len(raw) > maxDocument:
		return nil, sinks.Permanent(sinks.ReasonTooLarge, fmt.Errorf("the user takes %d bytes, a document at most %d", len(raw), maxDocument))
	}
	return raw, nil
}

// self finds the user's document, by its _id if it was read. Without
// transactions it spares one that has a higher version.
func (d *database) self(w *write) bson.D {
	filter := bson.D{{Key: d.plan.key, Value: w.record.ClerkID}}
	if w.user != nil {
		filter = bson.D{{Key: "_id", Value: w.user.Lookup("_id")}}
	}
	if !d.transactions {
		filter = append(filter, upTo(w.next.Rank))
	}
	return filter
}

// write writes the users.
func (d *database) write(ctx context.Context, moved []*write) error {
	due := sift(moved, func(w *write) bool { return w.model != nil })
	done, err := d.bulk(ctx, d.users, due, func(w *write) mongo.WriteModel { return w.model })
	if err == nil && done != len(due) {
		err = errMoved()
	}
	return err
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
