package sendgrid

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

// errHeld is of an address that another user's contact has.
var errHeld = errors.New("upsert contacts: another user's has the address")

// body is a contact as SendGrid takes it: what has changed, or all of it. The
// empty text clears a field.
func (s *Sink) body(st *step) map[string]any {
	custom := map[string]any{s.fields[s.cfg.KeyField]: st.record.ClerkID}
	out := map[string]any{"email": st.address, "custom_fields": custom}
	write := st.Changed
	if st.whole {
		write = st.All
	}
	for name, value := range write {
		if isReserved(name) {
			text, _ := value.(string)
			out[name] = cut(text, reserved[name])
		} else {
			custom[s.fields[name]] = value
		}
	}
	return out
}

// cut shortens a text to that many characters.
func cut(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most])
	}
	return text
}

// upsert writes contacts, and returns those that SendGrid has. It refuses a whole
// request for one contact, and says which: then the others are sent again.
func (s *Sink) upsert(ctx context.Context, steps []*step, failed *sinks.BatchError) ([]*step, error) {
	for len(steps) > 0 {
		contacts := make([]map[string]any, len(steps))
		for i, st := range steps {
			contacts[i] = s.body(st)
		}
		answer, err := s.put(ctx, s.cfg.Lists, contacts)
		if err != nil {
			return nil, err
		}
		if answer.Status != http.StatusBadRequest {
			return s.carriedOut(ctx, answer, steps, failed)
		}
		bad := refused(answer.Body, len(steps))
		if len(bad) == 0 {
			return nil, sinks.Permanent(sinks.ReasonInvalidRecord, errRefused)
		}
		var rest []*step
		for i, st := range steps {
			if slices.Contains(bad, i) {
				failed.Fail(st.index, sinks.Permanent(sinks.ReasonInvalidRecord, errRefused))
			} else {
				rest = append(rest, st)
			}
		}
		steps = rest
	}
	return nil, nil
}

var errRefused = &rest.StatusError{Name: "upsert contacts", Status: http.StatusBadRequest}

// places find the contacts that an error is about: contacts[3].email.
var places = regexp.MustCompile(`^contacts\[([0-9]+)\]`)

func refused(body []byte, n int) (list []int) {
	var answer struct {
		Errors []struct {
			Field string `json:"field"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return nil
	}
	for _, e := range answer.Errors {
		if found := places.FindStringSubmatch(e.Field); found != nil {
			if i, err := strconv.Atoi(found[1]); err == nil && i < n {
				list = append(list, i)
			}
		}
	}
	return list
}

func (s *Sink) put(ctx context.Context, lists []string, contacts []map[string]any) (rest.Answer, error) {
	if lists == nil {
		lists = []string{}
	}
	return s.client.Do(ctx, rest.Request{
		Name: "upsert contacts", Method: http.MethodPut, Path: "/v3/marketing/contacts",
		Body: map[string]any{"list_ids": lists, "contacts": contacts}, Accept: []int{http.StatusBadRequest},
	})
}

// welcome adds the contacts of new users to their list, which may be repeated.
func (s *Sink) welcome(ctx context.Context, steps []*step) error {
	var contacts []map[string]any
	for _, st := range steps {
		if st.New && s.cfg.NewUserList != "" {
			contacts = append(contacts, map[string]any{"email": st.address})
		}
	}
	if len(contacts) == 0 {
		return nil
	}
	answer, err := s.put(ctx, []string{s.cfg.NewUserList}, contacts)
	if err != nil {
		return err
	}
	if answer.Status == http.StatusBadRequest {
		return sinks.Fatal(sinks.ReasonMisconfigured, errors.New("NEW_USER_LIST is no list that contacts can be added to"))
	}
	return s.awaitAll(ctx, answer, len(contacts), "add contacts to NEW_USER_LIST")
}

// found is a contact as a search shows it; the zero value is none.
type found struct{ id, owner string }

// anothers reports whether a contact is another user's than that one, and not one
// of which a person has edited the field that says whose it is.
func (f found) anothers(clerkID string) bool {
	return contact.Anothers(f.owner, clerkID)
}

// mostSearched is the longest address that SendGrid can be asked for. It would take
// longer ones, and nobody could find those again to erase them.
const mostSearched = 100

// canBeFound reports whether SendGrid can be asked for an address, as far as that is
// plain.
func canBeFound(email string) bool {
	local, domain, _ := strings.Cut(email, "@")
	return local != "" && domain != "" && len(email) <= mostSearched && !strings.ContainsAny(email, " \t\r\n")
}

var errNoAddress = errors.New("upsert contacts: the address is none, or has more than 100 characters, and SendGrid could not be asked for it")

// find returns the contacts that are to be seen at addresses.
func (s *Sink) find(ctx context.Context, emails []string) (map[string]found, error) {
	there := map[string]found{}
	for part := range slices.Chunk(emails, maxBatch) {
		if err := s.search(ctx, part, there); err != nil {
			return nil, err
		}
	}
	return there, nil
}

// search is find for at most a hundred addresses. SendGrid refuses the question if
// one of them is none, and does not say which: so it is asked by halves, and nobody
// has what it refuses alone.
func (s *Sink) search(ctx context.Context, emails []string, there map[string]found) error {
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "search contacts", Method: http.MethodPost, Path: "/v3/marketing/contacts/search/emails",
		Body: map[string]any{"emails": emails}, Accept: []int{http.StatusNotFound, http.StatusBadRequest},
	})
	switch half := len(emails) / 2; {
	case err != nil:
		return err
	case answer.Status == http.StatusBadRequest && half > 0:
		if err := s.search(ctx, emails[:half], there); err != nil {
			return err
		}
		return s.search(ctx, emails[half:], there)
	case answer.Status != http.StatusOK:
		return nil
	}
	var page struct {
		Result map[string]struct {
			Contact struct {
				ID           string         `json:"id"`
				CustomFields map[string]any `json:"custom_fields"`
			} `json:"contact"`
		} `json:"result"`
	}
	if err := answer.Decode(&page, "result"); err != nil {
		return err
	}
	for email, r := range page.Result {
		if r.Contact.ID != "" {
			owner, _ := r.Contact.CustomFields[s.cfg.KeyField].(string)
			there[strings.ToLower(email)] = found{r.Contact.ID, owner}
		}
	}
	return nil
}

// remove deletes contacts by SendGrid's own ids, and returns the answers with the
// jobs that do it.
func (s *Sink) remove(ctx context.Context, ids []string) (jobs []rest.Answer, err error) {
	for part := range slices.Chunk(ids, maxBatch) {
		answer, err := s.client.Do(ctx, rest.Request{
			Name: "delete contacts", Method: http.MethodDelete, Path: "/v3/marketing/contacts",
			Query: url.Values{"ids": {strings.Join(part, ",")}}, Accept: []int{http.StatusNotFound},
		})
		if err != nil {
			return nil, err
		}
		if answer.Status != http.StatusNotFound {
			jobs = append(jobs, answer)
		}
	}
	return jobs, nil
}

// erasure is a demand to erase under way.
type erasure struct {
	record sinks.Record
	memory contact.Memory
}

// emails are the addresses at which a user may have a contact.
func emails(m contact.Memory) []string {
	list := strings.Fields(m.Extra[previous])
	if m.Email != "" {
		list = append(list, m.Email)
	}
	return list
}

// erase deletes the user's contacts, by SendGrid's own ids: what an address that
// is remembered shows, if it is the user's.
func (s *Sink) erase(ctx context.Context, erasures []*erasure) error {
	var all []string
	for _, e := range erasures {
		all = append(all, emails(e.memory)...)
	}
	there, err := s.find(ctx, all)
	if err != nil {
		return err
	}
	var ids []string
	outcomes := make([]schemas.Outcome, len(erasures))
	for i, e := range erasures {
		outcomes[i] = schemas.OutcomeNotPresent
		for _, email := range emails(e.memory) {
			if f, ok := there[email]; ok && !f.anothers(e.record.ClerkID) {
				ids, outcomes[i] = append(ids, f.id), schemas.OutcomeDeleted
			}
		}
	}
	if _, err := s.remove(ctx, ids); err != nil { // what becomes of it the confirmation shows
		return err
	}
	for i, e := range erasures {
		e.record.Erased(outcomes[i])
		e.memory.RememberErased(e.record)
	}
	return nil
}

// Confirm implements [sinks.Confirmer]. It asks at every address that the user may
// have had a contact at.
func (s *Sink) Confirm(ctx context.Context, clerkID string, state []byte) (bool, error) {
	there, err := s.find(ctx, emails(contact.Recall(state)))
	if err != nil {
		return false, err
	}
	for _, f := range there {
		if !f.anothers(clerkID) {
			return false, nil
		}
	}
	return true, nil
}
