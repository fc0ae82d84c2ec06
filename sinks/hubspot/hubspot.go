package hubspot

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

var (
	_ sinks.Sink        = (*Sink)(nil)
	_ sinks.Paced       = (*Sink)(nil)
	_ sinks.Confirmer   = (*Sink)(nil)
	_ sinks.Initializer = (*Sink)(nil)
)

// maxBatch is how many contacts one call takes: HubSpot's own text says 100.
const maxBatch = 100

// maxInFlight is a few, so that waiting for an answer does not waste the limit.
const maxInFlight = 4

// limit is that of the smallest accounts, Free and Starter: 100 requests per app
// in 10 s. https://developers.hubspot.com/docs/developer-tooling/platform/usage-guidelines
var limit = sinks.Limit{Requests: 100, Window: 10 * time.Second}

// Sink writes contacts. Safe for concurrent use.
type Sink struct {
	cfg      Config
	client   *rest.Client
	mapping  contact.Mapping
	newcomer contact.Mapping // of NEW_USER_PROPERTIES
}

// New returns a sink. It does no I/O. It fails only if cfg is not valid.
func New(cfg Config) (*Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	client, err := cfg.Client(rest.Config{
		Header:   http.Header{"Authorization": {"Bearer " + cfg.Token}},
		Classify: classify, Quota: quota,
	})
	if err != nil {
		return nil, err
	}
	form := contact.Form{Time: contact.UnixMillis, Strings: true}
	properties, err := contact.ParseProperties("PROPERTIES", cfg.Properties, defaults)
	if err != nil {
		return nil, err
	}
	newcomer, err := contact.ParseProperties("NEW_USER_PROPERTIES", cfg.NewUserProperties, defaults)
	if err != nil {
		return nil, err
	}
	return &Sink{
		cfg: cfg, client: client,
		mapping: contact.NewMapping(properties, form), newcomer: contact.NewMapping(newcomer, form),
	}, nil
}

// Capabilities implements [sinks.Sink].
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{
		Kind: "hubspot", MaxBatch: maxBatch, MaxInFlight: maxInFlight, ConfirmAfter: s.cfg.ConfirmAfter, Limit: limit,
	}
}

// Pace implements [sinks.Paced].
func (s *Sink) Pace(p sinks.Pacer) { s.client.Pace(p) }

// Close implements [sinks.Sink].
func (s *Sink) Close() error {
	s.client.Close()
	return nil
}

// objects is the path of contacts, properties that of their properties. The
// dated paths have the version behind the kind.
func (s *Sink) objects() string {
	if s.cfg.APIVersion == defaultAPIVersion {
		return "/crm/v3/objects/contacts"
	}
	return "/crm/objects/" + s.cfg.APIVersion + "/contacts"
}

func (s *Sink) properties() string {
	if s.cfg.APIVersion == defaultAPIVersion {
		return "/crm/v3/properties/contacts"
	}
	return "/crm/properties/" + s.cfg.APIVersion + "/contacts"
}

// Apply implements [sinks.Sink].
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	if err := ctx.Err(); err != nil {
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, err)
	}
	var failed sinks.BatchError
	var steps []*step
	var erasures []*erasure
	for i, r := range batch {
		if r.Erase() {
			erasures = append(erasures, &erasure{record: r, index: i, memory: contact.Recall(r.State)})
			continue
		}
		st := &step{Step: s.mapping.Plan(r), record: r, index: i}
		if st.Nothing() {
			r.Unchanged()
			continue
		}
		steps = append(steps, st)
	}
	if len(steps) > 0 {
		if err := s.upsert(ctx, steps, &failed); err != nil {
			return err
		}
	}
	if len(erasures) > 0 {
		if err := s.erase(ctx, erasures); err != nil {
			return whole(err, erasures, len(batch), &failed)
		}
	}
	return failed.Err()
}

// whole says of a failed erasure that the changes of the batch are applied.
func whole(err error, erasures []*erasure, size int, failed *sinks.BatchError) error {
	if len(erasures) == size || sinks.Classify(err).Class == sinks.ClassFatal {
		return err
	}
	for _, e := range erasures {
		failed.Fail(e.index, err)
	}
	return failed.Err()
}

// erasure is a demand to erase under way.
type erasure struct {
	record sinks.Record
	index  int
	memory contact.Memory
	ids    []string // of the contacts that are there
}

// erase erases contacts by HubSpot's own ids: those remembered, and those that
// carry the Clerk ID.
func (s *Sink) erase(ctx context.Context, erasures []*erasure) error {
	var keys, remembered []string
	for _, e := range erasures {
		keys = append(keys, e.record.ClerkID)
		if e.memory.RemoteID != "" {
			remembered = append(remembered, e.memory.RemoteID)
		}
	}
	byKey, err := s.read(ctx, s.cfg.KeyProperty, keys)
	if err != nil {
		return err
	}
	byID, err := s.read(ctx, "", remembered)
	if err != nil {
		return err
	}
	var ids []string
	for _, e := range erasures {
		for _, c := range byKey {
			if c.Properties[s.cfg.KeyProperty] == e.record.ClerkID {
				e.ids = append(e.ids, c.ID)
			}
		}
		for _, c := range byID {
			if c.ID == e.memory.RemoteID && (len(e.ids) == 0 || e.ids[0] != c.ID) {
				e.ids = append(e.ids, c.ID)
			}
		}
		ids = append(ids, e.ids...)
	}
	if err := s.remove(ctx, ids); err != nil {
		return err
	}
	for _, e := range erasures {
		switch {
		case len(e.ids) == 0:
			e.record.Erased(schemas.OutcomeNotPresent)
		case s.cfg.Erasure == GDPRDelete:
			e.record.Erased(schemas.OutcomeDeleted)
		default:
			e.record.Erased(schemas.OutcomeSoftDeleted)
		}
		if len(e.ids) > 0 {
			e.memory.RemoteID = e.ids[0]
		}
		e.memory.RememberErased(e.record)
	}
	return nil
}

// remove erases the contacts with these ids of HubSpot's. gdpr-delete is given
// an id and never an address: an address that it does not know it would block
// for ever.
func (s *Sink) remove(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	if s.cfg.Erasure == GDPRDelete {
		for _, id := range ids {
			_, err := s.client.Do(ctx, rest.Request{
				Name: "delete contact for ever", Method: http.MethodPost, Path: s.objects() + "/gdpr-delete",
				Body: map[string]string{"objectId": id}, Accept: []int{http.StatusNotFound},
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	inputs := make([]map[string]string, len(ids))
	for i, id := range ids {
		inputs[i] = map[string]string{"id": id}
	}
	_, err := s.client.Do(ctx, rest.Request{
		Name: "archive contacts", Method: http.MethodPost, Path: s.objects() + "/batch/archive", Body: map[string]any{"inputs": inputs},
	})
	return err
}

// Confirm implements [sinks.Confirmer]. It asks by HubSpot's id and by the Clerk
// ID, not through the search, whose index lags behind.
func (s *Sink) Confirm(ctx context.Context, clerkID string, state []byte) (bool, error) {
	there, err := s.exists(ctx, clerkID, url.Values{"idProperty": {s.cfg.KeyProperty}})
	if there || err != nil {
		return false, err
	}
	if id := contact.Recall(state).RemoteID; id != "" {
		there, err = s.exists(ctx, id, nil)
	}
	return !there && err == nil, err
}

func (s *Sink) exists(ctx context.Context, id string, query url.Values) (bool, error) {
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "read contact back", Method: http.MethodGet, Path: s.objects() + "/" + url.PathEscape(id), Query: query,
		Accept: []int{http.StatusNotFound},
	})
	return err == nil && answer.Status != http.StatusNotFound, err
}

// found is a contact as batch/read shows it.
type found struct {
	ID         string            `json:"id"`
	Properties map[string]string `json:"properties"`
}

// read returns the contacts that are there of those named by a unique property,
// or by HubSpot's ids if property is "".
func (s *Sink) read(ctx context.Context, property string, ids []string) ([]found, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	inputs := make([]map[string]string, len(ids))
	for i, id := range ids {
		inputs[i] = map[string]string{"id": id}
	}
	names := []string{s.cfg.KeyProperty}
	if property != "" && property != s.cfg.KeyProperty {
		names = append(names, property)
	}
	body := map[string]any{"inputs": inputs, "properties": names, "propertiesWithHistory": []string{}}
	if property != "" {
		body["idProperty"] = property
	}
	answer, err := s.client.Do(ctx, rest.Request{
		Name: "read contacts", Method: http.MethodPost, Path: s.objects() + "/batch/read", Body: body,
	})
	if err != nil {
		return nil, err
	}
	var list struct{ Results []found }
	if err := answer.Decode(&list, "results"); err != nil {
		return nil, fmt.Errorf("read contacts: %w", err)
	}
	return list.Results, nil
}
