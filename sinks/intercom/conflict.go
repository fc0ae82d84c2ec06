package intercom

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

// holders find the contact that a conflict is with. Intercom names it in the text
// of the error alone: "A contact matching those details already exists with
// id=...", "An archived contact matching ...".
var holders = regexp.MustCompile(`\bid=([0-9a-f]{24})\b`)

// conflict reads the answer to a request that met another contact. id is "" if it
// does not say which.
func conflict(answer rest.Answer) (id string, archived bool) {
	var body struct {
		Errors []struct {
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(answer.Body, &body) != nil || len(body.Errors) == 0 {
		return "", false
	}
	found := holders.FindStringSubmatch(body.Errors[0].Message)
	if found == nil {
		return "", false
	}
	return found[1], strings.Contains(body.Errors[0].Message, "archived")
}

func conflictError(name string) error {
	return &rest.StatusError{Name: name, Status: http.StatusConflict, Code: "conflict"}
}

// held says whose contact has what a change needs, as far as Intercom tells.
func (s *Sink) held(ctx context.Context, clerkID string, answer rest.Answer) error {
	id, _ := conflict(answer)
	holder := ""
	if id != "" {
		found, err := s.find(ctx, "/contacts/"+url.PathEscape(id))
		if err != nil {
			return err
		}
		if found != nil && contact.Anothers(found.ExternalID, clerkID) {
			holder = found.ExternalID
		}
	}
	return sinks.HeldBy(holder, conflictError("update a contact"))
}

// errUnrestorable is of a contact that is archived and may not come back.
var errUnrestorable = errors.New("create a contact: one that Intercom is about to delete has the same details; it takes up to 7 days")

// adopt makes the contact that was met the user's, if it is nobody else's: one
// without an external id, as a lead, or one that was archived.
func (s *Sink) adopt(ctx context.Context, clerkID string, answer rest.Answer, properties contact.Properties) (string, error) {
	id, archived := conflict(answer)
	if id == "" {
		return "", sinks.HeldBy("", conflictError("create a contact"))
	}
	if archived {
		answer, err := s.client.Do(ctx, rest.Request{
			Name: "unarchive a contact", Method: http.MethodPost, Path: "/contacts/" + url.PathEscape(id) + "/unarchive", Accept: []int{http.StatusBadRequest},
		})
		if err != nil {
			return "", err
		}
		if answer.Status == http.StatusBadRequest {
			return "", sinks.HeldBy("", errUnrestorable)
		}
	}
	found, err := s.find(ctx, "/contacts/"+url.PathEscape(id))
	if err != nil {
		return "", err
	}
	if found == nil { // removed meanwhile
		return "", sinks.RetryAfter(sinks.ReasonConflict, 0, conflictError("create a contact"))
	}
	if contact.Anothers(found.ExternalID, clerkID) {
		if archived { // as it was
			_, err = s.client.Do(ctx, rest.Request{Name: "archive a contact", Method: http.MethodPost, Path: "/contacts/" + url.PathEscape(id) + "/archive"})
		}
		return "", errors.Join(sinks.HeldBy(found.ExternalID, conflictError("create a contact")), err)
	}
	there, err := s.update(ctx, id, clerkID, properties)
	if err == nil && !there {
		err = sinks.RetryAfter(sinks.ReasonConflict, 0, conflictError("create a contact"))
	}
	return id, err
}
