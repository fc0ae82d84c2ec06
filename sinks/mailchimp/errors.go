package mailchimp

import (
	"errors"
	"net/http"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/rest"
)

// codeExists is the title of the error that an address is on the list.
const codeExists = "Member_Exists"

// throttled is how long to wait when Mailchimp does not say. It never does.
const throttled = time.Minute

// classify knows a throttle: a 403 that no part of the API has answered, so that it
// has no body of the usual form.
func classify(f rest.Failure) error {
	if f.Status == http.StatusForbidden && f.Code == "" {
		return sinks.RetryAfter(sinks.ReasonRateLimited, throttled, f.Err())
	}
	return nil
}

// exists reports whether err is that an address is on the list.
func exists(err error) bool {
	var status *rest.StatusError
	return errors.As(err, &status) && status.Code == codeExists
}

var (
	errHeld  = errors.New("write a member: another user's has the address")
	errTaken = errors.New("change a member's address: another member has it, who is nobody's or archived; a person has to delete one of the two")
	errMoved = errors.New("write a member: the one with the address has changed meanwhile")
	errStays = errors.New("archive a member: Mailchimp does not archive one whose mail bounces; delete him by hand, or use ERASURE=delete-permanent")
)
