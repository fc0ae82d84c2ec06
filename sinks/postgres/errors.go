package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"clerkconnect/sinks"
)

// classify marks err by its SQLSTATE; records is how many records were being
// written, 0 if none. The error that it returns quotes the SQLSTATE and never
// the server's message or detail, which hold values.
func classify(operation string, records int, err error) error {
	var marked *sinks.Error
	if errors.As(err, &marked) {
		return err
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		cause := fmt.Errorf("%s: SQLSTATE %s%s", operation, refused.Code, broken(refused))
		if word := words[refused.Code]; word != "" {
			cause = fmt.Errorf("%w: %s", cause, word)
		}
		return byState(refused.Code, records, cause)
	}
	if err := byTLS(operation, err); err != nil {
		return err
	}
	var network net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return sinks.RetryAfter(sinks.ReasonTimeout, 0, fmt.Errorf("%s: no answer in time", operation))
	case errors.Is(err, context.Canceled):
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: %w", operation, context.Canceled))
	}
	var dial *net.OpError
	if errors.As(err, &dial) {
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: %w", operation, dial))
	}
	// The driver's own errors: most are a connection that broke. Their texts
	// may quote arguments or the connection string.
	return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: %T", operation, err))
}

// broken names the constraint that a value breaks, or the column that must not
// be null.
func broken(refused *pgconn.PgError) string {
	switch {
	case !strings.HasPrefix(refused.Code, "23") || refused.Code == codeForeign:
	case refused.ConstraintName != "":
		return ", constraint " + refused.ConstraintName
	case refused.ColumnName != "":
		return ", column " + refused.ColumnName
	}
	return ""
}

// byTLS marks what keeps a server from being trusted, nil if err is no such
// thing: a person has to see to it.
func byTLS(operation string, err error) error {
	var untrusted *tls.CertificateVerificationError
	var otherName x509.HostnameError
	switch {
	case errors.As(err, &otherName):
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("%s: the server's certificate is for another name: connect by the name that it has, or set sslmode=verify-ca in DSN", operation))
	case errors.As(err, &untrusted):
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("%s: the server's certificate is signed by nobody that is trusted, or is out of date: name the file of its authority in DSN, as sslrootcert=/path/ca.crt", operation))
	}
	return nil
}

// words say of some codes what they come from, and what to do.
var words = map[string]string{
	"0A000": "the server cannot do this with such a table: has it a rule, or columns that a migration has just changed?",
	"25006": "the server takes no writes, as a standby does not: name the primary in DSN, or several hosts with target_session_attrs=read-write",
	"28P01": "the role or its password is not as the server has it: see DSN",
	"28000": "the server does not let this role in from here: see DSN, and the server's pg_hba.conf",
	"3D000": "there is no such database: see DSN",
	"3F000": "there is no such schema: create it, or name another in SCHEMA",
	"53300": "the server has no connection left: lower MAX_CONNECTIONS, or raise the server's max_connections",
}

// byState knows the codes of
// https://www.postgresql.org/docs/current/errcodes-appendix.html.
func byState(state string, records int, cause error) error {
	switch state {
	case "40001", "40P01", "55P03": // serialization failure, deadlock, lock timeout
		return sinks.RetryAfter(sinks.ReasonConflict, 0, cause)
	case "23503", "23505":
		// Rows of the application that refer to this one, or a unique key of
		// its own that another user holds, perhaps for a moment only: worth
		// another try, once the runner has found out which record it is.
		if records > 1 {
			return sinks.Permanent(sinks.ReasonConflict, cause)
		}
		return sinks.RetryAfter(sinks.ReasonConflict, 0, cause)
	case "57014": // statement_timeout, or a person
		return sinks.RetryAfter(sinks.ReasonTimeout, 0, cause)
	case "42501":
		return sinks.Fatal(sinks.ReasonUnauthorized, cause)
	case "22001": // too long for the application's column
		return sinks.Permanent(sinks.ReasonTooLarge, cause)
	case "44000", codeRaised: // a view's check, or a trigger of the application's
		return sinks.Permanent(sinks.ReasonInvalidRecord, cause)
	}
	switch state[:min(2, len(state))] {
	case "28": // invalid authorization
		return sinks.Fatal(sinks.ReasonUnauthorized, cause)
	case "42", "3D", "3F": // no such table or column, wrong type; no such database; no such schema
		return sinks.Fatal(sinks.ReasonMisconfigured, cause)
	case "22", "23": // data, constraint
		return sinks.Permanent(sinks.ReasonInvalidRecord, cause)
	case "54": // program limit
		return sinks.Permanent(sinks.ReasonTooLarge, cause)
	case "08", "53", "57", "58", "25": // connection; resources; operator; system; read only, as a standby is
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, cause)
	}
	return cause
}
