package mongodb_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/mongodb"
	"clerkconnect/sinks/sinktest"
)

func TestPaths(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{"clerkId": true, "clerkConnect": true}
	for _, c := range mapping.Fields() {
		path := mongodb.Paths[c.Name]
		if path == "" || seen[path] {
			t.Errorf("column %s: path %q is missing or taken", c.Name, path)
		}
		seen[path] = true
	}
	for path := range seen {
		if parent, _, nested := strings.Cut(path, "."); nested && seen[parent] {
			t.Errorf("path %s lies within %s", path, parent)
		}
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	decimal := func(s string) bson.Decimal128 {
		d, err := bson.ParseDecimal128(s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for text, want := range map[string]any{
		"0":                        int64(0),
		"9007199254740993":         int64(9007199254740993),
		"-9223372036854775808":     int64(-9223372036854775808),
		"9223372036854775808":      decimal("9223372036854775808"),
		"2.50":                     2.5,
		"0.1":                      0.1,
		"-0.000":                   0.0,
		"1e3":                      1000.0,
		"1E400":                    decimal("1E400"),
		"5e-324":                   5e-324,
		"0.1234567890123456789012": decimal("0.1234567890123456789012"),
		"1234567890123456789012345678901234567890.5": "1234567890123456789012345678901234567890.5",
		"1e999999999999": "1e999999999999",
		"1e-7000":        "1e-7000",
	} {
		if got := mongodb.Number(text); got != want {
			t.Errorf("number %s: got %T %v, want %T %v", text, got, got, want, want)
		}
	}
}

// TestOwnPaths shows that what the application keeps in the document is never
// touched, whether it wrote the document first or later.
func TestOwnPaths(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, transactions bool) {
		s := newServer(t)
		sink := open(t, s.config(transactions))
		users := s.db.Collection("clerk_users")
		if _, err := users.InsertOne(t.Context(), bson.M{"_id": "own", "clerkId": "user_1", "plan": "gold", "profile": bson.M{"bio": "x"}, "metadata": bson.M{"app": 1}}); err != nil {
			t.Fatal(err)
		}
		bare := sinktest.Change("user_1", 2)
		bare.Change.User.FirstName, bare.Change.User.PublicMetadata = nil, nil
		for _, r := range []sinks.Record{sinktest.Change("user_1", 1), bare} {
			sinktest.MustApply(t, sink, r)
			got := s.all(t, "clerk_users", bson.D{})
			if len(got) != 1 || at(got[0], "_id") != "own" || at(got[0], "plan") != "gold" || at(got[0], "profile.bio") != "x" || at(got[0], "metadata.app") != int32(1) {
				t.Fatalf("the application's paths: got %v", got)
			}
			if at(got[0], "profile.lastName") == nil || (at(got[0], "profile.firstName") == nil) != (r.Version.Number == 2) {
				t.Errorf("our paths of version %d: got %v", r.Version.Number, got[0])
			}
		}
	})
}

// TestKeysOfMetadata shows that keys that mean something to MongoDB are kept.
func TestKeysOfMetadata(t *testing.T) {
	t.Parallel()
	const metadata = `{"a.b":1,"$set":{"$gt":2},"":"e","$ref":"x","$id":3,"_id":{"a":[{"$date":"no date"}]},"twice":1,"twice":2}`
	both(t, func(t *testing.T, transactions bool) {
		s := newServer(t)
		sink := open(t, s.config(transactions))
		r := sinktest.Change("user_1", 1)
		r.Change.User.PublicMetadata = new(metadata)
		sinktest.MustApply(t, sink, r)
		got, _ := s.read(t, "user_1")["user_1"]["public_metadata"].(string)
		var have, want any
		if json.Unmarshal([]byte(got), &have) != nil || json.Unmarshal([]byte(metadata), &want) != nil || fmt.Sprint(have) != fmt.Sprint(want) {
			t.Errorf("metadata: got %s, want %s", got, metadata)
		}
	})
}

func TestDates(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sinktest.MustApply(t, open(t, s.config(true)), sinktest.Change("user_1", 1))
	document := s.all(t, "clerk_users", bson.D{})[0]
	list, _ := at(document, "emailAddresses").(bson.A)
	if len(list) == 0 {
		t.Fatal("emailAddresses is empty")
	}
	for where, value := range map[string]any{"createdAt": at(document, "createdAt"), "an address's createdAt": at(list[0], "createdAt")} {
		if _, ok := value.(bson.DateTime); !ok {
			t.Errorf("%s: got %T, want a date", where, value)
		}
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, users *mongo.Collection)
		leave   bool
		want    string // in the error, "": none
	}{
		{name: "creates the index"},
		{name: "no index", leave: true, want: "no unique index on clerkId"},
		{name: "an index of the application's", leave: true, prepare: func(t *testing.T, users *mongo.Collection) {
			index(t, users, "clerkId")
		}},
		{name: "an index on those that have a Clerk ID", leave: true, prepare: func(t *testing.T, users *mongo.Collection) {
			command(t, users, "createIndexes", bson.E{Key: "indexes", Value: bson.A{bson.M{
				"key": bson.M{"clerkId": 1}, "name": "some", "unique": true, "partialFilterExpression": bson.M{"clerkId": bson.M{"$type": "string"}},
			}}})
		}},
		{name: "an index on some users", want: "leaves documents out", prepare: func(t *testing.T, users *mongo.Collection) {
			command(t, users, "createIndexes", bson.E{Key: "indexes", Value: bson.A{bson.M{
				"key": bson.M{"clerkId": 1}, "name": "some", "unique": true, "partialFilterExpression": bson.M{"active": true},
			}}})
		}},
		{name: "an index that is not unique", want: "index of collection clerk_users on clerkId is not unique", prepare: func(t *testing.T, users *mongo.Collection) {
			command(t, users, "createIndexes", bson.E{Key: "indexes", Value: bson.A{bson.M{"key": bson.M{"clerkId": 1}, "name": "clerkId_1"}}})
		}},
		{name: "a capped collection", want: "clerk_users is capped", prepare: func(t *testing.T, users *mongo.Collection) {
			command(t, users, "create", bson.E{Key: "capped", Value: true}, bson.E{Key: "size", Value: 1 << 20})
		}},
		{name: "users without a Clerk ID", prepare: func(t *testing.T, users *mongo.Collection) {
			insert(t, users, bson.M{"n": 1}, bson.M{"n": 2})
		}},
		{name: "a Clerk ID twice", want: "share a clerkId", prepare: func(t *testing.T, users *mongo.Collection) {
			insert(t, users, bson.M{"clerkId": "user_1"}, bson.M{"clerkId": "user_1"})
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			if test.prepare != nil {
				test.prepare(t, s.db.Collection("clerk_users"))
			}
			cfg := s.config(true)
			cfg.CreateIndexes = !test.leave
			sink := newSink(t, cfg)
			defer sink.Close()
			err := sink.Open(t.Context())
			if test.want == "" {
				if err != nil {
					t.Fatalf("Open: %v", err)
				}
				sinktest.MustApply(t, sink, sinktest.Change("user_1", 1), sinktest.Erase("user_2", 1))
				return
			}
			sinktest.ExpectClass(t, "Open", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
			if err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("Open: got %v, want a word about %q", err, test.want)
			}
		})
	}
}

// command runs a command on a collection.
func command(t *testing.T, c *mongo.Collection, name string, settings ...bson.E) {
	t.Helper()
	if err := c.Database().RunCommand(t.Context(), append(bson.D{{Key: name, Value: c.Name()}}, settings...)).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestOpen_NobodyListens(t *testing.T) {
	t.Parallel()
	sink := newSink(t, mongodb.Config{URI: "mongodb://u:s3cret@127.0.0.1:1/?serverSelectionTimeoutMS=100", Database: "x"})
	err := sink.Open(t.Context())
	if got := sinks.Classify(err); got.Class != sinks.ClassRetry || got.Reason != sinks.ReasonUnavailable && got.Reason != sinks.ReasonTimeout {
		t.Errorf("Open: got %v, want unavailable", err)
	}
	if strings.Contains(err.Error(), "s3cret") {
		t.Error("Open quotes the password")
	}
}

func index(t testing.TB, c *mongo.Collection, path string) {
	t.Helper()
	if _, err := c.Indexes().CreateOne(t.Context(), mongo.IndexModel{Keys: bson.D{{Key: path, Value: 1}}, Options: options.Index().SetUnique(true)}); err != nil {
		t.Fatal(err)
	}
}

func insert(t testing.TB, c *mongo.Collection, documents ...any) {
	t.Helper()
	if _, err := c.InsertMany(t.Context(), documents); err != nil {
		t.Fatal(err)
	}
}

// TestApply_Refused shows how refusals are classified, and that none quotes
// the user. With transactions the batch is refused as a whole, without them
// the records to blame are named.
func TestApply_Refused(t *testing.T) {
	t.Parallel()
	const canary = "canary-4b1f7e"
	bad := func() sinks.Record {
		r := sinktest.Change("user_bad", 1)
		r.Change.User.FirstName = new(canary)
		return r
	}
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, s server)
		record  func() sinks.Record
		class   sinks.Class // of the record among others
		reason  sinks.Reason
		alone   sinks.Class // of the record alone
	}{
		{"a validator", func(t *testing.T, s server) {
			s.create(t, "clerk_users", bson.M{"profile.firstName": bson.M{"$ne": canary}})
		}, bad, sinks.ClassPermanent, sinks.ReasonInvalidRecord, sinks.ClassPermanent},
		{"a path that is a value", func(t *testing.T, s server) {
			insert(t, s.db.Collection("clerk_users"), bson.M{"clerkId": "user_bad", "profile": canary})
		}, bad, sinks.ClassPermanent, sinks.ReasonInvalidRecord, sinks.ClassPermanent},
		{"too large", func(*testing.T, server) {}, func() sinks.Record {
			r := bad()
			r.Change.User.PublicMetadata = new(`"` + strings.Repeat(canary, 16<<20/len(canary)) + `"`)
			return r
		}, sinks.ClassPermanent, sinks.ReasonTooLarge, sinks.ClassPermanent},
		{"a unique key of the application's", func(t *testing.T, s server) {
			index(t, s.db.Collection("clerk_users"), "profile.firstName")
			insert(t, s.db.Collection("clerk_users"), bson.M{"clerkId": "user_0", "profile": bson.M{"firstName": canary}})
		}, bad, sinks.ClassPermanent, sinks.ReasonConflict, sinks.ClassRetry},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			both(t, func(t *testing.T, transactions bool) {
				s := newServer(t)
				test.prepare(t, s)
				sink := open(t, s.config(transactions))
				err := sink.Apply(t.Context(), []sinks.Record{sinktest.Erase("user_1", 1), sinktest.Change("user_2", 1), test.record(), sinktest.Erase("user_3", 1)})
				var failed *sinks.BatchError
				if batch, ok := err.(*sinks.BatchError); ok { //nolint:errorlint // the contract is about the error itself
					failed = batch
					sinktest.ExpectClass(t, "the record", failed.Failed(2), test.alone, test.reason)
					if failed.Len() != 1 || len(s.read(t, "user_2")) != 1 {
						t.Errorf("Apply: got %v, want only record 2 to fail", err)
					}
				} else {
					sinktest.ExpectClass(t, "Apply", err, test.class, test.reason)
				}
				if failed == nil && !transactions {
					t.Errorf("Apply: got %v, want the record to be named", err)
				}
				alone := sink.Apply(t.Context(), []sinks.Record{test.record()})
				if batch, ok := alone.(*sinks.BatchError); ok { //nolint:errorlint // as above
					alone = batch.Failed(0)
				}
				sinktest.ExpectClass(t, "Apply of it alone", alone, test.alone, test.reason)
				if strings.Contains(fmt.Sprint(err, alone), canary) {
					t.Error("the error quotes the user")
				}
			})
		})
	}
}

// TestChecked_Zombie has a process without transactions paused between the
// guards and the users, while another writes what is given. Whatever it writes
// when it wakes up must not stay.
func TestChecked_Zombie(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		paused  sinks.Record
		between []sinks.Record
		want    []string // versions of the user that is left
	}{
		{"a change, then the erasure", sinktest.Change("user_1", 2), []sinks.Record{sinktest.Erase("user_1", 3)}, nil},
		{"a change, then a later one", sinktest.Change("user_1", 2), []sinks.Record{sinktest.Change("user_1", 3)}, []string{"3"}},
		{"an erasure, then the revival", sinktest.Erase("user_1", 2), []sinks.Record{sinktest.Change("user_1", 3)}, []string{"3"}},
		{"a change, then erasure and revival", sinktest.Change("user_1", 2), []sinks.Record{sinktest.Erase("user_1", 3), sinktest.Change("user_1", 4)}, []string{"4"}},
		{"a change twice", sinktest.Change("user_1", 2), []sinks.Record{sinktest.Change("user_1", 2)}, []string{"2"}},
	} {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, known=%v", test.name, known), func(t *testing.T) {
				t.Parallel()
				s := newServer(t)
				zombie, owner := open(t, s.config(false)), open(t, s.config(false))
				if known {
					sinktest.MustApply(t, owner, sinktest.Change("user_1", 1))
				}
				zombie.Between(func() {
					zombie.Between(func() {})
					for _, r := range test.between {
						sinktest.MustApply(t, owner, sinks.Track(r)) // its own place for the result
					}
				})
				for range 3 { // a conflict is retried by the runner
					if err := zombie.Apply(t.Context(), []sinks.Record{sinks.Track(test.paused)}); err == nil {
						break
					} else if got := sinks.Classify(err); got.Reason != sinks.ReasonConflict {
						t.Fatalf("Apply: %v", err)
					}
				}
				var got []string
				for _, document := range s.all(t, "clerk_users", bson.D{}) {
					got = append(got, fmt.Sprint(at(document, "clerkConnect.version")))
				}
				if !slices.Equal(got, test.want) {
					t.Errorf("versions of what is left: got %v, want %v", got, test.want)
				}
				for _, g := range s.all(t, "clerk_connect_versions", bson.D{}) {
					if at(g, "pending") != nil {
						t.Errorf("a mark was left: %v", g)
					}
				}
			})
		}
	}
}

// TestChecked_GuardMoves has another process write the user after the guard was
// read for an erasure: the erasure is tried again, and is remembered.
func TestChecked_GuardMoves(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{true, false} {
		s := newServer(t)
		sink, other := open(t, s.config(false)), open(t, s.config(false))
		if known {
			sinktest.MustApply(t, other, sinktest.Change("user_1", 3))
		}
		sink.Looked(func() {
			sink.Looked(func() {})
			sinktest.MustApply(t, other, sinktest.Change("user_1", 4))
		})
		erase := []sinks.Record{sinktest.Erase("user_1", 5)}
		sinktest.ExpectClass(t, "Apply", sink.Apply(t.Context(), erase), sinks.ClassRetry, sinks.ReasonConflict)
		sinktest.MustApply(t, sink, erase...)
		late := sinktest.Change("user_1", 4)
		sinktest.MustApply(t, other, late)
		if got := s.read(t, "user_1"); len(got) != 0 || !late.Result().Superseded {
			t.Errorf("known %v: got %v, %+v, want the user gone", known, got, late.Result())
		}
	}
}

// TestChecked_Crash has a process without transactions die between the guards
// and the users: the change, delivered again, is still written.
func TestChecked_Crash(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sink := open(t, s.config(false))
	func() {
		defer func() { _ = recover() }()
		sink.Between(func() { panic("crash") })
		sink.Apply(t.Context(), []sinks.Record{sinktest.Change("user_1", 1)}) //nolint:errcheck // it panics
	}()
	if left := s.read(t, "user_1"); len(left) != 0 {
		t.Fatal("the user was written before the crash")
	}
	again := sinktest.Change("user_1", 1)
	sinktest.MustApply(t, open(t, s.config(true)), again)
	if again.Result().Superseded || len(s.read(t, "user_1")) != 1 {
		t.Errorf("the change was lost: %+v", again.Result())
	}
}

// TestChecked_CrashAfterWrite has a paused process die after it has written an
// erased user and before it has checked: whoever is given that change again
// deletes the user.
func TestChecked_CrashAfterWrite(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	sink := open(t, s.config(false))
	sinktest.MustApply(t, sink, sinktest.Erase("user_1", 3))
	insert(t, s.db.Collection("clerk_users"), bson.D{{Key: "clerkId", Value: "user_1"}, {Key: "clerkConnect", Value: bson.D{{Key: "epoch", Value: int32(1)}, {Key: "version", Value: int64(2)}}}})
	again := sinktest.Change("user_1", 2)
	sinktest.MustApply(t, sink, again)
	if !again.Result().Superseded || len(s.read(t, "user_1")) != 0 {
		t.Errorf("the erased user is there: %+v", again.Result())
	}
}
