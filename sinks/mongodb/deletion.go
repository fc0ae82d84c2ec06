package mongodb

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"clerkconnect/schemas"
	"clerkconnect/sinks/usertable"
)

// decide makes the writes of the erasures among moved.
func (d *database) decide(ctx context.Context, moved []*write) error {
	erasures := sift(moved, (*write).erase)
	if err := d.find(ctx, erasures); err != nil {
		return err
	}
	for _, w := range erasures {
		if err := d.decideOne(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// decideOne makes the write of an erasure, by the policy.
func (d *database) decideOne(ctx context.Context, w *write) error {
	if w.user == nil {
		w.outcome = schemas.OutcomeNotPresent
		return nil
	}
	policy := d.plan.deletion
	if policy == usertable.DeletionAuto {
		policy = usertable.DeletionHard
		names, err := d.referring(ctx, w.user)
		if err != nil {
			return err
		}
		if len(names) > 0 {
			policy, w.reason = usertable.DeletionAnonymize, because(names)
		}
	}
	var values bson.D
	var err error
	switch policy {
	case usertable.DeletionHard:
		w.outcome, w.model = schemas.OutcomeDeleted, mongo.NewDeleteOneModel().SetFilter(d.self(w))
		return nil
	case usertable.DeletionSoft:
		w.outcome = schemas.OutcomeSoftDeleted
	default:
		w.outcome = schemas.OutcomeAnonymized
		if values, err = d.anonymous(w); err != nil {
			return err
		}
	}
	values = append(values, bson.E{Key: d.plan.deletedAt, Value: d.deletedAt(w)})
	if !d.transactions {
		values = append(values, bson.E{Key: rankPath, Value: rank(w.next.Rank)})
	}
	w.model = mongo.NewUpdateOneModel().SetFilter(d.self(w)).SetUpdate(update(values))
	return nil
}

func because(names []string) string {
	return "documents of " + strings.Join(names, ", ") + " refer to it"
}

// deletedAt returns when the user was erased: for the first time, if the
// document says so.
func (d *database) deletedAt(w *write) bson.DateTime {
	if at, ok := lookup(w.user, d.plan.deletedAt).DateTimeOK(); ok {
		return bson.DateTime(at)
	}
	return bson.NewDateTimeFromTime(usertable.DeletedAt(w.record))
}

// anonymous returns the values of an erased user whose document stays.
func (d *database) anonymous(w *write) (bson.D, error) {
	values := make(bson.D, len(d.plan.fields))
	for i, f := range d.plan.fields {
		value, err := f.anonymous(w.record.ClerkID, d.deletedAt(w).Time())
		if err != nil {
			return nil, err
		}
		values[i] = bson.E{Key: f.Name, Value: value}
	}
	return values, nil
}

// referring returns the collections that have a document which refers to user.
func (d *database) referring(ctx context.Context, user bson.Raw) ([]string, error) {
	var names []string
	for _, r := range d.plan.references {
		value := lookup(user, r.refers)
		if value.Type == 0 || slices.Contains(names, r.collection) {
			continue
		}
		filter := bson.D{{Key: r.path, Value: value}}
		if r.collection == d.users.Name() { // its own word does not count
			filter = append(filter, bson.E{Key: "_id", Value: bson.D{{Key: "$ne", Value: user.Lookup("_id")}}})
		}
		err := d.users.Database().Collection(r.collection).FindOne(ctx, filter, options.FindOne().SetProjection(bson.D{{Key: "_id", Value: 1}})).Err()
		switch {
		case err == nil:
			names = append(names, r.collection)
		case !errors.Is(err, mongo.ErrNoDocuments):
			return nil, err
		}
	}
	return names, nil
}

// restore looks again, where there are no transactions, whether a document
// refers to a user who was deleted because none did, and puts an anonymous
// document with the old _id in place.
func (d *database) restore(ctx context.Context, moved []*write) error {
	if d.plan.deletion != usertable.DeletionAuto {
		return nil
	}
	for _, w := range moved {
		if w.outcome != schemas.OutcomeDeleted {
			continue
		}
		names, err := d.referring(ctx, w.user)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			continue
		}
		values, err := d.anonymous(w)
		if err != nil {
			return err
		}
		whole := bson.D{{Key: "_id", Value: w.user.Lookup("_id")}}
		if d.plan.key != "_id" {
			whole = append(whole, bson.E{Key: d.plan.key, Value: w.record.ClerkID})
		}
		whole = append(append(whole, values...), bson.E{Key: d.plan.deletedAt, Value: d.deletedAt(w)}, bson.E{Key: rankPath, Value: rank(w.next.Rank)})
		if _, err := d.users.InsertOne(ctx, document(whole)); err != nil {
			return err
		}
		w.outcome, w.reason = schemas.OutcomeAnonymized, because(names)
	}
	return nil
}

// erased reports whether a document that is there is one of an erased user,
// with nothing of the user left but what the policy keeps.
func (d *database) erased(clerkID string, user bson.Raw) bool {
	if d.plan.deletedAt == "" {
		return false
	}
	at, ok := lookup(user, d.plan.deletedAt).DateTimeOK()
	if !ok || d.plan.deletion == usertable.DeletionSoft {
		return ok
	}
	for _, f := range d.plan.fields {
		want, err := f.anonymous(clerkID, time.UnixMilli(at).UTC())
		if err != nil || !equal(lookup(user, f.Name), want) {
			return false
		}
	}
	return true
}

// equal compares what a document holds with a value, nil for nothing.
func equal(got bson.RawValue, want any) bool {
	if want == nil {
		return got.Type == 0
	}
	kind, value, err := bson.MarshalValue(want)
	return err == nil && got.Equal(bson.RawValue{Type: kind, Value: value})
}
