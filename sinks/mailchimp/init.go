package mailchimp

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

// Open implements [sinks.Sink]. It finds the audience, and names the merge fields
// that it does not have, whose values Mailchimp would drop.
func (s *Sink) Open(ctx context.Context) error {
	s.client.Open()
	missing, err := s.missing(ctx)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("the audience has no merge field %s: add it, as clerk-connect sink init does", strings.Join(missing, ", ")))
	}
	return nil
}

// field is a merge field as Mailchimp takes it.
type field struct {
	Tag    string `json:"tag"`
	Name   string `json:"name"`
	Type   string `json:"type"`
	Public bool   `json:"public"` // shown in forms and to the person
}

// mostFields is more than an audience can have.
const mostFields = "1000"

// missing are the merge fields that the audience does not have. It is also the call
// that tells a wrong key from a right one.
func (s *Sink) missing(ctx context.Context) ([]string, error) {
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "list merge fields", Method: http.MethodGet, Path: s.list + "/merge-fields", Query: url.Values{"count": {mostFields}},
		Accept: []int{http.StatusNotFound},
	})
	if err != nil {
		return nil, err
	}
	if answer.Status == http.StatusNotFound {
		return nil, sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("AUDIENCE_ID is %q: the account has no such audience; copy the ID from the audience's settings", s.cfg.Audience))
	}
	var found struct {
		Fields []field `json:"merge_fields"`
	}
	if err := answer.Decode(&found); err != nil {
		return nil, err
	}
	types := map[string]string{}
	for _, f := range found.Fields {
		types[f.Tag] = f.Type
	}
	if kind := types[s.cfg.KeyField]; kind != "" && kind != "text" {
		return nil, sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("KEY_FIELD is %q, which is of type %s: use a merge field of type text", s.cfg.KeyField, kind))
	}
	var missing []string
	for _, tag := range append([]string{s.cfg.KeyField}, s.mapping.Names()...) {
		if types[tag] == "" {
			missing = append(missing, tag)
		}
	}
	return missing, nil
}

// InitScript implements [sinks.Initializer]: the requests, for a person to make.
func (s *Sink) InitScript() string {
	var script strings.Builder
	for _, tag := range append([]string{s.cfg.KeyField}, s.mapping.Names()...) {
		script.WriteString(contact.ScriptRequest(s.cfg.BaseURL+s.list+"/merge-fields", field{Tag: tag, Name: tag, Type: "text"}))
	}
	return script.String()
}

// Init implements [sinks.Initializer]. The fields that it adds are texts, and are not
// shown to the person.
func (s *Sink) Init(ctx context.Context) error {
	s.client.Open()
	missing, err := s.missing(ctx)
	if err != nil {
		return err
	}
	for _, tag := range missing {
		_, err := s.client.Do(ctx, rest.Request{
			Name: "add a merge field", Method: http.MethodPost, Path: s.list + "/merge-fields", Body: field{Tag: tag, Name: tag, Type: "text"},
		})
		if err != nil {
			return err
		}
	}
	return nil
}
