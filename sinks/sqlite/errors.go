package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"clerkconnect/sinks"
)

var errNotOpen = sinks.RetryAfter(sinks.ReasonUnavailable, 0, errors.New("the sink is not open"))

// classify marks err by SQLite's result code. The error that it returns quotes
// the code and never SQLite's message, which a trigger of the application may
// have put data into.
// Codes: https://www.sqlite.org/rescode.html.
func classify(operation string, err error) error { return classifyBatch(operation, 0, err) }

// classifyBatch is classify for an error of a batch of that many records.
func classifyBatch(operation string, records int, err error) error {
	var marked *sinks.Error
	switch {
	case errors.As(err, &marked):
		return marked
	case errors.Is(err, context.DeadlineExceeded):
		return sinks.RetryAfter(sinks.ReasonTimeout, 0, fmt.Errorf("%s: %w", operation, err))
	case errors.Is(err, context.Canceled), errors.Is(err, sql.ErrTxDone): // the latter when the context ends within a batch
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: %w", operation, err))
	}
	var failure *sqlite.Error
	if !errors.As(err, &failure) {
		return fmt.Errorf("%s: %T", operation, err)
	}
	cause := fmt.Errorf("%s: SQLite result code %d%s", operation, failure.Code(), broken(failure))
	switch failure.Code() {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
		// A key of the application's that another user holds, perhaps for a
		// moment only, or rows of the application that refer to this one: worth
		// another try, once the runner has found out which record it is.
		if records > 1 {
			return sinks.Permanent(sinks.ReasonConflict, cause)
		}
		return sinks.RetryAfter(sinks.ReasonConflict, 0, cause)
	}
	switch failure.Code() & 0xff { // the primary code
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return sinks.RetryAfter(sinks.ReasonConflict, 0, cause)
	case sqlite3.SQLITE_INTERRUPT:
		return sinks.RetryAfter(sinks.ReasonTimeout, 0, cause)
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_SCHEMA:
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, cause)
	case sqlite3.SQLITE_TOOBIG:
		return sinks.Permanent(sinks.ReasonTooLarge, cause)
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH:
		return sinks.Permanent(sinks.ReasonInvalidRecord, cause)
	case sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH:
		return sinks.Fatal(sinks.ReasonUnauthorized, cause)
	case sqlite3.SQLITE_ERROR, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return sinks.Fatal(sinks.ReasonMisconfigured, cause)
	}
	return cause
}

// broken quotes SQLite where its message names columns and constraints alone.
func broken(failure *sqlite.Error) string {
	switch failure.Code() {
	case sqlite3.SQLITE_CONSTRAINT_CHECK, sqlite3.SQLITE_CONSTRAINT_NOTNULL, sqlite3.SQLITE_CONSTRAINT_DATATYPE:
		return ", " + failure.Error()
	}
	return ""
}

// ofRecord reports whether err says something of a record and nothing of the
// database.
func ofRecord(err error) bool {
	var marked *sinks.Error
	if errors.As(err, &marked) {
		return marked.Class == sinks.ClassPermanent || marked.Reason == sinks.ReasonConflict
	}
	var failure *sqlite.Error
	if !errors.As(err, &failure) {
		return errors.As(err, new(waiting))
	}
	switch failure.Code() & 0xff {
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH:
		return true
	}
	return false
}
