package segment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

// Limits of the Tracking API, in bytes with some room, and in messages.
// https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/#batch
const (
	maxMessage   = 32_000
	maxRequest   = 490_000
	maxMessages  = 2500
	maxMessageID = 100 // characters
)

const timeFormat = "2006-01-02T15:04:05.000Z"

// message is one member of a batch, as it is sent.
type message = json.RawMessage

var (
	errTooLarge = errors.New("identify a user: more than 32 KB")
	errNoJSON   = errors.New("identify a user: no JSON can be made of it")
	errNotTaken = errors.New("send users: HTTP 200, and the answer says that they were not taken")
	errLongID   = errors.New("identify a user: the Clerk ID makes a message id of more than 100 characters")
)

// messages are what a change is sent as: identify and, for a new user, track. A
// message that is the same change has the same id, however often it is sent.
func (s *Sink) messages(r sinks.Record, step contact.Step) ([]message, error) {
	at := time.UnixMilli(r.Change.OccurredAt).UTC()
	list := []map[string]any{{
		"type": "identify", "traits": step.All,
		"messageId": fmt.Sprintf("clerk-%s-%d-%d", r.ClerkID, r.Version.Epoch, r.Version.Number),
	}}
	if step.New && s.cfg.NewUserEvent != "" {
		list = append(list, map[string]any{
			"type": "track", "event": s.cfg.NewUserEvent, "properties": map[string]any{},
			"messageId": "clerk-" + r.ClerkID + "-new",
		})
	}
	texts := make([]message, len(list))
	for i, body := range list {
		body["userId"], body["timestamp"] = r.ClerkID, at.Format(timeFormat)
		body["context"] = map[string]any{
			"library": map[string]string{"name": "clerk-connect", "version": "1"},
			"clerk":   map[string]any{"origin": r.Change.Origin, "operation": r.Change.Operation, "instance_id": r.Change.InstanceID},
		}
		text, err := json.Marshal(body)
		switch {
		case err != nil: // which may quote the value
			return nil, sinks.Permanent(sinks.ReasonInvalidRecord, errNoJSON)
		case len(text) > maxMessage:
			return nil, sinks.Permanent(sinks.ReasonTooLarge, errTooLarge)
		case len(body["messageId"].(string)) > maxMessageID:
			return nil, sinks.Permanent(sinks.ReasonInvalidRecord, errLongID)
		}
		texts[i] = text
	}
	return texts, nil
}

// send sends messages in as few requests as they fit into. What was sent before
// an error is harmless to send again.
func (s *Sink) send(ctx context.Context, messages []message) error {
	for len(messages) > 0 {
		n, size := 0, 0
		for n < min(len(messages), maxMessages) && size+len(messages[n]) <= maxRequest {
			size += len(messages[n]) + 1
			n++
		}
		answer, err := s.client.Do(ctx, rest.Request{
			Name: "send users", Method: http.MethodPost, Path: "/v1/batch", Body: map[string]any{"batch": messages[:n]},
		})
		if err != nil {
			return err
		}
		var taken struct {
			Success *bool `json:"success"`
		}
		if err := json.Unmarshal(answer.Body, &taken); err == nil && taken.Success != nil && !*taken.Success {
			return sinks.RetryAfter(sinks.ReasonUnavailable, 0, errNotTaken)
		}
		messages = messages[n:]
	}
	return nil
}
