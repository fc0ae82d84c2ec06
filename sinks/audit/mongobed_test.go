package audit

import (
	"context"
	"net/url"
	"strings"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"clerkconnect/sinks/sinktest"
)

func mongoBed(t testing.TB, alone bool) bed {
	t.Helper()
	address, err := url.Parse(sinktest.Server(t, "TEST_MONGODB_URI"))
	if err != nil {
		t.Fatal("TEST_MONGODB_URI is no URL of one host")
	}
	query := address.Query()
	query.Set("directConnection", "true")
	query.Set("serverSelectionTimeoutMS", "1000")
	query.Del("replicaSet")
	address.RawQuery, address.Path = query.Encode(), "/"+unique()
	b := bed{once: new(sync.Once), log: new(*Log), alone: alone, address: address.Host, through: withHost(address)}
	b.cfg = Config{URL: address.String(), CreateTables: true}.withDefaults()
	client, err := mongo.Connect(options.Client().ApplyURI(b.cfg.URL))
	if err != nil {
		t.Fatal(err)
	}
	db := client.Database(strings.TrimPrefix(address.Path, "/"))
	t.Cleanup(func() {
		if err := db.Drop(context.Background()); err != nil {
			t.Error(err)
		}
		client.Disconnect(context.Background()) //nolint:errcheck // the test is over
	})
	b.hands = &mongoHands{db}
	return b
}

type mongoHands struct{ db *mongo.Database }

func (h *mongoHands) unprotect(t testing.TB) {
	t.Helper()
	if err := h.db.Collection(defaultTable).Indexes().DropOne(context.Background(), "chain"); err != nil {
		t.Fatal(err)
	}
}

func (h *mongoHands) set(t testing.TB, ofClient bool, chain string, seq int64, column string, value any) {
	t.Helper()
	place := bson.D{{Key: "chain", Value: chain}, {Key: "seq", Value: seq}}
	log := h.db.Collection(defaultTable)
	raw, err := log.FindOne(context.Background(), place).Raw()
	if err != nil {
		t.Fatal(err)
	}
	var result *mongo.UpdateResult
	set := bson.D{{Key: "$set", Value: bson.D{{Key: column, Value: value}}}}
	switch {
	case ofClient:
		result, err = h.db.Collection(defaultTable+clientSuffix).UpdateOne(context.Background(), equal("entry", rowOf(raw).Entry), set)
	case column == "entry": // _id cannot be updated
		row := rowOf(raw)
		row.Entry = value.(string)
		if _, err = log.DeleteOne(context.Background(), place); err == nil {
			_, err = log.InsertOne(context.Background(), row.document())
		}
	default:
		result, err = log.UpdateOne(context.Background(), place, set)
	}
	if err != nil || result != nil && result.MatchedCount != 1 {
		t.Fatalf("set %s: %v, %+v", column, err, result)
	}
}

func (h *mongoHands) remove(t testing.TB, chain string, seq int64) {
	t.Helper()
	if _, err := h.db.Collection(defaultTable).DeleteOne(context.Background(), bson.D{{Key: "chain", Value: chain}, {Key: "seq", Value: seq}}); err != nil {
		t.Fatal(err)
	}
}

func (h *mongoHands) said(t testing.TB, ids []string) (said []Row) {
	t.Helper()
	cursor, err := h.db.Collection(defaultTable).Find(context.Background(), in("clerk_id", ids))
	if err != nil {
		t.Fatal(err)
	}
	for cursor.Next(context.Background()) {
		said = append(said, rowOf(cursor.Current))
	}
	return said
}

func (h *mongoHands) dump(t testing.TB) (dump []byte) {
	t.Helper()
	names, err := h.db.ListCollectionNames(context.Background(), bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		cursor, err := h.db.Collection(name).Find(context.Background(), bson.D{})
		if err != nil {
			t.Fatal(err)
		}
		for cursor.Next(context.Background()) {
			dump = append(dump, cursor.Current...)
		}
	}
	return dump
}
