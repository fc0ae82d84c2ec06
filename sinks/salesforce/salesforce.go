package salesforce

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

var (
	_ sinks.Sink      = (*Sink)(nil)
	_ sinks.Paced     = (*Sink)(nil)
	_ sinks.Confirmer = (*Sink)(nil)
)

// maxBatch is how many records a call takes.
// https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/resources_composite_sobjects_collections.htm
const maxBatch = 200

// maxInFlight is far below the 25 long-running calls that an org may have at once.
const maxInFlight = 4

// limit keeps a burst short; what binds is the org's number of calls in 24 hours,
// which each answer tells and [quota] heeds.
var limit = sinks.Limit{Requests: 10, Window: time.Second}

// Sink writes records. Safe for concurrent use.
type Sink struct {
	cfg      Config
	client   *rest.Client
	login    *login
	mapping  contact.Mapping
	newcomer contact.Mapping // of NEW_USER_PROPERTIES
}

// New returns a sink. It does no I/O. It fails only if cfg is not valid.
func New(cfg Config) (*Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	s := &Sink{cfg: cfg}
	var err error
	if s.login, err = newLogin(cfg); err != nil {
		return nil, err
	}
	s.client, err = cfg.Client(rest.Config{
		Authorize: s.login.authorize, Classify: classify, Quota: quota,
	})
	if err != nil {
		return nil, err
	}
	for mapping, setting := range map[*contact.Mapping][2]string{
		&s.mapping: {"PROPERTIES", cfg.Properties}, &s.newcomer: {"NEW_USER_PROPERTIES", cfg.NewUserProperties},
	} {
		list, err := contact.ParseProperties(setting[0], setting[1], defaults)
		if err != nil {
			return nil, err
		}
		*mapping = contact.NewMapping(list, contact.Form{Time: contact.ISO8601})
	}
	return s, nil
}

// Capabilities implements [sinks.Sink].
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{
		Kind: "salesforce", MaxBatch: maxBatch, MaxInFlight: maxInFlight, ConfirmAfter: s.cfg.ConfirmAfter, Limit: limit,
	}
}

// Pace implements [sinks.Paced].
func (s *Sink) Pace(p sinks.Pacer) {
	s.client.Pace(p)
	s.login.client.Pace(p)
}

// Close implements [sinks.Sink].
func (s *Sink) Close() error {
	s.client.Close()
	s.login.client.Close()
	return nil
}

// Open implements [sinks.Sink]. It logs in, and finds what is missing of the
// fields that the settings name.
func (s *Sink) Open(ctx context.Context) error {
	s.client.Open()
	s.login.client.Open()
	answer, err := s.do(ctx, rest.Request{
		Name: "describe the object", Method: http.MethodGet, Path: s.data("/sobjects/" + s.cfg.Object + "/describe"), Accept: []int{http.StatusNotFound},
	})
	if err != nil {
		return err
	}
	if answer.Status == http.StatusNotFound {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("OBJECT is %q: there is none of that API name, or the user of the connected app may not see it", s.cfg.Object))
	}
	var description struct {
		Fields []struct {
			Name       string `json:"name"`
			ExternalID bool   `json:"externalId"`
			Unique     bool   `json:"unique"`
			Updateable bool   `json:"updateable"`
		} `json:"fields"`
	}
	if err := answer.Decode(&description, "fields"); err != nil {
		return err
	}
	writable, key := map[string]bool{}, false
	for _, f := range description.Fields {
		writable[f.Name] = f.Updateable
		key = key || f.Name == s.cfg.KeyField && f.ExternalID && f.Unique
	}
	if !key || !writable[s.cfg.KeyField] {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("KEY_FIELD is %q: %s needs a text field of that API name that is an external id and unique, and that the user of the connected app may edit", s.cfg.KeyField, s.cfg.Object))
	}
	var missing []string
	for _, name := range append(s.mapping.Names(), s.newcomer.Names()...) {
		if !writable[name] {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("PROPERTIES or NEW_USER_PROPERTIES name %s, which %s does not have or the user of the connected app may not edit", strings.Join(missing, ", "), s.cfg.Object))
	}
	return nil
}

// data returns a path below that of the API's version.
func (s *Sink) data(path string) string { return "/services/data/" + s.cfg.APIVersion + path }

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
		plan := s.mapping.Plan(r)
		if plan.Nothing() {
			r.Unchanged()
			continue
		}
		steps = append(steps, &step{Step: plan, record: r, index: i})
	}
	if err := s.upsert(ctx, steps, &failed); err != nil {
		return err
	}
	if err := s.erase(ctx, erasures, &failed); err != nil {
		return err
	}
	return failed.Err()
}

// Confirm implements [sinks.Confirmer]. It asks by Salesforce's id and by the
// Clerk ID.
func (s *Sink) Confirm(ctx context.Context, clerkID string, state []byte) (bool, error) {
	paths := []string{s.cfg.KeyField + "/" + url.PathEscape(clerkID)}
	if id := contact.Recall(state).RemoteID; id != "" {
		paths = append(paths, url.PathEscape(id))
	}
	for _, path := range paths {
		answer, err := s.do(ctx, rest.Request{
			Name: "read a record back", Method: http.MethodGet, Path: s.data("/sobjects/" + s.cfg.Object + "/" + path),
			Query: url.Values{"fields": {"Id"}}, Accept: []int{http.StatusNotFound},
		})
		if err != nil || answer.Status != http.StatusNotFound {
			return false, err
		}
	}
	return true, nil
}

// find returns the ids of the records that hold one of values in a field, and
// what they hold in the field of the Clerk ID.
func (s *Sink) find(ctx context.Context, field string, values []string) ([]found, error) {
	if len(values) == 0 {
		return nil, nil
	}
	quoted := make([]string, len(values))
	for i, value := range values {
		quoted[i] = "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
	}
	query := "SELECT Id, " + strings.Join(slices.Compact([]string{s.cfg.KeyField, field}), ", ") + " FROM " + s.cfg.Object +
		" WHERE " + field + " IN (" + strings.Join(quoted, ", ") + ")"
	answer, err := s.do(ctx, rest.Request{
		Name: "query records", Method: http.MethodGet, Path: s.data("/query"), Query: url.Values{"q": {query}},
	})
	if err != nil {
		return nil, err
	}
	var page struct {
		Records []map[string]any `json:"records"`
	}
	if err := answer.Decode(&page, "records"); err != nil {
		return nil, err
	}
	list := make([]found, len(page.Records))
	for i, record := range page.Records {
		list[i].id, _ = record["Id"].(string)
		list[i].clerkID, _ = record[s.cfg.KeyField].(string)
	}
	return list, nil
}

// found is a record that a query has found.
type found struct{ id, clerkID string }
