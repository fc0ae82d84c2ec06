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

// TestClassify_Names shows that what refuses a write is named, in the form of
// https://www.mongodb.com/docs/manual/core/schema-validation/handle-invalid-documents/,
// without the values.
func TestClassify_Names(t *testing.T) {
	t.Parallel()
	const secret = "ada@example.com"
	type A = bson.A
	type M = bson.M
	rules := func(rules ...any) M {
		return M{"failingDocumentId": secret, "details": M{"operatorName": "$jsonSchema", "schemaRulesNotSatisfied": A(rules)}}
	}
	for _, test := range []struct {
		code      int
		raw, info M
		want      string
	}{
		{11000, M{"keyPattern": bson.D{{Key: "tenant", Value: 1}, {Key: "email", Value: 1}}, "keyValue": M{"email": secret}}, nil, ": code 11000, unique index on tenant, email"},
		{11000, nil, nil, ": code 11000"},
		{121, nil, rules(M{"operatorName": "properties", "propertiesNotSatisfied": A{M{"propertyName": "email", "details": A{M{"operatorName": "bsonType", "consideredValue": secret}}}}}),
			": code 121, which the schema does not take: email"},
		{121, nil, rules(M{"operatorName": "required", "missingProperties": A{"tenant"}}, M{"operatorName": "additionalProperties", "additionalProperties": A{"clerkConnect", "email"}}),
			": code 121, which the schema requires: tenant, which the schema does not know: clerkConnect, email"},
		{121, nil, M{"details": M{"operatorName": "$regex", "consideredValue": secret}}, ": code 121"},
		{121, nil, nil, ": code 121"},
	} {
		refused := mongo.BulkWriteError{WriteError: mongo.WriteError{Code: test.code, Message: secret}}
		for into, from := range map[*bson.Raw]M{&refused.Raw: test.raw, &refused.Details: test.info} {
			if from == nil {
				continue
			}
			raw, err := bson.Marshal(from)
			if err != nil {
				t.Fatal(err)
			}
			*into = raw
		}
		err := classify("write", 5, mongo.BulkWriteException{WriteErrors: []mongo.BulkWriteError{refused}})
		if !strings.HasSuffix(err.Error(), "write"+test.want) {
			t.Errorf("got %v, want it to end with %q", err, test.want)
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
