package resend

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

// person is a contact as Resend shows it.
type person struct {
	ID           string         `json:"id"`
	FirstName    *string        `json:"first_name"`
	LastName     *string        `json:"last_name"`
	Unsubscribed bool           `json:"unsubscribed"`
	Properties   map[string]any `json:"properties"`
}

// value returns a property. Some versions of the API show it as an object with its
// type.
func (p *person) value(name string) any {
	if typed, ok := p.Properties[name].(map[string]any); ok {
		return typed["value"]
	}
	return p.Properties[name]
}

// owner returns the Clerk ID of the user whose contact p is, "" if it is nobody's.
func (s *Sink) owner(p *person) string {
	owner, _ := p.value(s.cfg.KeyProperty).(string)
	return owner
}

// body renders properties, and whose contact it is. Resend takes no null for a name:
// the empty text clears.
func (s *Sink) body(clerkID string, properties contact.Properties) map[string]any {
	body, own := map[string]any{}, map[string]any{s.cfg.KeyProperty: clerkID}
	for name, value := range properties {
		if value == nil {
			value = ""
		}
		if slices.Contains(fields, name) {
			body[name] = value
		} else {
			own[name] = value
		}
	}
	body["properties"] = own
	return body
}

// update changes the contact of that id, and reports whether it is there. It never
// says anything of consent.
func (s *Sink) update(ctx context.Context, id string, body map[string]any) (bool, error) {
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "update a contact", Method: http.MethodPatch, Path: "/contacts/" + url.PathEscape(id), Body: body, Accept: []int{http.StatusNotFound},
	})
	return err == nil && answer.Status != http.StatusNotFound, err
}

// create creates a contact, with all that the one has which the user leaves behind.
func (s *Sink) create(ctx context.Context, clerkID string, step contact.Step, email string) (string, error) {
	body := s.body(clerkID, step.All)
	body["unsubscribed"] = s.cfg.NewContacts == Unsubscribed
	if step.Memory.RemoteID != "" {
		if err := s.inherit(ctx, clerkID, step.Memory.RemoteID, body); err != nil {
			return "", err
		}
	}
	body["email"] = email
	drop := func(_ string, value any) bool { return value == "" }
	maps.DeleteFunc(body, drop)
	maps.DeleteFunc(body["properties"].(map[string]any), drop)
	answer, err := s.client.Do(ctx, rest.Request{Name: "create a contact", Method: http.MethodPost, Path: "/contacts", Body: body})
	if err != nil {
		return "", err
	}
	var created person
	if err := answer.Decode(&created, "id"); err != nil {
		return "", err
	}
	return created.ID, nil
}

// inherit adds to a new contact what the old one has beside the mapping: what people
// have written, what the person has agreed to, and the segments.
func (s *Sink) inherit(ctx context.Context, clerkID, old string, body map[string]any) error {
	found, err := s.find(ctx, old)
	if found == nil || err != nil {
		return err
	}
	if s.anothers(found, clerkID) {
		return nil
	}
	body["unsubscribed"] = found.Unsubscribed
	for name, value := range map[string]*string{"first_name": found.FirstName, "last_name": found.LastName} {
		if _, mapped := body[name]; !mapped && value != nil {
			body[name] = *value
		}
	}
	own := body["properties"].(map[string]any)
	for name := range found.Properties {
		if _, mapped := own[name]; !mapped && found.value(name) != nil {
			own[name] = found.value(name)
		}
	}
	path := "/contacts/" + url.PathEscape(old)
	in, err := s.list(ctx, "list a contact's segments", path+"/segments", http.StatusNotFound)
	if err != nil {
		return err
	}
	topics, err := s.list(ctx, "list a contact's topics", path+"/topics", http.StatusNotFound)
	if err != nil {
		return err
	}
	var ids []string
	for _, segment := range in {
		ids = append(ids, segment.ID)
	}
	var agreed []map[string]string
	for _, topic := range topics {
		agreed = append(agreed, map[string]string{"id": topic.ID, "subscription": topic.Subscription})
	}
	if len(ids) > 0 {
		body["segments"] = ids
	}
	if len(agreed) > 0 {
		body["topics"] = agreed
	}
	return nil
}

// join adds a contact to the segment of new users.
func (s *Sink) join(ctx context.Context, id string) error {
	_, err := s.client.Do(ctx, rest.Request{
		Name: "add a contact to a segment", Method: http.MethodPost,
		Path: "/contacts/" + url.PathEscape(id) + "/segments/" + url.PathEscape(s.cfg.NewUserSegment),
	})
	return err
}

// find returns the contact of that id or address, nil if there is none. What is no
// address for Resend (422) nobody has.
func (s *Sink) find(ctx context.Context, key string) (*person, error) {
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "read a contact", Method: http.MethodGet, Path: "/contacts/" + url.PathEscape(key),
		Accept: []int{http.StatusNotFound, http.StatusUnprocessableEntity},
	})
	if err != nil || answer.Status != http.StatusOK {
		return nil, err
	}
	var found person
	if err := answer.Decode(&found, "id"); err != nil {
		return nil, err
	}
	return &found, nil
}

// remove deletes a contact, and reports whether it was there.
func (s *Sink) remove(ctx context.Context, id string) (bool, error) {
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "delete a contact", Method: http.MethodDelete, Path: "/contacts/" + url.PathEscape(id), Accept: []int{http.StatusNotFound},
	})
	return err == nil && answer.Status != http.StatusNotFound, err
}
