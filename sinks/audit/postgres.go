package audit

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"clerkconnect/sinks"
)

// idle is how long a connection may rest before it is closed.
const idle = time.Minute

// connections are one that appends and one for what is asked meanwhile.
const connections = 2

func newPostgres(cfg Config) *sqlStore {
	return newSQLStore(cfg, dialect{
		open: openPostgres,
		// The offset is committed after the batch, so the batch must be durable
		// before.
		begin: fmt.Sprintf("SELECT set_config('statement_timeout', '%d', true), ", cfg.Timeout.Milliseconds()) +
			"CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END",
		placeholder: func(i int) string { return "$" + strconv.Itoa(i) },
		quote:       quotePostgres,
		time:        func(millis int64) driver.Value { return time.UnixMilli(millis).UTC() },
		steps:       postgresSteps,
		protected:   postgresProtected,
		lock:        "SELECT pg_advisory_xact_lock(hashtext($1))",
		classify:    classifyPostgres,
	})
}

func openPostgres(cfg Config) (*sql.DB, error) {
	settings, err := pgx.ParseConfig(cfg.URL)
	if err != nil {
		return nil, sinks.Fatal(sinks.ReasonMisconfigured, errors.New("URL is no address of PostgreSQL"))
	}
	if settings.RuntimeParams["application_name"] == "" {
		settings.RuntimeParams["application_name"] = "clerk-connect"
	}
	db := stdlib.OpenDB(*settings)
	db.SetMaxOpenConns(connections)
	db.SetConnMaxIdleTime(idle)
	return db, nil
}

var postgresTypes = map[kind]string{
	number: "bigint", moment: "timestamptz(3)", text: "text", name: `text COLLATE "C"`, label: `text COLLATE "C"`, digest: `text COLLATE "C"`,
}

func postgresSteps(n names) []string {
	refuse := strings.TrimSuffix(n.log, `"`) + `_refuse"`
	trigger := func(table, name, events string) string {
		return fmt.Sprintf(`DO $do$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = '%s'::regclass AND tgname = '%s') THEN
    CREATE TRIGGER %s BEFORE %s ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s();
    ALTER TABLE %s ENABLE ALWAYS TRIGGER %s;
  END IF;
END $do$`, table, name, name, events, table, refuse, table, name)
	}
	steps := []string{
		"CREATE TABLE IF NOT EXISTS " + n.log + " (\n" + definitions(postgresTypes) + ",\n  PRIMARY KEY (chain, seq),\n  UNIQUE (entry)\n)",
		"CREATE INDEX IF NOT EXISTS " + quotePostgres(n.cfg.Table+"_user") + " ON " + n.log + " (clerk_id, action, epoch, version)",
		"CREATE TABLE IF NOT EXISTS " + n.client + ` (
  client_hash text COLLATE "C" NOT NULL PRIMARY KEY,
  entry text COLLATE "C" NOT NULL UNIQUE REFERENCES ` + n.log + ` (entry),
  clerk_id text COLLATE "C" NOT NULL,
  epoch bigint NOT NULL,
  version bigint NOT NULL,
  salt text NOT NULL,
  client_ip text,
  user_agent text
)`,
		"CREATE INDEX IF NOT EXISTS " + quotePostgres(n.cfg.Table+clientSuffix+"_user") + " ON " + n.client + " (clerk_id)",
		"CREATE OR REPLACE FUNCTION " + refuse + `() RETURNS trigger LANGUAGE plpgsql AS $refuse$
BEGIN
  RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege';
END $refuse$`,
		trigger(n.log, "clerk_audit_append_only", "UPDATE OR DELETE OR TRUNCATE"),
		trigger(n.client, "clerk_audit_no_update", "UPDATE"),
	}
	if n.cfg.Writer == "" {
		return steps
	}
	writer := quotePostgres(n.cfg.Writer)
	return append(steps,
		"GRANT USAGE ON SCHEMA "+quotePostgres(n.cfg.Schema)+" TO "+writer,
		"GRANT SELECT, INSERT ON "+n.log+" TO "+writer,
		"GRANT SELECT, INSERT, DELETE ON "+n.client+" TO "+writer,
	)
}

func quotePostgres(name string) string { return pgx.Identifier{name}.Sanitize() }

// definitions are those of the log's columns, in the types of a database.
func definitions(types map[kind]string) string {
	lines := make([]string, len(columns))
	for i, c := range columns {
		lines[i] = "  " + c.name + " " + types[c.kind]
		if c.required {
			lines[i] += " NOT NULL"
		}
	}
	return strings.Join(lines, ",\n")
}

// postgresProtected asks for triggers that fire, or for a user who may change
// nothing.
func postgresProtected(ctx context.Context, db *sql.DB, n names) (open string, err error) {
	err = each(ctx, db, `SELECT concat_ws(' and ', CASE WHEN has_table_privilege(l.oid, 'UPDATE, DELETE, TRUNCATE')
    AND (SELECT coalesce(bit_or(tgtype), 0) & 56 FROM pg_trigger WHERE tgrelid = l.oid AND tgenabled IN ('O', 'A') AND tgname = 'clerk_audit_append_only') <> 56
    THEN 'the user may update, delete or truncate the log' END,
  CASE WHEN has_table_privilege(c.oid, 'UPDATE')
    AND (SELECT coalesce(bit_or(tgtype), 0) & 16 FROM pg_trigger WHERE tgrelid = c.oid AND tgenabled IN ('O', 'A') AND tgname = 'clerk_audit_no_update') <> 16
    THEN 'the user may update client data' END)
FROM pg_class AS l, pg_class AS c WHERE l.oid = $1::regclass AND c.oid = $2::regclass`, []any{n.log, n.client}, func(rows *sql.Rows) error {
		return rows.Scan(&open)
	})
	return open, err
}

// classifyPostgres knows the codes of
// https://www.postgresql.org/docs/current/errcodes-appendix.html.
func classifyPostgres(operation string, err error) error {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return nil
	}
	cause := fmt.Errorf("%s: SQLSTATE %s", operation, refused.Code)
	switch refused.Code {
	case "42501":
		return sinks.Fatal(sinks.ReasonUnauthorized, cause)
	case "55P03": // lock timeout
		return sinks.RetryAfter(sinks.ReasonConflict, 0, cause)
	case "57014": // statement_timeout, or a person
		return sinks.RetryAfter(sinks.ReasonTimeout, 0, cause)
	case "54000": // an entry too long for its index
		return sinks.Permanent(sinks.ReasonTooLarge, cause)
	}
	if marked := bySQLState(refused.Code, cause); marked != nil {
		return marked
	}
	return sinks.RetryAfter(sinks.ReasonUnknown, 0, cause)
}
