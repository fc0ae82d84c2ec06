package httpsink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"clerkconnect/sinks"
	"clerkconnect/sinks/rest"
)

// call is a declared call.
type call struct {
	name   string // of the setting, lower case: upsert
	method string
	path   *template.Template
	body   *template.Template // nil: none
	// reads: it changes nothing, so that each repetition has an id of its own.
	reads bool
	// gone: it may be answered that the user is not there.
	gone bool
}

// calls are the declared calls, by name; what is not declared is missing.
type calls map[string]*call

func (c Config) parseCalls() (calls, error) {
	all := calls{}
	var problems []error
	for _, setting := range []struct {
		variable, line, body string
		reads, gone          bool
	}{
		{"CHECK", c.Check, "", true, false}, {"UPSERT", c.Upsert, c.UpsertBody, false, false}, {"CREATE", c.Create, c.CreateBody, false, false},
		{"UPDATE", c.Update, c.UpdateBody, false, true}, {"FIND", c.Find, c.FindBody, true, true},
		{"ERASE", c.Erase, c.EraseBody, false, true}, {"CONFIRM", c.Confirm, c.ConfirmBody, true, true},
	} {
		if setting.line == "" {
			continue
		}
		parsed, err := parseCall(setting.variable, setting.line, setting.body)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		parsed.reads, parsed.gone = setting.reads, setting.gone
		all[parsed.name] = parsed
	}
	return all, errors.Join(problems...)
}

var lines = regexp.MustCompile(`^(GET|POST|PUT|PATCH|DELETE) (/\S.*|/)$`)

func parseCall(variable, line, body string) (*call, error) {
	parts := lines.FindStringSubmatch(strings.TrimSpace(line))
	if parts == nil {
		return nil, fmt.Errorf("%s is %q: use a method, a space and a path that begins with a slash, as POST /users", variable, line)
	}
	c := &call{name: strings.ToLower(variable), method: parts[1]}
	var err error
	if c.path, err = parseTemplate(parts[2]); err != nil {
		return nil, fmt.Errorf("%s is no template: %w", variable, err)
	}
	if body != "" {
		if c.body, err = parseTemplate(body); err != nil {
			return nil, fmt.Errorf("%s_BODY is no template: %w", variable, err)
		}
	}
	return c, nil
}

func parseTemplate(text string) (*template.Template, error) {
	return template.New("template").Option("missingkey=error").Funcs(functions).Parse(text)
}

// functions are what templates have besides those of text/template.
var functions = template.FuncMap{
	"json": func(value any) (string, error) {
		text, err := json.Marshal(value)
		return string(text), err
	},
	"path":  escape(url.PathEscape),
	"query": escape(url.QueryEscape),
	"object": func(pairs ...any) (map[string]any, error) {
		object := map[string]any{}
		for i := 0; i+1 < len(pairs); i += 2 {
			name, ok := pairs[i].(string)
			if !ok {
				return nil, errors.New("object takes names, each with its value")
			}
			object[name] = pairs[i+1]
		}
		if len(pairs)%2 != 0 {
			return nil, errors.New("object takes names, each with its value")
		}
		return object, nil
	},
	"merge": func(objects ...map[string]any) map[string]any {
		all := map[string]any{}
		for _, object := range objects {
			maps.Copy(all, object)
		}
		return all
	},
	"present": func(object map[string]any) map[string]any {
		kept := maps.Clone(object)
		maps.DeleteFunc(kept, func(_ string, value any) bool { return value == nil })
		return kept
	},
	"blank": func(object map[string]any) map[string]any {
		filled := maps.Clone(object)
		for name, value := range filled {
			if value == nil {
				filled[name] = ""
			}
		}
		return filled
	},
}

var errNothing = errors.New("there is a value that a user may not have, and that would be sent as the text <no value>: write it with json, or within with")

// escape makes a function of templates. Nothing has no form in a path.
func escape(text func(string) string) func(any) (string, error) {
	return func(value any) (string, error) {
		if value == nil {
			return "", errNothing
		}
		return text(fmt.Sprint(value)), nil
	}
}

// noValue is what text/template writes of nil. json writes "<" as an escape, so no
// user's value looks like it.
const noValue = "<no value>"

// maxBody bounds what is made of templates, which loop.
const maxBody = 32 << 20

// bounded is a buffer that ends a template which fills too much.
type bounded struct{ bytes.Buffer }

// Write implements [io.Writer].
func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxBody {
		return 0, io.ErrShortWrite
	}
	return b.Buffer.Write(p)
}

var errNoJSON = errors.New("the body is not JSON")

// fill makes the path and the body of one call. isJSON: the body must be. The error
// may quote the data.
func (c *call) fill(data map[string]any, isJSON bool) (path string, body []byte, err error) {
	var text bounded
	if err := c.path.Execute(&text, data); err != nil {
		return "", nil, err
	}
	if path = text.String(); strings.Contains(path, noValue) {
		return "", nil, errNothing
	}
	if c.body == nil {
		return path, nil, nil
	}
	var content bounded
	if err := c.body.Execute(&content, data); err != nil {
		return "", nil, err
	}
	switch {
	case bytes.Contains(content.Bytes(), []byte(noValue)):
		return "", nil, errNothing
	case isJSON && !json.Valid(content.Bytes()):
		return "", nil, errNoJSON
	}
	return path, content.Bytes(), nil
}

// do makes a call. gone: the answer says that the user is not there.
func (s *Sink) do(ctx context.Context, name string, data map[string]any) (answer rest.Answer, gone bool, err error) {
	c := s.calls[name]
	id := fmt.Sprintf("%s-%s", data["message_id"], name)
	if c.reads {
		id = fmt.Sprintf("%s-%d", id, s.cfg.Clock().UnixMilli())
	}
	data["message_id"] = id
	path, body, err := c.fill(data, s.isJSON)
	if err != nil { // which may quote the user
		return rest.Answer{}, false, sinks.Permanent(sinks.ReasonInvalidRecord, fmt.Errorf("%s: its template cannot be filled in for this user", name))
	}
	request := rest.Request{Name: name, Method: c.method, Path: path, Header: s.header(id, body)}
	if c.body != nil {
		request.Body = body
	}
	answer, err = s.client.Do(ctx, request)
	var failure *rest.StatusError
	status, code := answer.Status, ""
	switch {
	case errors.As(err, &failure):
		status, code = failure.Status, failure.Code
	case err != nil:
		return answer, false, err
	}
	failed := ""
	if err == nil && s.cfg.FailedAt != "" {
		failed = failureAt(answer.Body, s.cfg.FailedAt)
	}
	switch {
	case c.gone && (s.judged.gone.has(status, code) || s.judged.gone.has(0, failed)):
		return answer, true, nil
	case failed != "":
		if err = s.judged.classify(rest.Failure{Answer: answer, Name: name, Code: failed}); err == nil {
			err = sinks.Permanent(sinks.ReasonInvalidRecord, &rest.StatusError{Name: name, Status: status, Code: failed})
		}
		return answer, false, err
	case s.judged.success.has(status, code):
		return answer, false, s.doubt(name, answer)
	case err == nil:
		err = s.judged.classify(rest.Failure{Answer: answer, Name: name})
	}
	if err == nil {
		err = sinks.Permanent(sinks.ReasonInvalidRecord, &rest.StatusError{Name: name, Status: status})
	}
	return answer, false, err
}

var (
	errPage    = errors.New("a web page, which is rather a proxy's than the service's: list the status in SUCCESS by its number if it is not")
	errPartial = errors.New("which says that a part has failed, and not which: list 207 in SUCCESS if it does not say that")
)

// doubt has the word about answers that are a success as one of a class: 2xx. What
// SUCCESS lists by its number is believed.
func (s *Sink) doubt(name string, answer rest.Answer) error {
	switch {
	case slices.Contains(s.judged.success.statuses, answer.Status):
		return nil
	case answer.IsPage():
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: HTTP %d with %w", name, answer.Status, errPage))
	case answer.Status == http.StatusMultiStatus:
		return sinks.Permanent(sinks.ReasonInvalidRecord, fmt.Errorf("%s: HTTP 207, %w", name, errPartial))
	}
	return nil
}

// header carries the id of a message and its signature.
func (s *Sink) header(id string, body []byte) http.Header {
	header := http.Header{}
	if s.cfg.IDHeader != "" {
		header.Set(s.cfg.IDHeader, id)
	}
	if len(s.signers) == 0 {
		return header
	}
	now := s.cfg.Clock()
	var signatures []string
	for _, signer := range s.signers {
		signature, err := signer.Sign(id, now, body)
		if err != nil {
			panic(err) // it never fails
		}
		signatures = append(signatures, signature)
	}
	header.Set("webhook-id", id)
	header.Set("webhook-timestamp", fmt.Sprint(now.Unix()))
	header.Set("webhook-signature", strings.Join(signatures, " "))
	return header
}
