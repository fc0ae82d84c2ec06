package mongodb

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"clerkconnect/sinks/usertable"
)

// Config is the configuration of the sink.
type Config struct {
	URI              string             `env:"URI" secret:"true" doc:"Connection string, as mongodb+srv://user:password@host/?appName=clerk-connect."`
	Database         string             `env:"DATABASE" doc:"Name of the database of both collections."`
	Collection       string             `env:"COLLECTION" envDefault:"clerk_users" doc:"Name of the users collection: one of clerk-connect's making, or one that is there."`
	KeyField         string             `env:"KEY_FIELD" envDefault:"clerkId" doc:"Path of the users document that holds the Clerk ID; it must have a unique index. _id is one."`
	Fields           string             `env:"FIELDS" doc:"What to write where, for a collection that is there: path = expression, by comma, as email = email, profile.firstName = first_name, metadata = public_metadata. Without it the whole user goes to the paths that the README shows. Only these paths are ever written."`
	InsertFields     string             `env:"INSERT_FIELDS" doc:"Like FIELDS, for what is written only when a document is inserted and belongs to the application from then on, as __v = 0, role = 'member'."`
	PlaceholderEmail string             `env:"PLACEHOLDER_EMAIL" doc:"E-mail address for users who have none, where every document must have one, as {id}@no-email.invalid; {id} becomes the Clerk ID. Without it such a user is a dead letter if the index or the schema takes no missing address."`
	Deletion         usertable.Deletion `env:"DELETION" envDefault:"hard" doc:"What an erasure does to the document: hard deletes it; soft sets DELETED_AT_FIELD and keeps the data; anonymize overwrites every path of ours and sets DELETED_AT_FIELD; auto anonymises where documents of REFERENCES refer to it, else deletes."`
	DeletedAtField   string             `env:"DELETED_AT_FIELD" envDefault:"deletedAt" doc:"Path that soft, anonymize and auto set to the time of the deletion."`
	References       []string           `env:"REFERENCES" doc:"Collections that auto looks into, as orders.userId (which holds the Clerk ID) or orders.user=_id (which holds the path _id of the users document); by comma."`
	UniqueEmail      bool               `env:"UNIQUE_EMAIL" doc:"Whether sink init makes an index that refuses the same e-mail address for two users that are not deleted. Two users hold one for a while when it moves from one to the other, which the sink settles."`
	CreateIndexes    bool               `env:"CREATE_INDEXES" envDefault:"true" doc:"Create the unique index on KEY_FIELD if it is not there."`
	Transactions     bool               `env:"TRANSACTIONS" envDefault:"true" doc:"Write in transactions where the deployment says that it has them; false: write, check, undo, for those that say so wrongly."`
	MaxConnections   int                `env:"MAX_CONNECTIONS" envDefault:"4" doc:"How many batches are written at the same time, 1 to 100."`
	Timeout          time.Duration      `env:"TIMEOUT" envDefault:"30s" doc:"How long one operation of a batch may take, choosing a server included, 1ms or more."`
}

// Defaults of settings that are zero, for programs that do not fill Config from
// its tags.
const (
	defaultKey            = "clerkId"
	defaultDeletedAt      = "deletedAt"
	defaultMaxConnections = 4
	defaultTimeout        = 30 * time.Second
)

// Limits of names in MongoDB, in bytes
// (https://www.mongodb.com/docs/manual/reference/limits/): of a database, and
// of database and collection together.
const (
	maxDatabaseBytes  = 63
	maxNamespaceBytes = 255
)

func (c Config) withDefaults() Config {
	for setting, preset := range map[*string]string{&c.Collection: usertable.DefaultTable, &c.KeyField: defaultKey, &c.DeletedAtField: defaultDeletedAt} {
		if *setting == "" {
			*setting = preset
		}
	}
	if c.Deletion == "" {
		c.Deletion = usertable.DeletionHard
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = defaultMaxConnections
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	return c
}

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix. It never quotes the connection string.
func (c Config) Validate() error {
	c = c.withDefaults()
	problems := []error{c.checkNames()}
	if c.URI == "" {
		problems = append(problems, errors.New("URI is empty: use a connection string, as mongodb://user:password@host:27017/"))
	} else if options.Client().ApplyURI(c.URI).Validate() != nil {
		problems = append(problems, errors.New("URI is no connection string: use one as mongodb://user:password@host:27017/, special characters percent-encoded"))
	}
	if !slices.Contains(usertable.Deletions(), c.Deletion) {
		problems = append(problems, fmt.Errorf("DELETION is %q: use hard, soft, anonymize or auto", c.Deletion))
	}
	if c.PlaceholderEmail != "" && !strings.Contains(c.PlaceholderEmail, "{id}") {
		problems = append(problems, fmt.Errorf("PLACEHOLDER_EMAIL is %q: two users would share it; put {id} into it, as {id}@no-email.invalid", c.PlaceholderEmail))
	}
	if c.MaxConnections < 1 || c.MaxConnections > 100 {
		problems = append(problems, fmt.Errorf("MAX_CONNECTIONS is %d: use 1 to 100", c.MaxConnections))
	}
	if c.Timeout < time.Millisecond {
		problems = append(problems, fmt.Errorf("TIMEOUT is %s: use 1ms or more", c.Timeout))
	}
	_, err := newPlan(c)
	return errors.Join(append(problems, err)...)
}

func (c Config) checkNames() error {
	var problems []error
	if c.Database == "" || len(c.Database) > maxDatabaseBytes || strings.ContainsAny(c.Database, "/\\. \"$*<>:|?\x00") {
		problems = append(problems, fmt.Errorf("DATABASE is %q: name a database, as app, in 1 to 63 bytes without dots, spaces or any of /\\\"$*<>:|?", c.Database))
	}
	if strings.ContainsAny(c.Collection, "$\x00") || strings.HasPrefix(c.Collection, "system.") || strings.HasPrefix(c.Collection, ".") ||
		len(c.Database)+1+len(usertable.VersionsTable(c.Collection)) > maxNamespaceBytes {
		problems = append(problems, fmt.Errorf("COLLECTION is %q: name a collection, as %s, without $, not below system., in at most 160 bytes", c.Collection, usertable.DefaultTable))
	}
	return errors.Join(problems...)
}
