package storm

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
)

// user is one of the users of a storm.
type user struct {
	id      string
	version int64
	state   *schemas.User // nil: erased
	poison  bool
	isNew   bool // signed up after the sink was enabled
}

// population makes n users: every hundredth is poison, every fiftieth has no
// e-mail address, every second signed up after the sink was enabled.
func population(n int, poison func(*schemas.User)) []*user {
	all := make([]*user, n)
	old, soon := time.Now().Add(-1000*time.Hour).UnixMilli(), time.Now().Add(time.Hour).UnixMilli()
	for i := range all {
		u := &user{id: fmt.Sprintf("user_%05d", i), poison: i%100 == 7 && poison != nil, isNew: i%2 == 0}
		created, first, last := old, fmt.Sprintf("First%d", i), fmt.Sprintf("Last%d", i)
		if u.isNew {
			created = soon
		}
		u.state = &schemas.User{FirstName: &first, LastName: &last, CreatedAt: &created, UpdatedAt: &created}
		if i%50 != 3 {
			u.state.PrimaryEmailAddress = new(fmt.Sprintf("user%d@example.com", i))
		}
		if u.poison {
			poison(u.state)
		}
		all[i] = u
	}
	return all
}

// change makes the next version of u: by its number in the population a new
// name, a new address, only a later sign-in, or the end.
func (u *user) change(i int) {
	if u.state == nil || u.poison {
		return
	}
	next := *u.state
	switch {
	case i%20 == 11:
		u.state = nil
		return
	case i%4 == 0:
		next.FirstName = new(fmt.Sprintf("Changed%d", i))
	case i%10 == 1 && next.PrimaryEmailAddress != nil:
		next.PrimaryEmailAddress = new(fmt.Sprintf("moved%d@example.com", i))
	default:
		next.LastSignInAt = new(time.Now().UnixMilli())
	}
	u.state = &next
}

// records are what the sequencer writes of u as it is now.
func (u *user) records() []*kgo.Record {
	u.version++
	version := schemas.Version{Epoch: 1, Number: u.version}
	now := time.Now().UnixMilli()
	headers := func(operation string) []kgo.RecordHeader {
		return schemas.ChangeHeaders{
			Version: version, Operation: operation, Origin: schemas.OriginWebhook, OccurredAt: now, Snapshot: schemas.SnapshotFalse,
		}.Headers()
	}
	record := &kgo.Record{Topic: topics.Users(), Key: []byte(u.id)}
	if u.state == nil {
		record.Headers = headers(schemas.OperationDelete)
		erasure := schemas.Erasure{
			ClerkID: u.id, Epoch: version.Epoch, Version: version.Number, Origin: schemas.OriginWebhook, RequestedAt: now, SequencedAt: now,
		}
		return []*kgo.Record{{Topic: topics.Erasures(), Key: []byte(u.id), Value: encoded(&erasure)}, record}
	}
	record.Headers = headers(string(schemas.ChangeUpdate))
	record.Value = encoded(&schemas.UserChange{
		ClerkID: u.id, Operation: schemas.ChangeUpdate, Epoch: version.Epoch, Version: version.Number,
		Origin: schemas.OriginWebhook, OccurredAt: now, SequencedAt: now, User: *u.state,
	})
	return []*kgo.Record{record}
}

func encoded(value any) []byte {
	text, err := (&schemas.Codec{}).Encode(value)
	if err != nil {
		panic(err)
	}
	return text
}
