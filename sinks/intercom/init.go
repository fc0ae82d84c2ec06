package intercom

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

// Open implements [sinks.Sink]. It finds the tag, and names the custom attributes
// that are not declared, which Intercom would refuse with every contact.
func (s *Sink) Open(ctx context.Context) error {
	s.client.Open()
	missing, err := s.missing(ctx)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		names := make([]string, len(missing))
		for i, a := range missing {
			names[i] = a.Name
		}
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("PROPERTIES names %s, which are no attributes of contacts: declare them, as clerk-connect sink init does", strings.Join(names, ", ")))
	}
	if s.cfg.NewUserTag == "" {
		return nil
	}
	if s.tag, err = s.findTag(ctx); err == nil && s.tag == "" {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("NEW_USER_TAG is %q: there is no such tag; make it, as clerk-connect sink init does", s.cfg.NewUserTag))
	}
	return err
}

// attribute is a custom attribute as Intercom takes it.
type attribute struct {
	Name     string `json:"name"`
	Model    string `json:"model"`
	DataType string `json:"data_type"`
}

// wanted are the custom attributes of the mapping.
func (s *Sink) wanted() (list []attribute) {
	for _, a := range s.mapping.Assignments() {
		if slices.Contains(fields, a.Target) {
			continue
		}
		kind := "string"
		switch a.Expression.Kind() {
		case mapping.Integer:
			kind = "integer"
		case mapping.Bool:
			kind = "boolean"
		case mapping.Time:
			kind = "datetime"
		}
		list = append(list, attribute{a.Target, "contact", kind})
	}
	return list
}

// missing are the wanted attributes that the workspace does not have. It is also
// the call that tells a wrong token from a right one.
func (s *Sink) missing(ctx context.Context) ([]attribute, error) {
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "list attributes", Method: http.MethodGet, Path: "/data_attributes", Query: url.Values{"model": {"contact"}},
	})
	if err != nil {
		return nil, err
	}
	var list struct {
		Data []struct {
			Name string `json:"name"`
		} `json:"data"`
	}
	if err := answer.Decode(&list, "data"); err != nil {
		return nil, err
	}
	wanted := s.wanted()
	return slices.DeleteFunc(wanted, func(a attribute) bool {
		for _, have := range list.Data {
			if have.Name == a.Name {
				return true
			}
		}
		return false
	}), nil
}

// findTag returns the id of the tag, "" if there is none.
func (s *Sink) findTag(ctx context.Context) (string, error) {
	answer, err := s.client.Do(ctx, rest.Request{Name: "list tags", Method: http.MethodGet, Path: "/tags"})
	if err != nil {
		return "", err
	}
	var list struct {
		Data []struct {
			ID   string `json:"id"`
			Name string `json:"name"`
		} `json:"data"`
	}
	if err := answer.Decode(&list, "data"); err != nil {
		return "", err
	}
	for _, tag := range list.Data {
		if tag.Name == s.cfg.NewUserTag {
			return tag.ID, nil
		}
	}
	return "", nil
}

// InitScript implements [sinks.Initializer]: the requests, for a person to make.
func (s *Sink) InitScript() string {
	var script strings.Builder
	for _, a := range s.wanted() {
		script.WriteString(contact.ScriptRequest(s.cfg.BaseURL+"/data_attributes", a))
	}
	if s.cfg.NewUserTag != "" {
		script.WriteString(contact.ScriptRequest(s.cfg.BaseURL+"/tags", map[string]string{"name": s.cfg.NewUserTag}))
	}
	return script.String()
}

// Init implements [sinks.Initializer]. A tag that is there is found by its name
// and stays as it is.
func (s *Sink) Init(ctx context.Context) error {
	s.client.Open()
	missing, err := s.missing(ctx)
	if err != nil {
		return err
	}
	for _, a := range missing {
		if _, err := s.client.Do(ctx, rest.Request{Name: "declare an attribute", Method: http.MethodPost, Path: "/data_attributes", Body: a}); err != nil {
			return err
		}
	}
	if s.cfg.NewUserTag == "" {
		return nil
	}
	_, err = s.client.Do(ctx, rest.Request{Name: "make a tag", Method: http.MethodPost, Path: "/tags", Body: map[string]string{"name": s.cfg.NewUserTag}})
	return err
}
