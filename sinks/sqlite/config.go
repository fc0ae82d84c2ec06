package sqlite

import (
	"errors"
	"fmt"
	"time"

	"clerkconnect/sinks/usertable"
)

// Config is the configuration of the sink.
type Config struct {
	usertable.Config
	Path        string        `env:"PATH" doc:"The database file. It is created, readable by its owner alone, if it is not there; its folder must be."`
	BusyTimeout time.Duration `env:"BUSY_TIMEOUT" envDefault:"5s" doc:"How long to wait for another process that is writing to the file."`
	TimeFormat  TimeFormat    `env:"TIME_FORMAT" envDefault:"iso8601" doc:"How times are written, as the application writes its own, for SQLite has no type for them: iso8601 (2026-01-31T09:30:00.125Z), sql (2026-01-31 09:30:00.125, as Rails), unix (seconds) or unix_milli (milliseconds, as Prisma)."`
}

// TimeFormat is how times are written, always in UTC.
type TimeFormat string

// The formats of times.
const (
	TimeISO8601   TimeFormat = "iso8601"    // text: 2026-01-31T09:30:00.125Z
	TimeSQL       TimeFormat = "sql"        // text: 2026-01-31 09:30:00.125
	TimeUnix      TimeFormat = "unix"       // integer: seconds since 1970
	TimeUnixMilli TimeFormat = "unix_milli" // integer: milliseconds since 1970
)

// withDefaults returns c with the defaults of settings that are empty.
func (c Config) withDefaults() Config {
	c.Config = c.Config.WithDefaults()
	if c.TimeFormat == "" {
		c.TimeFormat = TimeISO8601
	}
	return c
}

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix.
func (c Config) Validate() error {
	c = c.withDefaults()
	var problems []error
	if c.Path == "" {
		problems = append(problems, errors.New("PATH is empty: name the database file, as /var/lib/clerk-connect/users.db"))
	}
	if c.BusyTimeout < 0 {
		problems = append(problems, fmt.Errorf("BUSY_TIMEOUT is %s: use 0s or more", c.BusyTimeout))
	}
	if c.TimeFormat.week() == "" {
		problems = append(problems, fmt.Errorf("TIME_FORMAT is %q: use iso8601, sql, unix or unix_milli", c.TimeFormat))
	}
	return errors.Join(append(problems, c.Config.Validate())...)
}

// value returns t as it is written.
func (f TimeFormat) value(t time.Time) any {
	switch f {
	case TimeSQL:
		return t.UTC().Format("2006-01-02 15:04:05.000")
	case TimeUnix:
		return t.Unix()
	case TimeUnixMilli:
		return t.UnixMilli()
	default:
		return t.UTC().Format("2006-01-02T15:04:05.000Z")
	}
}

// columnType is the type of a column of times.
func (f TimeFormat) columnType() string {
	if f.number() {
		return "INTEGER"
	}
	return "TEXT"
}

func (f TimeFormat) number() bool { return f == TimeUnix || f == TimeUnixMilli }

// week is the expression of the Monday of the week of the time in the column $,
// "" for a format that there is not: the Sunday that is not before it, less six
// days.
func (f TimeFormat) week() string {
	switch f {
	case TimeISO8601, TimeSQL:
		return "date($, 'weekday 0', '-6 days')"
	case TimeUnix:
		return "date($, 'unixepoch', 'weekday 0', '-6 days')"
	case TimeUnixMilli:
		return "date($ / 1000, 'unixepoch', 'weekday 0', '-6 days')"
	}
	return ""
}
