package audit

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
)

// Config is the configuration of the sink, and of what reads the log.
type Config struct {
	URL          string        `env:"URL" secret:"true" doc:"The database of the log, by how its address begins: postgres://user:password@host:5432/database?sslmode=verify-full, mysql://user:password@host:3306/database?tls=true, sqlite:/var/lib/clerk-connect/audit.db, mongodb:// or mongodb+srv://user:password@host/database. Special characters are percent-encoded."`
	Table        string        `env:"TABLE" envDefault:"clerk_audit_log" doc:"Table or collection of the log. Personal data of clients stand in another one, with _client behind the name. One log, one deployment."`
	Schema       string        `env:"SCHEMA" doc:"Schema of both tables, public unless named; it must exist. PostgreSQL only."`
	CreateTables bool          `env:"CREATE_TABLES" envDefault:"true" doc:"Whether the tables and the triggers that protect them are created at the start if they are not there. Better: false, and clerk-connect sink init by a user who owns them, with WRITER set."`
	Writer       string        `env:"WRITER" doc:"Who is granted what appending takes, and no more, when the tables are created by somebody else: a role of PostgreSQL, a user of MySQL as name or name@host. It must exist."`
	Timeout      time.Duration `env:"TIMEOUT" envDefault:"20s" doc:"How long the database may take for one statement, waiting for locks included, 1s to 1h, in whole seconds. Below APPLY_TIMEOUT."`
}

// Defaults of settings that are zero, for programs that do not fill Config from
// its tags.
const (
	defaultTable   = "clerk_audit_log"
	defaultSchema  = "public"
	defaultTimeout = 20 * time.Second
)

// clientSuffix stands behind the name of the log in that of the client table.
const clientSuffix = "_client"

func (c Config) withDefaults() Config {
	c.Table = cmp.Or(c.Table, defaultTable)
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	if c.Schema == "" && c.scheme() == "postgres" {
		c.Schema = defaultSchema
	}
	return c
}

// The forms of URL.
var forms = []string{
	"postgres://user:password@host:5432/database", "mysql://user:password@host:3306/database",
	"sqlite:/var/lib/clerk-connect/audit.db", "mongodb://user:password@host/database",
}

// scheme returns which database URL names: postgres, mysql, sqlite or mongodb,
// else what stands there.
func (c Config) scheme() string {
	scheme, _, _ := strings.Cut(c.URL, ":")
	switch scheme {
	case "postgresql":
		return "postgres"
	case "mongodb+srv":
		return "mongodb"
	}
	return scheme
}

// identifier is a name that every database takes in quotes and that leaves room
// for what is put behind it.
var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]{0,39}$`)

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix. It never quotes the address.
func (c Config) Validate() error {
	c = c.withDefaults()
	problems := []error{c.checkURL()}
	problem := func(bad bool, format string, args ...any) {
		if bad {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	problem(!identifier.MatchString(c.Table), "TABLE is %q: give 1 to 40 letters, digits and underscores, as %s", c.Table, defaultTable)
	if slices.Contains([]string{"mysql", "sqlite", "mongodb"}, c.scheme()) {
		problem(c.Schema != "", "SCHEMA is %q: only PostgreSQL has one; leave it out", c.Schema)
	} else {
		problem(c.Schema != "" && !identifier.MatchString(c.Schema), "SCHEMA is %q: give 1 to 40 letters, digits and underscores, as %s", c.Schema, defaultSchema)
	}
	if c.Writer != "" {
		switch c.scheme() {
		case "sqlite", "mongodb":
			problem(true, "WRITER is %q: only PostgreSQL and MySQL take it; for MongoDB the README has a role", c.Writer)
		default:
			problem(len(c.Writer) > 200 || strings.ContainsFunc(c.Writer, func(r rune) bool { return r < ' ' }), "WRITER is no name of a user: give one, as clerk_connect")
		}
	}
	problem(c.Timeout < time.Second || c.Timeout > time.Hour || c.Timeout%time.Second != 0, "TIMEOUT is %s: use 1s to 1h, in whole seconds", c.Timeout)
	return errors.Join(problems...)
}

func (c Config) checkURL() error {
	if c.URL == "" {
		return fmt.Errorf("URL is empty: name the database of the log, as one of %s", strings.Join(forms, ", "))
	}
	var err error
	form := 0
	switch c.scheme() {
	case "postgres":
		_, err = pgx.ParseConfig(c.URL)
	case "mysql":
		form = 1
		_, err = c.mysql()
	case "sqlite":
		form = 2
		if c.path() == "" {
			err = errors.New("no path")
		}
	case "mongodb":
		form = 3
		_, err = c.mongoDatabase()
	default:
		return fmt.Errorf("URL does not say which database: begin it as one of %s", strings.Join(forms, ", "))
	}
	if err != nil { // its text may quote the password
		return fmt.Errorf("URL is no address of %s: use one as %s, special characters percent-encoded", c.scheme(), forms[form])
	}
	return nil
}

// path is that of SQLite's file: what follows sqlite:, with or without the two
// slashes of an address.
func (c Config) path() string {
	_, path, _ := strings.Cut(c.URL, ":")
	return strings.TrimPrefix(path, "//")
}

// mysql returns the driver's settings, without what the sink adds.
func (c Config) mysql() (*mysql.Config, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, err
	}
	if u.Hostname() == "" || strings.Trim(u.Path, "/") == "" {
		return nil, errors.New("no host, or no database")
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

// mongoDatabase returns the database that the address names.
func (c Config) mongoDatabase() (string, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return "", err
	}
	database := strings.TrimPrefix(u.Path, "/")
	if u.Host == "" || database == "" {
		return "", errors.New("no host, or no database")
	}
	return database, nil
}

// newStore returns the database that cfg names.
func newStore(cfg Config) (store, error) {
	switch cfg.scheme() {
	case "postgres":
		return newPostgres(cfg), nil
	case "mysql":
		return newMySQL(cfg), nil
	case "sqlite":
		return newSQLite(cfg), nil
	}
	database, err := cfg.mongoDatabase()
	if err != nil {
		return nil, err
	}
	return newMongoDB(cfg, database), nil
}
