package mongodb

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"clerkconnect/sinks/usertable"
)

// Config is the configuration of the sink.
type Config struct {
	URI            string        `env:"URI" secret:"true" doc:"Connection string, as mongodb+srv://user:password@host/?appName=clerk-connect."`
	Database       string        `env:"DATABASE" doc:"Name of the database of both collections."`
	Collection     string        `env:"COLLECTION" envDefault:"clerk_users" doc:"Name of the users collection."`
	CreateIndexes  bool          `env:"CREATE_INDEXES" envDefault:"true" doc:"Create the unique index on clerkId if it is not there."`
	Transactions   bool          `env:"TRANSACTIONS" envDefault:"true" doc:"Write in transactions where the deployment says that it has them; false: write, check, undo, for those that say so wrongly."`
	MaxConnections int           `env:"MAX_CONNECTIONS" envDefault:"4" doc:"How many batches are written at the same time, 1 to 100."`
	Timeout        time.Duration `env:"TIMEOUT" envDefault:"30s" doc:"How long one operation of a batch may take, choosing a server included, 1ms or more."`
}

// Defaults of settings that are zero, for programs that do not fill Config from
// its tags.
const (
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
	if c.Collection == "" {
		c.Collection = usertable.DefaultTable
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
	var problems []error
	if c.URI == "" {
		problems = append(problems, errors.New("URI is empty: use a connection string, as mongodb://user:password@host:27017/"))
	} else if options.Client().ApplyURI(c.URI).Validate() != nil {
		problems = append(problems, errors.New("URI is no connection string: use one as mongodb://user:password@host:27017/, special characters percent-encoded"))
	}
	if c.Database == "" || len(c.Database) > maxDatabaseBytes || strings.ContainsAny(c.Database, "/\\. \"$*<>:|?\x00") {
		problems = append(problems, fmt.Errorf("DATABASE is %q: name a database, as app, in 1 to 63 bytes without dots, spaces or any of /\\\"$*<>:|?", c.Database))
	}
	if strings.ContainsAny(c.Collection, "$\x00") || strings.HasPrefix(c.Collection, "system.") || strings.HasPrefix(c.Collection, ".") ||
		len(c.Database)+1+len(usertable.VersionsTable(c.Collection)) > maxNamespaceBytes {
		problems = append(problems, fmt.Errorf("COLLECTION is %q: name a collection, as %s, without $, not below system., in at most 160 bytes", c.Collection, usertable.DefaultTable))
	}
	if c.MaxConnections < 1 || c.MaxConnections > 100 {
		problems = append(problems, fmt.Errorf("MAX_CONNECTIONS is %d: use 1 to 100", c.MaxConnections))
	}
	if c.Timeout < time.Millisecond {
		problems = append(problems, fmt.Errorf("TIMEOUT is %s: use 1ms or more", c.Timeout))
	}
	return errors.Join(problems...)
}
