package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"clerkconnect/sinks"
)

// Config says how to reach a tool. BaseURL is required.
type Config struct {
	// BaseURL is put before the path of every request, without a slash at its
	// end: https://api.example.com or with a path.
	BaseURL string
	// Header is sent with every request: authorisation, a version. It is secret.
	Header http.Header
	// Authorize, if set, adds to a request what cannot be fixed beforehand, as a
	// token that expires. Its error is returned as it is.
	Authorize func(ctx context.Context, header http.Header) error
	// Timeout of one request, from its start to the last byte of its answer; 0:
	// 20 s. Waiting for the pacer does not count.
	Timeout time.Duration
	// MaxAnswer is the most bytes that are read of an answer; 0: 16 MiB.
	MaxAnswer int64
	// Classify, if set, has the first word about an answer that is no success. nil,
	// from it, leaves the answer to the usual rules. An error must be classified.
	Classify func(Failure) error
	// Pages lets a web page be an answer, for a service that is not known. Without
	// it a page is no success, nor anything that a request accepts, nor a refusal of
	// the record by 404 or 405: it is from something before the tool, and retried.
	Pages bool
	// Code, if set, takes the vendor's code out of the body of an error. Without
	// it the members code, errorCode, category and title are looked at.
	Code func(body []byte) string
	// Quota, if set, reads what an answer says of the rate limit. Without it the
	// headers RateLimit-Remaining and RateLimit-Reset are, with and without X-.
	Quota func(header http.Header, now time.Time) (remaining int, reset time.Duration, ok bool)
	// Clock tells the time by which dates in answers are understood; nil:
	// [time.Now].
	Clock func() time.Time
}

const (
	defaultTimeout   = 20 * time.Second
	defaultMaxAnswer = 16 << 20
	// maxIdle is how many connections stay open for reuse: as many as any tool
	// has calls in flight.
	maxIdle = 16
)

// Client makes a tool's requests. Safe for concurrent use.
type Client struct {
	cfg    Config
	http   *http.Client
	pacer  sinks.Pacer
	closed atomic.Bool
}

// New returns a client. It does no I/O. It fails if BaseURL is no URL.
func New(cfg Config) (*Client, error) {
	if err := CheckBaseURL(cfg.BaseURL); err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.MaxAnswer == 0 {
		cfg.MaxAnswer = defaultMaxAnswer
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Quota == nil {
		cfg.Quota = quota
	}
	if cfg.Code == nil {
		cfg.Code = code
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = maxIdle
	return &Client{cfg: cfg, pacer: unpaced{}, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// CheckBaseURL returns what is wrong with a base URL, nil if nothing.
func CheckBaseURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.HasSuffix(text, "/") {
		return errors.New("not a base URL: use https://host or https://host/path, without a slash at the end")
	}
	return nil
}

// Pace has every request go through p. Call it before the first request; it is
// what a sink's own Pace calls.
func (c *Client) Pace(p sinks.Pacer) { c.pacer = p }

// Sleep waits for d, for a tool that is to be asked later what became of a
// request. An error is classified.
func (c *Client) Sleep(ctx context.Context, d time.Duration) error {
	if err := c.pacer.Sleep(ctx, d); err != nil {
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("wait for the tool: %w", err))
	}
	return nil
}

// unpaced is the pace of a client that was given none.
type unpaced struct{}

// Wait implements [sinks.Pacer].
func (unpaced) Wait(context.Context) error { return nil }

// Heed implements [sinks.Pacer].
func (unpaced) Heed(int, time.Duration) {}

// Sleep implements [sinks.Pacer].
func (unpaced) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// Open lets requests be made, after a Close too.
func (c *Client) Open() { c.closed.Store(false) }

// Close ends the connections that are not in use. Requests after it fail until
// Open. It may be called twice, and without Open.
func (c *Client) Close() {
	c.closed.Store(true)
	c.http.CloseIdleConnections()
}

// Request is one request.
type Request struct {
	// Name says what it does, for errors: upsert contacts. No personal data.
	Name   string
	Method string
	// Path is put after the base URL. Escape what is variable in it with
	// [url.PathEscape].
	Path  string
	Query url.Values // nil: none
	// Header is sent besides Config.Header.
	Header http.Header
	// Body is sent as JSON, or as it is if it is a [Form] or []byte; nil: none.
	Body any
	// Accept lists statuses, besides 2xx, that the caller understands: 404 of an
	// erasure, 207 needs no mention.
	Accept []int
	// BaseURL replaces that of the client; "": it does not.
	BaseURL string
}

// Form is a body of type application/x-www-form-urlencoded.
type Form url.Values

// Answer is an answer that is a success, or was accepted.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Decode reads the body as JSON, an object with at least these members. An answer
// that cannot be read is retried: it comes from something before the tool, or was
// cut. Name what decides whether somebody is there: an error with status 200 is
// not to be taken for nobody.
func (a Answer) Decode(into any, members ...string) error {
	err := json.Unmarshal(a.Body, into)
	if err == nil && len(members) > 0 {
		err = having(a.Body, members)
	}
	if err != nil { // which may quote the body
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("HTTP %d with a body that is not the JSON that was expected", a.Status))
	}
	return nil
}

var errMember = errors.New("a member is missing")

// having fails unless each of members is there, and is something.
func having(body []byte, members []string) error {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil {
		return err
	}
	for _, name := range members {
		if text := string(object[name]); text == "" || text == "null" || text == `""` {
			return errMember
		}
	}
	return nil
}

// errClosed is for requests after Close.
var errClosed = errors.New("client is closed")

// Do makes one request, once. An error is classified, see the package
// comment.
func (c *Client) Do(ctx context.Context, r Request) (Answer, error) {
	if c.closed.Load() {
		return Answer{}, fmt.Errorf("%s: %w", r.Name, errClosed)
	}
	if err := c.pacer.Wait(ctx); err != nil {
		return Answer{}, sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: wait for the rate limit: %w", r.Name, err))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeout, errTimeout)
	defer cancel()
	request, err := c.request(ctx, r)
	if err != nil {
		return Answer{}, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return Answer{}, broken(ctx, r.Name, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, c.cfg.MaxAnswer+1))
	if err != nil {
		return Answer{}, broken(ctx, r.Name, err)
	}
	answer := Answer{response.StatusCode, response.Header, body}
	return answer, c.judge(r, answer)
}

func (c *Client) request(ctx context.Context, r Request) (*http.Request, error) {
	body, kind, err := encode(r)
	if err != nil {
		return nil, err
	}
	base := c.cfg.BaseURL
	if r.BaseURL != "" {
		base = r.BaseURL
	}
	address := base + r.Path
	if len(r.Query) > 0 {
		address += "?" + r.Query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, r.Method, address, body)
	if err != nil { // which quotes the URL
		return nil, sinks.Permanent(sinks.ReasonInvalidRecord, fmt.Errorf("%s: no request can be made of it", r.Name))
	}
	for _, header := range []http.Header{c.cfg.Header, r.Header} {
		for name, values := range header {
			request.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	if request.Header.Get("Accept") == "" {
		request.Header.Set("Accept", "application/json")
	}
	if kind != "" && request.Header.Get("Content-Type") == "" {
		request.Header.Set("Content-Type", kind)
	}
	if c.cfg.Authorize != nil {
		if err := c.cfg.Authorize(ctx, request.Header); err != nil {
			return nil, err
		}
	}
	return request, nil
}

func encode(r Request) (body io.Reader, kind string, err error) {
	switch content := r.Body.(type) {
	case nil:
		return nil, "", nil
	case []byte:
		return bytes.NewReader(content), "application/json", nil
	case Form:
		return strings.NewReader(url.Values(content).Encode()), "application/x-www-form-urlencoded", nil
	}
	text, err := json.Marshal(r.Body)
	if err != nil { // which may quote the value
		return nil, "", sinks.Permanent(sinks.ReasonInvalidRecord, fmt.Errorf("%s: no JSON can be made of it", r.Name))
	}
	return bytes.NewReader(text), "application/json", nil
}
