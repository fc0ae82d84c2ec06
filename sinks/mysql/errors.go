package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"

	"github.com/go-sql-driver/mysql"

	"clerkconnect/sinks"
)

var errNotOpen = sinks.RetryAfter(sinks.ReasonUnavailable, 0, errors.New("the sink is not open"))

// classify marks err by the server's error number; records is how many records
// were being written, 0 if none. The error that it returns quotes the number
// and the SQLSTATE and never the server's message, which holds values.
func classify(operation string, records int, err error) error {
	var marked *sinks.Error
	if errors.As(err, &marked) {
		return err
	}
	var refused *mysql.MySQLError
	if errors.As(err, &refused) {
		cause := fmt.Errorf("%s: error %d, SQLSTATE %s", operation, refused.Number, refused.SQLState)
		if word := words[refused.Number]; word != "" {
			cause = fmt.Errorf("%w: %s", cause, word)
		}
		return byNumber(refused, records, cause)
	}
	for _, setting := range []error{
		mysql.ErrNoTLS, mysql.ErrUnknownPlugin, mysql.ErrCleartextPassword, mysql.ErrNativePassword, mysql.ErrOldPassword, mysql.ErrOldProtocol,
	} {
		if errors.Is(err, setting) {
			return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("%s: %w", operation, setting))
		}
	}
	var network net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return sinks.RetryAfter(sinks.ReasonTimeout, 0, fmt.Errorf("%s: no answer in time", operation))
	case errors.Is(err, context.Canceled), errors.Is(err, sql.ErrTxDone): // the latter when the context ends within a batch
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: %w", operation, context.Canceled))
	case errors.Is(err, mysql.ErrPktTooLarge):
		return sinks.Permanent(sinks.ReasonTooLarge, fmt.Errorf("%s: %w", operation, mysql.ErrPktTooLarge))
	}
	var dial *net.OpError
	if errors.As(err, &dial) {
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: %w", operation, dial))
	}
	// The driver's own errors: a connection that broke.
	return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: %T", operation, err))
}

// What the server's message says of a value that it does not take: which column
// that is of, behind the value itself, and which check it breaks.
var (
	ofColumn = regexp.MustCompile("[Cc]olumn [`'](?:[^`']*`\\.`)*([^`']+)[`'] (?:at row \\d+|cannot be null)$")
	ofCheck  = regexp.MustCompile("^(?:CONSTRAINT|Check constraint) [`']([A-Za-z0-9_$.]+)[`']")
)

// operation says what was done when err came, and by name what of the table
// refused it.
func (d *database) operation(ctx context.Context, records int, err error) string {
	text := fmt.Sprintf("write %d records", records)
	var refused *mysql.MySQLError
	if !errors.As(err, &refused) {
		return text
	}
	switch refused.Number {
	case 1644: // SIGNAL
		if triggers, err := d.triggers(ctx); err == nil && len(triggers) > 0 {
			text += ": refused by a trigger of " + d.plan.Table + " (" + strings.Join(triggers, ", ") + ")"
		}
	case 3819, 4025:
		if found := ofCheck.FindStringSubmatch(refused.Message); found != nil {
			text += ": refused by the check " + found[1]
		}
	case 1048, 1264, 1265, 1292, 1366, 1406, 1411:
		found := ofColumn.FindStringSubmatch(refused.Message)
		if found == nil {
			break
		}
		if c, ok := d.users.column(found[1]); ok { // a trigger's message may hold anything
			text += ": column " + c.name + " does not take the value"
			if c.text() && refused.Number == 1366 {
				text += ", which has characters that its character set has not"
			}
		}
	}
	return text
}

// What words say more than once.
const (
	password = "the user or its password is not as the server has it: see DSN"
	referred = "a foreign key keeps a user to whom rows of another table refer: take these away, or set DELETION to auto, anonymize or soft"
)

// words say of some numbers what they come from, and what to do.
var words = map[uint16]string{
	1044: "the user has no right to this database: see DSN, and grant it",
	1045: password,
	1049: "there is no such database: see DSN",
	1217: referred,
	1451: referred,
	1698: password,
}

// byNumber knows the numbers of both servers:
// https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html,
// https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference.
// Up to 1799 they are the same, above each has its own.
func byNumber(refused *mysql.MySQLError, records int, cause error) error {
	switch refused.Number {
	case 1205, 1213, 1020: // lock wait, deadlock (in a Galera cluster also at the commit), changed since it was read
		return sinks.RetryAfter(sinks.ReasonConflict, 0, cause)
	case 1062, 1169, 1586, 1216, 1217, 1451, 1452, 1761, 1762: // a key held by another row, a foreign key
		// Perhaps for a moment only, or a row that the application has just
		// inserted: worth another try, once the runner has found out which
		// record it is.
		if records > 1 {
			return sinks.Permanent(sinks.ReasonConflict, cause)
		}
		return sinks.RetryAfter(sinks.ReasonConflict, 0, cause)
	case 1317, 1969, 3024: // interrupted; the longest that a statement may run, of MariaDB and of MySQL
		return sinks.RetryAfter(sinks.ReasonTimeout, 0, cause)
	case 1040, 1203, 1226, 1129, // too many connections, a quota, too many connection errors
		1053, 1077, 1078, 1079, 1927, 4031, // shutdown, killed, idle for too long
		1152, 1158, 1159, 1160, 1161, 1184, 2006, 2013, // connection
		1290, 1792, 1836, 1047, // read only, as a replica is; not ready, as a joining node of a cluster is
		1021, 1037, 1038, 1041, 1114, 1135, 1206: // disk full, memory, table full, threads, lock table
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, cause)
	case 1044, 1045, 1130, 1142, 1143, 1227, 1370, 1698, 1820, 1862, 3118, 4151: // no right, locked or expired account
		return sinks.Fatal(sinks.ReasonUnauthorized, cause)
	case 1046, 1049, 1054, 1064, 1136, 1146, 1149, 1193, 1231, 1286, 1347, 1364, 1471, 1665: // database, table, column, setting
		return sinks.Fatal(sinks.ReasonMisconfigured, cause)
	case 1406, 1153, 1301: // too long for the column, the packet, the result of a function
		return sinks.Permanent(sinks.ReasonTooLarge, cause)
	case 1118, 1074: // too long for a row, or a definition that can hold none
		if records > 0 {
			return sinks.Permanent(sinks.ReasonTooLarge, cause)
		}
		return sinks.Fatal(sinks.ReasonMisconfigured, cause)
	case 1048, 1263, 1264, 1265, 1292, 1300, 1366, 1411, 1525, 1526, 1644, 1690, // null, out of range, wrong value, a trigger's
		3140, 3141, 3143, 3144, 3156, 3819, 4025: // JSON of MySQL; a check, of MySQL and of MariaDB
		return sinks.Permanent(sinks.ReasonInvalidRecord, cause)
	}
	switch string(refused.SQLState[:2]) {
	case "08": // connection
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, cause)
	case "40": // rolled back
		return sinks.RetryAfter(sinks.ReasonConflict, 0, cause)
	case "28": // invalid authorization
		return sinks.Fatal(sinks.ReasonUnauthorized, cause)
	case "42": // syntax, names
		return sinks.Fatal(sinks.ReasonMisconfigured, cause)
	case "22", "23", "44", "45": // data, constraint, a view's check, a trigger's
		return sinks.Permanent(sinks.ReasonInvalidRecord, cause)
	}
	return cause
}
