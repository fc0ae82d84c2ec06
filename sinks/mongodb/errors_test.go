package mongodb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"clerkconnect/sinks"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	const secret = "ada@example.com"
	command := func(code int32, labels ...string) error {
		return fmt.Errorf("driver: %w", mongo.CommandError{Code: code, Name: "Name", Message: secret, Labels: labels})
	}
	refused := func(code int, key string) error {
		raw, err := bson.Marshal(bson.D{{Key: "keyPattern", Value: bson.D{{Key: key, Value: 1}}}, {Key: "keyValue", Value: secret}})
		if err != nil {
			t.Fatal(err)
		}
		return mongo.BulkWriteException{WriteErrors: []mongo.BulkWriteError{{WriteError: mongo.WriteError{Code: code, Message: secret, Raw: raw}}}}
	}
	for name, test := range map[string]struct {
		err     error
		records int
		class   sinks.Class
		reason  sinks.Reason
	}{
		"not authorized":           {command(13), 0, sinks.ClassFatal, sinks.ReasonUnauthorized},
		"wrong password":           {command(18), 0, sinks.ClassFatal, sinks.ReasonUnauthorized},
		"write conflict":           {command(112, transientLabel), 5, sinks.ClassRetry, sinks.ReasonConflict},
		"some transient error":     {command(4711, transientLabel), 5, sinks.ClassRetry, sinks.ReasonConflict},
		"a code that nobody knows": {command(4711), 5, sinks.ClassRetry, sinks.ReasonUnknown},
		"not the primary":          {command(10107), 5, sinks.ClassRetry, sinks.ReasonUnavailable},
		"stepping down":            {command(189, transientLabel), 5, sinks.ClassRetry, sinks.ReasonUnavailable},
		"shutting down":            {command(91), 5, sinks.ClassRetry, sinks.ReasonUnavailable},
		"too slow":                 {command(50), 5, sinks.ClassRetry, sinks.ReasonTimeout},
		"no transactions":          {command(20), 0, sinks.ClassFatal, sinks.ReasonMisconfigured},
		"a validator":              {refused(121, "x"), 5, sinks.ClassPermanent, sinks.ReasonInvalidRecord},
		"too large":                {refused(17420, "x"), 5, sinks.ClassPermanent, sinks.ReasonTooLarge},
		"an e-mail, one of many":   {refused(11000, "email"), 5, sinks.ClassPermanent, sinks.ReasonConflict},
		"an e-mail, alone":         {refused(11000, "email"), 1, sinks.ClassRetry, sinks.ReasonConflict},
		"a write concern":          {mongo.BulkWriteException{WriteConcernError: &mongo.WriteConcernError{Code: 64, Message: secret}}, 5, sinks.ClassRetry, sinks.ReasonUnavailable},
		"no connection":            {&net.OpError{Op: "dial", Err: errors.New(secret)}, 5, sinks.ClassRetry, sinks.ReasonUnavailable},
		"no time":                  {context.DeadlineExceeded, 5, sinks.ClassRetry, sinks.ReasonTimeout},
		"canceled":                 {context.Canceled, 5, sinks.ClassRetry, sinks.ReasonUnavailable},
	} {
		err := classify("write", test.records, test.err)
		if got := sinks.Classify(err); got.Class != test.class || got.Reason != test.reason {
			t.Errorf("%s: got %v, want %s (%s)", name, err, test.reason, test.class)
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error quotes the message", name)
		}
	}
}

func TestOurKey(t *testing.T) {
	t.Parallel()
	for path, ours := range map[string]bool{"auth.clerkId": true, "_id": true, "email": false} {
		raw, err := bson.Marshal(bson.D{{Key: "keyPattern", Value: bson.D{{Key: path, Value: 1}}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := ourKey(mongo.BulkWriteError{WriteError: mongo.WriteError{Code: codeDuplicateKey, Raw: raw}}, "auth.clerkId"); got != ours {
			t.Errorf("a duplicate of %s: ours is %v, want %v", path, got, ours)
		}
	}
}
