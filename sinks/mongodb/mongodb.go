package mongodb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

var (
	_ sinks.Sink        = (*Sink)(nil)
	_ sinks.Lister      = (*Sink)(nil)
	_ sinks.Confirmer   = (*Sink)(nil)
	_ sinks.Initializer = (*Sink)(nil)
)

// maxBatch keeps transactions short, as MongoDB wants them: a larger batch
// gains nothing on the server of the tests (see the benchmark).
const maxBatch = 100

// tidyTimeout bounds the end of a session and of the connections, for which
// the caller's context may be over.
const tidyTimeout = 5 * time.Second

// Sink writes users to a collection of MongoDB. Safe for concurrent use.
type Sink struct {
	cfg  Config
	plan plan
	// For tests: looked is called where there are no transactions, before the
	// guards advance, between after that and before the users are written.
	looked, between func()
	monitor         *event.CommandMonitor // for tests: sees every command before it is sent

	mu sync.Mutex
	db *database // nil: not open
}

// database is an open connection.
type database struct {
	client          *mongo.Client
	users, versions *mongo.Collection
	transactions    bool
	plan            plan
	projection      bson.D // what matters of a user before it is written
}

// New returns a sink for cfg, or what is wrong with cfg. It does no I/O. A
// setting that is zero has its default, but for CreateIndexes and Transactions.
func New(cfg Config) (*Sink, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	plan, err := newPlan(cfg)
	return &Sink{cfg: cfg, plan: plan, looked: func() {}, between: func() {}}, err
}

// Capabilities implements [sinks.Sink].
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{Kind: "mongodb", MaxBatch: maxBatch, MaxInFlight: s.cfg.MaxConnections}
}

// Open implements [sinks.Sink]. It finds out whether there are transactions,
// makes sure of the unique index, and runs Apply's commands without a record,
// which finds missing rights before they cost a retry.
func (s *Sink) Open(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil {
		return nil
	}
	db, err := s.connect()
	if err != nil {
		return err
	}
	if err := db.ready(ctx, s.cfg); err != nil {
		return errors.Join(err, db.close())
	}
	s.db = db
	return nil
}

func (s *Sink) connect() (*database, error) {
	// The offset is committed after the batch, so the batch must be durable
	// before and be read where it was written, whatever the URI says.
	durable := true
	cfg := options.Client().SetAppName("clerk-connect").ApplyURI(s.cfg.URI).SetTimeout(s.cfg.Timeout).
		SetWriteConcern(&writeconcern.WriteConcern{W: writeconcern.WCMajority, Journal: &durable}).
		SetReadConcern(readconcern.Majority()).SetReadPreference(readpref.Primary()).SetMonitor(s.monitor)
	client, err := mongo.Connect(cfg)
	if err != nil {
		return nil, sinks.Fatal(sinks.ReasonMisconfigured, errors.New("URI is no connection string"))
	}
	in, p := client.Database(s.cfg.Database), s.plan
	p.fields, p.inserts = slices.Clone(p.fields), slices.Clone(p.inserts)
	return &database{
		client: client, users: in.Collection(s.cfg.Collection), versions: in.Collection(usertable.VersionsTable(s.cfg.Collection)),
		plan: p, projection: p.projection(),
	}, nil
}

// projection is what matters of a user before it is written.
func (p plan) projection() bson.D {
	paths := []string{"_id", p.key, rankPath}
	if p.deletedAt != "" {
		paths = append(paths, p.deletedAt)
	}
	for _, r := range p.references {
		paths = append(paths, r.refers)
	}
	slices.Sort(paths)
	var projection bson.D
	for _, path := range slices.Compact(paths) {
		projection = append(projection, bson.E{Key: path, Value: 1})
	}
	return projection
}

func (d *database) ready(ctx context.Context, cfg Config) error {
	var hello struct {
		SetName string `bson:"setName"`
		Message string `bson:"msg"`
	}
	if err := d.client.Database("admin").RunCommand(ctx, bson.D{{Key: "hello", Value: 1}}).Decode(&hello); err != nil {
		return classify("say hello", 0, err)
	}
	d.transactions = cfg.Transactions && (hello.SetName != "" || hello.Message == "isdbgrid")
	schema, err := d.options(ctx)
	if err != nil {
		return err
	}
	indexes, err := d.indexes(ctx)
	if err != nil {
		return classify("list indexes", 0, err)
	}
	if err := d.index(ctx, indexes, cfg.CreateIndexes); err != nil {
		return err
	}
	d.require(schema, indexes)
	rehearse := d.rehearse
	if d.transactions {
		rehearse = func(ctx context.Context) error { return d.transact(ctx, d.rehearse) }
	}
	if err := rehearse(ctx); err != nil {
		return classify("rehearse a batch", 0, err)
	}
	return nil
}

// rehearse runs Apply's commands on no document.
func (d *database) rehearse(ctx context.Context) error {
	if _, err := d.guards(ctx, bson.A{}); err != nil {
		return err
	}
	nobody := in("_id", bson.A{})
	if _, err := d.versions.ReplaceOne(ctx, nobody, guard{}); err != nil {
		return err
	}
	if err := d.find(ctx, []*write{{}}); err != nil {
		return err
	}
	for _, r := range d.plan.references {
		err := d.users.Database().Collection(r.collection).FindOne(ctx, nobody).Err()
		if err != nil && !errors.Is(err, mongo.ErrNoDocuments) {
			return err
		}
	}
	_, err := d.users.BulkWrite(ctx, []mongo.WriteModel{
		mongo.NewUpdateOneModel().SetFilter(nobody).SetUpdate(bson.D{{Key: "$unset", Value: bson.D{{Key: rankPath, Value: ""}}}}),
		mongo.NewDeleteOneModel().SetFilter(nobody),
	})
	return err
}

// index makes sure of the unique index on the Clerk ID. Without it two
// processes could each insert the same user. It is sparse, for documents of
// the application's that have no Clerk ID yet.
func (d *database) index(ctx context.Context, indexes []index, create bool) error {
	key := d.plan.key
	if key == "_id" || slices.ContainsFunc(indexes, func(i index) bool { return i.ofAll(key) }) {
		return nil
	}
	if slices.ContainsFunc(indexes, func(i index) bool { return i.on(key) }) {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("the index of collection %s on %s is not unique, or leaves documents out that have a %s: drop it and make it anew, as sink init --dry-run shows", d.users.Name(), key, key))
	}
	if !create {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("collection %s has no unique index on %s: create it, by sink init for one, or set CREATE_INDEXES=true", d.users.Name(), key))
	}
	_, err := d.users.Indexes().CreateOne(ctx, mongo.IndexModel{
		Keys: bson.D{{Key: key, Value: 1}}, Options: options.Index().SetUnique(true).SetSparse(true),
	})
	if mongo.IsDuplicateKeyError(err) {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("collection %s holds documents that share a %s: merge them", d.users.Name(), key))
	}
	if err != nil {
		return classify("create the index", 0, err)
	}
	return nil
}

// require notes which paths must be there: those that the schema requires, and
// those of a unique index that counts what is not there as a value, null, which
// only one document may have.
func (d *database) require(schema bson.Raw, indexes []index) {
	for _, list := range [][]field{d.plan.fields, d.plan.inserts} {
		for i := range list {
			path := list[i].Name
			list[i].Required = required(schema, path) || slices.ContainsFunc(indexes, func(i index) bool {
				return i.Unique && !i.Sparse && len(i.Partial) == 0 && i.on(path)
			})
		}
	}
}

// options returns the $jsonSchema of the users collection, nil if there is none
// or the right to see it is missing: the server then refuses what does not fit.
// It fails if users cannot be kept in a collection of that kind.
func (d *database) options(ctx context.Context) (schema bson.Raw, err error) {
	list, err := d.users.Database().ListCollections(ctx, bson.D{{Key: "name", Value: d.users.Name()}})
	if err == nil {
		var found []bson.Raw
		if err = list.All(ctx, &found); err == nil && len(found) > 0 {
			if capped, _ := found[0].Lookup("options", "capped").BooleanOK(); capped {
				return nil, sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("collection %s is capped, and loses its oldest users: name one that is not, or convert it", d.users.Name()))
			}
			action, _ := found[0].Lookup("options", "validationAction").StringValueOK()
			level, _ := found[0].Lookup("options", "validationLevel").StringValueOK()
			if action != "warn" && level != "off" {
				schema, _ = found[0].Lookup("options", "validator", "$jsonSchema").DocumentOK()
			}
			return schema, d.known(schema)
		}
	}
	if marked := sinks.Classify(classify("look at the schema", 0, err)); err != nil && marked.Reason != sinks.ReasonUnauthorized {
		return nil, &marked
	}
	return nil, nil
}

// known returns an error if a schema that takes no paths but those that it names
// does not name one of ours: every user would be refused.
func (d *database) known(schema bson.Raw) error {
	more, isBool := schema.Lookup("additionalProperties").BooleanOK()
	if !isBool || more || schema.Lookup("patternProperties").Type != 0 {
		return nil
	}
	var unknown []string
	for _, path := range d.paths() {
		key, _, _ := strings.Cut(path, ".")
		if schema.Lookup("properties", key).Type == 0 {
			unknown = append(unknown, key)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("the schema of collection %s takes no paths but its own, and does not have: %s: add them to it, or take them out of FIELDS", d.users.Name(), strings.Join(slices.Compact(unknown), ", ")))
}

// paths returns those that are written.
func (d *database) paths() []string {
	paths := []string{"_id", d.plan.key}
	for _, f := range slices.Concat(d.plan.fields, d.plan.inserts) {
		paths = append(paths, f.Name)
	}
	if d.plan.deletedAt != "" {
		paths = append(paths, d.plan.deletedAt)
	}
	if !d.transactions {
		paths = append(paths, rankPath)
	}
	return paths
}

// required reports whether a JSON schema wants each part of path to be there.
func required(schema bson.Raw, path string) bool {
	for _, key := range strings.Split(path, ".") {
		names, _ := schema.Lookup("required").ArrayOK()
		values, _ := names.Values()
		if !slices.ContainsFunc(values, func(v bson.RawValue) bool { name, _ := v.StringValueOK(); return name == key }) {
			return false
		}
		schema, _ = schema.Lookup("properties", key).DocumentOK()
	}
	return true
}

// Close implements [sinks.Sink].
func (s *Sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	db := s.db
	s.db = nil
	if db == nil {
		return nil
	}
	return db.close()
}

func (d *database) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), tidyTimeout)
	defer cancel()
	if err := d.client.Disconnect(ctx); err != nil {
		return classify("disconnect", 0, err)
	}
	return nil
}

// opened returns the connection, or an error if the sink is not open.
func (s *Sink) opened() (*database, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil, sinks.RetryAfter(sinks.ReasonUnavailable, 0, errors.New("the sink is not open"))
	}
	return s.db, nil
}

// Keys implements [sinks.Lister]. Users whose document an erasure has left are
// not listed.
func (s *Sink) Keys(ctx context.Context, after string, limit int) ([]string, error) {
	db, err := s.opened()
	if err != nil {
		return nil, err
	}
	key := db.plan.key
	filter := bson.D{{Key: key, Value: bson.D{{Key: "$gt", Value: after}}}}
	if db.plan.deletedAt != "" {
		filter = append(filter, bson.E{Key: db.plan.deletedAt, Value: nil})
	}
	found, err := db.users.Find(ctx, filter, options.Find().SetSort(bson.D{{Key: key, Value: 1}}).SetLimit(int64(limit)).SetProjection(bson.D{{Key: key, Value: 1}}))
	var users []bson.Raw
	if err == nil {
		err = found.All(ctx, &users)
	}
	if err != nil {
		return nil, classify("list keys", 0, err)
	}
	ids := make([]string, len(users))
	for i, user := range users {
		ids[i], _ = lookup(user, key).StringValueOK()
	}
	return ids, nil
}

// Confirm implements [sinks.Confirmer].
func (s *Sink) Confirm(ctx context.Context, clerkID string, _ []byte) (bool, error) {
	db, err := s.opened()
	if err != nil {
		return false, err
	}
	user, err := db.users.FindOne(ctx, bson.D{{Key: db.plan.key, Value: clerkID}}).Raw()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return true, nil
	}
	if err != nil {
		return false, classify("confirm an erasure", 0, err)
	}
	return db.erased(clerkID, user), nil
}
