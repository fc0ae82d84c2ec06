package hubspot

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/rest"
)

// definition is a property of contacts as HubSpot describes and takes it.
type definition struct {
	Name           string `json:"name"`
	Label          string `json:"label"`
	GroupName      string `json:"groupName"`
	Type           string `json:"type"`
	FieldType      string `json:"fieldType"`
	HasUniqueValue bool   `json:"hasUniqueValue"`
	Description    string `json:"description,omitempty"`
}

// ours begins the names of properties that Init may create.
const ours = "clerk_"

// wanted are the properties that Init creates: the key, and what a mapping names
// that begins with clerk_.
func (s *Sink) wanted() []definition {
	list := []definition{{
		Name: s.cfg.KeyProperty, Label: "Clerk user ID", GroupName: "contactinformation", Type: "string", FieldType: "text",
		HasUniqueValue: true, Description: "Set by clerk-connect. It ties the contact to its user.",
	}}
	for _, a := range slices.Concat(s.mapping.Assignments(), s.newcomer.Assignments()) {
		if strings.HasPrefix(a.Target, ours) {
			list = append(list, definitionOf(a))
		}
	}
	return list
}

func definitionOf(a mapping.Assignment) definition {
	label := strings.ReplaceAll(a.Target, "_", " ")
	d := definition{
		Name: a.Target, Label: strings.ToUpper(label[:1]) + label[1:], GroupName: "contactinformation", Type: "string", FieldType: "text",
	}
	switch a.Expression.Kind() {
	case mapping.Time:
		d.Type, d.FieldType = "datetime", "date"
	case mapping.Integer:
		d.Type, d.FieldType = "number", "number"
	}
	return d
}

// InitScript implements [sinks.Initializer].
func (s *Sink) InitScript() string {
	var script strings.Builder
	for _, d := range s.wanted() {
		script.WriteString(contact.ScriptRequest(s.cfg.BaseURL+s.properties(), d))
	}
	return script.String()
}

// Init implements [sinks.Initializer]. The property of the key must have unique
// values from the start: HubSpot does not change that later.
func (s *Sink) Init(ctx context.Context) error {
	s.client.Open()
	for _, d := range s.wanted() {
		_, err := s.client.Do(ctx, rest.Request{
			Name: "create property " + d.Name, Method: http.MethodPost, Path: s.properties(), Body: d,
			Accept: []int{http.StatusConflict}, // it is there
		})
		if err != nil {
			return err
		}
	}
	return s.check(ctx)
}

// Open implements [sinks.Sink]. It checks the token, and that the properties are
// there that the settings name.
func (s *Sink) Open(ctx context.Context) error {
	s.client.Open()
	return s.check(ctx)
}

func (s *Sink) check(ctx context.Context) error {
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "read properties of contacts", Method: http.MethodGet, Path: s.properties(), Query: url.Values{"archived": {"false"}},
	})
	if err != nil {
		return err
	}
	var list struct {
		Results []struct {
			Name                 string
			HasUniqueValue       bool
			ModificationMetadata struct{ ReadOnlyValue bool }
		}
	}
	if err := answer.Decode(&list); err != nil {
		return fmt.Errorf("read properties of contacts: %w", err)
	}
	missing := map[string]string{s.cfg.KeyProperty: "KEY_PROPERTY"}
	for _, name := range s.mapping.Names() {
		missing[name] = "PROPERTIES"
	}
	for _, name := range s.newcomer.Names() {
		missing[name] = "NEW_USER_PROPERTIES"
	}
	for _, p := range list.Results {
		variable := missing[p.Name]
		switch {
		case variable == "KEY_PROPERTY" && !p.HasUniqueValue:
			return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("KEY_PROPERTY: the property %q does not have unique values: name another, which init creates", p.Name))
		case variable != "" && p.ModificationMetadata.ReadOnlyValue:
			return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("%s: HubSpot does not let the property %q be written: leave it out", variable, p.Name))
		}
		delete(missing, p.Name)
	}
	for name, variable := range missing {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("%s: contacts have no property %q: create it in HubSpot, or with init if its name begins with %s", variable, name, ours))
	}
	return nil
}
