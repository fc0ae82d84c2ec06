package hubspot

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/rest"
)

// HubSpot's categories of errors, and the codes within them, that mean something
// to the sink.
const (
	categoryConflict   = "CONFLICT"
	categoryExists     = "OBJECT_ALREADY_EXISTS"
	categoryValidation = "VALIDATION_ERROR"
	categoryLimits     = "RATE_LIMITS"
)

// dailyWait is how long the sink waits when the day's requests are used up: HubSpot
// resets them at midnight of the account's time zone, which it does not tell.
const dailyWait = time.Hour

// itemError is one entry of errors in an answer with status 207, or the whole
// body of an error.
type itemError struct {
	Category   string              `json:"category"`
	Message    string              `json:"message"`
	PolicyName string              `json:"policyName"`
	Context    map[string][]string `json:"context"`
	Errors     []struct {
		Code string `json:"code"`
	} `json:"errors"`
	ValidationResults []validation `json:"validationResults"`
}

// validation says what is wrong with one property.
type validation struct {
	Error string `json:"error"`
}

// conflict reports whether a unique value, the e-mail address, is another
// contact's.
func (e itemError) conflict() bool {
	return e.Category == categoryConflict || e.Category == categoryExists
}

// plainCodes are what HubSpot's codes look like.
var plainCodes = regexp.MustCompile(`^[A-Z][A-Z_]{2,63}$`)

// codes returns what is wrong in HubSpot's own words, which stand in a list of
// errors, or of validations, or in such a list as JSON within the message.
func (e itemError) codes() (codes []string) {
	validations := e.ValidationResults
	if at := strings.IndexByte(e.Message, '['); at >= 0 {
		var within []validation
		if json.Unmarshal([]byte(e.Message[at:]), &within) == nil {
			validations = append(validations, within...)
		}
	}
	for _, v := range validations {
		codes = append(codes, v.Error)
	}
	for _, detail := range e.Errors {
		codes = append(codes, detail.Code)
	}
	return slices.DeleteFunc(codes, func(code string) bool { return !plainCodes.MatchString(code) })
}

// misfit are the codes that say that the mapping does not fit the account: what
// is wrong with one record is wrong with all.
var misfit = []string{"PROPERTY_DOESNT_EXIST", "READ_ONLY_VALUE"}

// misconfigured reports whether e is about the settings.
func (e itemError) misconfigured() bool {
	return slices.ContainsFunc(e.codes(), func(code string) bool { return slices.Contains(misfit, code) })
}

// cause is what an error says of e: status and code.
func (e itemError) cause(name string, status int) error {
	code := e.Category
	if codes := e.codes(); len(codes) > 0 {
		code = codes[0]
	}
	if !plainCodes.MatchString(code) {
		code = ""
	}
	return &rest.StatusError{Name: name, Status: status, Code: code}
}

// classify says what becomes of the record that e is about.
func (e itemError) classify() error {
	err := e.cause("upsert contacts", http.StatusMultiStatus)
	switch {
	case e.misconfigured():
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("%w: see PROPERTIES", err))
	case e.Category == categoryValidation:
		return sinks.Permanent(sinks.ReasonInvalidRecord, err)
	case e.Category == categoryLimits:
		return sinks.RetryAfter(sinks.ReasonRateLimited, 0, err)
	}
	return err // not known: it is retried
}

// classify has the word about failed requests before the rules for all tools.
func classify(f rest.Failure) error {
	var body itemError
	if json.Unmarshal(f.Body, &body) != nil {
		return nil
	}
	switch {
	case f.Status == http.StatusTooManyRequests && body.PolicyName == "DAILY":
		return sinks.RetryAfter(sinks.ReasonRateLimited, max(f.After, dailyWait), f.Err())
	case f.Status == http.StatusTooManyRequests && f.After == 0:
		return sinks.RetryAfter(sinks.ReasonRateLimited, time.Second, f.Err()) // it knows windows of 1 s and of 10 s
	case f.Status == http.StatusBadRequest && body.misconfigured():
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("%w: see PROPERTIES", body.cause(f.Name, f.Status)))
	case f.Status == http.StatusBadRequest && len(body.codes()) > 0:
		return sinks.Permanent(sinks.ReasonInvalidRecord, body.cause(f.Name, f.Status))
	}
	return nil
}

// quota reads HubSpot's own headers of its rate limit. They tell the length of
// the window, which is the longest that it can last.
func quota(header http.Header, _ time.Time) (int, time.Duration, bool) {
	remaining, err := strconv.Atoi(header.Get("X-HubSpot-RateLimit-Remaining"))
	window, noWindow := strconv.Atoi(header.Get("X-HubSpot-RateLimit-Interval-Milliseconds"))
	if err = errors.Join(err, noWindow); err != nil {
		return 0, 0, false
	}
	return remaining, time.Duration(window) * time.Millisecond, true
}
