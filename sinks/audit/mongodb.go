package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// tidyTimeout bounds the end of a session and of the connections, for which
// the caller's context may be over.
const tidyTimeout = 5 * time.Second

// mongoStore is a log in a collection of MongoDB.
type mongoStore struct {
	cfg      Config
	database string
	// alone, for tests: as if the server had no transactions.
	alone bool

	client       *mongo.Client // nil: not connected
	log, clients *mongo.Collection
	transactions bool
}

func newMongoDB(cfg Config, database string) *mongoStore {
	return &mongoStore{cfg: cfg, database: database}
}

func (s *mongoStore) connect(ctx context.Context, _ bool) error {
	// The offset is committed after the batch, so the batch must be durable
	// before and be read where it was written, whatever the address says.
	durable := true
	cfg := options.Client().SetAppName("clerk-connect").ApplyURI(s.cfg.URL).SetTimeout(s.cfg.Timeout).
		SetWriteConcern(&writeconcern.WriteConcern{W: writeconcern.WCMajority, Journal: &durable}).
		SetReadConcern(readconcern.Majority()).SetReadPreference(readpref.Primary())
	client, err := mongo.Connect(cfg)
	if err != nil {
		return sinks.Fatal(sinks.ReasonMisconfigured, errors.New("URL is no address of MongoDB"))
	}
	s.client = client
	s.log = client.Database(s.database).Collection(s.cfg.Table)
	s.clients = client.Database(s.database).Collection(s.cfg.Table + clientSuffix)
	var hello struct {
		SetName string `bson:"setName"`
		Message string `bson:"msg"`
	}
	if err := client.Database("admin").RunCommand(ctx, bson.D{{Key: "hello", Value: 1}}).Decode(&hello); err != nil {
		return err
	}
	s.transactions = !s.alone && (hello.SetName != "" || hello.Message == "isdbgrid")
	return nil
}

func (s *mongoStore) close() error {
	if s.client == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), tidyTimeout)
	defer cancel()
	client := s.client
	s.client = nil
	return client.Disconnect(ctx)
}

func (s *mongoStore) classify(operation string, err error) error {
	return classify(operation, err, classifyMongoDB)
}

// mongoIndex is one that the log needs.
type mongoIndex struct {
	client bool // of the client collection
	name   string
	keys   bson.D
	unique bool
}

var mongoIndexes = []mongoIndex{
	{name: "chain", keys: bson.D{{Key: "chain", Value: 1}, {Key: "seq", Value: 1}}, unique: true},
	{name: "user", keys: bson.D{{Key: "clerk_id", Value: 1}, {Key: "action", Value: 1}, {Key: "epoch", Value: 1}, {Key: "version", Value: 1}}},
	{client: true, name: "user", keys: bson.D{{Key: "clerk_id", Value: 1}}},
}

func (s *mongoStore) create(ctx context.Context) error {
	for _, index := range mongoIndexes {
		in := s.log
		if index.client {
			in = s.clients
		}
		_, err := in.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: index.keys, Options: options.Index().SetName(index.name).SetUnique(index.unique)})
		if err != nil {
			return err
		}
	}
	return nil
}

// script is for mongosh. The role is what protects the log.
func (s *mongoStore) script() string {
	var b strings.Builder
	fmt.Fprintf(&b, "// For mongosh. It may run twice.\nconst audit = db.getSiblingDB(%q);\n", s.database)
	for _, index := range mongoIndexes {
		collection := s.cfg.Table
		if index.client {
			collection += clientSuffix
		}
		keys, _ := bson.MarshalExtJSON(index.keys, false, false) // names and numbers: cannot fail
		fmt.Fprintf(&b, "audit.getCollection(%q).createIndex(%s, { name: %q, unique: %v });\n", collection, keys, index.name, index.unique)
	}
	fmt.Fprintf(&b, `
// The role of who appends: no update anywhere, no remove from the log.
if (!audit.getRole("clerk_audit_writer")) audit.createRole({ role: "clerk_audit_writer", roles: [], privileges: [
  { resource: { db: %[1]q, collection: %[2]q }, actions: ["find", "insert", "listIndexes"] },
  { resource: { db: %[1]q, collection: %[3]q }, actions: ["find", "insert", "remove", "listIndexes"] },
] });
`, s.database, s.cfg.Table, s.cfg.Table+clientSuffix)
	return b.String()
}

// ready looks for the indexes: without the unique one two processes could fork
// a chain. That the user may not update or remove cannot be asked for.
func (s *mongoStore) ready(ctx context.Context) error {
	for _, in := range []*mongo.Collection{s.log, s.clients} {
		specs, err := in.Indexes().ListSpecifications(ctx)
		if err != nil {
			return err
		}
		there := map[string]bool{}
		for _, spec := range specs {
			there[spec.Name] = spec.Name != "chain" || spec.Unique != nil && *spec.Unique
		}
		for _, index := range mongoIndexes {
			if index.client != (in == s.clients) || there[index.name] {
				continue
			}
			missing := index.name
			if index.unique {
				missing += ", which must be unique"
			}
			return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("collection %s has no index %s: create it, by clerk-connect sink init, or set CREATE_TABLES=true", in.Name(), missing))
		}
	}
	return nil
}

func (s *mongoStore) within(ctx context.Context, work func(context.Context, session) error) error {
	log := &mongoSession{s}
	if !s.transactions {
		return work(ctx, log)
	}
	session, err := s.client.StartSession()
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
	if err := work(mongo.NewSessionContext(ctx, session), log); err != nil {
		return err
	}
	return session.CommitTransaction(ctx)
}

// mongoSession is a transaction, if there are any; its methods are given its
// context.
type mongoSession struct{ *mongoStore }

func (s *mongoStore) heads(ctx context.Context, chains []string) (map[string]Head, error) {
	heads := map[string]Head{}
	last := options.FindOne().SetSort(bson.D{{Key: "seq", Value: -1}})
	for _, chain := range chains {
		raw, err := s.log.FindOne(ctx, equal("chain", chain), last).Raw()
		if errors.Is(err, mongo.ErrNoDocuments) {
			continue
		}
		if err != nil {
			return nil, err
		}
		row := rowOf(raw)
		heads[chain] = Head{Chain: chain, Seq: row.Seq, Hash: row.Hash}
	}
	return heads, nil
}

func equal(path string, value any) bson.D { return bson.D{{Key: path, Value: value}} }

func in[T any](path string, list []T) bson.D {
	if list == nil {
		list = []T{}
	}
	return bson.D{{Key: path, Value: bson.D{{Key: "$in", Value: list}}}}
}

func (s *mongoSession) known(ctx context.Context, entries []string) (map[string]bool, error) {
	known := map[string]bool{}
	err := s.each(ctx, in("_id", entries), bson.D{{Key: "_id", Value: 1}}, func(row Row) { known[row.Entry] = true })
	return known, err
}

func (s *mongoSession) erasures(ctx context.Context, ids []string) (map[string]schemas.Version, error) {
	return s.versions(ctx, erasures, ids)
}

func (s *mongoSession) latest(ctx context.Context, ids []string) (map[string]schemas.Version, error) {
	return s.versions(ctx, changes, ids)
}

func (s *mongoSession) versions(ctx context.Context, actions, ids []string) (map[string]schemas.Version, error) {
	highest := map[string]schemas.Version{}
	if len(ids) == 0 {
		return highest, nil
	}
	wanted := bson.D{}
	for _, name := range []string{"clerk_id", "action", "epoch", "version"} {
		wanted = append(wanted, bson.E{Key: name, Value: 1})
	}
	err := s.each(ctx, append(in("clerk_id", ids), in("action", actions)...), wanted, func(row Row) {
		if before, ok := highest[row.ClerkID]; !ok || row.rank().Compare(before) > 0 {
			highest[row.ClerkID] = row.rank()
		}
	})
	return highest, err
}

// each calls found for what matches in the log.
func (s *mongoSession) each(ctx context.Context, filter, wanted bson.D, found func(Row)) error {
	cursor, err := s.log.Find(ctx, filter, options.Find().SetProjection(wanted))
	if err != nil {
		return err
	}
	defer cursor.Close(ctx) //nolint:errcheck // it was read
	for cursor.Next(ctx) {
		found(rowOf(cursor.Current))
	}
	return cursor.Err()
}

// insert writes client data first: were the row first, an erasure could pass
// between the two. What is refused takes its client data away again.
func (s *mongoSession) insert(ctx context.Context, rows []Row, clients []*client) error {
	if len(clients) > 0 {
		documents := make([]bson.D, len(clients))
		for i, c := range clients {
			documents[i] = c.document()
		}
		if _, err := s.clients.InsertMany(ctx, documents); err != nil {
			return err
		}
	}
	documents := make([]bson.D, len(rows))
	for i := range rows {
		documents[i] = rows[i].document()
	}
	_, err := s.log.InsertMany(ctx, documents) // in order: it stops at the first that is refused
	if mongo.IsDuplicateKeyError(err) && !s.transactions {
		return errors.Join(err, s.undo(ctx, rows, clients))
	}
	return err
}

// undo removes the client data of rows that are not in the log.
func (s *mongoSession) undo(ctx context.Context, rows []Row, clients []*client) error {
	var entries, hashes []string
	for _, row := range rows {
		entries, hashes = append(entries, row.Entry), append(hashes, row.Hash)
	}
	written := map[string]bool{}
	err := s.each(ctx, append(in("_id", entries), in("hash", hashes)...), bson.D{{Key: "client_hash", Value: 1}}, func(row Row) {
		if row.ClientHash != nil {
			written[*row.ClientHash] = true
		}
	})
	if err != nil {
		return err
	}
	var orphans []string
	for _, c := range clients {
		if !written[c.hash] {
			orphans = append(orphans, c.hash)
		}
	}
	_, err = s.clients.DeleteMany(ctx, in("_id", orphans))
	return err
}

func (s *mongoSession) forget(ctx context.Context, erased []bound) error {
	removals := make([]mongo.WriteModel, len(erased))
	for i, b := range erased {
		removals[i] = mongo.NewDeleteManyModel().SetFilter(bson.D{{Key: "clerk_id", Value: b.clerkID}, {Key: "$or", Value: bson.A{
			bson.D{{Key: "epoch", Value: bson.D{{Key: "$lt", Value: b.upTo.Epoch}}}},
			bson.D{{Key: "epoch", Value: b.upTo.Epoch}, {Key: "version", Value: bson.D{{Key: "$lte", Value: b.upTo.Number}}}},
		}}})
	}
	_, err := s.clients.BulkWrite(ctx, removals)
	return err
}

// classifyMongoDB knows the codes of
// https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml.
func classifyMongoDB(operation string, err error) error {
	code, transient := 0, false
	var bulk mongo.BulkWriteException
	var command mongo.CommandError
	switch {
	case errors.As(err, &bulk) && len(bulk.WriteErrors) > 0:
		code = bulk.WriteErrors[0].Code
	case errors.As(err, &command):
		code, transient = int(command.Code), command.HasErrorLabel("TransientTransactionError")
	}
	cause := fmt.Errorf("%s: code %d", operation, code)
	switch code {
	case 11000, 24, 112, 225, 246, 251: // DuplicateKey, LockTimeout, WriteConflict, TransactionTooOld, SnapshotUnavailable, NoSuchTransaction
		return sinks.RetryAfter(sinks.ReasonConflict, 0, cause)
	case 13, 18, 8000: // Unauthorized, AuthenticationFailed, Atlas' own of both
		return sinks.Fatal(sinks.ReasonUnauthorized, cause)
	case 462, 16500: // IngressRequestRateLimitExceeded, Cosmos DB's request rate
		return sinks.RetryAfter(sinks.ReasonRateLimited, 0, cause)
	case 10334, 17280: // BSONObjectTooLarge, KeyTooLong
		return sinks.Permanent(sinks.ReasonTooLarge, cause)
	case 121: // DocumentValidationFailure: a rule that somebody gave the collection
		return sinks.Permanent(sinks.ReasonInvalidRecord, cause)
	case 20, 26, 67, 72, 73, 85, 86, 115, 166, 263: // indexes, options and names; not supported, on a view, in a transaction
		return sinks.Fatal(sinks.ReasonMisconfigured, cause)
	}
	switch {
	case transient:
		return sinks.RetryAfter(sinks.ReasonConflict, 0, cause)
	case errors.Is(err, context.Canceled):
		return nil
	case mongo.IsTimeout(err):
		return sinks.RetryAfter(sinks.ReasonTimeout, 0, fmt.Errorf("%s: no answer in time", operation))
	case code != 0:
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, cause) // most are of the server's own state
	}
	return nil
}
