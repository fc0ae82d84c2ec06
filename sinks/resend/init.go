package resend

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

// Open implements [sinks.Sink]. It names the properties that are not declared, and
// finds the segment: Resend would refuse every contact.
func (s *Sink) Open(ctx context.Context) error {
	s.client.Open()
	missing, err := s.missing(ctx)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("contacts have no property %s: declare them, as clerk-connect sink init does", strings.Join(missing, ", ")))
	}
	if s.cfg.NewUserSegment == "" {
		return nil
	}
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "read a segment", Method: http.MethodGet, Path: "/segments/" + url.PathEscape(s.cfg.NewUserSegment), Accept: []int{http.StatusNotFound},
	})
	if err == nil && answer.Status == http.StatusNotFound {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("NEW_USER_SEGMENT is %q: there is no such segment; copy the ID from the segment's page", s.cfg.NewUserSegment))
	}
	return err
}

// declaration is a property as Resend takes it.
type declaration struct {
	Key  string `json:"key"`
	Type string `json:"type"`
}

// wanted are the properties that must be declared.
func (s *Sink) wanted() []string {
	list := []string{s.cfg.KeyProperty}
	for _, name := range s.mapping.Names() {
		if !slices.Contains(fields, name) {
			list = append(list, name)
		}
	}
	return list
}

// missing are the wanted properties that are not declared. It is also the call that
// tells a wrong key from a right one. One that is there as a number is refused: the
// sink writes texts.
func (s *Sink) missing(ctx context.Context) ([]string, error) {
	declared, err := s.list(ctx, "list properties", "/contact-properties")
	if err != nil {
		return nil, err
	}
	types := map[string]string{}
	for _, d := range declared {
		types[d.Key] = d.Type
	}
	var missing []string
	for _, name := range s.wanted() {
		switch types[name] {
		case "":
			missing = append(missing, name)
		case "string":
		default:
			return nil, sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("property %s is of type %s: the sink writes properties of type string; name another one", name, types[name]))
		}
	}
	return missing, nil
}

// InitScript implements [sinks.Initializer]: the requests, for a person to make.
func (s *Sink) InitScript() string {
	var script strings.Builder
	for _, name := range s.wanted() {
		script.WriteString(contact.ScriptRequest(s.cfg.BaseURL+"/contact-properties", declaration{name, "string"}))
	}
	return script.String()
}

// Init implements [sinks.Initializer].
func (s *Sink) Init(ctx context.Context) error {
	s.client.Open()
	missing, err := s.missing(ctx)
	if err != nil {
		return err
	}
	for _, name := range missing {
		_, err := s.client.Do(ctx, rest.Request{
			Name: "declare a property", Method: http.MethodPost, Path: "/contact-properties", Body: declaration{name, "string"},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// item is one of a list of properties, segments or topics.
type item struct {
	ID           string `json:"id"`
	Key          string `json:"key"`
	Type         string `json:"type"`
	Subscription string `json:"subscription"`
}

// mostItems is Resend's for a page of a list.
const mostItems = "100"

// list reads all pages of a list. accept are answers that mean that it is empty.
func (s *Sink) list(ctx context.Context, name, path string, accept ...int) (all []item, err error) {
	for query := (url.Values{"limit": {mostItems}}); ; {
		answer, err := s.client.Do(ctx, rest.Request{Name: name, Method: http.MethodGet, Path: path, Query: query, Accept: accept})
		if err != nil || answer.Status != http.StatusOK {
			return all, err
		}
		var page struct {
			HasMore bool   `json:"has_more"`
			Data    []item `json:"data"`
		}
		if err := answer.Decode(&page); err != nil {
			return nil, err
		}
		all = append(all, page.Data...)
		if !page.HasMore || len(page.Data) == 0 {
			return all, nil
		}
		query.Set("after", page.Data[len(page.Data)-1].ID)
	}
}
