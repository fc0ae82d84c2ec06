package sendgrid

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/rest"
)

// definition is a custom field as SendGrid takes it.
type definition struct {
	Name      string `json:"name"`
	FieldType string `json:"field_type"`
}

// wanted are the custom fields that the settings name.
func (s *Sink) wanted() []definition {
	list := []definition{{s.cfg.KeyField, "Text"}}
	for _, a := range s.mapping.Assignments() {
		if isReserved(a.Target) || a.Target == s.cfg.KeyField {
			continue
		}
		kind := "Text"
		switch a.Expression.Kind() {
		case mapping.Integer:
			kind = "Number"
		case mapping.Time:
			kind = "Date"
		}
		list = append(list, definition{a.Target, kind})
	}
	return list
}

// Open implements [sinks.Sink]. It looks the ids of custom fields up, and names
// those that are not there.
func (s *Sink) Open(ctx context.Context) error {
	s.client.Open()
	fields, err := s.defined(ctx)
	if err != nil {
		return err
	}
	var missing []string
	for _, d := range s.wanted() {
		if fields[d.Name] == "" {
			missing = append(missing, d.Name)
		}
	}
	if len(missing) > 0 {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("KEY_FIELD or PROPERTIES name %s, which are no custom fields: make them, as clerk-connect sink init does", strings.Join(missing, ", ")))
	}
	s.fields = fields
	return nil
}

// defined returns the ids of the custom fields, by name. It is also the call that
// tells a wrong key from a right one.
func (s *Sink) defined(ctx context.Context) (map[string]string, error) {
	answer, err := s.client.Do(ctx, rest.Request{Name: "list custom fields", Method: http.MethodGet, Path: "/v3/marketing/field_definitions"})
	if err != nil {
		return nil, err
	}
	var list struct {
		CustomFields []struct {
			ID   string `json:"id"`
			Name string `json:"name"`
		} `json:"custom_fields"`
	}
	if err := answer.Decode(&list); err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for _, f := range list.CustomFields {
		fields[f.Name] = f.ID
	}
	return fields, nil
}

// InitScript implements [sinks.Initializer]: the requests, for a person to make.
func (s *Sink) InitScript() string {
	var script strings.Builder
	for _, d := range s.wanted() {
		script.WriteString(contact.ScriptRequest(s.cfg.BaseURL+"/v3/marketing/field_definitions", d))
	}
	return script.String()
}

// Init implements [sinks.Initializer].
func (s *Sink) Init(ctx context.Context) error {
	s.client.Open()
	fields, err := s.defined(ctx)
	if err != nil {
		return err
	}
	for _, d := range s.wanted() {
		if fields[d.Name] != "" {
			continue
		}
		if _, err := s.client.Do(ctx, rest.Request{Name: "make a custom field", Method: http.MethodPost, Path: "/v3/marketing/field_definitions", Body: d}); err != nil {
			return err
		}
	}
	return nil
}
