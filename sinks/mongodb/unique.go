package mongodb

import (
	"context"
	"errors"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
)

// errTaken is why a record waits.
var errTaken = errors.New("another user holds a value that the application wants unique")

// uniqueIndex is a unique index on one path of ours.
type uniqueIndex struct {
	field     field
	collation *options.Collation // nil: by bytes
}

// same returns text in the form that is the same for what the index holds for
// equal, as far as can be told without the server.
func (u uniqueIndex) same(text string) string {
	if u.collation != nil && u.collation.Strength < 3 {
		return strings.ToLower(text)
	}
	return text
}

// taken reports whether err is the refusal of a unique key that is not ours.
func taken(err error) bool {
	var refused mongo.BulkWriteException
	return errors.As(err, &refused) && slices.ContainsFunc(refused.WriteErrors, func(e mongo.BulkWriteError) bool { return e.Code == codeDuplicateKey })
}

// settle decides who has what several users claim. It takes values away from
// users whose claim is older, and leaves out of the writes of others what they
// must wait for; these fail with who holds it.
func (d *database) settle(ctx context.Context, writes []*write, failed *sinks.BatchError) error {
	indexes, err := d.unique(ctx)
	if err != nil {
		return err
	}
	for _, u := range indexes {
		if err := d.settleOne(ctx, u, writes); err != nil {
			return err
		}
	}
	for _, w := range writes {
		if w.waits == nil {
			continue
		}
		failed.Fail(w.index, w.waits)
		if err := d.model(w); err != nil {
			return err
		}
	}
	return nil
}

func (d *database) settleOne(ctx context.Context, u uniqueIndex, writes []*write) error {
	claims, values := u.claims(writes)
	if len(values) == 0 {
		return nil
	}
	holders, err := d.holders(ctx, u, values)
	if err != nil {
		return err
	}
	var vacate []mongo.WriteModel
	for _, h := range holders {
		claim := claims[u.same(h.value)]
		switch {
		case claim == nil || h.clerkID == claim.record.ClerkID:
		case h.clerkID == "" || !h.yields(claim, writes):
			u.wait(claim, h.clerkID)
		default:
			vacate = append(vacate, d.vacate(u, h))
		}
	}
	if len(vacate) > 0 {
		_, err = d.users.BulkWrite(ctx, vacate, options.BulkWrite().SetOrdered(false))
	}
	return err
}

// claims returns who of writes claims each value, the newest if there are
// several; the others wait.
func (u uniqueIndex) claims(writes []*write) (map[string]*write, bson.A) {
	claims, values := map[string]*write{}, bson.A{}
	for _, w := range writes {
		text, ok := w.value(u.field.Name).(string)
		if !ok || w.erase() {
			continue
		}
		key := u.same(text)
		first := claims[key]
		switch {
		case first == nil:
			values = append(values, text)
			claims[key] = w
		case newer(w.next.Rank, w.record.ClerkID, first.next.Rank, first.record.ClerkID):
			u.wait(first, w.record.ClerkID)
			claims[key] = w
		default:
			u.wait(w, first.record.ClerkID)
		}
	}
	return claims, values
}

// newer reports whether a's claim is newer than b's. Two claims of one version
// are settled by the ids, so that both sides see it alike.
func newer(a schemas.Version, aID string, b schemas.Version, bID string) bool {
	if order := a.Compare(b); order != 0 {
		return order > 0
	}
	return aID > bID
}

// value returns the value at a path of a change.
func (w *write) value(path string) any {
	for _, e := range w.values {
		if e.Key == path {
			return e.Value
		}
	}
	return nil
}

// wait leaves the value out of the write, so that it stands in nobody's way.
func (u uniqueIndex) wait(w *write, holder string) {
	w.waits = sinks.HeldBy(holder, errTaken)
	for i, e := range w.values {
		if e.Key == u.field.Name {
			w.values = slices.Clone(w.values)
			w.values[i].Value = u.field.Vacant(w.record.ClerkID)
		}
	}
}

// holder is a document that holds a value that somebody claims.
type holder struct {
	id      bson.RawValue
	clerkID string // "": the application's own
	value   string
	rank    bson.RawValue // at rankPath
	guard   guard
}

// holders returns the documents that hold one of values.
func (d *database) holders(ctx context.Context, u uniqueIndex, values bson.A) ([]holder, error) {
	found, err := d.users.Find(ctx, in(u.field.Name, values), options.Find().SetCollation(u.collation).
		SetProjection(bson.D{{Key: d.plan.key, Value: 1}, {Key: u.field.Name, Value: 1}, {Key: rankPath, Value: 1}}))
	if err != nil {
		return nil, err
	}
	var list []bson.Raw
	if err := found.All(ctx, &list); err != nil {
		return nil, err
	}
	holders, ids := make([]holder, len(list)), make(bson.A, len(list))
	for i, user := range list {
		h := holder{id: user.Lookup("_id"), rank: user.Lookup(rankPath)}
		h.clerkID, _ = lookup(user, d.plan.key).StringValueOK()
		h.value, _ = lookup(user, u.field.Name).StringValueOK()
		holders[i], ids[i] = h, h.clerkID
	}
	guards, err := d.guards(ctx, ids)
	for i := range holders {
		holders[i].guard = guards[holders[i].clerkID]
	}
	return holders, err
}

// yields reports whether the holder gives way to claim: because the same batch
// writes the holder anew, which claims has seen to, because the holder is
// deleted, or because its claim is older. Of whom nothing is known, nothing
// can be taken.
func (h holder) yields(claim *write, writes []*write) bool {
	if slices.ContainsFunc(writes, func(w *write) bool { return w.record.ClerkID == h.clerkID }) {
		return true
	}
	known := h.guard.ID != ""
	return known && (h.guard.Deleted || newer(claim.next.Rank, claim.record.ClerkID, h.guard.rule().Rank, h.clerkID))
}

// vacate takes the value away from its holder, unless the holder was written
// since it was read.
func (d *database) vacate(u uniqueIndex, h holder) mongo.WriteModel {
	filter := bson.D{{Key: "_id", Value: h.id}, {Key: u.field.Name, Value: h.value}}
	if !d.transactions {
		var as any
		if h.rank.Type != 0 {
			as = h.rank
		}
		filter = append(filter, bson.E{Key: rankPath, Value: as})
	}
	return mongo.NewUpdateOneModel().SetFilter(filter).SetUpdate(update(bson.D{{Key: u.field.Name, Value: u.field.Vacant(h.clerkID)}}))
}

// index is an index as the server tells of it.
type index struct {
	Key       bson.D `bson:"key"`
	Unique    bool   `bson:"unique"`
	Sparse    bool   `bson:"sparse"`
	Partial   bson.D `bson:"partialFilterExpression"`
	Collation *struct {
		Locale   string `bson:"locale"`
		Strength int    `bson:"strength"`
	} `bson:"collation"`
}

// on reports whether the index is on one path and which.
func (i index) on(path string) bool { return len(i.Key) == 1 && i.Key[0].Key == path }

// ofAll reports whether the index keeps every value at path unique.
func (i index) ofAll(path string) bool {
	return i.Unique && i.on(path) && (len(i.Partial) == 0 || len(i.Partial) == 1 && i.Partial[0].Key == path)
}

func (d *database) indexes(ctx context.Context) ([]index, error) {
	found, err := d.users.Indexes().List(ctx)
	var command mongo.CommandError
	if errors.As(err, &command) && command.Code == codeNamespaceNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []index
	return list, found.All(ctx, &list)
}

// unique returns the unique indexes on paths of ours that hold text. It runs
// outside of any transaction, which could not list them.
func (d *database) unique(ctx context.Context) ([]uniqueIndex, error) {
	list, err := d.indexes(mongo.NewSessionContext(ctx, nil))
	if err != nil {
		return nil, err
	}
	var unique []uniqueIndex
	for _, i := range list {
		for _, f := range d.plan.fields {
			if !i.Unique || !i.on(f.Name) || f.Kind() != mapping.Text && f.Kind() != mapping.Part {
				continue
			}
			u := uniqueIndex{field: f}
			if i.Collation != nil {
				u.collation = &options.Collation{Locale: i.Collation.Locale, Strength: i.Collation.Strength}
			}
			unique = append(unique, u)
		}
	}
	return unique, nil
}
