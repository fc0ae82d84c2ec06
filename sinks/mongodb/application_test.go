package mongodb_test

import (
	"context"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/mongodb"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// mongoose is what the README gives for the article's Mongoose application:
//
//	const userSchema = new mongoose.Schema({
//	  clerkId: { type: String, required: true, unique: true, index: true },
//	  email: { type: String, required: true, unique: true },
//	  profile: { firstName: String, lastName: String, imageUrl: String },
//	  metadata: mongoose.Schema.Types.Mixed,
//	}, { timestamps: true })
//
// to which the application has added bio, roles and settings.
func (s server) mongoose(transactions bool) mongodb.Config {
	cfg := s.config(transactions)
	cfg.Collection = "users"
	cfg.Fields = `email = email, profile.firstName = first_name, profile.lastName = last_name, profile.imageUrl = image_url,
		metadata = public_metadata, createdAt = created_at, updatedAt = updated_at`
	cfg.InsertFields = "__v = 0, bio = 'new here'"
	cfg.CreateIndexes = false
	return cfg
}

// mongooseFields are the fields of user.avsc that it holds, and where.
var mongooseFields = map[string]string{
	"primary_email_address": "email", "first_name": "profile.firstName", "last_name": "profile.lastName", "image_url": "profile.imageUrl",
	"public_metadata": "metadata", "created_at": "createdAt", "updated_at": "updatedAt",
}

// mongooseSchema is the schema of the application's that the server enforces.
var mongooseSchema = bson.M{"$jsonSchema": bson.M{
	"bsonType": "object", "required": bson.A{"clerkId", "email"},
	"properties": bson.M{
		"clerkId": bson.M{"bsonType": "string"},
		"email":   bson.M{"bsonType": "string", "pattern": "@"},
		"profile": bson.M{"bsonType": "object"},
		"roles":   bson.M{"bsonType": "array"},
	},
}}

// own is what the application keeps of its own.
var own = bson.D{
	{Key: "bio", Value: "I sail"}, {Key: "roles", Value: bson.A{"admin", "editor"}},
	{Key: "settings", Value: bson.D{{Key: "theme", Value: "dark"}, {Key: "profile", Value: int32(1)}}},
}

func (s server) createMongoose(t testing.TB, schema bson.M, emailUnique bool) {
	s.create(t, "users", schema)
	index(t, s.db.Collection("users"), "clerkId")
	if emailUnique {
		index(t, s.db.Collection("users"), "email")
	}
}

// readMongoose reads documents of the application as the suite wants them.
func (s server) readMongoose(t testing.TB, ids ...string) map[string]sinktest.Row {
	t.Helper()
	rows := map[string]sinktest.Row{}
	for _, document := range s.all(t, "users", bson.D{{Key: "clerkId", Value: bson.D{{Key: "$in", Value: ids}}}}) {
		row := sinktest.Row{}
		for name, path := range mongooseFields {
			switch v := at(document, path).(type) {
			case nil:
			case bson.DateTime:
				row[name] = int64(v)
			case bson.D:
				row[name] = toJSON(v, false)
			default:
				row[name] = v
			}
			if name == "public_metadata" && row[name] != nil {
				row[name] = toJSON(at(document, path), false)
			}
		}
		id, _ := at(document, "clerkId").(string)
		rows[id] = row
	}
	return rows
}

// TestMongoose runs the suite on the application's collection. The suite gives
// users without e-mail addresses and with shared ones, hence no rules on them.
func TestMongoose(t *testing.T) {
	fields := make([]string, 0, len(mongooseFields))
	for name := range mongooseFields {
		fields = append(fields, name)
	}
	sinktest.Run(t, sinktest.Harness{Fields: fields, New: func(t testing.TB) sinktest.Destination {
		s := newServer(t)
		s.createMongoose(t, bson.M{"profile.firstName": bson.M{"$ne": "poison"}}, false)
		proxy := sinktest.NewProxy(t, s.address)
		cfg := s.mongoose(true)
		cfg.URI = s.through(proxy.Address)
		return sinktest.Destination{
			Sink: func(t testing.TB) sinks.Sink { return newSink(t, cfg) }, Read: s.readMongoose, Dump: s.dump,
			Break:  func(testing.TB) func() { return proxy.Cut() },
			Poison: func(u *schemas.User) { u.FirstName = new("poison") },
		}
	}})
}

// TestMongoose_TakesOver shows that a document of the application's is taken
// over by its Clerk ID with its own paths untouched, whatever is done to it.
func TestMongoose_TakesOver(t *testing.T) {
	t.Parallel()
	for _, policy := range usertable.Deletions() {
		both(t, func(t *testing.T, transactions bool) {
			s := newServer(t)
			s.createMongoose(t, mongooseSchema, true)
			cfg := s.mongoose(transactions)
			cfg.Deletion, cfg.References = policy, []string{"orders.user=_id"}
			users := s.db.Collection("users")
			id := bson.NewObjectID()
			insert(t, users, append(bson.D{{Key: "_id", Value: id}, {Key: "clerkId", Value: "user_1"}, {Key: "email", Value: "old@example.com"}, {Key: "__v", Value: int32(7)}}, own...))
			insert(t, s.db.Collection("orders"), bson.M{"user": id})
			sink := open(t, cfg)
			steps := []sinks.Record{usertabletest.Person("user_1", 1, "ada@example.com"), usertabletest.Person("user_1", 2, "ada@example.org"), sinktest.Erase("user_1", 3), sinktest.Erase("user_1", 3), usertabletest.Person("user_1", 2, "late@example.com")}
			for i, r := range steps {
				sinktest.MustApply(t, sink, r)
				got := s.all(t, "users", bson.D{})
				if policy == usertable.DeletionHard && i >= 2 {
					if len(got) != 0 {
						t.Fatalf("step %d: got %v, want nothing", i, got)
					}
					continue
				}
				if len(got) != 1 || at(got[0], "_id") != id || at(got[0], "__v") != int32(7) {
					t.Fatalf("step %d: got %v, want the same document", i, got)
				}
				for _, e := range own {
					if !same(at(got[0], e.Key), e.Value) {
						t.Errorf("step %d: %s: got %v, want %v", i, e.Key, at(got[0], e.Key), e.Value)
					}
				}
			}
		})
	}
}

func same(a, b any) bool {
	first, err := bson.Marshal(bson.D{{Key: "v", Value: a}})
	second, again := bson.Marshal(bson.D{{Key: "v", Value: b}})
	return err == nil && again == nil && string(first) == string(second)
}

func TestInsertFields(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, transactions bool) {
		s := newServer(t)
		s.createMongoose(t, mongooseSchema, true)
		sink := open(t, s.mongoose(transactions))
		users := s.db.Collection("users")
		check := func(when, bio string) {
			t.Helper()
			got := s.all(t, "users", bson.D{})
			if len(got) != 1 || at(got[0], "bio") != bio || at(got[0], "__v") != int64(0) {
				t.Errorf("%s: got %v, want bio %q", when, got, bio)
			}
		}
		sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "ada@example.com"))
		check("inserted", "new here")
		if _, err := users.UpdateOne(t.Context(), bson.D{}, bson.D{{Key: "$set", Value: bson.D{{Key: "bio", Value: "mine"}}}}); err != nil {
			t.Fatal(err)
		}
		sinktest.MustApply(t, sink, usertabletest.Person("user_1", 2, "ada@example.com"))
		check("updated", "mine")
		if _, err := users.DeleteOne(t.Context(), bson.D{}); err != nil {
			t.Fatal(err)
		}
		sinktest.MustApply(t, sink, usertabletest.Person("user_1", 3, "ada@example.com"))
		check("deleted by the application, and back", "new here")
	})
}

// TestKeyField has the Clerk ID in other places.
func TestKeyField(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"_id", "auth.clerkId"} {
		both(t, func(t *testing.T, transactions bool) {
			s := newServer(t)
			cfg := s.config(transactions)
			cfg.KeyField = key
			sink := open(t, cfg)
			sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@example.com"), usertabletest.Person("user_2", 1, "b@example.com"))
			sinktest.MustApply(t, sink, usertabletest.Person("user_1", 2, "c@example.com"), sinktest.Erase("user_2", 2))
			got := s.all(t, "clerk_users", bson.D{})
			if len(got) != 1 || at(got[0], key) != "user_1" || at(got[0], "email") != "c@example.com" {
				t.Errorf("key %s: got %v", key, got)
			}
			if keys, err := sink.Keys(t.Context(), "", 9); err != nil || len(keys) != 1 || keys[0] != "user_1" {
				t.Errorf("Keys by %s: got %v, %v", key, keys, err)
			}
		})
	}
}

// TestSchema shows that a user whom the schema refuses is a dead letter, and
// the others are written.
func TestSchema(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, transactions bool) {
		s := newServer(t)
		s.createMongoose(t, mongooseSchema, true)
		sink := open(t, s.mongoose(transactions))
		err := usertabletest.Failure(sink.Apply(t.Context(), []sinks.Record{usertabletest.Person("user_1", 1, "no address")}), 0)
		sinktest.ExpectClass(t, "a user whom the schema refuses", err, sinks.ClassPermanent, sinks.ReasonInvalidRecord)
		err = sink.Apply(t.Context(), []sinks.Record{usertabletest.Person("user_1", 1, ""), usertabletest.Person("user_2", 1, "b@example.com")})
		sinktest.ExpectClass(t, "a user without a required address", usertabletest.Failure(err, 0), sinks.ClassPermanent, sinks.ReasonInvalidRecord)
		if err == nil || !strings.Contains(err.Error(), "PLACEHOLDER_EMAIL") || usertabletest.Failure(err, 1) != nil || len(s.all(t, "users", bson.D{})) != 1 {
			t.Errorf("Apply: got %v, want user_2 written and a word about PLACEHOLDER_EMAIL", err)
		}
		cfg := s.mongoose(transactions)
		cfg.PlaceholderEmail = "{id}@no-email.invalid"
		sinktest.MustApply(t, open(t, cfg), usertabletest.Person("user_1", 1, ""))
		if got := s.readMongoose(t, "user_1")["user_1"]["primary_email_address"]; got != "user_1@no-email.invalid" {
			t.Errorf("email: got %v, want the placeholder", got)
		}
	})
}

// TestSchema_Closed has a schema that takes no paths but its own: Open names
// those that it does not have.
func TestSchema_Closed(t *testing.T) {
	t.Parallel()
	closed := func(paths ...string) bson.M {
		properties := bson.M{"_id": bson.M{}}
		for _, path := range paths {
			properties[path] = bson.M{}
		}
		return bson.M{"$jsonSchema": bson.M{"additionalProperties": false, "required": bson.A{"email"}, "properties": properties}}
	}
	for _, test := range []struct {
		name         string
		validator    bson.M
		settings     []bson.E
		transactions bool
		want         string // in the error; "": none
	}{
		{"all there", closed("clerkId", "email", "profile", "deletedAt"), nil, true, ""},
		{"two missing", closed("clerkId", "email"), nil, true, "does not have: deletedAt, profile:"},
		{"the version of a single server missing", closed("clerkId", "email", "profile", "deletedAt"), nil, false, "does not have: clerkConnect:"},
		{"all there of a single server", closed("clerkId", "email", "profile", "deletedAt", "clerkConnect"), nil, false, ""},
		{"a warning", closed("clerkId"), []bson.E{{Key: "validationAction", Value: "warn"}}, true, ""},
		{"switched off", closed("clerkId"), []bson.E{{Key: "validationLevel", Value: "off"}}, true, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			command(t, s.db.Collection("users"), "create", append(test.settings, bson.E{Key: "validator", Value: test.validator})...)
			cfg := s.config(test.transactions)
			cfg.Collection, cfg.Deletion, cfg.Fields = "users", usertable.DeletionSoft, "email = email, profile.first = first_name, profile.last = last_name"
			sink := newSink(t, cfg)
			defer sink.Close()
			err := sink.Open(t.Context())
			if test.want == "" {
				if err != nil {
					t.Fatalf("Open: %v", err)
				}
				r := usertabletest.Person("user_1", 1, "a@example.com")
				if test.settings != nil {
					r = usertabletest.Person("user_1", 1, "") // which a schema that only warns does not require
				}
				sinktest.MustApply(t, sink, r)
				return
			}
			sinktest.ExpectClass(t, "Open", err, sinks.ClassFatal, sinks.ReasonMisconfigured)
			if err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("Open: got %v, want a word about %q", err, test.want)
			}
		})
	}
}

// TestPlainUniqueIndex shows that an index that counts a missing address as a
// value asks for one, because no more than one user could be without.
func TestPlainUniqueIndex(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.createMongoose(t, bson.M{}, true)
	err := usertabletest.Failure(open(t, s.mongoose(true)).Apply(t.Context(), []sinks.Record{usertabletest.Person("user_1", 1, "")}), 0)
	sinktest.ExpectClass(t, "a user without an address", err, sinks.ClassPermanent, sinks.ReasonInvalidRecord)
}

// TestFields shows which BSON types expressions come to.
func TestFields(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.config(true)
	cfg.Fields = `plan = public_metadata.plan ?? 'free', limits = public_metadata.limits, n = 3, name = full_name ?? 'Unknown', on = banned,
		"addresses" = email_addresses, since = created_at, ref.uuid = uuid`
	r := usertabletest.Person("user_1", 1, "a@example.com")
	r.Change.User.PublicMetadata = new(`{"limits":{"seats":3,"share":0.5},"plan":null}`)
	sinktest.MustApply(t, open(t, cfg), r)
	got := s.all(t, "clerk_users", bson.D{})[0]
	addresses, _ := at(got, "addresses").(bson.A)
	for path, want := range map[string]any{
		"plan": "free", "limits.seats": int64(3), "limits.share": 0.5, "n": int64(3), "name": "Ada last_name-1", "email": nil,
		"since": bson.DateTime(*r.Change.User.CreatedAt), "clerkId": "user_1",
	} {
		if at(got, path) != want {
			t.Errorf("%s: got %#v, want %#v", path, at(got, path), want)
		}
	}
	if len(addresses) != 2 || at(addresses[0], "emailAddress") == nil {
		t.Errorf("addresses: got %v, want a list with names in camel case", at(got, "addresses"))
	}
}

func TestConfig_Paths(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*mongodb.Config)
		want   string
	}{
		"no expression":          {func(c *mongodb.Config) { c.Fields = "email" }, "FIELDS cannot be read"},
		"one path in another":    {func(c *mongodb.Config) { c.Fields = "a = email, a.b = username" }, `which meets "a"`},
		"the key":                {func(c *mongodb.Config) { c.Fields = "clerkId = email" }, "KEY_FIELD"},
		"twice":                  {func(c *mongodb.Config) { c.Fields, c.InsertFields = "a = email", "a = email" }, "INSERT_FIELDS has the path"},
		"a dollar":               {func(c *mongodb.Config) { c.Fields = "a.$b = email" }, "dollar"},
		"the time of deletion":   {func(c *mongodb.Config) { c.Fields, c.Deletion = "deletedAt = email", "soft" }, "DELETED_AT_FIELD"},
		"an _id that changes":    {func(c *mongodb.Config) { c.Fields = "_id = uuid" }, "put it into INSERT_FIELDS"},
		"a policy":               {func(c *mongodb.Config) { c.Deletion = "tidy" }, "DELETION is"},
		"a reference":            {func(c *mongodb.Config) { c.References = []string{"orders"} }, "REFERENCES has"},
		"one placeholder of all": {func(c *mongodb.Config) { c.PlaceholderEmail = "x@y.z" }, "PLACEHOLDER_EMAIL is"},
	} {
		cfg := mongodb.Config{URI: "mongodb://h/", Database: "app"}
		test.change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want a word about %q", name, err, test.want)
		}
	}
	if err := (mongodb.Config{URI: "mongodb://h/", Database: "app", InsertFields: "_id = uuid", References: []string{"orders.user=_id", "posts.by"}}).Validate(); err != nil {
		t.Errorf("Validate of what is right: got %v", err)
	}
}

// TestInit shows that Init may run twice, does what the script says, and makes
// a view that counts.
func TestInit(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.config(true)
	cfg.CreateIndexes, cfg.UniqueEmail, cfg.Deletion = false, true, usertable.DeletionSoft
	sink := newSink(t, cfg)
	for range 2 {
		if err := sink.Init(t.Context()); err != nil {
			t.Fatalf("Init: %v", err)
		}
	}
	sink = open(t, cfg) // finds the index on clerkId
	names, err := s.db.ListCollectionNames(t.Context(), bson.D{})
	if err != nil || len(names) != 3 {
		t.Errorf("collections: got %v, %v, want users, versions and the view", names, err)
	}
	week := func(id, email string, created int64) sinks.Record {
		r := usertabletest.Person(id, 1, email)
		r.Change.User.CreatedAt = &created
		return r
	}
	const sunday, monday = 1700434800000, 1700438400000 // 2023-11-19 23:00 and 2023-11-20 00:00 UTC
	sinktest.MustApply(t, sink, week("user_1", "a@example.com", sunday), week("user_2", "b@example.com", monday), week("user_3", "c@example.com", monday+1))
	var got []string
	for _, row := range s.all(t, "clerk_users_signups_per_week", bson.D{}) {
		at, _ := at(row, "week").(bson.DateTime)
		got = append(got, at.Time().UTC().Format("2006-01-02 Mon"))
	}
	if strings.Join(got, ", ") != "2023-11-13 Mon, 2023-11-20 Mon" {
		t.Errorf("weeks: got %v", got)
	}
	script := sink.InitScript()
	for _, command := range commands(t, script) {
		if err := s.db.RunCommand(t.Context(), command).Err(); err != nil && !strings.Contains(err.Error(), "Exists") {
			t.Errorf("%v: %v", command, err)
		}
	}
	for _, want := range []string{"deletedAt", "clerkId", `there.includes("clerk_connect_versions")`, "$dateTrunc"} {
		if !strings.Contains(script, want) {
			t.Errorf("the script says nothing of %s:\n%s", want, script)
		}
	}
}

// commands returns the commands in a script.
func commands(t *testing.T, script string) (list []bson.D) {
	t.Helper()
	for _, line := range strings.Split(script, "\n") {
		_, text, ok := strings.Cut(line, "app.runCommand(")
		if !ok {
			continue
		}
		var command bson.D
		if err := bson.UnmarshalExtJSON([]byte(strings.TrimSuffix(text, ");")), false, &command); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		list = append(list, command)
	}
	if len(list) == 0 {
		t.Fatal("the script has no command")
	}
	return list
}

// TestInitScript runs the commands of the script alone.
func TestInitScript(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cfg := s.config(true)
	cfg.CreateIndexes = false
	sink := newSink(t, cfg)
	for _, command := range commands(t, sink.InitScript()) {
		if err := s.db.RunCommand(t.Context(), command).Err(); err != nil {
			t.Errorf("%v: %v", command, err)
		}
	}
	if err := sink.Open(t.Context()); err != nil {
		t.Errorf("Open after the script: %v", err)
	}
	sink.Close() //nolint:errcheck // the test is over
	if err := sink.Init(context.Background()); err != nil {
		t.Errorf("Init after the script: %v", err)
	}
	if found, err := s.db.ListCollections(t.Context(), bson.D{}, options.ListCollections().SetNameOnly(true)); err != nil || found.RemainingBatchLength() != 3 {
		t.Errorf("collections: got %v, %v", found, err)
	}
}
