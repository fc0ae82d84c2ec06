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
	DSN              string        `env:"DSN" secret:"true" doc:"Connection string, as postgres://user:password@host:5432/database?sslmode=verify-full."`
	Schema           string        `env:"SCHEMA" envDefault:"public" doc:"Schema of both tables. It must exist."`
	Table            string        `env:"TABLE" envDefault:"clerk_users" doc:"Name of the users table."`
	CreateTable      bool          `env:"CREATE_TABLE" envDefault:"true" doc:"Create the users table and its side table if they are not there."`
	MaxConnections   int           `env:"MAX_CONNECTIONS" envDefault:"4" doc:"Most connections, which is also how many batches are written at the same time, 1 to 100."`
	StatementTimeout time.Duration `env:"STATEMENT_TIMEOUT" envDefault:"30s" doc:"How long the server may work on one statement of a batch, waiting for locks included, 1ms or more."`
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
	if c.Table == "" {
		c.Table = usertable.DefaultTable
	}
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
	if err := usertable.CheckTable(c.Table); err != nil {
		problems = append(problems, fmt.Errorf("TABLE is %q: %w; name a table, as %s", c.Table, err, usertable.DefaultTable))
	}
	if c.MaxConnections < 1 || c.MaxConnections > 100 {
		problems = append(problems, fmt.Errorf("MAX_CONNECTIONS is %d: use 1 to 100", c.MaxConnections))
	}
	if c.StatementTimeout < time.Millisecond {
		problems = append(problems, fmt.Errorf("STATEMENT_TIMEOUT is %s: use 1ms or more", c.StatementTimeout))
	}
	return errors.Join(problems...)
}
