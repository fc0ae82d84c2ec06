package sqlite

import (
	"errors"
	"fmt"
	"time"

	"clerkconnect/sinks/usertable"
)

// Config is the configuration of the sink.
type Config struct {
	Path        string        `env:"PATH" doc:"The database file. It is created, readable by its owner alone, if it is not there; its folder must be."`
	Table       string        `env:"TABLE" envDefault:"clerk_users" doc:"Name of the users table."`
	CreateTable bool          `env:"CREATE_TABLE" envDefault:"true" doc:"Create the users table and its side table if they are not there."`
	BusyTimeout time.Duration `env:"BUSY_TIMEOUT" envDefault:"5s" doc:"How long to wait for another process that is writing to the file."`
}

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix.
func (c Config) Validate() error {
	var problems []error
	if c.Path == "" {
		problems = append(problems, errors.New("PATH is empty: name the database file, as /var/lib/clerk-connect/users.db"))
	}
	if err := usertable.CheckTable(c.Table); err != nil {
		problems = append(problems, fmt.Errorf("TABLE is %q: %w; name a table, as %s", c.Table, err, usertable.DefaultTable))
	}
	if c.BusyTimeout < 0 {
		problems = append(problems, fmt.Errorf("BUSY_TIMEOUT is %s: use 0s or more", c.BusyTimeout))
	}
	return errors.Join(problems...)
}
