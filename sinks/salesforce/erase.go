package salesforce

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

// erasure is a demand to erase under way.
type erasure struct {
	record sinks.Record
	index  int
	memory contact.Memory
	ids    []string // of the records that may be there: the remembered one, and those with the Clerk ID
	there  bool     // one of them was
	failed error
}

// erase deletes records by Salesforce's own ids.
func (s *Sink) erase(ctx context.Context, erasures []*erasure, failed *sinks.BatchError) error {
	if len(erasures) == 0 {
		return nil
	}
	clerkIDs := make([]string, len(erasures))
	for i, e := range erasures {
		clerkIDs[i] = e.record.ClerkID
		if e.memory.RemoteID != "" && !e.memory.Erased {
			e.ids = append(e.ids, e.memory.RemoteID)
		}
	}
	known, err := s.find(ctx, s.cfg.KeyField, clerkIDs)
	if err != nil {
		return err
	}
	owner := map[string]*erasure{} // by Salesforce's id
	var ids []string
	for _, e := range erasures {
		for _, k := range known {
			if k.clerkID == e.record.ClerkID && !slices.Contains(e.ids, k.id) {
				e.ids = append(e.ids, k.id)
			}
		}
		for _, id := range e.ids {
			owner[id] = e
			ids = append(ids, id)
		}
	}
	if s.cfg.Erasure == Scrub {
		if err := s.scrub(ctx, ids, owner); err != nil {
			return err
		}
	}
	if err := s.remove(ctx, ids, owner); err != nil {
		return err
	}
	for _, e := range erasures {
		if e.failed != nil {
			failed.Fail(e.index, e.failed)
			continue
		}
		s.report(e)
	}
	return nil
}

func (s *Sink) report(e *erasure) {
	switch {
	case !e.there:
		e.record.Erased(schemas.OutcomeNotPresent)
	case s.cfg.Erasure == Scrub:
		e.record.Erased(schemas.OutcomeDeleted)
	default:
		e.record.ErasedBecause(schemas.OutcomeSoftDeleted, "in Salesforce's recycle bin for 15 days")
	}
	if len(e.ids) > 0 {
		e.memory.RemoteID = e.ids[0]
	}
	e.memory.RememberErased(e.record)
}

// settle takes over the result for one record. What is gone needs no deletion.
func (e *erasure) settle(name string, r result) {
	switch {
	case r.Success:
		e.there = true
	case r.failedWith("ENTITY_IS_DELETED"), r.failedWith("INVALID_CROSS_REFERENCE_KEY"), r.failedWith("NOT_FOUND"):
	default:
		e.failed = r.problem(name)
	}
}

// remove moves records into the recycle bin.
func (s *Sink) remove(ctx context.Context, ids []string, owner map[string]*erasure) error {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return owner[id].failed != nil })
	for part := range slices.Chunk(ids, maxBatch) {
		answer, err := s.do(ctx, rest.Request{
			Name: "delete records", Method: http.MethodDelete, Path: s.data("/composite/sobjects"),
			Query: url.Values{"ids": {strings.Join(part, ",")}, "allOrNone": {"false"}},
		})
		if err != nil {
			return err
		}
		results, err := decode(answer, "delete records", len(part))
		if err != nil {
			return err
		}
		for i, id := range part {
			owner[id].settle("delete records", results[i])
		}
	}
	return nil
}

// scrub overwrites what the mapping writes with what it makes of a user who is
// called Deleted User and has nothing else. The Clerk ID stays until the deletion,
// so that a call that is repeated finds the record.
func (s *Sink) scrub(ctx context.Context, ids []string, owner map[string]*erasure) error {
	first, last := "Deleted", "User"
	nobody := s.mapping.Properties("", &schemas.User{FirstName: &first, LastName: &last})
	for part := range slices.Chunk(ids, maxBatch) {
		records := make([]map[string]any, len(part))
		for i, id := range part {
			records[i] = map[string]any{"attributes": map[string]string{"type": s.cfg.Object}, "id": id}
			for name, value := range nobody {
				records[i][name] = value
			}
		}
		results, err := s.collection(ctx, "scrub records", http.MethodPatch, "", records)
		if err != nil {
			return err
		}
		for i, id := range part {
			owner[id].settle("scrub records", results[i])
		}
	}
	return nil
}
