package intercom

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

var (
	_ sinks.Sink        = (*Sink)(nil)
	_ sinks.Paced       = (*Sink)(nil)
	_ sinks.Confirmer   = (*Sink)(nil)
	_ sinks.Initializer = (*Sink)(nil)
)

// maxInFlight is enough to reach the limit with answers that take half a second.
const maxInFlight = 8

// limit is that of an app, 10,000 requests in a minute, which Intercom spreads over
// windows of 10 s. Smaller workspaces have less; the answers tell.
// https://developers.intercom.com/docs/references/rest-api/errors/rate-limiting
var limit = sinks.Limit{Requests: 1600, Window: 10 * time.Second}

// Sink writes contacts. Safe for concurrent use.
type Sink struct {
	cfg     Config
	client  *rest.Client
	mapping contact.Mapping
	tag     string // id of NEW_USER_TAG, set by Open
}

// New returns a sink. It does no I/O. It fails only if cfg is not valid.
func New(cfg Config) (*Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	properties, err := contact.ParseProperties("PROPERTIES", cfg.Properties, defaults)
	if err != nil {
		return nil, err
	}
	client, err := cfg.Client(rest.Config{Header: http.Header{"Authorization": {"Bearer " + cfg.Token}, "Intercom-Version": {cfg.APIVersion}}})
	if err != nil {
		return nil, err
	}
	return &Sink{cfg: cfg, client: client, mapping: contact.NewMapping(properties, contact.Form{Time: contact.UnixSeconds})}, nil
}

// Capabilities implements [sinks.Sink].
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{Kind: "intercom", MaxBatch: 1, MaxInFlight: maxInFlight, ConfirmAfter: s.cfg.ConfirmAfter, Limit: limit}
}

// Pace implements [sinks.Paced].
func (s *Sink) Pace(p sinks.Pacer) { s.client.Pace(p) }

// Close implements [sinks.Sink].
func (s *Sink) Close() error {
	s.client.Close()
	return nil
}

// Apply implements [sinks.Sink].
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	return contact.One(ctx, batch, s.change, s.erase)
}

// change creates a contact or changes the one that is there.
func (s *Sink) change(ctx context.Context, r sinks.Record) error {
	step := s.mapping.Plan(r)
	if step.Nothing() {
		r.Unchanged()
		return nil
	}
	id, err := s.write(ctx, r, step)
	if err != nil {
		return err
	}
	if step.New && s.tag != "" {
		_, err := s.client.Do(ctx, rest.Request{
			Name: "tag a contact", Method: http.MethodPost, Path: "/contacts/" + url.PathEscape(id) + "/tags", Body: map[string]string{"id": s.tag},
		})
		if err != nil {
			return err
		}
	}
	step.Sent(id, "").Remember(r)
	return nil
}

// write returns the id of the contact that it has changed or created.
func (s *Sink) write(ctx context.Context, r sinks.Record, step contact.Step) (string, error) {
	if id := step.Memory.RemoteID; id != "" {
		there, err := s.update(ctx, id, r.ClerkID, step.Changed)
		if there || err != nil {
			return id, err
		}
	}
	found, err := s.find(ctx, "/contacts/find_by_external_id/"+url.PathEscape(r.ClerkID))
	if err != nil {
		return "", err
	}
	if found != nil {
		there, err := s.update(ctx, found.ID, r.ClerkID, step.All)
		if there || err != nil {
			return found.ID, err
		}
	}
	return s.create(ctx, r.ClerkID, step.All)
}

// body renders properties. Where null stands for nothing Intercom takes it, but
// for the address, which the empty text clears.
func body(clerkID string, properties contact.Properties) map[string]any {
	out := map[string]any{"external_id": clerkID}
	custom := map[string]any{}
	for name, value := range properties {
		switch {
		case !slices.Contains(fields, name):
			custom[name] = value
		case name == "email" && value == nil:
			out[name] = ""
		default:
			out[name] = value
		}
	}
	if len(custom) > 0 {
		out["custom_attributes"] = custom
	}
	return out
}

// update changes the contact of that id, and reports whether it is there.
func (s *Sink) update(ctx context.Context, id, clerkID string, properties contact.Properties) (bool, error) {
	content := body(clerkID, properties)
	content["role"] = "user"
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "update a contact", Method: http.MethodPut, Path: "/contacts/" + url.PathEscape(id), Body: content,
		Accept: []int{http.StatusNotFound, http.StatusConflict},
	})
	if err != nil {
		return false, err
	}
	if answer.Status == http.StatusConflict {
		return true, s.held(ctx, clerkID, answer)
	}
	return answer.Status != http.StatusNotFound, nil
}

// create creates a contact, or adopts the one that Intercom says is there.
func (s *Sink) create(ctx context.Context, clerkID string, properties contact.Properties) (string, error) {
	content := body(clerkID, properties)
	content["role"] = "user"
	if content["email"] == "" {
		delete(content, "email")
	}
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "create a contact", Method: http.MethodPost, Path: "/contacts", Body: content, Accept: []int{http.StatusConflict},
	})
	if err != nil {
		return "", err
	}
	if answer.Status == http.StatusConflict {
		return s.adopt(ctx, clerkID, answer, properties)
	}
	var created person
	if err := answer.Decode(&created, "id"); err != nil {
		return "", err
	}
	return created.ID, nil
}

// person is a contact as Intercom shows it.
type person struct {
	ID         string `json:"id"`
	ExternalID string `json:"external_id"`
}

// find returns the contact at a path, nil if there is none.
func (s *Sink) find(ctx context.Context, path string) (*person, error) {
	answer, err := s.client.Do(ctx, rest.Request{Name: "read a contact", Method: http.MethodGet, Path: path, Accept: []int{http.StatusNotFound}})
	if err != nil || answer.Status == http.StatusNotFound {
		return nil, err
	}
	var found person
	if err := answer.Decode(&found, "id"); err != nil {
		return nil, err
	}
	return &found, nil
}

// erase erases by Intercom's own ids: the one remembered, and that of the contact
// with the Clerk ID. A deletion takes the Clerk ID away before, so it begins only
// when Kafka has the contact's id: nobody could find it after a crash in between.
func (s *Sink) erase(ctx context.Context, r sinks.Record) error {
	memory := contact.Recall(r.State)
	found, err := s.find(ctx, "/contacts/find_by_external_id/"+url.PathEscape(r.ClerkID))
	if err != nil {
		return err
	}
	there := false
	if memory.RemoteID != "" {
		if there, err = s.remove(ctx, memory.RemoteID, r); err != nil {
			return err
		}
	}
	if found != nil && found.ID != memory.RemoteID {
		contact.Memory{RemoteID: found.ID}.Remember(r)
		return sinks.ErrRememberFirst
	}
	switch {
	case !there:
		r.Erased(schemas.OutcomeNotPresent)
	case s.cfg.Erasure == Archive:
		r.Erased(schemas.OutcomeSoftDeleted)
	default:
		r.Erased(schemas.OutcomeDeleted)
	}
	memory.RememberErased(r)
	return nil
}

// remove erases one contact, and reports whether it was there. Before a deletion
// it overwrites what the sink has written: Intercom keeps the contact for 7 days,
// and would let nobody else have its address and its external id until then.
func (s *Sink) remove(ctx context.Context, id string, r sinks.Record) (bool, error) {
	path := "/contacts/" + url.PathEscape(id)
	last := rest.Request{Name: "archive a contact", Method: http.MethodPost, Path: path + "/archive", Accept: []int{http.StatusNotFound}}
	if s.cfg.Erasure == Delete {
		nobody := contact.Properties{}
		for _, name := range s.mapping.Names() {
			nobody[name] = nil
		}
		there, err := s.update(ctx, id, fmt.Sprintf("erased-%s-%d", id, r.Version.Number), nobody)
		if !there || err != nil {
			return false, err
		}
		last = rest.Request{Name: "delete a contact", Method: http.MethodDelete, Path: path, Accept: []int{http.StatusNotFound}}
	}
	answer, err := s.client.Do(ctx, last)
	return err == nil && answer.Status != http.StatusNotFound, err
}

// Confirm implements [sinks.Confirmer]. It asks by Intercom's id and by the Clerk
// ID, not through the search, whose index lags behind.
func (s *Sink) Confirm(ctx context.Context, clerkID string, state []byte) (bool, error) {
	paths := []string{"/contacts/find_by_external_id/" + url.PathEscape(clerkID)}
	if id := contact.Recall(state).RemoteID; id != "" {
		paths = append(paths, "/contacts/"+url.PathEscape(id))
	}
	for _, path := range paths {
		if found, err := s.find(ctx, path); found != nil || err != nil {
			return false, err
		}
	}
	return true, nil
}
