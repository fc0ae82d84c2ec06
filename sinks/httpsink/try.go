package httpsink

import (
	"errors"
	"fmt"
	"strings"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/mapping"
)

// try fills every template in with made-up users: one who has everything that most
// have, one who has nothing, each new and not, with a remote id and without.
func (c Config) try(all calls) error {
	list, err := contact.ParseProperties("PROPERTIES", c.Properties, defaults)
	headers, headersErr := parseHeaders(c.Headers)
	if err != nil || headersErr != nil {
		return nil //nolint:nilerr // said already
	}
	s := &Sink{cfg: c, mapping: contact.NewMapping(list, c.form())}
	var problems []error
	for _, name := range []string{"check", "upsert", "create", "update", "find", "erase", "confirm"} {
		declared := all[name]
		if declared == nil {
			continue
		}
		for _, data := range s.madeUp(name) {
			path, _, err := declared.fill(data, isJSON(headers))
			if err == nil && (strings.ContainsAny(path, " \t\r\n") || !strings.HasPrefix(path, "/")) {
				err = errors.New("the path has spaces or does not begin with a slash: escape what varies with path or query")
			}
			if err != nil {
				problems = append(problems, fmt.Errorf("%s or %[1]s_BODY cannot be filled in: %w", strings.ToUpper(name), err))
				break
			}
		}
	}
	return errors.Join(problems...)
}

// harden puts what JSON escapes into every text that is a user's, and a text where
// nothing is: what a person has typed must not break out of a template that forgets
// json.
func (s *Sink) harden(step contact.Step) {
	for _, a := range s.mapping.Assignments() {
		text, isText := step.All[a.Target].(string)
		switch kind := a.Expression.Kind(); {
		case a.Expression.Constant(), kind == mapping.Time, kind == mapping.Bool, kind == mapping.Integer, !isText && step.All[a.Target] != nil:
			continue
		}
		step.All[a.Target] = text + ` "\`
		if _, changed := step.Changed[a.Target]; changed {
			step.Changed[a.Target] = step.All[a.Target]
		}
	}
}

// madeUp are records as a call may meet them.
func (s *Sink) madeUp(name string) []map[string]any {
	text := func(value string) *string { return &value }
	created, metadata := int64(1700000000123), `{"plan":"pro"}`
	users := []schemas.User{
		{
			FirstName: text(`Ada "A."`), LastName: text("Lovelace"), Username: text("ada"), PrimaryEmailAddress: text("ada+1@example.com"),
			ImageURL: text("https://example.com/ada.png"), CreatedAt: &created, UpdatedAt: &created, PublicMetadata: &metadata,
		},
		{PrimaryEmailAddress: text("nobody@example.com")},
	}
	if !s.cfg.NeedsEmail {
		users = append(users, schemas.User{})
	}
	if name == "check" {
		return []map[string]any{{"message_id": "clerk-connect"}}
	}
	var all []map[string]any
	for _, user := range users {
		for _, isNew := range []bool{false, true} {
			for _, remoteID := range []string{"", "4711"} {
				r := sinks.Record{ClerkID: "user_made_up", Change: &schemas.UserChange{Operation: schemas.ChangeCreate, EventID: "msg_1", User: user}}
				step := s.mapping.Plan(r)
				if name == "find" || name == "erase" || name == "confirm" {
					r, step = sinks.Record{ClerkID: r.ClerkID}, contact.Step{}
				}
				if user.FirstName != nil && step.All != nil {
					s.harden(step)
				}
				step.New, step.Memory.RemoteID = isNew, remoteID
				data := s.data(r, step)
				if name == "upsert" && s.cfg.Batch > 1 {
					data = batchData(s, []write{{record: r, step: step}, {record: r, step: step}})
				}
				all = append(all, data)
			}
		}
	}
	return all
}
