package mysql

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"clerkconnect/sinks/usertable"
)

// Config is the configuration of the sink.
type Config struct {
	usertable.Config
	DSN            string        `env:"DSN" secret:"true" doc:"Connection string, as mysql://user:password@host:3306/database?tls=true, or in the form of Go's driver, user:password@tcp(host:3306)/database."`
	MaxConnections int           `env:"MAX_CONNECTIONS" envDefault:"4" doc:"Most connections, which is also how many batches are written at the same time, 1 to 100."`
	LockTimeout    time.Duration `env:"LOCK_TIMEOUT" envDefault:"20s" doc:"How long a statement waits for a lock, and how long the server waits for the next statement of a transaction before it takes the locks away, 1s to 1h, in whole seconds. Below APPLY_TIMEOUT, or the connection is lost each time."`
}

// Defaults of settings that are zero, for programs that do not fill Config from
// its tags.
const (
	defaultMaxConnections = 4
	defaultLockTimeout    = 20 * time.Second
)

func (c Config) withDefaults() Config {
	c.Config = c.Config.WithDefaults()
	if c.MaxConnections == 0 {
		c.MaxConnections = defaultMaxConnections
	}
	if c.LockTimeout == 0 {
		c.LockTimeout = defaultLockTimeout
	}
	return c
}

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix. It never quotes the connection string.
func (c Config) Validate() error {
	c = c.withDefaults()
	var problems []error
	const form = "mysql://user:password@host:3306/database"
	if c.DSN == "" {
		problems = append(problems, errors.New("DSN is empty: use a connection string, as "+form))
	} else if connection, err := parseDSN(c.DSN); err != nil {
		problems = append(problems, errors.New("DSN is no connection string: use one as "+form+", special characters percent-encoded"))
	} else if connection.DBName == "" {
		problems = append(problems, errors.New("DSN names no database: put it behind the host, as "+form))
	}
	if c.MaxConnections < 1 || c.MaxConnections > 100 {
		problems = append(problems, fmt.Errorf("MAX_CONNECTIONS is %d: use 1 to 100", c.MaxConnections))
	}
	if c.LockTimeout < time.Second || c.LockTimeout > time.Hour || c.LockTimeout%time.Second != 0 {
		problems = append(problems, fmt.Errorf("LOCK_TIMEOUT is %s: use 1s to 1h, in whole seconds", c.LockTimeout))
	}
	return errors.Join(append(problems, c.Config.Validate())...)
}

// parseDSN reads a connection string: a URL, which is what other tools are
// given, or the driver's own form. Its errors may quote the password.
func parseDSN(dsn string) (*mysql.Config, error) {
	if !strings.HasPrefix(dsn, "mysql://") {
		return mysql.ParseDSN(dsn)
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return nil, err
	}
	// Only the driver's own parser knows its options, and takes the name that a
	// certificate must have from the address.
	address := net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "3306"))
	cfg, err := mysql.ParseDSN("tcp(" + address + ")/" + strings.TrimPrefix(u.EscapedPath(), "/") + "?" + u.Query().Encode())
	if err != nil {
		return nil, err
	}
	cfg.User = u.User.Username()
	cfg.Passwd, _ = u.User.Password()
	return cfg, nil
}

// connection returns what the driver is told. What the sink relies upon goes
// before what the connection string says.
func (c Config) connection() (*mysql.Config, error) {
	cfg, err := parseDSN(c.DSN)
	if err != nil {
		return nil, err
	}
	if err := cfg.Apply(mysql.Charset("utf8mb4", "utf8mb4_bin")); err != nil {
		return nil, err
	}
	seconds := strconv.Itoa(int(c.LockTimeout.Seconds()))
	if cfg.Params == nil {
		cfg.Params = map[string]string{}
	}
	for name, value := range map[string]string{
		"sql_mode":                 "'TRADITIONAL'", // strict: what does not fit is refused, not cut
		"time_zone":                "'+00:00'",      // for TIMESTAMP columns of an application's
		"autocommit":               "1",             // or a read would keep its snapshot
		"innodb_lock_wait_timeout": seconds,         // rows
		"lock_wait_timeout":        seconds,         // tables
		"wait_timeout":             seconds,         // of a process that was paused within a transaction
	} {
		cfg.Params[name] = value
	}
	cfg.InterpolateParams = true // a round trip for each statement instead of three
	cfg.MultiStatements = false
	cfg.ParseTime = false     // times are read as the server writes them
	cfg.RejectReadOnly = true // after a failover, a connection to what is now a replica is given up
	cfg.Logger = &mysql.NopLogger{}
	if cfg.Timeout == 0 {
		cfg.Timeout = dialTimeout
	}
	if cfg.ReadTimeout == 0 {
		cfg.ReadTimeout = c.LockTimeout + answerTimeout
	}
	if cfg.WriteTimeout == 0 {
		cfg.WriteTimeout = c.LockTimeout + answerTimeout
	}
	return cfg, nil
}
