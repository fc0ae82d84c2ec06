package postgres_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/postgres"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// article is the users table of the article that many handlers were copied
// from, with columns of its own.
const article = `
	CREATE TABLE %.users (
		id SERIAL PRIMARY KEY,
		clerk_id VARCHAR(255) NOT NULL UNIQUE,
		email VARCHAR(255) {null} UNIQUE,
		first_name VARCHAR(255), last_name VARCHAR(255), image_url TEXT, profile JSON,
		bio TEXT, role TEXT NOT NULL DEFAULT 'member', deleted_at TIMESTAMP);
	CREATE TABLE %.orders (id SERIAL PRIMARY KEY, user_id INT NOT NULL REFERENCES %.users (id));
	CREATE TABLE %.posts (id SERIAL PRIMARY KEY, author TEXT)`

func TestApplication(t *testing.T) {
	t.Parallel()
	usertabletest.Run(t, usertabletest.Bed{New: func(t testing.TB, emailRequired bool) usertabletest.Application {
		s := newServer(t)
		s.createArticle(t, emailRequired)
		return s.application()
	}})
}

func (s server) createArticle(t testing.TB, emailRequired bool) {
	t.Helper()
	null := ""
	if emailRequired {
		null = "NOT NULL"
	}
	s.exec(t, strings.ReplaceAll(article, "{null}", null))
}

func (s server) application() usertabletest.Application {
	return usertabletest.Application{
		Open: func(t testing.TB, settings usertable.Config) sinks.Sink {
			cfg := s.config()
			cfg.Config = settings
			return open(t, cfg)
		},
		Exec:  func(t testing.TB, statement string) { t.Helper(); s.exec(t, strings.ReplaceAll(statement, "%", "%.")) },
		Users: func(t testing.TB) map[string]usertabletest.Row { t.Helper(); return s.rows(t, "users", "clerk_id") },
		Dump:  s.dump,
	}
}

// rows returns a table's rows by a column, as text, times in Unix milliseconds.
func (s server) rows(t testing.TB, table, key string) map[string]usertabletest.Row {
	t.Helper()
	found, err := s.pool.Query(context.Background(), s.in("SELECT * FROM %."+table))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]usertabletest.Row{}
	for found.Next() {
		values, err := found.Values()
		if err != nil {
			t.Fatal(err)
		}
		row := usertabletest.Row{}
		for i, field := range found.FieldDescriptions() {
			switch v := values[i].(type) {
			case nil:
			case time.Time:
				row[field.Name] = fmt.Sprint(v.UnixMilli())
			default:
				row[field.Name] = fmt.Sprint(v)
			}
		}
		all[row[key]] = row
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// prisma is what Prisma Migrate makes of
//
//	enum Role { USER ADMIN }
//	model User {
//	  id        String   @id @default(cuid())
//	  clerkId   String   @unique
//	  email     String   @unique
//	  name      String?
//	  role      Role     @default(USER)
//	  plan      Plan
//	  tags      String[]
//	  settings  Json?
//	  createdAt DateTime @default(now())
//	  updatedAt DateTime @updatedAt
//	  posts     Post[]
//	}
const prisma = `
	CREATE TYPE %."Role" AS ENUM ('USER', 'ADMIN');
	CREATE TYPE %."Plan" AS ENUM ('FREE', 'PRO');
	CREATE TABLE %."User" (
		"id" TEXT NOT NULL, "clerkId" TEXT NOT NULL, "email" TEXT NOT NULL, "name" TEXT,
		"role" %."Role" NOT NULL DEFAULT 'USER', "plan" %."Plan" NOT NULL, "tags" TEXT[], "settings" JSONB, "tier" JSONB,
		"createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, "updatedAt" TIMESTAMP(3) NOT NULL,
		CONSTRAINT "User_pkey" PRIMARY KEY ("id"));
	CREATE TABLE %."Post" ("id" TEXT NOT NULL, "authorId" TEXT NOT NULL, CONSTRAINT "Post_pkey" PRIMARY KEY ("id"));
	CREATE UNIQUE INDEX "User_clerkId_key" ON %."User"("clerkId");
	CREATE UNIQUE INDEX "User_email_key" ON %."User"("email");
	ALTER TABLE %."Post" ADD CONSTRAINT "Post_authorId_fkey" FOREIGN KEY ("authorId") REFERENCES %."User"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
	ALTER TABLE %."User" ADD COLUMN "deletedAt" TIMESTAMP(3)`

func (s server) prisma() postgres.Config {
	cfg := s.config()
	cfg.Config = usertable.Config{
		Table: "User", KeyColumn: "clerkId", DeletedAtColumn: "deletedAt", CreateTable: true, Deletion: usertable.DeletionAuto,
		Columns: `email = email, name = full_name, plan = public_metadata.plan ?? 'FREE', tags = public_metadata.tags, settings = public_metadata,
			tier = public_metadata.tier, "createdAt" = created_at, "updatedAt" = updated_at`,
		InsertColumns: "id = uuid",
	}
	return cfg
}

func TestPrisma(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, prisma)
	s.exec(t, `INSERT INTO %."User" (id, "clerkId", email, role, plan, "updatedAt") VALUES ('cm1x', 'user_1', 'old@example.com', 'ADMIN', 'FREE', now())`)
	sink := open(t, s.prisma())
	change := func(id string, version int64, metadata string) sinks.Record {
		r := usertabletest.Person(id, version, id+"@example.com")
		r.Change.User.PublicMetadata = &metadata
		return r
	}
	sinktest.MustApply(t, sink, change("user_1", 1, `{"plan":"PRO","tags":["a","b\"c"],"tier":2}`), change("user_2", 1, `{"tier":{"x":[1]}}`))
	users := s.rows(t, `"User"`, "clerkId")
	first, second := users["user_1"], users["user_2"]
	created := fmt.Sprint(*change("user_1", 1, "").Change.User.CreatedAt)
	if first["id"] != "cm1x" || first["role"] != "ADMIN" || first["plan"] != "PRO" || first["tags"] != `[a b"c]` || first["tier"] != "2" || first["createdAt"] != created {
		t.Errorf("taken over: got %v", first)
	}
	if second["role"] != "USER" || second["plan"] != "FREE" || second["tags"] != "" || second["tier"] != "map[x:[1]]" || len(second["id"]) != 36 {
		t.Errorf("inserted: got %v", second)
	}
	err := sink.Apply(t.Context(), []sinks.Record{change("user_3", 1, `{"plan":"GOLD"}`)})
	sinktest.ExpectClass(t, "a plan that the enum does not have", err, sinks.ClassPermanent, sinks.ReasonInvalidRecord)
	s.exec(t, `INSERT INTO %."Post" VALUES ('p1', 'cm1x')`)
	kept, gone := usertabletest.Erasure("user_1", 2, 5, false), usertabletest.Erasure("user_2", 2, 5, false)
	sinktest.MustApply(t, sink, kept, gone)
	if kept.Result().Outcome != schemas.OutcomeAnonymized || kept.Result().Reason != "rows of Post refer to it" || gone.Result().Outcome != schemas.OutcomeDeleted {
		t.Errorf("erasures: got %+v, %+v", kept.Result(), gone.Result())
	}
	got := s.rows(t, `"User"`, "clerkId")
	want := usertabletest.Row{
		"id": "cm1x", "clerkId": "user_1", "email": "deleted-user_1@anonymized.local", "name": "Deleted User", "role": "ADMIN", "plan": "FREE",
		"createdAt": "5", "updatedAt": "5", "deletedAt": "5",
	}
	if len(got) != 1 || !maps.Equal(got["user_1"], want) {
		t.Errorf("anonymous: got %v, want %v", got, want)
	}
	for _, id := range []string{"user_1", "user_2"} {
		if gone, err := sink.Confirm(t.Context(), id, nil); err != nil || !gone {
			t.Errorf("Confirm of %s: got %v, %v", id, gone, err)
		}
	}
}

// TestPrisma_TimesAreUTC shows that a time goes into a column without a zone as
// UTC, whatever the session's zone.
func TestPrisma_TimesAreUTC(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, prisma)
	cfg := s.prisma()
	cfg.DSN = s.through(s.address, "timezone=Asia%2FTokyo")
	sinktest.MustApply(t, open(t, cfg), usertabletest.Person("user_1", 1, "a@example.com"))
	want := fmt.Sprint(*usertabletest.Person("user_1", 1, "").Change.User.CreatedAt)
	if got := s.rows(t, `"User"`, "clerkId")["user_1"]["createdAt"]; got != want {
		t.Errorf("createdAt: got %s, want %s", got, want)
	}
}

// rails is what schema.rb of a Rails application with Devise's e-mail column
// makes, created_at and updated_at required, of which clerk_id is unique where
// it is there, for users from before.
const rails = `
	CREATE TABLE %.users (
		id bigserial PRIMARY KEY, clerk_id character varying, email character varying DEFAULT ''::character varying NOT NULL,
		name character varying, admin boolean DEFAULT false NOT NULL, banned boolean DEFAULT false NOT NULL, sign_in_count integer DEFAULT 0 NOT NULL,
		created_at timestamp(6) without time zone NOT NULL, updated_at timestamp(6) without time zone NOT NULL, discarded_at timestamp(6) without time zone);
	CREATE UNIQUE INDEX index_users_on_clerk_id ON %.users USING btree (clerk_id) WHERE (clerk_id IS NOT NULL);
	CREATE UNIQUE INDEX index_users_on_lower_email ON %.users USING btree (lower((email)::text)) WHERE (discarded_at IS NULL);
	CREATE TABLE %.orders (id bigserial PRIMARY KEY, user_id bigint);
	ALTER TABLE ONLY %.orders ADD CONSTRAINT fk_rails_f868b47f6a FOREIGN KEY (user_id) REFERENCES %.users(id)`

func (s server) rails(policy usertable.Deletion) postgres.Config {
	cfg := s.config()
	cfg.Config = usertable.Config{
		Table: "users", KeyColumn: "clerk_id", DeletedAtColumn: "discarded_at", CreateTable: true, Deletion: policy,
		Columns:          "email = email, name = full_name, banned = banned, created_at = created_at, updated_at = updated_at",
		PlaceholderEmail: "{id}@no-email.invalid",
	}
	return cfg
}

func TestRails(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, rails)
	s.exec(t, "INSERT INTO %.users (email, created_at, updated_at) VALUES ('old@example.com', now(), now()), ('older@example.com', now(), now())")
	sink := open(t, s.rails(usertable.DeletionSoft))
	plain := usertabletest.Person("user_1", 1, "")
	plain.Change.User.Banned = nil // as a policy leaves it out
	sinktest.MustApply(t, sink, plain, usertabletest.Person("user_2", 1, "Ada@Example.com"))
	s.exec(t, "UPDATE %.users SET admin = true, sign_in_count = 3 WHERE clerk_id IS NOT NULL")
	sinktest.MustApply(t, sink, usertabletest.Person("user_2", 2, "ada@example.org"))
	users := s.rows(t, "users", "clerk_id")
	if got := users["user_1"]; got["email"] != "user_1@no-email.invalid" || got["banned"] != "false" || got["admin"] != "true" {
		t.Errorf("user_1: got %v", got)
	}
	if got := users["user_2"]; got["email"] != "ada@example.org" || got["sign_in_count"] != "3" {
		t.Errorf("user_2: got %v", got)
	}
	// The index holds addresses for equal that differ by case, of users who
	// are not discarded.
	usertabletest.Deliver(t, sink, []sinks.Record{usertabletest.Person("user_3", 3, "ADA@example.org"), usertabletest.Person("user_2", 4, "b@example.com")}, false)
	sinktest.MustApply(t, sink, sinktest.Erase("user_3", 5))
	sinktest.MustApply(t, sink, usertabletest.Person("user_4", 6, "Ada@example.org"))
	emails := s.emails(t)
	if want := []string{"ADA@example.org", "Ada@example.org", "b@example.com"}; !slices.Equal(emails[:3], want) {
		t.Errorf("addresses: got %v, want first %v", emails, want)
	}
}

func (s server) emails(t testing.TB) []string {
	t.Helper()
	return strings.Split(s.text(t, `SELECT string_agg(email, ',' ORDER BY email COLLATE "C") FROM %.users`), ",")
}

// TestApplication_Contract runs the whole suite on an application's table. The
// suite gives users without e-mail addresses and with shared ones, hence no
// rules on them.
func TestApplication_Contract(t *testing.T) {
	fields := []string{"primary_email_address", "first_name", "last_name", "public_metadata", "banned", "created_at", "updated_at"}
	sinktest.Run(t, sinktest.Harness{Fields: fields, New: func(t testing.TB) sinktest.Destination {
		s := newServer(t)
		s.exec(t, `CREATE TABLE %.people (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "clerk id" varchar(64) NOT NULL UNIQUE,
			mail text, first text CHECK (first <> 'poison'), last text, meta json, banned boolean, made timestamptz(3), changed timestamp(3), bio text DEFAULT 'x')`)
		proxy := sinktest.NewProxy(t, s.address)
		cfg := s.config()
		cfg.DSN = s.through(proxy.Address, "")
		cfg.Config = usertable.Config{
			Table: "people", KeyColumn: "clerk id", CreateTable: true,
			Columns: "mail = email, first = first_name, last = last_name, meta = public_metadata, banned = banned, made = created_at, changed = updated_at",
		}
		read := map[string]string{"primary_email_address": "mail", "first_name": "first", "last_name": "last", "public_metadata": "meta", "banned": "banned", "created_at": "made", "updated_at": "changed"}
		return sinktest.Destination{
			Sink: func(t testing.TB) sinks.Sink { return newSink(t, cfg) }, Dump: s.dump,
			Read:   func(t testing.TB, ids ...string) map[string]sinktest.Row { return s.readAs(t, read, ids) },
			Break:  func(testing.TB) func() { return proxy.Cut() },
			Poison: func(u *schemas.User) { u.FirstName = new("poison") },
		}
	}})
}

// readAs reads rows of the table people as the suite wants them.
func (s server) readAs(t testing.TB, columns map[string]string, ids []string) map[string]sinktest.Row {
	t.Helper()
	names := slices.Sorted(maps.Keys(columns))
	query := `SELECT "clerk id"`
	for _, name := range names {
		query += ", " + columns[name]
		if name == "public_metadata" {
			query += "::text"
		}
	}
	found, err := s.pool.Query(context.Background(), s.in(query+` FROM %.people WHERE "clerk id" = ANY($1)`), ids)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]sinktest.Row{}
	for found.Next() {
		values, err := found.Values()
		if err != nil {
			t.Fatal(err)
		}
		row := sinktest.Row{}
		for i, name := range names {
			switch v := values[1+i].(type) {
			case nil:
			case time.Time:
				row[name] = v.UnixMilli()
			default:
				row[name] = v
			}
		}
		rows[values[0].(string)] = row
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return rows
}
