package resttest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

// Contract is a vendor's description of its API, OpenAPI 3 or Swagger 2. Safe
// for concurrent use.
type Contract struct {
	doc *openapi3.T
	// Undescribed lists requests that the description leaves out, as "POST
	// /crm/v3/properties/contacts"; * stands for one segment. Any other request
	// that it does not know is an error.
	Undescribed []string
	// Open lists objects in requests, as body.contacts[].custom_fields, whose
	// members the description names by way of example.
	Open []string
	// PathOf turns a request's path into that of the description; nil: they are
	// the same.
	PathOf func(path string) string
}

// Shared returns the path of a file of the vendors' material. The test is
// skipped without it, and fails where CI is true.
func Shared(t testing.TB, elements ...string) string {
	t.Helper()
	folder := os.Getenv("CLERK_CONNECT_SHARED")
	if folder == "" {
		root, err := os.Getwd()
		for err == nil && root != filepath.Dir(root) {
			if _, missing := os.Stat(filepath.Join(root, "go.mod")); missing == nil {
				break
			}
			root = filepath.Dir(root)
		}
		folder = filepath.Join(root, "..", "shared")
	}
	path := filepath.Join(append([]string{folder}, elements...)...)
	if _, err := os.Stat(path); err != nil {
		text := "the vendors' descriptions are not there: set CLERK_CONNECT_SHARED to their folder"
		if os.Getenv("CI") == "true" {
			t.Fatal(text)
		}
		t.Skip(text)
	}
	return path
}

var descriptions struct {
	sync.Mutex
	byName map[string]*openapi3.T
}

// LoadContract reads a description in contracts/, once for all tests.
func LoadContract(t testing.TB, name string) *Contract {
	t.Helper()
	path := Shared(t, "contracts", name)
	descriptions.Lock()
	defer descriptions.Unlock()
	if doc := descriptions.byName[name]; doc != nil {
		return &Contract{doc: doc}
	}
	doc, err := load(path)
	if err != nil {
		t.Fatalf("load %s: %v", name, err)
	}
	if descriptions.byName == nil {
		descriptions.byName = map[string]*openapi3.T{}
	}
	descriptions.byName[name] = doc
	return &Contract{doc: doc}
}

func load(path string) (*openapi3.T, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var version struct{ Swagger string }
	if json.Unmarshal(text, &version) == nil && version.Swagger != "" {
		var doc openapi2.T
		if err := json.Unmarshal(text, &doc); err != nil {
			return nil, err
		}
		return openapi2conv.ToV3(&doc)
	}
	return openapi3.NewLoader().LoadFromData(text)
}

// find returns the operation of a request, nil if it is not described and need
// not be.
func (c *Contract) find(r *http.Request) (*openapi3filter.RequestValidationInput, error) {
	path := r.URL.EscapedPath()
	if slices.ContainsFunc(c.Undescribed, func(pattern string) bool { return matches(pattern, r.Method+" "+path) }) {
		return nil, nil
	}
	if c.PathOf != nil {
		path = c.PathOf(path)
	}
	best, found := "", map[string]string{}
	for template, item := range c.doc.Paths.Map() {
		params, ok := bind(template, path)
		if ok && item.GetOperation(r.Method) != nil && (best == "" || len(params) < len(found)) {
			best, found = template, params
		}
	}
	if best == "" {
		return nil, errors.New("the vendor's description does not know it")
	}
	item := c.doc.Paths.Value(best)
	return &openapi3filter.RequestValidationInput{
		Request: r, PathParams: found,
		Route: &routers.Route{Spec: c.doc, Path: best, PathItem: item, Method: r.Method, Operation: item.GetOperation(r.Method)},
		Options: &openapi3filter.Options{
			AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true,
			RejectWhenRequestBodyNotSpecified: true, SkipSettingDefaults: true,
		},
	}, nil
}

// bind matches a path with a template, as /contacts/{id}.
func bind(template, path string) (map[string]string, bool) {
	want, got := strings.Split(template, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return nil, false
	}
	params := map[string]string{}
	for i, segment := range want {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			value, err := url.PathUnescape(got[i])
			if err != nil || value == "" {
				return nil, false
			}
			params[strings.TrimSuffix(name, "}")] = value
		} else if segment != got[i] {
			return nil, false
		}
	}
	return params, true
}

// matches compares with a pattern in which * stands for one segment.
func matches(pattern, text string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(text, "/")
	return slices.EqualFunc(want, got, func(w, g string) bool { return w == "*" && g != "" || w == g })
}

// checkRequest returns what is wrong with a request.
func (c *Contract) checkRequest(r *http.Request, body []byte) error {
	copied := r.Clone(r.Context())
	copied.Body = http.NoBody
	if len(body) > 0 {
		copied.Body = io.NopCloser(bytes.NewReader(body))
	}
	input, err := c.find(copied)
	if input == nil {
		return err
	}
	if err := openapi3filter.ValidateRequest(r.Context(), input); err != nil {
		return err
	}
	operation := input.Route.Operation
	if operation.RequestBody == nil || len(body) == 0 {
		return nil
	}
	if media := operation.RequestBody.Value.Content.Get(r.Header.Get("Content-Type")); media != nil && media.Schema != nil {
		var value any
		if json.Unmarshal(body, &value) == nil {
			return c.undeclared(media.Schema.Value, value, "body")
		}
	}
	return nil
}

var indexes = regexp.MustCompile(`\[[0-9]+\]`)

// undeclared returns an error if an object of value has a member that its
// schema does not name: the vendor would drop it in silence.
func (c *Contract) undeclared(schema *openapi3.Schema, value any, path string) error {
	switch v := value.(type) {
	case []any:
		if schema.Items != nil {
			for i, item := range v {
				if err := c.undeclared(schema.Items.Value, item, fmt.Sprintf("%s[%d]", path, i)); err != nil {
					return err
				}
			}
		}
	case map[string]any:
		known, open := members(schema)
		open = open || slices.Contains(c.Open, indexes.ReplaceAllString(path, "[]"))
		for name, member := range v {
			switch inner, ok := known[name]; {
			case ok:
				if err := c.undeclared(inner, member, path+"."+name); err != nil {
					return err
				}
			case !open:
				return fmt.Errorf("%s: the description does not know the member %q", path, name)
			}
		}
	}
	return nil
}

// members returns what members a schema names, with all that it is composed of,
// and whether it takes others.
func members(schema *openapi3.Schema) (known map[string]*openapi3.Schema, open bool) {
	known = map[string]*openapi3.Schema{}
	for name, property := range schema.Properties {
		known[name] = property.Value
	}
	extra := schema.AdditionalProperties
	open = extra.Schema != nil || extra.Has != nil && *extra.Has
	parts := slices.Concat(schema.AllOf, schema.OneOf, schema.AnyOf)
	for _, part := range parts {
		inner, more := members(part.Value)
		for name, property := range inner {
			known[name] = property
		}
		open = open || more
	}
	return known, open || len(known) == 0 && len(parts) == 0
}

// checkAnswer returns what is wrong with an answer. Failures that the vendor
// does not describe, as many do not describe a 429, are its own affair.
func (c *Contract) checkAnswer(r *http.Request, answer *httptest.ResponseRecorder) error {
	input, err := c.find(r)
	if input == nil {
		return err
	}
	responses := input.Route.Operation.Responses
	if answer.Code >= 400 && responses.Status(answer.Code) == nil && responses.Default() == nil {
		return nil
	}
	check := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: answer.Code, Header: answer.Header(), Options: input.Options,
	}
	return openapi3filter.ValidateResponse(r.Context(), check.SetBodyBytes(answer.Body.Bytes()))
}
