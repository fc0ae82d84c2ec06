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

	"github.com/go-sql-driver/mysql"

	"clerkconnect/sinks"
)

func newMySQL(cfg Config) *sqlStore {
	return newSQLStore(cfg, dialect{
		open:        openMySQL,
		placeholder: func(int) string { return "?" },
		quote:       quoteMySQL,
		time:        func(millis int64) driver.Value { return time.UnixMilli(millis).UTC() },
		steps:       mysqlSteps,
		protected:   mysqlProtected,
		classify:    classifyMySQL,
	})
}

// quoteMySQL returns name as an identifier, whatever the sql_mode.
func quoteMySQL(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

func openMySQL(cfg Config) (*sql.DB, error) {
	settings, err := cfg.mysql()
	if err == nil {
		err = settings.Apply(mysql.Charset("utf8mb4", "utf8mb4_bin"))
	}
	if err != nil {
		return nil, sinks.Fatal(sinks.ReasonMisconfigured, errors.New("URL is no address of MySQL"))
	}
	seconds := strconv.Itoa(int(cfg.Timeout.Seconds()))
	if settings.Params == nil {
		settings.Params = map[string]string{}
	}
	for name, value := range map[string]string{
		"sql_mode":                 "'TRADITIONAL'", // strict: what does not fit is refused, not cut
		"time_zone":                "'+00:00'",
		"autocommit":               "1", // or a read would keep its snapshot
		"innodb_lock_wait_timeout": seconds,
		"lock_wait_timeout":        seconds,
		"wait_timeout":             seconds, // of a process that was paused within a transaction
	} {
		settings.Params[name] = value
	}
	settings.InterpolateParams = true // a round trip for each statement instead of three
	settings.ParseTime, settings.Loc = true, time.UTC
	settings.MultiStatements = false
	settings.RejectReadOnly = true // after a failover, a connection to what is now a replica is given up
	settings.Logger = &mysql.NopLogger{}
	const dial, answer = 10 * time.Second, 30 * time.Second // the latter beyond what a statement may wait for locks
	if settings.Timeout == 0 {
		settings.Timeout = dial
	}
	if settings.ReadTimeout == 0 {
		settings.ReadTimeout = cfg.Timeout + answer
	}
	if settings.WriteTimeout == 0 {
		settings.WriteTimeout = cfg.Timeout + answer
	}
	connector, err := mysql.NewConnector(settings)
	if err != nil {
		return nil, sinks.Fatal(sinks.ReasonMisconfigured, errors.New("URL is no address of MySQL"))
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(connections)
	db.SetConnMaxIdleTime(cfg.Timeout / 2) // before the server hangs up
	return db, nil
}

var mysqlTypes = map[kind]string{
	number: "BIGINT", moment: "DATETIME(3)", text: "TEXT", name: "VARCHAR(500)", label: "VARCHAR(64)", digest: "CHAR(64)",
}

// mysqlSteps creates triggers as MySQL 8.0.29 and MariaDB 10.1 or later know
// them. The foreign key is what keeps the log from being truncated, which fires
// no trigger.
func mysqlSteps(n names) []string {
	const table = " ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
	refuse := func(table, event string) string {
		name := quoteMySQL(strings.Trim(table, "`") + "_no_" + strings.ToLower(event))
		return "CREATE TRIGGER IF NOT EXISTS " + name + " BEFORE " + event + " ON " + table +
			" FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the audit log is append-only'"
	}
	steps := []string{
		"CREATE TABLE IF NOT EXISTS " + n.log + " (\n" + definitions(mysqlTypes) +
			",\n  PRIMARY KEY (chain, seq),\n  UNIQUE KEY entry (entry),\n  KEY user (clerk_id, action, epoch, version)\n)" + table,
		"CREATE TABLE IF NOT EXISTS " + n.client + ` (
  client_hash CHAR(64) NOT NULL PRIMARY KEY,
  entry VARCHAR(500) NOT NULL UNIQUE,
  clerk_id VARCHAR(500) NOT NULL,
  epoch BIGINT NOT NULL,
  version BIGINT NOT NULL,
  salt CHAR(32) NOT NULL,
  client_ip TEXT,
  user_agent TEXT,
  KEY user (clerk_id),
  FOREIGN KEY (entry) REFERENCES ` + n.log + ` (entry)
)` + table,
		refuse(n.log, "UPDATE"), refuse(n.log, "DELETE"), refuse(n.client, "UPDATE"),
	}
	if n.cfg.Writer == "" {
		return steps
	}
	user, host, given := strings.Cut(n.cfg.Writer, "@")
	if !given {
		host = "%"
	}
	literal := func(s string) string {
		return "'" + strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), "'", "''") + "'"
	}
	writer := literal(user) + "@" + literal(host)
	return append(steps,
		"GRANT SELECT, INSERT ON "+n.log+" TO "+writer,
		"GRANT SELECT, INSERT, DELETE ON "+n.client+" TO "+writer,
	)
}

// mysqlProtected asks for the triggers. Who may not see triggers is asked what
// else he may: changing no row at all is refused to whom it is refused.
func mysqlProtected(ctx context.Context, db *sql.DB, n names) (string, error) {
	var found, updates int
	err := db.QueryRowContext(ctx, "SELECT coalesce(sum(event_object_table = ?), 0), coalesce(sum(event_object_table = ?), 0) FROM information_schema.triggers"+
		" WHERE trigger_schema = database() AND event_object_table IN (?, ?) AND action_timing = 'BEFORE' AND action_statement LIKE '%SIGNAL%'",
		n.cfg.Table, n.cfg.Table+clientSuffix, n.cfg.Table, n.cfg.Table+clientSuffix).Scan(&found, &updates)
	if err != nil {
		return "", err
	}
	for _, attempt := range []struct {
		needed          bool
		statement, what string
	}{
		{found < 2, "UPDATE " + n.log + " SET seq = seq WHERE FALSE", "the user may update the log"},
		{found < 2, "DELETE FROM " + n.log + " WHERE FALSE", "the user may delete from the log"},
		{updates < 1, "UPDATE " + n.client + " SET salt = salt WHERE FALSE", "the user may update client data"},
	} {
		if !attempt.needed {
			continue
		}
		_, err := db.ExecContext(ctx, attempt.statement)
		var refused *mysql.MySQLError
		switch {
		case err == nil:
			return attempt.what + ", and no trigger can be seen that forbids it", nil
		case !errors.As(err, &refused) || refused.Number != 1142 && refused.Number != 1143:
			return "", err
		}
	}
	return "", nil
}

// classifyMySQL knows the numbers of both servers:
// https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html,
// https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference.
func classifyMySQL(operation string, err error) error {
	if errors.Is(err, mysql.ErrPktTooLarge) {
		return sinks.Permanent(sinks.ReasonTooLarge, fmt.Errorf("%s: %w", operation, mysql.ErrPktTooLarge))
	}
	for _, setting := range []error{mysql.ErrNoTLS, mysql.ErrUnknownPlugin, mysql.ErrCleartextPassword, mysql.ErrNativePassword, mysql.ErrOldPassword, mysql.ErrOldProtocol} {
		if errors.Is(err, setting) {
			return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("%s: %w", operation, setting))
		}
	}
	var refused *mysql.MySQLError
	if !errors.As(err, &refused) {
		return nil
	}
	cause := fmt.Errorf("%s: error %d, SQLSTATE %s", operation, refused.Number, refused.SQLState)
	switch refused.Number {
	case 1205, 1213, 1020: // lock wait, deadlock, changed since it was read
		return sinks.RetryAfter(sinks.ReasonConflict, 0, cause)
	case 1317, 1969, 3024: // interrupted, or too long
		return sinks.RetryAfter(sinks.ReasonTimeout, 0, cause)
	case 1044, 1045, 1130, 1142, 1143, 1227, 1370, 1419, 1698, 1820, 1862, 3118, 4151: // no right, locked or expired account
		return sinks.Fatal(sinks.ReasonUnauthorized, cause)
	case 1226, 1203, 1040: // quotas
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, cause)
	case 1153, 1406: // too long for the packet, for the column
		return sinks.Permanent(sinks.ReasonTooLarge, cause)
	}
	if marked := bySQLState(string(refused.SQLState[:]), cause); marked != nil {
		return marked
	}
	return sinks.RetryAfter(sinks.ReasonUnavailable, 0, cause) // most are of the server's own state
}
