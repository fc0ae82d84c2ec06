package mailchimp

import (
	"context"
	"crypto/md5" //nolint:gosec // Mailchimp's key of a member
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

// member is a member as Mailchimp shows him.
type member struct {
	Hash        string         `json:"id"`
	ContactID   string         `json:"contact_id"`
	Email       string         `json:"email_address"`
	Status      string         `json:"status"`
	MergeFields map[string]any `json:"merge_fields"`
}

func (m *member) archived() bool { return m.Status == "archived" }

// owner returns the Clerk ID of the user whose member m is, "" if he is nobody's.
func (s *Sink) owner(m *member) string {
	owner, _ := m.MergeFields[s.cfg.KeyField].(string)
	return owner
}

// hash is Mailchimp's key of a member by address.
func hash(email string) string {
	sum := md5.Sum([]byte(strings.ToLower(email))) //nolint:gosec // as above
	return hex.EncodeToString(sum[:])
}

// path returns that of a member, by hash or contact_id.
func (s *Sink) path(key string) string { return s.list + "/members/" + url.PathEscape(key) }

// unchecked lets fields be empty that the audience's forms require.
var unchecked = url.Values{"skip_merge_validation": {"true"}}

// mostText is how many bytes Mailchimp takes as the text of a merge field. A member
// with more in one of them it refuses as a whole.
const mostText = 255

// cut returns as much of text as Mailchimp takes, in whole characters.
func cut(text string) string {
	if len(text) <= mostText {
		return text
	}
	end := mostText
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}

// fields renders properties, and whose member it is. The empty text clears.
func (s *Sink) fields(clerkID string, properties contact.Properties) map[string]any {
	out := map[string]any{s.cfg.KeyField: clerkID}
	for tag, value := range properties {
		text, _ := value.(string) // nil or, by form, a string
		out[tag] = cut(text)
	}
	return out
}

// find returns the member of a hash or contact_id, archived or not, nil if there is
// none.
func (s *Sink) find(ctx context.Context, key string) (*member, error) {
	answer, err := s.client.Do(ctx, rest.Request{Name: "read a member", Method: http.MethodGet, Path: s.path(key), Accept: []int{http.StatusNotFound}})
	if err != nil || answer.Status == http.StatusNotFound {
		return nil, err
	}
	var found member
	if err := answer.Decode(&found, "id", "contact_id"); err != nil {
		return nil, err
	}
	return &found, nil
}

// update changes a member, and his address unless email is "". It reports whether he
// is there, and not in the archive. It never says anything of consent.
func (s *Sink) update(ctx context.Context, clerkID, id, email string, properties contact.Properties) (bool, error) {
	body := map[string]any{"merge_fields": s.fields(clerkID, properties)}
	if email != "" {
		body["email_address"] = email
	}
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "update a member", Method: http.MethodPatch, Path: s.path(id), Query: unchecked, Body: body, Accept: []int{http.StatusNotFound},
	})
	if err != nil || answer.Status == http.StatusNotFound {
		return false, err
	}
	var updated member
	if err := answer.Decode(&updated, "status"); err != nil {
		return false, err
	}
	return !updated.archived(), nil
}

// create creates a member. Mailchimp refuses a second one with his address, so that
// of two who have looked at the same time one looks again.
func (s *Sink) create(ctx context.Context, clerkID string, properties contact.Properties, email string) (string, error) {
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "create a member", Method: http.MethodPost, Path: s.list + "/members", Query: unchecked,
		Body: map[string]any{"email_address": email, "status": s.cfg.NewMembers, "merge_fields": s.fields(clerkID, properties)},
	})
	if exists(err) {
		return "", sinks.RetryAfter(sinks.ReasonConflict, 0, errMoved)
	}
	if err != nil {
		return "", err
	}
	var created member
	if err := answer.Decode(&created, "contact_id"); err != nil {
		return "", err
	}
	return created.ContactID, nil
}

// bringBack takes a member out of the archive. What he had agreed to is not known
// any more, so he has to agree again.
func (s *Sink) bringBack(ctx context.Context, clerkID string, m *member, properties contact.Properties) error {
	_, err := s.client.Do(ctx, rest.Request{
		Name: "bring back a member", Method: http.MethodPut, Path: s.path(m.Hash), Query: unchecked,
		Body: map[string]any{"email_address": m.Email, "status": Unsubscribed, "merge_fields": s.fields(clerkID, properties)},
	})
	return err
}

// tag puts the tag of new users on a member.
func (s *Sink) tag(ctx context.Context, id string) error {
	_, err := s.client.Do(ctx, rest.Request{
		Name: "tag a member", Method: http.MethodPost, Path: s.path(id) + "/tags",
		Body: map[string]any{"tags": []map[string]string{{"name": s.cfg.NewUserTag, "status": "active"}}},
	})
	return err
}
