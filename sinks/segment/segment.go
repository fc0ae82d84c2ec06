package segment

import (
	"context"
	"encoding/base64"
	"net/http"
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

// maxBatch keeps a request well below Segment's 500 KB and 2,500 messages with
// users of ordinary size; larger ones are sent in several.
const maxBatch = 500

// maxInFlight is a few, so that waiting for an answer does not waste the limit.
const maxInFlight = 4

// limit is that of the Public API, 200 requests in a minute. The Tracking API
// takes more (1,000 in a second for a workspace), which batches of 500 users do not
// need. https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/
var limit = sinks.Limit{Requests: 200, Window: time.Minute}

// Sink sends users. Safe for concurrent use.
type Sink struct {
	cfg     Config
	client  *rest.Client
	public  http.Header // of requests to the Public API
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
	login := base64.StdEncoding.EncodeToString([]byte(cfg.WriteKey + ":"))
	client, err := cfg.Client(rest.Config{Header: http.Header{"Authorization": {"Basic " + login}}})
	if err != nil {
		return nil, err
	}
	return &Sink{
		cfg: cfg, client: client,
		public:  http.Header{"Authorization": {"Bearer " + cfg.PublicAPIToken}},
		mapping: contact.NewMapping(properties, contact.Form{Time: contact.ISO8601, Nested: true}),
	}, nil
}

// Capabilities implements [sinks.Sink].
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{
		Kind: "segment", MaxBatch: maxBatch, MaxInFlight: maxInFlight, ConfirmAfter: s.cfg.ConfirmAfter, Limit: limit,
	}
}

// Pace implements [sinks.Paced].
func (s *Sink) Pace(p sinks.Pacer) { s.client.Pace(p) }

// Open implements [sinks.Sink]. It tells a wrong key from a right one, which the
// Tracking API does not.
func (s *Sink) Open(ctx context.Context) error {
	s.client.Open()
	return s.checkWriteKey(ctx)
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
	var failed sinks.BatchError
	var erasures []sinks.Record
	var messages []message
	steps := map[int]contact.Step{} // by place in batch
	for i, r := range batch {
		if r.Erase() {
			erasures = append(erasures, r)
			continue
		}
		step := s.mapping.Plan(r)
		if step.Nothing() {
			r.Unchanged()
			continue
		}
		texts, err := s.messages(r, step)
		if err != nil {
			failed.Fail(i, err)
			continue
		}
		steps[i] = step
		messages = append(messages, texts...)
	}
	if err := s.send(ctx, messages); err != nil {
		return err
	}
	for i, step := range steps {
		step.Sent(batch[i].ClerkID, "").Remember(batch[i])
	}
	if err := s.regulate(ctx, erasures); err != nil {
		return err
	}
	return failed.Err()
}
