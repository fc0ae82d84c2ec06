package mongodb

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"clerkconnect/sinks"
)

// Codes that the sink itself acts upon.
const (
	codeDuplicateKey      = 11000
	codeIllegalOperation  = 20
	codeNotValid          = 121
	codeNamespaceNotFound = 26
	transientLabel        = "TransientTransactionError"
)

// classify marks err; records is how many records were being written, 0 if
// none. The error that it returns quotes codes and their names and never the
// server's message or the driver's, which hold keys and addresses.
func classify(operation string, records int, err error) error {
	var marked *sinks.Error
	if errors.As(err, &marked) {
		return err
	}
	var bulk mongo.BulkWriteException
	if errors.As(err, &bulk) {
		if len(bulk.WriteErrors) > 0 {
			return byWriteError(operation, records, bulk.WriteErrors[0])
		}
		if concern := bulk.WriteConcernError; concern != nil {
			// Written, but perhaps not for good: the same again must be said.
			return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: write concern: code %d", operation, concern.Code))
		}
	}
	var command mongo.CommandError
	isCommand := errors.As(err, &command)
	switch {
	case errors.Is(err, context.Canceled):
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: %w", operation, context.Canceled))
	case isCommand && command.Code != 0:
		cause := fmt.Errorf("%s: code %d %s", operation, command.Code, command.Name)
		if marked := byCode(int(command.Code), records, cause); marked != cause || !command.HasErrorLabel(transientLabel) {
			return marked
		}
		return sinks.RetryAfter(sinks.ReasonConflict, 0, cause)
	case mongo.IsTimeout(err):
		return sinks.RetryAfter(sinks.ReasonTimeout, 0, fmt.Errorf("%s: no answer in time", operation))
	}
	// The driver's own errors: most are a connection that broke, or no server
	// to be found.
	return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: %T", operation, err))
}

// byWriteError marks the refusal of one write.
func byWriteError(operation string, records int, refused mongo.BulkWriteError) error {
	cause := fmt.Errorf("%s: code %d%s", operation, refused.Code, broken(refused))
	return byCode(refused.Code, records, cause)
}

// broken names the paths of the unique index that refuses a write, or those
// with which the schema is not content, as far as the server names them: a query
// as a validator names nothing. What else it says quotes values.
func broken(refused mongo.BulkWriteError) string {
	switch refused.Code {
	case codeDuplicateKey:
		pattern, _ := refused.Raw.Lookup("keyPattern").DocumentOK()
		keys, _ := pattern.Elements()
		paths := make([]string, len(keys))
		for i, key := range keys {
			paths[i] = key.Key()
		}
		return list(", unique index on ", paths)
	case codeNotValid:
		var info struct {
			Details struct {
				Rules []struct {
					Properties []struct {
						Name string `bson:"propertyName"`
					} `bson:"propertiesNotSatisfied"`
					Missing []string `bson:"missingProperties"`
					Unknown []string `bson:"additionalProperties"`
				} `bson:"schemaRulesNotSatisfied"`
			} `bson:"details"`
		}
		if bson.Unmarshal(refused.Details, &info) != nil {
			return ""
		}
		var text string
		for _, rule := range info.Details.Rules {
			var names []string
			for _, p := range rule.Properties {
				names = append(names, p.Name)
			}
			text += list(", which the schema does not take: ", names) + list(", which the schema requires: ", rule.Missing) + list(", which the schema does not know: ", rule.Unknown)
		}
		return text
	}
	return ""
}

// list returns names behind a text, "" if there are none.
func list(text string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return text + strings.Join(names, ", ")
}

// ourKey reports whether a write ran into the index on the Clerk ID of either
// collection.
func ourKey(refused mongo.BulkWriteError, key string) bool {
	if refused.Code != codeDuplicateKey {
		return false
	}
	pattern, ok := refused.Raw.Lookup("keyPattern").DocumentOK()
	if !ok {
		return false
	}
	keys, err := pattern.Elements()
	return err == nil && len(keys) == 1 && (keys[0].Key() == key || keys[0].Key() == "_id")
}

// byCode knows the codes of
// https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml.
func byCode(code, records int, cause error) error {
	switch code {
	case 13, 18, 8000: // Unauthorized, AuthenticationFailed, Atlas' own of both
		return sinks.Fatal(sinks.ReasonUnauthorized, cause)
	case codeDuplicateKey:
		// A unique key of the application's that another user holds, perhaps
		// for a moment only: worth another try, once the runner has found out
		// which record it is.
		if records > 1 {
			return sinks.Permanent(sinks.ReasonConflict, cause)
		}
		return sinks.HeldBy("", cause)
	case 24, 112, 225, 246, 251: // LockTimeout, WriteConflict, TransactionTooOld, SnapshotUnavailable, NoSuchTransaction
		return sinks.RetryAfter(sinks.ReasonConflict, 0, cause)
	case 50, 89, 202, 262: // MaxTimeMSExpired, NetworkTimeout, NetworkInterfaceExceededTimeLimit, ExceededTimeLimit
		return sinks.RetryAfter(sinks.ReasonTimeout, 0, cause)
	case 462, 16500: // IngressRequestRateLimitExceeded, Cosmos DB's request rate
		return sinks.RetryAfter(sinks.ReasonRateLimited, 0, cause)
	case 14, 15, 28, 52, 54, 55, 57, codeNotValid: // TypeMismatch, Overflow (nesting), PathNotViable, dollars, NotSingleValueField, InvalidDBRef, dots, DocumentValidationFailure
		return sinks.Permanent(sinks.ReasonInvalidRecord, cause)
	case 10334, 17280, 17419, 17420: // BSONObjectTooLarge, KeyTooLong, an update's result too large
		return sinks.Permanent(sinks.ReasonTooLarge, cause)
	case codeIllegalOperation, codeNamespaceNotFound, 67, 72, 73, 85, 86, 115, 166, 263: // index, options and names; CommandNotSupported, on a view, in a transaction
		return sinks.Fatal(sinks.ReasonMisconfigured, cause)
	case 6, 7, 64, 91, 100, 133, 134, 189, 317, 9001, 10058, 10107, 11600, 11602, 13388, 13435, 13436, 14031:
		// HostUnreachable, HostNotFound, write concern, ShutdownInProgress, no
		// primary, stepping down, stale routing, OutOfDiskSpace
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, cause)
	}
	return cause
}
