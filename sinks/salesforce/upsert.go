package salesforce

import (
	"context"
	"errors"
	"net/http"

	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

// step is a change under way.
type step struct {
	contact.Step
	record sinks.Record
	index  int    // in the batch of Apply
	id     string // Salesforce's; "": not written yet
	whole  bool   // all fields were sent
}

// result is what Salesforce says of one record of a collection.
type result struct {
	ID      string      `json:"id"`
	Success bool        `json:"success"`
	Errors  []itemError `json:"errors"`
}

// fields are what is written of a step: null clears.
func (s *Sink) fields(st *step) map[string]any {
	fields := map[string]any{"attributes": map[string]string{"type": s.cfg.Object}}
	write := st.Changed
	if st.whole {
		write = st.All
	}
	for name, value := range write {
		fields[name] = value
	}
	if st.New {
		for name, value := range s.newcomer.Properties(st.record.ClerkID, &st.record.Change.User) {
			fields[name] = value
		}
	}
	return fields
}

// upsert writes steps, and lists in failed what became of those that failed. An
// error is of all of the batch.
func (s *Sink) upsert(ctx context.Context, steps []*step, failed *sinks.BatchError) error {
	for _, st := range steps {
		st.whole = st.Memory.RemoteID == ""
	}
	gone, twins, err := s.byKey(ctx, steps, failed)
	if err != nil {
		return err
	}
	for _, st := range gone {
		st.whole = true
	}
	if len(gone) > 0 {
		_, more, err := s.byKey(ctx, gone, failed)
		if err != nil {
			return err
		}
		twins = append(twins, more...)
	}
	for _, st := range twins {
		if err := s.adopt(ctx, st); sinks.Classify(err).Class == sinks.ClassFatal {
			return err
		} else if err != nil {
			failed.Fail(st.index, err)
		}
	}
	for _, st := range steps {
		if st.id != "" {
			email, _ := st.All[s.cfg.EmailField].(string)
			st.Sent(st.id, email).Remember(st.record)
		}
	}
	return nil
}

// byKey upserts steps by the Clerk ID. gone are those of which only a part was
// sent, to a record that was not there any more, or another than the one that is
// remembered: it was made by an attempt that died; twins those that a duplicate
// rule holds back.
func (s *Sink) byKey(ctx context.Context, steps []*step, failed *sinks.BatchError) (gone, twins []*step, err error) {
	if len(steps) == 0 {
		return nil, nil, nil
	}
	records := make([]map[string]any, len(steps))
	for i, st := range steps {
		records[i] = s.fields(st)
		records[i][s.cfg.KeyField] = st.record.ClerkID
	}
	results, err := s.collection(ctx, "upsert records", http.MethodPatch, "/"+s.cfg.Object+"/"+s.cfg.KeyField, records)
	if err != nil {
		return nil, nil, err
	}
	for i, st := range steps {
		switch r := results[i]; {
		case r.Success && !st.whole && r.ID != st.Memory.RemoteID, r.failedWith("REQUIRED_FIELD_MISSING") && !st.whole:
			gone = append(gone, st)
		case r.Success:
			st.id = r.ID
		case r.failedWith("DUPLICATES_DETECTED") && st.All[s.cfg.EmailField] != nil:
			twins = append(twins, st)
		default:
			problem := r.problem("upsert records")
			if sinks.Classify(problem).Class == sinks.ClassFatal {
				return nil, nil, problem
			}
			failed.Fail(st.index, problem)
		}
	}
	return gone, twins, nil
}

var errTwins = errors.New("upsert records: DUPLICATES_DETECTED, and more than one record has the address: a person has to merge them")

// adopt writes a step to the record that has the user's address and is nobody's.
func (s *Sink) adopt(ctx context.Context, st *step) error {
	email, _ := st.All[s.cfg.EmailField].(string)
	holders, err := s.find(ctx, s.cfg.EmailField, []string{email})
	if err != nil {
		return err
	}
	if len(holders) == 0 { // a rule on something else
		return sinks.HeldBy("", &rest.StatusError{Name: "upsert records", Status: http.StatusOK, Code: "DUPLICATES_DETECTED"})
	}
	for _, h := range holders {
		if h.clerkID != "" && h.clerkID != st.record.ClerkID {
			return sinks.HeldBy(h.clerkID, &rest.StatusError{Name: "upsert records", Status: http.StatusOK, Code: "DUPLICATES_DETECTED"})
		}
	}
	if len(holders) > 1 {
		return sinks.HeldBy("", errTwins)
	}
	st.whole = true
	record := s.fields(st)
	record["id"], record[s.cfg.KeyField] = holders[0].id, st.record.ClerkID
	results, err := s.collection(ctx, "adopt a record", http.MethodPatch, "", []map[string]any{record})
	if err != nil {
		return err
	}
	if !results[0].Success {
		return results[0].problem("adopt a record")
	}
	st.id = holders[0].id
	return nil
}

// collection makes one call for records, at most 200, and returns a result for
// each.
func (s *Sink) collection(ctx context.Context, name, method, path string, records []map[string]any) ([]result, error) {
	answer, err := s.do(ctx, rest.Request{
		Name: name, Method: method, Path: s.data("/composite/sobjects" + path),
		Body: map[string]any{"allOrNone": false, "records": records},
	})
	if err != nil {
		return nil, err
	}
	return decode(answer, name, len(records))
}

// decode reads the results of a call for n records.
func decode(answer rest.Answer, name string, n int) ([]result, error) {
	var results []result
	if err := answer.Decode(&results); err != nil {
		return nil, err
	}
	if len(results) != n {
		return nil, sinks.RetryAfter(sinks.ReasonUnavailable, 0, errors.New(name+": the answer has not a result for each record"))
	}
	return results, nil
}
