package postgres

import (
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"clerkconnect/sinks/usertable"
)

// Config is the configuration of the sink.
type Config struct {
	usertable.Config
	DSN              string        `env:"DSN" secret:"true" doc:"Connection string, as postgres://user:password@host:5432/database?sslmode=verify-full. PgBouncer may stand between, pooling sessions or transactions."`
	Schema           string        `env:"SCHEMA" envDefault:"public" doc:"Schema of both tables, whatever the search_path is. It must exist."`
	MaxConnections   int           `env:"MAX_CONNECTIONS" envDefault:"4" doc:"Most connections, which is also how many batches are written at the same time, 1 to 100. A server does most with cores x 2 + spindles (disks that turn) of its own, for all of its clients together: the default leaves the application its share."`
	StatementTimeout time.Duration `env:"STATEMENT_TIMEOUT" envDefault:"30s" doc:"How long the server may work on one statement of a batch, waiting for locks included, 1ms or more. A batch that takes longer is tried again."`
}

// Defaults of settings that are zero, for programs that do not fill Config from
// its tags.
const (
	defaultSchema           = "public"
	defaultMaxConnections   = 4
	defaultStatementTimeout = 30 * time.Second
)

func (c Config) withDefaults() Config {
	if c.Schema == "" {
		c.Schema = defaultSchema
	}
	c.Config = c.Config.WithDefaults()
	if c.MaxConnections == 0 {
		c.MaxConnections = defaultMaxConnections
	}
	if c.StatementTimeout == 0 {
		c.StatementTimeout = defaultStatementTimeout
	}
	return c
}

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix. It never quotes the connection string.
func (c Config) Validate() error {
	c = c.withDefaults()
	var problems []error
	if c.DSN == "" {
		problems = append(problems, errors.New("DSN is empty: use a connection string, as postgres://user:password@host:5432/database"))
	} else if _, err := pgxpool.ParseConfig(c.DSN); err != nil {
		problems = append(problems, errors.New("DSN is no connection string: use one as postgres://user:password@host:5432/database, special characters percent-encoded"))
	}
	if err := usertable.CheckName(c.Schema); err != nil {
		problems = append(problems, fmt.Errorf("SCHEMA is %q: %w; name a schema that is there, as %s", c.Schema, err, defaultSchema))
	}
	if c.MaxConnections < 1 || c.MaxConnections > 100 {
		problems = append(problems, fmt.Errorf("MAX_CONNECTIONS is %d: use 1 to 100", c.MaxConnections))
	}
	if c.StatementTimeout < time.Millisecond {
		problems = append(problems, fmt.Errorf("STATEMENT_TIMEOUT is %s: use 1ms or more", c.StatementTimeout))
	}
	return errors.Join(append(problems, c.Config.Validate())...)
}
