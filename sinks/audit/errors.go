package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"

	"clerkconnect/sinks"
)

// classify marks err. refused does so for the server's own errors and returns
// nil for all others. What is returned quotes codes and never the server's
// message or the driver's, which hold values and addresses.
//
// The log has no rule that a record could break but its size and its keys, so
// that what is not known here is an outage: it is tried again.
func classify(operation string, err error, refused func(operation string, err error) error) error {
	var marked *sinks.Error
	if errors.As(err, &marked) {
		return err
	}
	if known := refused(operation, err); known != nil {
		return known
	}
	var network net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return sinks.RetryAfter(sinks.ReasonTimeout, 0, fmt.Errorf("%s: no answer in time", operation))
	case errors.Is(err, context.Canceled), errors.Is(err, sql.ErrTxDone): // the latter when the context ends within a batch
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: %w", operation, context.Canceled))
	}
	var dial *net.OpError
	if errors.As(err, &dial) {
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: %w", operation, dial))
	}
	return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: %T", operation, err))
}

// bySQLState knows what PostgreSQL and MySQL have in common; nil if it does not
// know the code. A unique key is taken if another process has appended since
// the end of a chain was read: the batch is tried again behind that.
func bySQLState(state string, cause error) error {
	if len(state) < 2 {
		return nil
	}
	switch state[:2] {
	case "23", "40": // constraint; deadlock and its kin
		return sinks.RetryAfter(sinks.ReasonConflict, 0, cause)
	case "28": // invalid authorization
		return sinks.Fatal(sinks.ReasonUnauthorized, cause)
	case "22": // data: too long, above all
		return sinks.Permanent(sinks.ReasonTooLarge, cause)
	case "42", "3D", "3F": // table, column, database, schema
		return sinks.Fatal(sinks.ReasonMisconfigured, cause)
	case "08", "53", "57", "58", "25": // connection, resources, operator, system, read only
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, cause)
	}
	return nil
}

// errUnprotected says that the database would let rows be changed.
func errUnprotected(table, how string) error {
	return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("nothing keeps the rows of %s from being changed: %s; create the triggers (clerk-connect sink init), or take these rights away from the user", table, how))
}
