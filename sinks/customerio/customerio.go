package customerio

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

var (
	_ sinks.Sink      = (*Sink)(nil)
	_ sinks.Paced     = (*Sink)(nil)
	_ sinks.Confirmer = (*Sink)(nil)
)

// maxBatch keeps a request well below Customer.io's 500 KB with people of
// ordinary size; larger ones are sent in several.
const maxBatch = 200

// maxInFlight is a few, so that waiting for an answer does not waste the limit.
const maxInFlight = 4

// limit is that of the App API, 10 requests in a second. The Track API takes
// more (100 in a second as fair use), which batches of 200 people do not need.
// https://docs.customer.io/journeys/limits/
var limit = sinks.Limit{Requests: 10, Window: time.Second}

// Sink writes people. Safe for concurrent use.
type Sink struct {
	cfg     Config
	client  *rest.Client
	app     http.Header // of requests to the App API
	mapping contact.Mapping
}

// New returns a sink. It does no I/O. It fails only if cfg is not valid.
func New(cfg Config) (*Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	properties, err := contact.ParseProperties("PROPERTIES", cfg.Properties, cfg.defaults())
	if err != nil {
		return nil, err
	}
	login := base64.StdEncoding.EncodeToString([]byte(cfg.SiteID + ":" + cfg.APIKey))
	client, err := cfg.Client(rest.Config{Header: http.Header{"Authorization": {"Basic " + login}}})
	if err != nil {
		return nil, err
	}
	return &Sink{
		cfg: cfg, client: client,
		app:     http.Header{"Authorization": {"Bearer " + cfg.AppAPIKey}},
		mapping: contact.NewMapping(properties, contact.Form{Time: contact.UnixSeconds}),
	}, nil
}

// Capabilities implements [sinks.Sink].
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{
		Kind: "customerio", MaxBatch: maxBatch, MaxInFlight: maxInFlight, ConfirmAfter: s.cfg.ConfirmAfter, Limit: limit,
	}
}

// Pace implements [sinks.Paced].
func (s *Sink) Pace(p sinks.Pacer) { s.client.Pace(p) }

// Open implements [sinks.Sink]. It tells a wrong key of either API from a right
// one.
func (s *Sink) Open(ctx context.Context) error {
	s.client.Open()
	_, err := s.client.Do(ctx, rest.Request{Name: "check SITE_ID and API_KEY", Method: http.MethodGet, Path: "/api/v1/accounts/region"})
	if err != nil {
		return err
	}
	_, err = s.exists(ctx, "check APP_API_KEY", "clerk-connect")
	return err
}

// Close implements [sinks.Sink].
func (s *Sink) Close() error {
	s.client.Close()
	return nil
}

// Apply implements [sinks.Sink].
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	if err := ctx.Err(); err != nil {
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, err)
	}
	outcomes := map[int]schemas.Outcome{} // of erasures, by place in batch
	steps := map[int]contact.Step{}       // of changes
	var failed sinks.BatchError
	var operations []operation
	for i, r := range batch {
		if r.Erase() {
			outcome, err := s.outcome(ctx, r)
			switch {
			case sinks.Classify(err).Class == sinks.ClassFatal:
				return err
			case err != nil: // the others need not wait for this one
				failed.Fail(i, err)
			default:
				outcomes[i] = outcome
				operations = append(operations, s.erase(i, r))
			}
			continue
		}
		step := s.mapping.Plan(r)
		if step.Nothing() {
			r.Unchanged()
			continue
		}
		steps[i] = step
	}
	there, err := s.there(ctx, batch, steps)
	if err != nil {
		return err
	}
	for i, r := range batch {
		step, changed := steps[i]
		write := step.Changed
		if !there[r.ClerkID] {
			write = step.All
		}
		if changed {
			operations = append(operations, identify(i, r, write))
		}
	}
	refused, err := s.send(ctx, operations)
	if err != nil {
		return err
	}
	if err := s.welcome(ctx, batch, steps, refused); err != nil {
		return err
	}
	for i, r := range batch {
		step, changed := steps[i]
		outcome, erased := outcomes[i]
		switch problem := refused[i]; {
		case problem != nil:
			failed.Fail(i, problem)
		case erased:
			r.Erased(outcome)
			memory := contact.Memory{}
			if outcome == schemas.OutcomeDeleted {
				memory.RemoteID = r.ClerkID
			}
			memory.RememberErased(r)
		case changed:
			step.Sent(r.ClerkID, "").Remember(r)
		}
	}
	return failed.Err()
}

// mostAsked is how many people the App API is asked for at once.
// https://docs.customer.io/integrations/api/app/#operation/getPeopleById
const mostAsked = 100

// there asks the App API for the people to whom only a part is to be written: whom
// somebody has deleted in the workspace would come back with that part alone.
func (s *Sink) there(ctx context.Context, batch []sinks.Record, steps map[int]contact.Step) (map[string]bool, error) {
	var ids []string
	for i, r := range batch {
		if len(steps[i].Changed) < len(steps[i].All) {
			ids = append(ids, r.ClerkID)
		}
	}
	there := map[string]bool{}
	for part := range slices.Chunk(ids, mostAsked) {
		answer, err := s.client.Do(ctx, rest.Request{
			Name: "look for people", Method: http.MethodPost, BaseURL: s.cfg.AppBaseURL, Header: s.app,
			Path: "/v1/customers/attributes", Query: url.Values{"id_type": {"id"}}, Body: map[string][]string{"ids": part},
		})
		if err != nil {
			return nil, err
		}
		var list struct {
			Customers []struct {
				Customer struct {
					ID string `json:"id"`
				} `json:"customer"`
			} `json:"customers"`
		}
		if err := answer.Decode(&list); err != nil {
			return nil, err
		}
		for _, c := range list.Customers {
			there[c.Customer.ID] = true
		}
	}
	return there, nil
}

// welcome sends the event of the new users that were taken. It comes after them:
// an event of somebody whom Customer.io does not know would create him.
func (s *Sink) welcome(ctx context.Context, batch []sinks.Record, steps map[int]contact.Step, refused map[int]error) error {
	if s.cfg.NewUserEvent == "" {
		return nil
	}
	var events []operation
	for i, r := range batch {
		if steps[i].New && refused[i] == nil {
			events = append(events, s.event(i, r))
		}
	}
	problems, err := s.send(ctx, events)
	for i, problem := range problems {
		refused[i] = problem
	}
	return err
}

// outcome says what an erasure that is about to be sent will come to. Who is not
// remembered may be there all the same, if what was remembered is lost. The
// deletion is sent in any case: a change may be queued.
func (s *Sink) outcome(ctx context.Context, r sinks.Record) (schemas.Outcome, error) {
	if memory := contact.Recall(r.State); memory.RemoteID != "" && !memory.Erased {
		return schemas.OutcomeDeleted, nil
	}
	there, err := s.exists(ctx, "look for a person", r.ClerkID)
	if there {
		return schemas.OutcomeDeleted, err
	}
	return schemas.OutcomeNotPresent, err
}

// Confirm implements [sinks.Confirmer].
func (s *Sink) Confirm(ctx context.Context, clerkID string, _ []byte) (bool, error) {
	there, err := s.exists(ctx, "read a person back", clerkID)
	return !there && err == nil, err
}

// exists asks the App API for the person of that id.
func (s *Sink) exists(ctx context.Context, name, clerkID string) (bool, error) {
	answer, err := s.client.Do(ctx, rest.Request{
		Name: name, Method: http.MethodGet, BaseURL: s.cfg.AppBaseURL, Header: s.app,
		Path: "/v1/customers/" + url.PathEscape(clerkID) + "/attributes", Query: url.Values{"id_type": {"id"}},
		Accept: []int{http.StatusNotFound},
	})
	return err == nil && answer.Status != http.StatusNotFound, err
}
