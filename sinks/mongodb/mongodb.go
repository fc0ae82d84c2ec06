package mongodb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

var (
	_ sinks.Sink      = (*Sink)(nil)
	_ sinks.Lister    = (*Sink)(nil)
	_ sinks.Confirmer = (*Sink)(nil)
)

// maxBatch keeps transactions short, as MongoDB wants them: a larger batch
// gains nothing on the server of the tests (see the benchmark).
const maxBatch = 100

// tidyTimeout bounds the end of a session and of the connections, for which
// the caller's context may be over.
const tidyTimeout = 5 * time.Second

// Sink writes users to a collection of MongoDB. Safe for concurrent use.
type Sink struct {
	cfg     Config
	columns []usertable.Column
	// between, for tests, is called after the guards have advanced and before
	// the users are written.
	between func()

	mu sync.Mutex
	db *database // nil: not open
}

// database is an open connection.
type database struct {
	client          *mongo.Client
	users, versions *mongo.Collection
	transactions    bool
}

// New returns a sink for cfg, or what is wrong with cfg. It does no I/O. A
// setting that is zero has its default, but for CreateIndexes and Transactions.
func New(cfg Config) (*Sink, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Sink{cfg: cfg, columns: usertable.Columns(), between: func() {}}, nil
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
	// The offset is committed after the batch, so the batch must be durable
	// before and be read where it was written, whatever the URI says.
	durable := true
	cfg := options.Client().SetAppName("clerk-connect").ApplyURI(s.cfg.URI).SetTimeout(s.cfg.Timeout).
		SetWriteConcern(&writeconcern.WriteConcern{W: writeconcern.WCMajority, Journal: &durable}).
		SetReadConcern(readconcern.Majority()).SetReadPreference(readpref.Primary())
	client, err := mongo.Connect(cfg)
	if err != nil {
		return sinks.Fatal(sinks.ReasonMisconfigured, errors.New("URI is no connection string"))
	}
	in := client.Database(s.cfg.Database)
	db := &database{
		client:   client,
		users:    in.Collection(s.cfg.Collection),
		versions: in.Collection(usertable.VersionsTable(s.cfg.Collection)),
	}
	if err := db.prepare(ctx, s.cfg); err != nil {
		return errors.Join(err, db.close())
	}
	s.db = db
	return nil
}

func (d *database) prepare(ctx context.Context, cfg Config) error {
	var hello struct {
		SetName string `bson:"setName"`
		Message string `bson:"msg"`
	}
	if err := d.client.Database("admin").RunCommand(ctx, bson.D{{Key: "hello", Value: 1}}).Decode(&hello); err != nil {
		return classify("say hello", 0, err)
	}
	d.transactions = cfg.Transactions && (hello.SetName != "" || hello.Message == "isdbgrid")
	if err := d.index(ctx, cfg.CreateIndexes); err != nil {
		return err
	}
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
	if _, err := d.guards(ctx, nil); err != nil {
		return err
	}
	nobody := in("_id", bson.A{})
	if _, err := d.versions.ReplaceOne(ctx, nobody, guard{}); err != nil {
		return err
	}
	if _, err := d.ids(ctx, nobody, options.Find()); err != nil {
		return err
	}
	_, err := d.users.BulkWrite(ctx, []mongo.WriteModel{
		mongo.NewUpdateOneModel().SetFilter(nobody).SetUpdate(bson.D{{Key: "$unset", Value: bson.D{{Key: keyPath, Value: ""}}}}),
		mongo.NewDeleteOneModel().SetFilter(nobody),
	})
	return err
}

// index makes sure of the unique index on the Clerk ID. Without it two
// processes could each insert the same user. It is sparse, for documents of
// the application's that have no Clerk ID yet.
func (d *database) index(ctx context.Context, create bool) error {
	indexes, err := d.users.Indexes().ListSpecifications(ctx)
	var command mongo.CommandError
	if err != nil && !(errors.As(err, &command) && command.Code == codeNamespaceNotFound) {
		return classify("list indexes", 0, err)
	}
	for _, index := range indexes {
		keys, err := index.KeysDocument.Elements()
		if err == nil && len(keys) == 1 && keys[0].Key() == keyPath && index.Unique != nil && *index.Unique {
			return nil
		}
	}
	if !create {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("collection %s has no unique index on %s", d.users.Name(), keyPath))
	}
	_, err = d.users.Indexes().CreateOne(ctx, mongo.IndexModel{
		Keys: bson.D{{Key: keyPath, Value: 1}}, Options: options.Index().SetUnique(true).SetSparse(true),
	})
	if mongo.IsDuplicateKeyError(err) {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("collection %s holds documents that share a %s: merge them", d.users.Name(), keyPath))
	}
	if err != nil {
		return classify("create the index", 0, err)
	}
	return nil
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

// Keys implements [sinks.Lister].
func (s *Sink) Keys(ctx context.Context, after string, limit int) ([]string, error) {
	return s.list(ctx, "list keys", bson.D{{Key: keyPath, Value: bson.D{{Key: "$gt", Value: after}}}}, limit)
}

// Confirm implements [sinks.Confirmer].
func (s *Sink) Confirm(ctx context.Context, clerkID string, _ []byte) (bool, error) {
	left, err := s.list(ctx, "confirm an erasure", bson.D{{Key: keyPath, Value: clerkID}}, 1)
	return err == nil && len(left) == 0, err
}

func (s *Sink) list(ctx context.Context, operation string, filter bson.D, limit int) ([]string, error) {
	db, err := s.opened()
	if err != nil {
		return nil, err
	}
	ids, err := db.ids(ctx, filter, options.Find().SetSort(bson.D{{Key: keyPath, Value: 1}}).SetLimit(int64(limit)))
	if err != nil {
		return nil, classify(operation, 0, err)
	}
	return ids, nil
}

// ids returns the Clerk IDs of the users that match.
func (d *database) ids(ctx context.Context, filter bson.D, opts *options.FindOptionsBuilder) ([]string, error) {
	found, err := d.users.Find(ctx, filter, opts.SetProjection(bson.D{{Key: "_id", Value: 0}, {Key: keyPath, Value: 1}}))
	if err != nil {
		return nil, err
	}
	var users []struct {
		ClerkID string `bson:"clerkId"`
	}
	if err := found.All(ctx, &users); err != nil {
		return nil, err
	}
	ids := make([]string, len(users))
	for i, u := range users {
		ids[i] = u.ClerkID
	}
	return ids, nil
}
