package segment

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

// regulationID is under what the memory of an erased user keeps the regulation.
const regulationID = "regulation"

// regulate has Segment delete users: one regulation for all, which carries the
// erasure out within days.
func (s *Sink) regulate(ctx context.Context, erasures []sinks.Record) error {
	if len(erasures) == 0 {
		return nil
	}
	ids := make([]string, len(erasures))
	for i, r := range erasures {
		ids[i] = r.ClerkID
	}
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "create a regulation", Method: http.MethodPost, BaseURL: s.cfg.PublicBaseURL, Header: s.public, Path: "/regulations",
		Body: map[string]any{"regulationType": regulations[s.cfg.Erasure], "subjectType": "USER_ID", "subjectIds": ids},
	})
	if err != nil {
		return err
	}
	var created struct {
		Data struct {
			RegulateID string `json:"regulateId"`
		} `json:"data"`
	}
	if err := answer.Decode(&created); err != nil {
		return err
	}
	if created.Data.RegulateID == "" {
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, errors.New("create a regulation: the answer has no id"))
	}
	for _, r := range erasures {
		// Nobody can be looked up at Segment: who is not remembered is deleted too,
		// but not waited for.
		memory := contact.Recall(r.State)
		if memory.RemoteID == "" {
			r.Erased(schemas.OutcomeNotPresent)
			contact.Memory{}.RememberErased(r)
			continue
		}
		r.Erased(schemas.OutcomeDeleted)
		if memory.Erased { // and again
			r.Erased(schemas.OutcomeNotPresent)
		}
		contact.Memory{RemoteID: r.ClerkID, Extra: map[string]string{regulationID: created.Data.RegulateID}}.RememberErased(r)
	}
	return nil
}

// Confirm implements [sinks.Confirmer]: it asks what became of the regulation. As
// long as Segment is at it, and when Segment has done a part that it will not
// go beyond, that is an error, so that nothing is asked for anew.
func (s *Sink) Confirm(ctx context.Context, _ string, state []byte) (bool, error) {
	memory := contact.Recall(state)
	id := memory.Extra[regulationID]
	if id == "" { // nobody is remembered, or somebody of whom no deletion is
		return memory.RemoteID == "", nil
	}
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "read a regulation back", Method: http.MethodGet, BaseURL: s.cfg.PublicBaseURL, Header: s.public,
		Path: "/regulations/" + url.PathEscape(id), Accept: []int{http.StatusNotFound},
	})
	if err != nil || answer.Status == http.StatusNotFound {
		return false, err
	}
	var found struct {
		Data struct {
			Regulation struct {
				OverallStatus string `json:"overallStatus"`
			} `json:"regulation"`
		} `json:"data"`
	}
	if err := answer.Decode(&found); err != nil {
		return false, err
	}
	switch status := found.Data.Regulation.OverallStatus; status {
	case "FINISHED":
		return true, nil
	case "FAILED", "INVALID":
		return false, nil
	default:
		// About this user alone: the others are asked after all the same.
		return false, sinks.Permanent(sinks.ReasonUnavailable, fmt.Errorf("read a regulation back: it is %s", rest.PlainCode(status)))
	}
}

var errWriteKey = errors.New("WRITE_KEY is no source's of the workspace that PUBLIC_API_TOKEN is for: copy it from the source's Settings, API Keys, and check REGION")

// checkWriteKey looks for the write key among those of the workspace's sources.
func (s *Sink) checkWriteKey(ctx context.Context) error {
	query := url.Values{"pagination.count": {"200"}}
	for {
		answer, err := s.client.Do(ctx, rest.Request{
			Name: "list sources", Method: http.MethodGet, BaseURL: s.cfg.PublicBaseURL, Header: s.public, Path: "/sources", Query: query,
		})
		if err != nil {
			return err
		}
		var page struct {
			Data struct {
				Sources []struct {
					WriteKeys []string `json:"writeKeys"`
				} `json:"sources"`
				Pagination struct {
					Next string `json:"next"`
				} `json:"pagination"`
			} `json:"data"`
		}
		if err := answer.Decode(&page); err != nil {
			return err
		}
		for _, source := range page.Data.Sources {
			if slices.Contains(source.WriteKeys, s.cfg.WriteKey) {
				return nil
			}
		}
		if page.Data.Pagination.Next == "" || page.Data.Pagination.Next == query.Get("pagination.cursor") {
			return sinks.Fatal(sinks.ReasonMisconfigured, errWriteKey)
		}
		query.Set("pagination.cursor", page.Data.Pagination.Next)
	}
}
