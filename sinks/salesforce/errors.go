package salesforce

import (
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/rest"
)

// itemError is what is wrong with one record. Its message quotes values.
type itemError struct {
	StatusCode string `json:"statusCode"`
}

// Codes of Salesforce's that say more than their HTTP status.
// https://developer.salesforce.com/docs/atlas.en-us.api.meta/api/sforce_api_calls_concepts_core_data_objects.htm
var (
	transient    = []string{"UNABLE_TO_LOCK_ROW", "SERVER_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "ROW_LOCK_ERROR", "UNKNOWN_EXCEPTION"}
	settings     = []string{"INVALID_FIELD", "INVALID_TYPE", "INVALID_FIELD_FOR_INSERT_UPDATE", "NOT_AN_EXTERNAL_ID"}
	rights       = []string{"INSUFFICIENT_ACCESS_OR_READONLY", "INSUFFICIENT_ACCESS", "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY"}
	tooLarge     = []string{"STRING_TOO_LONG", "NUMBER_OUTSIDE_VALID_RANGE"}
	uniqueValues = []string{"DUPLICATE_VALUE", "DUPLICATES_DETECTED"}
)

// dayLimitPause is how long to wait when the calls of 24 hours are used up: they
// come back one by one.
const dayLimitPause = 15 * time.Minute

func (r result) failedWith(code string) bool {
	return !r.Success && slices.ContainsFunc(r.Errors, func(e itemError) bool { return e.StatusCode == code })
}

// problem classifies why a record was not taken.
func (r result) problem(name string) error {
	code := ""
	if len(r.Errors) > 0 {
		code = r.Errors[0].StatusCode
	}
	err := &rest.StatusError{Name: name, Status: http.StatusOK, Code: rest.PlainCode(code)}
	if marked := byCode(code, err); marked != nil {
		return marked
	}
	return sinks.Permanent(sinks.ReasonInvalidRecord, err)
}

// byCode knows the codes above; nil for any other.
func byCode(code string, err error) error {
	switch {
	case code == "REQUEST_LIMIT_EXCEEDED":
		return sinks.RetryAfter(sinks.ReasonRateLimited, dayLimitPause, err)
	case slices.Contains(transient, code):
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, err)
	case slices.Contains(settings, code):
		return sinks.Fatal(sinks.ReasonMisconfigured, err)
	case slices.Contains(rights, code):
		return sinks.Fatal(sinks.ReasonUnauthorized, err)
	case slices.Contains(tooLarge, code):
		return sinks.Permanent(sinks.ReasonTooLarge, err)
	case slices.Contains(uniqueValues, code):
		return sinks.HeldBy("", err)
	}
	return nil
}

// classify has the first word about an answer that is no success.
func classify(f rest.Failure) error { return byCode(f.Code, f.Err()) }

var usage = regexp.MustCompile(`api-usage=([0-9]+)/([0-9]+)`)

// quota reads how many calls of 24 hours are left. Until a twentieth is left that
// is no reason to wait; then what is left is for the people of the org.
func quota(header http.Header, _ time.Time) (remaining int, reset time.Duration, ok bool) {
	found := usage.FindStringSubmatch(header.Get("Sforce-Limit-Info"))
	if found == nil {
		return 0, 0, false
	}
	used, _ := strconv.Atoi(found[1])
	most, _ := strconv.Atoi(found[2])
	if most == 0 || most-used > most/20 {
		return 0, 0, false
	}
	return max(0, most-used), time.Hour, true
}
