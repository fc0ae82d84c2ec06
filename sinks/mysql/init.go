package mysql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-sql-driver/mysql"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/usertable"
)

// keyType holds any Clerk ID and compares bytes: to most collations user_a and
// user_A are the same.
const keyType = "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

const createView = "CREATE VIEW"

// dialect is how both servers say what init makes.
var dialect = usertable.Dialect{
	Quote: quote, Qualify: quote, Key: keyType,
	Types: map[mapping.Kind]string{
		mapping.Text: "LONGTEXT", mapping.JSON: "LONGTEXT COLLATE utf8mb4_bin", mapping.Part: "LONGTEXT", mapping.Bool: "BOOLEAN",
		mapping.Integer: "BIGINT", mapping.Time: "DATETIME(3)",
	},
	Epoch: "INT", Version: "BIGINT", Deleted: "BOOLEAN",
	Users: tableOptions, Side: tableOptions, View: createView, Index: "INDEX",
	Week:       "DATE($) - INTERVAL WEEKDAY($) DAY",
	EmailIndex: emailIndex,
}

const tableOptions = " ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4"

// emailIndex is an index on what most addresses differ in, or one on a computed
// column, because there are no partial ones: an address while the user is not
// deleted. It compares bytes, for Clerk writes addresses in lower case, and to
// most collations é and e are the same.
func emailIndex(p usertable.Plan, email string) []usertable.Step {
	table, column := quote(p.Table), quote(email)
	if !p.UniqueEmail {
		name := p.Table + "_" + email + "_idx"
		return []usertable.Step{{
			Comment: "To find users by their e-mail address, which two may share for a while.", Name: name,
			Statement: "CREATE INDEX " + quote(name) + " ON " + table + " (" + column + "(191))",
		}}
	}
	active, name := quote(email+"_active"), p.Table+"_"+email+"_active_key"
	live := column
	if p.DeletedAt != "" {
		live = "CASE WHEN " + quote(p.DeletedAt) + " IS NULL THEN " + column + " END"
	}
	return []usertable.Step{{
		Comment: "No two users with one e-mail address, deleted ones apart.", Name: name,
		Statement: "ALTER TABLE " + table + "\n  ADD COLUMN " + active + " VARCHAR(320) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin GENERATED ALWAYS AS (" + live + ") STORED," +
			"\n  ADD UNIQUE INDEX " + quote(name) + " (" + active + ")",
	}}
}

// InitScript implements [sinks.Initializer]: a script for the mysql or mariadb
// command.
func (s *Sink) InitScript() string {
	return usertable.Script("For the mysql or mariadb command, once, on the database of DSN.", s.plan.Steps(dialect))
}

// Init implements [sinks.Initializer].
func (s *Sink) Init(ctx context.Context) error {
	db, err := s.connect()
	if err != nil {
		return err
	}
	err = db.create(ctx, true)
	if closed := db.pool.Close(); err == nil && closed != nil {
		err = classify("close", 0, closed)
	}
	return err
}

// create makes what is not there. Only Init makes all of it: Open leaves a table
// that is there as it is, and the view, for which it may have no right. It looks
// first, because CREATE TABLE IF NOT EXISTS needs the right to create even where
// there is nothing to do.
func (d *database) create(ctx context.Context, all bool) error {
	there := map[string]bool{}
	note := func(row map[string]string) { there[row["name"]] = true }
	err := each(ctx, d.pool, "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = database()", note)
	found := there[d.plan.Table]
	if err == nil {
		err = each(ctx, d.pool, "SELECT index_name AS name FROM information_schema.statistics WHERE table_schema = database() AND table_name = ?", note, d.plan.Table)
	}
	if err != nil {
		return classify("read the catalogue", 0, err)
	}
	if !found && strings.Contains(d.plan.Table, ".") { // made, it would hardly be what was meant
		return sinks.Fatal(sinks.ReasonMisconfigured, errors.New(strings.Join(d.checkUsers(), "; ")))
	}
	for _, step := range d.plan.Steps(dialect) {
		left := found && step.Name != d.plan.Versions || strings.HasPrefix(step.Statement, createView)
		if step.Advice || there[step.Name] || left && !all {
			continue
		}
		_, err := d.pool.ExecContext(ctx, step.Statement)
		var refused *mysql.MySQLError
		switch {
		case errors.As(err, &refused) && slices.Contains([]uint16{1050, 1060, 1061}, refused.Number):
			// Another process has just made the table, the column or the index.
		case duplicate(err):
			return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("table %s holds users who share what %s wants unique: set UNIQUE_EMAIL=false", d.plan.Table, step.Name))
		case err != nil:
			return classify("create "+step.Name, 0, err)
		}
	}
	return nil
}
