package rest

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"clerkconnect/sinks"
)

// Failure is an answer that is no success, for Config.Classify.
type Failure struct {
	Answer
	Name  string        // Request.Name
	Code  string        // the vendor's code, "" if there is none
	After time.Duration // how long to wait, as the answer says; 0: it does not
}

// Err returns what an error says of f: name, status and code.
func (f Failure) Err() error { return &StatusError{f.Name, f.Status, f.Code} }

// StatusError is the cause within a classified error.
type StatusError struct {
	Name   string // what was done
	Status int    // of HTTP
	Code   string // the vendor's, "" if there is none
}

// Error implements error.
func (e *StatusError) Error() string {
	text := fmt.Sprintf("%s: HTTP %d", e.Name, e.Status)
	if e.Code != "" {
		text += " " + e.Code
	}
	return text
}

// judge takes over what an answer says of the rate limit, and returns an error
// unless it is a success or was accepted.
func (c *Client) judge(r Request, a Answer) error {
	now := c.cfg.Clock()
	if remaining, reset, ok := c.cfg.Quota(a.Header, now); ok {
		c.pacer.Heed(remaining, reset)
	}
	success := a.Status >= 200 && a.Status < 300
	switch {
	case int64(len(a.Body)) > c.cfg.MaxAnswer:
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: HTTP %d with more than %d bytes", r.Name, a.Status, c.cfg.MaxAnswer))
	case success, slices.Contains(r.Accept, a.Status):
		if a.IsPage() && !c.cfg.Pages {
			return sinks.RetryAfter(sinks.ReasonUnavailable, after(a.Header, now), pageError(r.Name, a.Status))
		}
		return nil
	}
	f := Failure{Answer: a, Name: r.Name, Code: PlainCode(c.cfg.Code(a.Body)), After: after(a.Header, now)}
	if c.cfg.Classify != nil {
		if err := c.cfg.Classify(f); err != nil {
			return err
		}
	}
	if notFound := a.Status == http.StatusNotFound || a.Status == http.StatusMethodNotAllowed; notFound && a.IsPage() && !c.cfg.Pages {
		return sinks.RetryAfter(sinks.ReasonUnavailable, f.After, pageError(r.Name, a.Status))
	}
	return classify(f)
}

// IsPage reports whether the body is a web page, as proxies answer with in place
// of the tool: while it is maintained, or where it is not to be reached from.
func (a Answer) IsPage() bool {
	start := bytes.ToLower(bytes.TrimLeft(a.Body[:min(len(a.Body), mostBefore)], "\ufeff \t\r\n"))
	return bytes.HasPrefix(start, []byte("<!doctype html")) || bytes.HasPrefix(start, []byte("<html"))
}

// mostBefore is how far a page is looked for.
const mostBefore = 256

func pageError(name string, status int) error {
	return fmt.Errorf("%s: HTTP %d with a web page, which is not the tool's answer", name, status)
}

// classify is the table of the package comment.
func classify(f Failure) error {
	err := f.Err()
	switch {
	case f.Status == http.StatusTooManyRequests:
		return sinks.RetryAfter(sinks.ReasonRateLimited, f.After, err)
	case f.Status == http.StatusRequestTimeout:
		return sinks.RetryAfter(sinks.ReasonTimeout, f.After, err)
	case f.Status == http.StatusTooEarly, f.Status >= 500:
		return sinks.RetryAfter(sinks.ReasonUnavailable, f.After, err)
	case f.Status == http.StatusUnauthorized, f.Status == http.StatusForbidden:
		return sinks.Fatal(sinks.ReasonUnauthorized, err)
	case f.Status < 400:
		return sinks.Fatal(sinks.ReasonMisconfigured, err)
	case f.Status == http.StatusRequestEntityTooLarge:
		return sinks.Permanent(sinks.ReasonTooLarge, err)
	case f.Status == http.StatusConflict:
		return sinks.Permanent(sinks.ReasonConflict, err)
	}
	return sinks.Permanent(sinks.ReasonInvalidRecord, err)
}

var (
	errTimeout = errors.New("no answer within TIMEOUT")
	errLookup  = errors.New("the host's name is not found")
	errDial    = errors.New("no connection")
	errTLS     = errors.New("the server's certificate is not accepted")
	errLost    = errors.New("connection lost")
)

// broken is the error of a request without an answer. The transport's own text
// quotes the URL, or what the server sent.
func broken(ctx context.Context, name string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		reason := sinks.ReasonUnavailable
		if errors.Is(cause, errTimeout) || errors.Is(cause, context.DeadlineExceeded) {
			reason = sinks.ReasonTimeout
		}
		return sinks.RetryAfter(reason, 0, fmt.Errorf("%s: %w", name, cause))
	}
	var (
		lookup      *net.DNSError
		dial        *net.OpError
		authority   x509.UnknownAuthorityError
		certificate x509.CertificateInvalidError
		host        x509.HostnameError
	)
	text := errLost
	switch {
	case errors.As(err, &lookup):
		text = errLookup
	case errors.As(err, &authority), errors.As(err, &certificate), errors.As(err, &host):
		text = errTLS
	case errors.As(err, &dial) && dial.Op == "dial":
		text = errDial
	}
	return sinks.RetryAfter(sinks.ReasonUnavailable, 0, fmt.Errorf("%s: %w", name, text))
}

// codes are what vendors' codes look like: nothing that a person has typed.
var codes = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{1,63}$`)

// PlainCode returns the code of an error that stands within an answer, its spaces
// replaced, or "" if it does not look like one, so that no error quotes more.
func PlainCode(code string) string {
	if code = strings.ReplaceAll(code, " ", "_"); codes.MatchString(code) {
		return code
	}
	return ""
}

// code looks for a vendor's code where most vendors put it, in the body or the
// first of its errors.
func code(body []byte) string {
	type coded struct {
		Code      any    `json:"code"`
		ErrorCode string `json:"errorCode"`
		Category  string `json:"category"`
		Name      string `json:"name"`
		Title     string `json:"title"`
	}
	pick := func(c coded) string {
		text, _ := c.Code.(string)
		for _, found := range []string{text, c.ErrorCode, c.Category, c.Name, c.Title} {
			if found != "" {
				return found
			}
		}
		return ""
	}
	var whole coded
	if json.Unmarshal(body, &whole) == nil {
		if found := pick(whole); found != "" {
			return found
		}
	}
	var list []coded
	var within struct{ Errors []coded }
	if json.Unmarshal(body, &list) != nil && json.Unmarshal(body, &within) == nil {
		list = within.Errors
	}
	if len(list) > 0 {
		return pick(list[0])
	}
	return ""
}

// maxAfter bounds what a destination can make the sink wait: a limit of a day
// is asked about again every hour.
const maxAfter = time.Hour

// after returns how long an answer says to wait, by Retry-After, in seconds or
// as a date, or else by the vendor's header of the reset; 0: it does not say. At
// most an hour.
func after(header http.Header, now time.Time) time.Duration {
	if text := header.Get("Retry-After"); text != "" {
		if seconds, err := strconv.ParseFloat(text, 64); err == nil {
			return bounded(time.Duration(min(seconds, maxAfter.Seconds()) * float64(time.Second)))
		}
		if date, err := http.ParseTime(text); err == nil {
			return bounded(date.Sub(now))
		}
	}
	reset, _ := resetOf(header, now)
	return reset
}

// resetOf reads the usual headers of a reset: seconds from now, or a Unix time.
func resetOf(header http.Header, now time.Time) (time.Duration, bool) {
	for _, name := range []string{"X-RateLimit-Reset", "RateLimit-Reset", "X-Sib-RateLimit-Reset"} {
		n, err := strconv.ParseFloat(header.Get(name), 64)
		switch {
		case err != nil:
			continue
		case n > 1e9: // a moment, not a wait of thirty years
			return bounded(time.Unix(int64(n), 0).Sub(now)), true
		}
		return bounded(time.Duration(min(n, maxAfter.Seconds()) * float64(time.Second))), true
	}
	return 0, false
}

func bounded(d time.Duration) time.Duration { return max(0, min(d, maxAfter)) }

// quota reads the usual headers of a rate limit.
func quota(header http.Header, now time.Time) (remaining int, reset time.Duration, ok bool) {
	reset, known := resetOf(header, now)
	for _, name := range []string{"X-RateLimit-Remaining", "RateLimit-Remaining", "X-Sib-RateLimit-Remaining"} {
		if n, err := strconv.Atoi(header.Get(name)); err == nil && known {
			return n, reset, true
		}
	}
	return 0, 0, false
}
