package mongodb

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"clerkconnect/sinks/usertable"
)

// step is one thing that an initialised database has.
type step struct {
	comment string
	// collection is what command makes, "" if command makes an index on path.
	collection, path string
	unique           bool
	command          bson.D
}

// codeNamespaceExists is of a collection that another made meanwhile.
const codeNamespaceExists = 48

// steps returns what Init makes.
func (s *Sink) steps() []step {
	users, versions := s.cfg.Collection, usertable.VersionsTable(s.cfg.Collection)
	steps := []step{{
		comment: "What was heard of each user, for ever: no personal data.", collection: versions,
		command: bson.D{{Key: "create", Value: versions}},
	}}
	if s.plan.key != "_id" {
		steps = append(steps, s.index("One document for each user. Documents without a Clerk ID are the application's.", s.plan.key,
			bson.D{{Key: "unique", Value: true}, {Key: "sparse", Value: true}}))
	}
	if email := s.plan.email(); email != "" && s.cfg.UniqueEmail {
		steps = append(steps, s.index("No two users with one e-mail address, deleted ones apart.", email,
			bson.D{{Key: "unique", Value: true}, {Key: "partialFilterExpression", Value: s.live(email)}}))
	} else if email != "" && !s.plan.mapped {
		steps = append(steps, s.index("To find users by their e-mail address, which two may share for a while.", email, nil))
	}
	created := s.plan.created()
	if created != "" && !s.plan.mapped {
		steps = append(steps, s.index("To find users by when they signed up.", created, nil))
	}
	if created != "" {
		view := users + "_signups_per_week"
		steps = append(steps, step{
			comment: "A sample query: how many users signed up in each week, by its Monday (UTC).", collection: view,
			command: bson.D{{Key: "create", Value: view}, {Key: "viewOn", Value: users}, {Key: "pipeline", Value: signups(created)}},
		})
	}
	return steps
}

func (s *Sink) index(comment, path string, settings bson.D) step {
	index := append(bson.D{{Key: "key", Value: bson.D{{Key: path, Value: 1}}}, {Key: "name", Value: "clerk_connect_" + path}}, settings...)
	return step{
		comment: comment, path: path, unique: len(settings) > 0,
		command: bson.D{{Key: "createIndexes", Value: s.cfg.Collection}, {Key: "indexes", Value: bson.A{index}}},
	}
}

// live finds users who have an e-mail address and are not deleted. A partial
// index knows no "does not exist"; null means it.
func (s *Sink) live(email string) bson.D {
	filter := bson.D{{Key: email, Value: bson.D{{Key: "$type", Value: "string"}}}}
	if s.plan.deletedAt != "" {
		filter = append(filter, bson.E{Key: s.plan.deletedAt, Value: nil})
	}
	return filter
}

// signups counts users by the week in which they were created.
func signups(created string) bson.A {
	week := bson.D{{Key: "$dateTrunc", Value: bson.D{{Key: "date", Value: "$" + created}, {Key: "unit", Value: "week"}, {Key: "startOfWeek", Value: "monday"}}}}
	return bson.A{
		bson.D{{Key: "$match", Value: bson.D{{Key: created, Value: bson.D{{Key: "$type", Value: "date"}}}}}},
		bson.D{{Key: "$group", Value: bson.D{{Key: "_id", Value: week}, {Key: "signups", Value: bson.D{{Key: "$sum", Value: 1}}}}}},
		bson.D{{Key: "$sort", Value: bson.D{{Key: "_id", Value: 1}}}},
		bson.D{{Key: "$project", Value: bson.D{{Key: "_id", Value: 0}, {Key: "week", Value: "$_id"}, {Key: "signups", Value: 1}}}},
	}
}

// InitScript implements [sinks.Initializer]: a script for mongosh.
func (s *Sink) InitScript() string {
	var script strings.Builder
	fmt.Fprintf(&script, "// For mongosh. It may run twice; what is there stays as it is.\nconst app = db.getSiblingDB(%q);\nconst there = app.getCollectionNames();\n", s.cfg.Database)
	fmt.Fprintf(&script, "const indexes = there.includes(%q) ? app.getCollection(%q).getIndexes() : [];\n", s.cfg.Collection, s.cfg.Collection)
	script.WriteString("const indexed = (path, unique) => indexes.some((i) => Object.keys(i.key).join() === path && (i.unique || !unique));\n")
	for _, step := range s.steps() {
		have := fmt.Sprintf("there.includes(%q)", step.collection)
		if step.collection == "" {
			have = fmt.Sprintf("indexed(%q, %v)", step.path, step.unique)
		}
		// Strings, numbers, booleans, null: this is JavaScript, and cannot fail.
		command, _ := bson.MarshalExtJSON(step.command, false, false)
		fmt.Fprintf(&script, "\n// %s\nif (!%s) app.runCommand(%s);\n", step.comment, have, command)
	}
	return script.String()
}

// Init implements [sinks.Initializer].
func (s *Sink) Init(ctx context.Context) error {
	db, err := s.connect()
	if err != nil {
		return err
	}
	return errors.Join(db.create(ctx, s.steps()), db.close())
}

func (d *database) create(ctx context.Context, steps []step) error {
	in := d.users.Database()
	there, err := in.ListCollectionNames(ctx, bson.D{})
	if err != nil {
		return classify("list collections", 0, err)
	}
	indexes, err := d.indexes(ctx)
	if err != nil {
		return classify("list indexes", 0, err)
	}
	for _, step := range steps {
		if step.there(there, indexes) {
			continue
		}
		err := in.RunCommand(ctx, step.command).Err()
		var command mongo.CommandError
		if errors.As(err, &command) && command.Code == codeNamespaceExists {
			continue
		}
		if err != nil {
			return classify("create what is not there", 0, err)
		}
	}
	return nil
}

func (s step) there(collections []string, indexes []index) bool {
	for _, name := range collections {
		if s.collection != "" && name == s.collection {
			return true
		}
	}
	for _, i := range indexes {
		if s.collection == "" && i.on(s.path) && (i.Unique || !s.unique) {
			return true
		}
	}
	return false
}
