package customerio

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/oklog/ulid/v2"

	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

// Limits of a batch, in bytes: of one operation, and of all with some room for
// what stands around them. https://docs.customer.io/integrations/api/track/#operation/batch
const (
	maxOperation = 32_000
	maxRequest   = 490_000
)

// operation is one member of a batch.
type operation struct {
	record int // place of its record in the batch of Apply
	body   map[string]any
}

func person(record int, r sinks.Record, action string) operation {
	return operation{record, map[string]any{"type": "person", "identifiers": map[string]string{"id": r.ClerkID}, "action": action}}
}

func (s *Sink) erase(record int, r sinks.Record) operation {
	return person(record, r, string(s.cfg.Erasure))
}

// identify creates a person or changes the attributes that are named. The empty
// text clears one.
func identify(record int, r sinks.Record, properties contact.Properties) operation {
	attributes := make(map[string]any, len(properties))
	for name, value := range properties {
		if value == nil {
			value = ""
		}
		attributes[name] = value
	}
	o := person(record, r, "identify")
	o.body["attributes"] = attributes
	return o
}

// event is that of a new user. Its id is the same each time it is made, so that
// Customer.io drops a repetition.
func (s *Sink) event(record int, r sinks.Record) operation {
	created := time.Now()
	if ms := r.Change.User.CreatedAt; ms != nil { // as of every new user
		created = time.UnixMilli(*ms)
	}
	o := person(record, r, "event")
	o.body["name"], o.body["id"], o.body["timestamp"] = s.cfg.NewUserEvent, eventID(r.ClerkID, s.cfg.NewUserEvent, created), created.Unix()
	o.body["attributes"] = map[string]string{"source": "clerk"}
	return o
}

func eventID(clerkID, event string, at time.Time) string {
	sum := sha256.Sum256([]byte(event + "\x00" + clerkID))
	return ulid.MustNew(ulid.Timestamp(at), bytes.NewReader(sum[:])).String()
}

var errTooLarge = errors.New("identify a person: more than 32 KB")

// send sends operations in as few requests as they fit into, and returns what was
// refused, by the place of the record.
func (s *Sink) send(ctx context.Context, operations []operation) (map[int]error, error) {
	refused := map[int]error{}
	var request []json.RawMessage
	var records []int // of request
	size := 0
	flush := func() error {
		if len(request) == 0 {
			return nil
		}
		problems, err := s.batch(ctx, request)
		for at, problem := range problems {
			refused[records[at]] = problem
		}
		request, records, size = nil, nil, 0
		return err
	}
	for _, o := range operations {
		text, err := json.Marshal(o.body)
		if err != nil { // which may quote the value
			refused[o.record] = sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("identify a person: no JSON can be made of it"))
			continue
		}
		if len(text) > maxOperation {
			refused[o.record] = sinks.Permanent(sinks.ReasonTooLarge, errTooLarge)
			continue
		}
		if size+len(text) > maxRequest {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		request, records, size = append(request, text), append(records, o.record), size+len(text)+1
	}
	return refused, flush()
}

var (
	errUnsent  = errors.New("send people: the answer names an operation that was not sent")
	errUnnamed = errors.New("send people: HTTP 207, and the answer does not say which operation was refused")
)

// batch sends one request and returns what was refused, by the place in it. An
// error that names no operation is one of the whole request, which is halved then
// until it is known whose it is.
func (s *Sink) batch(ctx context.Context, request []json.RawMessage) (map[int]error, error) {
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "send people", Method: http.MethodPost, Path: "/api/v2/batch", Body: map[string]any{"batch": request},
	})
	if err != nil || answer.Status != http.StatusMultiStatus && len(bytes.TrimSpace(answer.Body)) == 0 {
		return nil, err
	}
	var partial struct {
		Errors []struct {
			BatchIndex *int   `json:"batch_index"`
			Reason     string `json:"reason"`
		} `json:"errors"`
	}
	if err := answer.Decode(&partial); err != nil {
		return nil, err
	}
	if len(partial.Errors) == 0 && answer.Status == http.StatusMultiStatus {
		return nil, sinks.Permanent(sinks.ReasonInvalidRecord, errUnnamed)
	}
	problems := map[int]error{}
	for _, e := range partial.Errors {
		switch {
		case e.BatchIndex == nil:
			return nil, sinks.Permanent(sinks.ReasonInvalidRecord, errUnnamed)
		case *e.BatchIndex < 0, *e.BatchIndex >= len(request):
			return nil, sinks.RetryAfter(sinks.ReasonUnavailable, 0, errUnsent)
		}
		problems[*e.BatchIndex] = sinks.Permanent(sinks.ReasonInvalidRecord, &rest.StatusError{Name: "send people", Status: answer.Status, Code: rest.PlainCode(e.Reason)})
	}
	return problems, nil
}
