package mailchimp

import (
	"context"
	"net/http"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

// erase erases by Mailchimp's own id, and the member with the remembered address if
// he is the user's: a process may have died between creating him and remembering his
// id.
func (s *Sink) erase(ctx context.Context, r sinks.Record) error {
	memory := contact.Recall(r.State)
	found, err := s.remembered(ctx, r.ClerkID, memory)
	if err != nil {
		return err
	}
	there := false
	for _, m := range found {
		erased, err := s.remove(ctx, m)
		if err != nil {
			return err
		}
		there = there || erased
	}
	switch {
	case !there:
		r.Erased(schemas.OutcomeNotPresent)
	case s.cfg.Erasure == Archive:
		r.Erased(schemas.OutcomeSoftDeleted)
	default:
		r.Erased(schemas.OutcomeDeleted)
	}
	memory.RememberErased(r)
	return nil
}

// remembered returns the members that a user has by what is remembered of him: by
// Mailchimp's id, and by the address.
func (s *Sink) remembered(ctx context.Context, clerkID string, memory contact.Memory) (list []*member, err error) {
	if memory.RemoteID != "" {
		found, err := s.find(ctx, memory.RemoteID)
		if err != nil {
			return nil, err
		}
		if found != nil && !s.anothers(found, clerkID) {
			list = append(list, found)
		}
	}
	if memory.Email == "" || len(list) == 1 && list[0].Hash == hash(memory.Email) {
		return list, nil
	}
	found, err := s.find(ctx, hash(memory.Email))
	if err != nil {
		return nil, err
	}
	if found != nil && s.owner(found) == clerkID {
		list = append(list, found)
	}
	return list, nil
}

// anothers reports whether a member has become another user's: one who has the
// address now, and was brought back from the archive for it.
func (s *Sink) anothers(m *member, clerkID string) bool {
	return contact.Anothers(s.owner(m), clerkID)
}

// remove does what ERASURE says, and reports whether there was anything to do.
func (s *Sink) remove(ctx context.Context, m *member) (bool, error) {
	if s.cfg.Erasure == Archive {
		return s.archive(ctx, m)
	}
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "delete a member", Method: http.MethodPost, Path: s.path(m.Hash) + "/actions/delete-permanent", Accept: []int{http.StatusNotFound},
	})
	return err == nil && answer.Status != http.StatusNotFound, err
}

// archive archives a member who is not archived yet; nil is nobody. Mailchimp does
// not archive one who has yet to agree: he is unsubscribed before.
func (s *Sink) archive(ctx context.Context, m *member) (bool, error) {
	if m == nil || m.archived() {
		return false, nil
	}
	if m.Status == string(Pending) {
		_, err := s.client.Do(ctx, rest.Request{
			Name: "unsubscribe a member", Method: http.MethodPatch, Path: s.path(m.Hash), Query: unchecked, Body: map[string]any{"status": Unsubscribed},
		})
		if err != nil {
			return false, err
		}
	}
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "archive a member", Method: http.MethodDelete, Path: s.path(m.Hash), Accept: []int{http.StatusNotFound, http.StatusMethodNotAllowed},
	})
	if err == nil && answer.Status == http.StatusMethodNotAllowed {
		return false, sinks.Permanent(sinks.ReasonInvalidRecord, errStays)
	}
	return err == nil && answer.Status != http.StatusNotFound, err
}

// Confirm implements [sinks.Confirmer]. It asks by Mailchimp's id and by the address.
func (s *Sink) Confirm(ctx context.Context, clerkID string, state []byte) (bool, error) {
	found, err := s.remembered(ctx, clerkID, contact.Recall(state))
	if err != nil {
		return false, err
	}
	for _, m := range found {
		if s.cfg.Erasure != Archive || !m.archived() {
			return false, nil
		}
	}
	return true, nil
}
