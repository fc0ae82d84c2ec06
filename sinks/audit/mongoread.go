package audit

import (
	"context"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// document is r as MongoDB keeps it: the columns as fields, without those that
// are null; entry is _id, times are dates.
func (r *Row) document() bson.D {
	document := make(bson.D, 0, len(columns))
	add := func(name string, value any) { document = append(document, bson.E{Key: field(name), Value: value}) }
	for _, c := range columns {
		switch v := c.field(r).(type) {
		case *string:
			add(c.name, *v)
		case **string:
			if *v != nil {
				add(c.name, **v)
			}
		case *int64:
			add(c.name, inBSON(c.kind, *v))
		case **int64:
			if *v != nil {
				add(c.name, inBSON(c.kind, **v))
			}
		}
	}
	return document
}

func field(column string) string {
	if column == "entry" {
		return "_id"
	}
	return column
}

func inBSON(k kind, value int64) any {
	if k == moment {
		return bson.DateTime(value)
	}
	return value
}

// rowOf reads a document. What has another type than it was written with is
// read as -1 or a question mark, so that the row's hash is wrong.
func rowOf(raw bson.Raw) Row {
	var row Row
	for _, c := range columns {
		value := raw.Lookup(field(c.name))
		if value.Type == 0 || value.Type == bson.TypeNull {
			continue
		}
		number, isNumber := value.Int64OK()
		if c.kind == moment {
			number, isNumber = value.DateTimeOK()
		}
		if !isNumber {
			number = -1
		}
		text, isText := value.StringValueOK()
		if !isText {
			text = "?"
		}
		switch v := c.field(&row).(type) {
		case *string:
			*v = text
		case **string:
			*v = &text
		case *int64:
			*v = number
		case **int64:
			*v = &number
		}
	}
	return row
}

func (c *client) document() bson.D {
	document := bson.D{
		{Key: "_id", Value: c.hash}, {Key: "entry", Value: c.entry}, {Key: "clerk_id", Value: c.clerkID},
		{Key: "epoch", Value: c.epoch}, {Key: "version", Value: c.version}, {Key: "salt", Value: c.salt},
	}
	if c.ip != nil {
		document = append(document, bson.E{Key: "client_ip", Value: *c.ip})
	}
	if c.userAgent != nil {
		document = append(document, bson.E{Key: "user_agent", Value: *c.userAgent})
	}
	return document
}

func clientOf(raw bson.Raw) *client {
	text := func(name string) *string {
		value := raw.Lookup(name)
		if value.Type == 0 || value.Type == bson.TypeNull {
			return nil
		}
		text, ok := value.StringValueOK()
		if !ok {
			text = "?"
		}
		return &text
	}
	required := func(name string) string {
		if text := text(name); text != nil {
			return *text
		}
		return "?"
	}
	return &client{
		hash: required("_id"), entry: required("entry"), clerkID: required("clerk_id"), salt: required("salt"),
		ip: text("client_ip"), userAgent: text("user_agent"),
	}
}

func (s *mongoStore) chains(ctx context.Context) (chains []string, err error) {
	return chains, s.log.Distinct(ctx, "chain", bson.D{}).Decode(&chains)
}

func (s *mongoStore) rows(ctx context.Context, chain string, after int64, limit int) ([]stored, error) {
	filter := bson.D{{Key: "chain", Value: chain}, {Key: "seq", Value: bson.D{{Key: "$gt", Value: after}}}}
	cursor, err := s.log.Find(ctx, filter, options.Find().SetSort(bson.D{{Key: "seq", Value: 1}}).SetLimit(int64(limit)))
	var documents []bson.Raw
	if err == nil {
		err = cursor.All(ctx, &documents)
	}
	if err != nil {
		return nil, err
	}
	found := make([]stored, len(documents))
	var hashes []string
	for i, raw := range documents {
		found[i].Row = rowOf(raw)
		if hash := found[i].ClientHash; hash != nil {
			hashes = append(hashes, *hash)
		}
	}
	if len(hashes) == 0 {
		return found, nil
	}
	documents = nil
	if cursor, err = s.clients.Find(ctx, in("_id", hashes)); err == nil {
		err = cursor.All(ctx, &documents)
	}
	clients := map[string]*client{}
	for _, raw := range documents {
		c := clientOf(raw)
		clients[c.hash] = c
	}
	for i := range found {
		if hash := found[i].ClientHash; hash != nil {
			found[i].client = clients[*hash]
		}
	}
	return found, err
}

func (s *mongoStore) users(ctx context.Context, after string, limit int) ([]string, error) {
	cursor, err := s.clients.Aggregate(ctx, mongo.Pipeline{
		{{Key: "$match", Value: bson.D{{Key: "clerk_id", Value: bson.D{{Key: "$gt", Value: after}}}}}},
		{{Key: "$group", Value: bson.D{{Key: "_id", Value: "$clerk_id"}}}},
		{{Key: "$sort", Value: bson.D{{Key: "_id", Value: 1}}}},
		{{Key: "$limit", Value: limit}},
	})
	var found []struct {
		ID string `bson:"_id"`
	}
	if err == nil {
		err = cursor.All(ctx, &found)
	}
	ids := make([]string, len(found))
	for i, user := range found {
		ids[i] = user.ID
	}
	return ids, err
}

func (s *mongoStore) holds(ctx context.Context, clerkID string) (bool, error) {
	n, err := s.clients.CountDocuments(ctx, equal("clerk_id", clerkID), options.Count().SetLimit(1))
	return n > 0, err
}
