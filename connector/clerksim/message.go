package clerksim

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// message is what was said once; its body never changes, however often it is
// delivered.
type message struct {
	ID    string `json:"id"`
	Type  string `json:"type"`
	At    int64  `json:"at"` // the envelope's timestamp, unix ms
	IP    string `json:"ip"`
	Agent int    `json:"agent"` // index in agents
	User  *user  `json:"user"`  // as it was
}

// Message is a webhook message that the instance made.
type Message struct {
	ID     string // the svix-id, the same for every delivery
	Type   string // UserCreated, UserUpdated or UserDeleted
	UserID string
	Body   []byte
}

// body writes the message's webhook body.
func (i *Instance) body(m *message) []byte {
	o := make(object, 0, 4096)
	if m.Type == UserDeleted {
		var d object
		d.raw("deleted", "true")
		if m.User.ExternalID != "" {
			d.text("external_id", m.User.ExternalID)
		}
		d.text("id", m.User.ID)
		d.raw("object", `"user"`)
		o.raw("data", string(d.end()))
	} else {
		o.raw("data", string(m.User.json(m.At)))
	}
	o.raw("event_attributes", `{"http_request":{"client_ip":"`+m.IP+`","user_agent":"`+agents[m.Agent]+`"}}`)
	o.text("instance_id", i.cfg.InstanceID)
	o.raw("object", `"event"`)
	at := m.At
	if i.cfg.SecondsTimestamps {
		at /= 1000
	}
	o.num("timestamp", at)
	o.text("type", m.Type)
	return o.end()
}

// Sign returns the headers of a delivery of body attempted now.
func (i *Instance) Sign(msgID string, body []byte) http.Header {
	now := time.Now() // the receiver's clock is the real one
	signature, _ := i.signer.Sign(msgID, now, body)
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set("User-Agent", "Svix-Webhooks/1.99.1")
	h.Set("Svix-Id", msgID)
	h.Set("Svix-Timestamp", strconv.FormatInt(now.Unix(), 10))
	h.Set("Svix-Signature", signature)
	return h
}

// remember adds m to the history.
func (i *Instance) remember(m *message) {
	i.history = append(i.history, m)
	i.byID[m.ID] = m
	if len(i.history) > i.cfg.History {
		delete(i.byID, i.history[0].ID)
		i.history = i.history[1:]
	}
}

// Messages returns the newest Config.History messages that this process made
// or found owing, oldest first, delivered or not.
func (i *Instance) Messages() []Message {
	i.mu.RLock()
	history := slices.Clone(i.history)
	i.mu.RUnlock()
	list := make([]Message, len(history))
	for n, m := range history {
		list[n] = Message{ID: m.ID, Type: m.Type, UserID: m.User.ID, Body: i.body(m)}
	}
	return list
}

// Redeliver owes one more delivery of each message, as a replay from Clerk's
// dashboard does. Run or Drain makes them.
func (i *Instance) Redeliver(ids ...string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, id := range ids {
		m := i.byID[id]
		if m == nil {
			return fmt.Errorf("message %s: %w", id, ErrNotFound)
		}
		if err := i.write(line{Message: m, Copies: 1}); err != nil {
			return err
		}
		i.enqueue(m, []time.Duration{0})
	}
	return nil
}

// Deliver makes one attempt at a message now, whatever is pending, and returns
// the answer's status. It is for tests that need an exact order.
func (i *Instance) Deliver(ctx context.Context, id string) (int, error) {
	i.mu.RLock()
	m, url := i.byID[id], i.url
	i.mu.RUnlock()
	if m == nil {
		return 0, fmt.Errorf("message %s: %w", id, ErrNotFound)
	}
	status, _, err := i.post(ctx, url, m)
	return status, err
}
