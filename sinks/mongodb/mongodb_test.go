package mongodb_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/mongodb"
	"clerkconnect/sinks/sinktest"
)

func TestSink(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{New: func(t testing.TB) sinktest.Destination { return newDestination(t, true) }})
}

// TestSink_Checked runs the suite as on a server without transactions.
func TestSink_Checked(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{New: func(t testing.TB) sinktest.Destination { return newDestination(t, false) }})
}

// newDestination is a database behind a proxy, whose users collection refuses
// the locale "poison".
func newDestination(t testing.TB, transactions bool) sinktest.Destination {
	s := newServer(t)
	proxy := sinktest.NewProxy(t, s.address)
	cfg := s.config(transactions)
	cfg.URI = s.through(proxy.Address)
	s.create(t, "clerk_users", bson.M{"profile.locale": bson.M{"$ne": "poison"}})
	return sinktest.Destination{
		Sink:   func(t testing.TB) sinks.Sink { return newSink(t, cfg) },
		Read:   s.read,
		Dump:   s.dump,
		Break:  func(testing.TB) func() { return proxy.Cut() },
		Poison: func(u *schemas.User) { u.Locale = new("poison") },
	}
}

// server is a database of the test's own.
type server struct {
	uri, address string
	db           *mongo.Database // round the sink
}

func newServer(t testing.TB) server {
	t.Helper()
	s := server{uri: sinktest.Server(t, "TEST_MONGODB_URI")}
	cfg := options.Client().ApplyURI(s.uri)
	client, err := mongo.Connect(cfg)
	if err != nil {
		t.Fatal("TEST_MONGODB_URI is no connection string")
	}
	s.address = cfg.Hosts[0]
	s.db = client.Database("test_" + strings.ToLower(rand.Text()[:12]))
	t.Cleanup(func() {
		if err := s.db.Drop(context.Background()); err != nil {
			t.Error(err)
		}
		client.Disconnect(context.Background()) //nolint:errcheck // the test is over
	})
	return s
}

// through returns the connection string with another address. The driver must
// not go on to the address that the server says it has.
func (s server) through(address string) string {
	uri, err := url.Parse(s.uri)
	if err != nil {
		return s.uri
	}
	uri.Host = address
	query := uri.Query()
	query.Set("directConnection", "true")
	query.Set("serverSelectionTimeoutMS", "1000")
	query.Del("replicaSet")
	uri.RawQuery = query.Encode()
	return uri.String()
}

func (s server) config(transactions bool) mongodb.Config {
	return mongodb.Config{URI: s.uri, Database: s.db.Name(), CreateIndexes: true, Transactions: transactions, MaxConnections: 2}
}

func (s server) create(t testing.TB, collection string, validator bson.M) {
	t.Helper()
	if err := s.db.CreateCollection(context.Background(), collection, options.CreateCollection().SetValidator(validator)); err != nil {
		t.Fatal(err)
	}
}

// all returns every document of a collection that matches.
func (s server) all(t testing.TB, collection string, filter bson.D) []bson.D {
	t.Helper()
	found, err := s.db.Collection(collection).Find(context.Background(), filter)
	if err != nil {
		t.Fatal(err)
	}
	var documents []bson.D
	if err := found.All(context.Background(), &documents); err != nil {
		t.Fatal(err)
	}
	return documents
}

func (s server) dump(t testing.TB) []byte {
	t.Helper()
	names, err := s.db.ListCollectionNames(context.Background(), bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	var dump []byte
	for _, name := range names {
		for _, document := range s.all(t, name, bson.D{}) {
			raw, err := bson.Marshal(document)
			if err != nil {
				t.Fatal(err)
			}
			dump = append(dump, raw...)
		}
	}
	return dump
}

// read reads documents as the suite wants them.
func (s server) read(t testing.TB, ids ...string) map[string]sinktest.Row {
	t.Helper()
	rows := map[string]sinktest.Row{}
	for _, document := range s.all(t, "clerk_users", bson.D{{Key: "clerkId", Value: bson.D{{Key: "$in", Value: ids}}}}) {
		id, _ := at(document, "clerkId").(string)
		if _, twice := rows[id]; twice {
			t.Errorf("user %s has two documents", id)
		}
		row := sinktest.Row{}
		for _, c := range mapping.Fields() {
			value := at(document, mongodb.Paths[c.Name])
			switch v := value.(type) {
			case nil:
				continue
			case bson.DateTime:
				value = int64(v)
			}
			if c.Kind == mapping.JSON {
				value = toJSON(value, mongodb.Lists[c.Name])
			}
			row[field(c)] = value
		}
		rows[id] = row
	}
	return rows
}

// at returns the value at a path, nil if there is none.
func at(document any, path string) any {
	for _, key := range strings.Split(path, ".") {
		object, _ := document.(bson.D)
		document = nil
		for _, e := range object {
			if e.Key == key {
				document = e.Value
			}
		}
	}
	return document
}

// longNumber is a number that no type of BSON holds and that is kept as text.
var longNumber = regexp.MustCompile(`^-?[0-9]{20,}[0-9.eE+-]*$`)

// toJSON returns a BSON value as JSON text; snake: with the keys of user.avsc.
func toJSON(value any, snake bool) string {
	switch v := value.(type) {
	case bson.D:
		var entries []string
		for _, e := range v {
			key := e.Key
			if snake {
				key = snakeCase(key)
			}
			quoted, _ := json.Marshal(key)
			entries = append(entries, string(quoted)+":"+toJSON(e.Value, snake))
		}
		return "{" + strings.Join(entries, ",") + "}"
	case bson.A:
		var entries []string
		for _, e := range v {
			entries = append(entries, toJSON(e, snake))
		}
		return "[" + strings.Join(entries, ",") + "]"
	case bson.Decimal128:
		return v.String()
	case bson.DateTime:
		return strconv.FormatInt(int64(v), 10)
	case string:
		if longNumber.MatchString(v) {
			return v
		}
	}
	text, _ := json.Marshal(value)
	return string(text)
}

func snakeCase(key string) string {
	var out strings.Builder
	for _, r := range key {
		if unicode.IsUpper(r) {
			out.WriteByte('_')
		}
		out.WriteRune(unicode.ToLower(r))
	}
	return out.String()
}

// field is the name in user.avsc of what a column holds.
func field(c mapping.Field) string {
	if c.Name == "email" {
		return "primary_email_address"
	}
	return c.Name
}

func newSink(t testing.TB, cfg mongodb.Config) *mongodb.Sink {
	return sinktest.New(t, mongodb.New, cfg)
}

// open returns an open sink, closed at the end of t.
func open(t testing.TB, cfg mongodb.Config) *mongodb.Sink { return sinktest.Open(t, mongodb.New, cfg) }

// both runs a test with transactions and without.
func both(t *testing.T, test func(t *testing.T, transactions bool)) {
	for _, transactions := range []bool{true, false} {
		t.Run(fmt.Sprintf("transactions=%v", transactions), func(t *testing.T) {
			t.Parallel()
			test(t, transactions)
		})
	}
}

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	err := mongodb.Config{URI: "mongo://u:s3cret@h/", Database: "a.b", Collection: "a$", MaxConnections: -1, Timeout: -time.Second}.Validate()
	if err == nil {
		t.Fatal("Validate: got nil, want errors")
	}
	for _, variable := range []string{"URI", "DATABASE", "COLLECTION", "MAX_CONNECTIONS", "TIMEOUT"} {
		if !strings.Contains(err.Error(), variable) {
			t.Errorf("Validate: got %v, want a word about %s", err, variable)
		}
	}
	if strings.Contains(err.Error(), "s3cret") {
		t.Error("Validate quotes the password")
	}
	if err := (mongodb.Config{}).Validate(); err == nil || !strings.Contains(err.Error(), "URI is empty") {
		t.Errorf("Validate of nothing: got %v, want a word about URI", err)
	}
}
