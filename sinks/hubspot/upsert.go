package hubspot

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

// step is a change under way.
type step struct {
	contact.Step
	record sinks.Record
	index  int    // in the batch
	id     string // HubSpot's; "": not written yet
	holder string // id of the contact that holds the address, where HubSpot tells
	whole  bool   // all properties are written, not only those that have changed
}

// email is the address that the step is to write, "" if none.
func (st *step) email() string {
	text, _ := st.All["email"].(string)
	return text
}

// values renders the properties that a step writes. HubSpot clears one by "".
func (s *Sink) values(st *step) map[string]string {
	values := map[string]string{}
	put := func(properties contact.Properties) {
		for name, value := range properties {
			text, _ := value.(string)
			values[name] = text
		}
	}
	if st.whole {
		put(st.All)
	} else {
		put(st.Changed)
	}
	if st.New {
		put(s.newcomer.Properties(st.record.ClerkID, &st.record.Change.User))
	}
	return values
}

type input struct {
	ID         string            `json:"id"`
	IDProperty string            `json:"idProperty,omitempty"`
	Properties map[string]string `json:"properties"`
	TraceID    string            `json:"objectWriteTraceId"`
}

// batchAnswer is the answer to batch/upsert and batch/update.
type batchAnswer struct {
	Results []struct {
		ID         string            `json:"id"`
		TraceID    string            `json:"objectWriteTraceId"`
		Properties map[string]string `json:"properties"`
	} `json:"results"`
	Errors []itemError `json:"errors"`
}

// errUnanswered is for an input of which the answer says nothing.
var errUnanswered = errors.New("upsert contacts: the answer does not mention the record")

// upsert writes steps, and lists in failed what became of those that failed. An
// error is of all of the batch.
func (s *Sink) upsert(ctx context.Context, steps []*step, failed *sinks.BatchError) error {
	for _, st := range steps {
		st.whole = st.Memory.RemoteID == ""
	}
	gone, conflicts, err := s.byKey(ctx, steps, failed)
	if err != nil {
		return err
	}
	for _, st := range gone {
		st.id, st.whole = "", true
	}
	if len(gone) > 0 {
		_, more, err := s.byKey(ctx, gone, failed)
		if err != nil {
			return s.keepWritten(ctx, steps, append(conflicts, gone...), err, failed)
		}
		conflicts = append(conflicts, more...)
	}
	if err := s.adopt(ctx, conflicts, failed); err != nil {
		return s.keepWritten(ctx, steps, conflicts, err, failed)
	}
	return s.finish(ctx, steps, failed)
}

// byKey upserts steps by the Clerk ID. gone are those of which only a part was
// written, to another contact than the one that is remembered: a person has deleted
// that. conflicts are those whose address another contact holds.
func (s *Sink) byKey(ctx context.Context, steps []*step, failed *sinks.BatchError) (gone, conflicts []*step, err error) {
	inputs := make([]input, len(steps))
	for i, st := range steps {
		inputs[i] = input{st.record.ClerkID, s.cfg.KeyProperty, s.values(st), strconv.Itoa(i)}
	}
	problems, err := s.write(ctx, "upsert contacts", "/batch/upsert", inputs, steps)
	if err != nil {
		return nil, nil, err
	}
	for i, st := range steps {
		switch problem, refused := problems[i]; {
		case st.id != "" && !st.whole && st.id != st.Memory.RemoteID:
			gone = append(gone, st)
		case st.id != "":
		case !refused:
			failed.Fail(st.index, sinks.RetryAfter(sinks.ReasonUnavailable, 0, errUnanswered))
		case problem.conflict():
			if ids := problem.Context["existingId"]; len(ids) > 0 {
				st.holder = ids[0]
			}
			conflicts = append(conflicts, st)
		default:
			err := problem.classify()
			if sinks.Classify(err).Class == sinks.ClassFatal {
				return nil, nil, err
			}
			failed.Fail(st.index, err)
		}
	}
	return gone, conflicts, nil
}

// keepWritten remembers what was written before err befell the rest.
func (s *Sink) keepWritten(ctx context.Context, steps, rest []*step, err error, failed *sinks.BatchError) error {
	if sinks.Classify(err).Class == sinks.ClassFatal {
		return err
	}
	for _, st := range rest {
		if st.id == "" && failed.Failed(st.index) == nil {
			failed.Fail(st.index, err)
		}
	}
	return s.finish(ctx, steps, failed)
}

// finish adds new users to the list and remembers what was written.
func (s *Sink) finish(ctx context.Context, steps []*step, failed *sinks.BatchError) error {
	var ids []string
	for _, st := range steps {
		if st.id != "" && st.New {
			ids = append(ids, st.id)
		}
	}
	var problem error
	if s.cfg.NewUserList != "" && len(ids) > 0 {
		_, problem = s.client.Do(ctx, rest.Request{
			Name: "add contacts to the list for new users", Method: http.MethodPut,
			Path: "/crm/v3/lists/" + s.cfg.NewUserList + "/memberships/add", Body: ids,
		})
		if sinks.Classify(problem).Class == sinks.ClassFatal && problem != nil {
			return problem
		}
	}
	for _, st := range steps {
		switch {
		case st.id == "":
		case problem != nil && st.New: // written again with the next attempt, which is harmless
			failed.Fail(st.index, problem)
		default:
			st.Sent(st.id, st.email()).Remember(st.record)
		}
	}
	return nil
}

// write makes one call for inputs, which stand for steps, sets the ids of those
// that are written and returns what was refused, by index.
func (s *Sink) write(ctx context.Context, name, path string, inputs []input, steps []*step) (map[int]itemError, error) {
	request := rest.Request{Name: name, Method: http.MethodPost, Path: s.objects() + path, Body: map[string]any{"inputs": inputs}}
	if len(inputs) == 1 {
		request.Accept = []int{http.StatusConflict} // else the runner finds out which one it is
	}
	answer, err := s.client.Do(ctx, request)
	if err != nil {
		return nil, err
	}
	if answer.Status == http.StatusConflict {
		return map[int]itemError{0: {Category: categoryConflict}}, nil
	}
	var body batchAnswer
	if err := answer.Decode(&body); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, result := range body.Results {
		for i, st := range steps {
			traced := result.TraceID == inputs[i].TraceID
			named := result.TraceID == "" && (result.Properties[s.cfg.KeyProperty] == st.record.ClerkID)
			same := inputs[i].IDProperty == "" && result.ID == inputs[i].ID
			if traced || named || same {
				st.id = result.ID
			}
		}
	}
	problems := map[int]itemError{}
	for _, problem := range body.Errors {
		for _, trace := range problem.Context["objectWriteTraceId"] {
			if i, err := strconv.Atoi(trace); err == nil && i >= 0 && i < len(inputs) {
				problems[i] = problem
			}
		}
	}
	return problems, nil
}

// errHeld is for an address that another contact holds.
var errHeld = errors.New("upsert contacts: another contact holds the e-mail address")

// holders returns the contacts that hold the addresses of conflicts. HubSpot names
// them by id where it can: an address may also be a contact's second one.
func (s *Sink) holders(ctx context.Context, conflicts []*step) (byStep map[*step]found, err error) {
	var ids, emails []string
	for _, st := range conflicts {
		switch {
		case st.holder != "" && !slices.Contains(ids, st.holder):
			ids = append(ids, st.holder)
		case st.holder == "" && st.email() != "" && !slices.Contains(emails, st.email()):
			emails = append(emails, st.email())
		}
	}
	byID, err := s.read(ctx, "", ids)
	if err != nil {
		return nil, err
	}
	byEmail, err := s.read(ctx, "email", emails)
	if err != nil {
		return nil, err
	}
	byStep = map[*step]found{}
	for _, st := range conflicts {
		for _, c := range byID {
			if c.ID == st.holder {
				byStep[st] = c
			}
		}
		for _, c := range byEmail {
			if st.holder == "" && (strings.EqualFold(c.Properties["email"], st.email()) || len(emails) == 1) {
				byStep[st] = c
			}
		}
	}
	return byStep, nil
}

// adopt settles conflicts of addresses: a contact that belongs to no user becomes
// the user's, if he has none yet.
func (s *Sink) adopt(ctx context.Context, conflicts []*step, failed *sinks.BatchError) error {
	if len(conflicts) == 0 {
		return nil
	}
	holders, err := s.holders(ctx, conflicts)
	if err != nil {
		return err
	}
	own, err := s.read(ctx, s.cfg.KeyProperty, keysOf(conflicts))
	if err != nil {
		return err
	}
	has := map[string]bool{}
	for _, c := range own {
		has[c.Properties[s.cfg.KeyProperty]] = true
	}
	var adopting []*step
	var inputs []input
	for _, st := range conflicts {
		holder, held := holders[st]
		key := holder.Properties[s.cfg.KeyProperty]
		switch {
		case !held: // it has let go meanwhile
			failed.Fail(st.index, sinks.RetryAfter(sinks.ReasonConflict, 0, errHeld))
		case key != "" && key != st.record.ClerkID:
			failed.Fail(st.index, sinks.HeldBy(key, errHeld))
		case has[st.record.ClerkID]: // merging the two could not be undone: a person decides
			failed.Fail(st.index, sinks.HeldBy("", errHeld))
		default:
			st.whole = true // of him there is no contact, whatever is remembered
			values := s.values(st)
			values[s.cfg.KeyProperty] = st.record.ClerkID
			inputs = append(inputs, input{ID: holder.ID, Properties: values, TraceID: strconv.Itoa(len(inputs))})
			adopting = append(adopting, st)
		}
	}
	if len(inputs) == 0 {
		return nil
	}
	return s.update(ctx, inputs, adopting, failed)
}

// update writes to contacts that become users'.
func (s *Sink) update(ctx context.Context, inputs []input, adopting []*step, failed *sinks.BatchError) error {
	problems, err := s.write(ctx, "adopt contacts", "/batch/update", inputs, adopting)
	if err != nil {
		return err
	}
	for i, st := range adopting {
		switch problem, refused := problems[i]; {
		case st.id != "":
		case !refused:
			failed.Fail(st.index, sinks.RetryAfter(sinks.ReasonUnavailable, 0, errUnanswered))
		case problem.conflict():
			failed.Fail(st.index, sinks.RetryAfter(sinks.ReasonConflict, 0, errHeld))
		default:
			failed.Fail(st.index, problem.classify())
		}
	}
	return nil
}

func keysOf(steps []*step) []string {
	keys := make([]string, len(steps))
	for i, st := range steps {
		keys[i] = st.record.ClerkID
	}
	return keys
}
