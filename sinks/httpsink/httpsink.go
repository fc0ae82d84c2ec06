package httpsink

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	svix "github.com/svix/svix-webhooks/go"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

var (
	_ sinks.Sink      = (*Sink)(nil)
	_ sinks.Paced     = (*Sink)(nil)
	_ sinks.Confirmer = confirming{}
)

// maxInFlight is enough for the limit with answers that take half a second.
const maxInFlight = 5

// limit is a cautious one: that of many services. RATE_LIMIT says it better.
var limit = sinks.Limit{Requests: 10, Window: time.Second}

// Sink makes the declared calls. Safe for concurrent use.
type Sink struct {
	cfg     Config
	client  *rest.Client
	mapping contact.Mapping
	calls   calls
	judged  judgement
	signers []*svix.Webhook
	isJSON  bool // bodies are
}

// confirming is a sink with CONFIRM.
type confirming struct{ *Sink }

// New returns a [*Sink], which is a [sinks.Confirmer] as well if CONFIRM is
// declared. It does no I/O. It fails only if cfg is not valid.
func New(cfg Config) (sinks.Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	properties, err := contact.ParseProperties("PROPERTIES", cfg.Properties, defaults)
	if err != nil {
		return nil, err
	}
	headers, err := parseHeaders(cfg.Headers)
	if err != nil {
		return nil, err
	}
	s := &Sink{cfg: cfg, mapping: contact.NewMapping(properties, cfg.form()), isJSON: isJSON(headers)}
	if s.signers, err = parseSecrets(cfg.SigningSecret); err != nil {
		return nil, err
	}
	if s.calls, err = cfg.parseCalls(); err != nil {
		return nil, err
	}
	if s.judged, err = cfg.parseAnswers(); err != nil {
		return nil, err
	}
	s.client, err = cfg.Client(rest.Config{Header: headers, Classify: s.judged.classify, Pages: true})
	if err != nil {
		return nil, err
	}
	if cfg.Confirms() {
		return confirming{s}, nil
	}
	return s, nil
}

func (c Config) form() contact.Form {
	times := map[Times]contact.TimeFormat{ISO8601: contact.ISO8601, Seconds: contact.UnixSeconds, Millis: contact.UnixMillis}
	return contact.Form{Time: times[c.Times], Nested: true}
}

func isJSON(headers http.Header) bool {
	kind := headers.Get("Content-Type")
	return kind == "" || strings.Contains(kind, "json")
}

// Capabilities implements [sinks.Sink].
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{Kind: "http", MaxBatch: s.cfg.Batch, MaxInFlight: maxInFlight, ConfirmAfter: s.cfg.ConfirmAfter, Limit: limit}
}

// Pace implements [sinks.Paced].
func (s *Sink) Pace(p sinks.Pacer) { s.client.Pace(p) }

// Open implements [sinks.Sink]. It makes the call CHECK, if there is one.
func (s *Sink) Open(ctx context.Context) error {
	s.client.Open()
	if s.calls["check"] == nil {
		return nil
	}
	_, _, err := s.do(ctx, "check", map[string]any{"message_id": "clerk-connect"})
	if sinks.Classify(err).Class == sinks.ClassPermanent {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("BASE_URL or CHECK: %w", err))
	}
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
	var writes []write
	for _, r := range batch {
		if r.Erase() {
			continue
		}
		if s.cfg.NeedsEmail && contact.Email(&r.Change.User) == "" {
			r.Skipped()
			continue
		}
		step := s.mapping.Plan(r)
		if step.Nothing() {
			r.Unchanged()
			continue
		}
		writes = append(writes, write{r, step})
	}
	// Users first: of a batch that is refused, no erasure is made again and again.
	if len(writes) > 0 {
		apply := s.upsert
		if s.calls["upsert"] == nil {
			apply = s.write
		}
		if err := apply(ctx, writes); err != nil {
			return err
		}
	}
	return s.eraseAll(ctx, batch)
}

// eraseAll makes the erasures of a batch. After one that may be tried again no
// further one is made: the service may be away.
func (s *Sink) eraseAll(ctx context.Context, batch []sinks.Record) error {
	var failed sinks.BatchError
	var away error
	for i, r := range batch {
		if !r.Erase() {
			continue
		}
		err := away
		if err == nil {
			err = s.erase(ctx, r)
		}
		switch class := sinks.Classify(err).Class; {
		case err == nil:
			continue
		case class == sinks.ClassFatal, len(batch) == 1:
			return err
		case class == sinks.ClassRetry:
			away = err
		}
		failed.Fail(i, err)
	}
	return failed.Err()
}

// write is a change that is due.
type write struct {
	record sinks.Record
	step   contact.Step
}

// upsert writes by the one call that there is.
func (s *Sink) upsert(ctx context.Context, writes []write) error {
	data := s.data(writes[0].record, writes[0].step)
	if s.cfg.Batch > 1 {
		data = batchData(s, writes)
	}
	answer, _, err := s.do(ctx, "upsert", data)
	if err != nil {
		return err
	}
	for _, w := range writes {
		id := w.step.Memory.RemoteID
		if s.cfg.RemoteID != "" {
			if found := at(answer.Body, s.cfg.RemoteID); found != "" {
				id = found
			}
		}
		if id == "" {
			id = w.record.ClerkID // there, and that is its key
		}
		w.step.Sent(id, "").Remember(w.record)
	}
	return nil
}

// write creates a user or changes the one who is there. It looks before it creates,
// since a call whose answer was lost, before a crash, may have created him.
func (s *Sink) write(ctx context.Context, writes []write) error {
	r, step := writes[0].record, writes[0].step // of one
	known := step.Memory.RemoteID
	if known != "" {
		done, err := s.update(ctx, r, step, known)
		if done || err != nil {
			return err
		}
	}
	found, err := s.find(ctx, r, step.Memory)
	if err != nil {
		return err
	}
	step.Changed = step.All
	if found != "" && found != known {
		done, err := s.update(ctx, r, step, found)
		if done || err != nil {
			return err
		}
	}
	step.Memory.RemoteID = ""
	answer, _, err := s.do(ctx, "create", s.data(r, step))
	if err != nil {
		return err
	}
	id := at(answer.Body, s.cfg.RemoteID)
	if id == "" {
		return sinks.Fatal(sinks.ReasonMisconfigured, errors.New("REMOTE_ID: nothing stands there in the answer to CREATE"))
	}
	step.Sent(id, "").Remember(r)
	return nil
}

// update changes the user whom the service knows by that id. done: he was there.
func (s *Sink) update(ctx context.Context, r sinks.Record, step contact.Step, id string) (done bool, err error) {
	step.Memory.RemoteID = id
	_, gone, err := s.do(ctx, "update", s.data(r, step))
	if gone || err != nil {
		return false, err
	}
	step.Sent(id, "").Remember(r)
	return true, nil
}

// find returns the service's id of a user, "" if he is not there.
func (s *Sink) find(ctx context.Context, r sinks.Record, memory contact.Memory) (string, error) {
	answer, gone, err := s.do(ctx, "find", s.data(r, contact.Step{Memory: memory}))
	if gone || err != nil {
		return "", err
	}
	return at(answer.Body, s.cfg.FindID), nil
}

// erase erases by the service's own id, and by the Clerk ID if that is not known or
// nobody has it any more.
func (s *Sink) erase(ctx context.Context, r sinks.Record) error {
	memory := contact.Recall(r.State)
	there := false
	if s.calls["find"] == nil || memory.RemoteID != "" {
		_, gone, err := s.do(ctx, "erase", s.data(r, contact.Step{Memory: memory}))
		if err != nil {
			return err
		}
		there = !gone
	}
	if !there && s.calls["find"] != nil {
		found, err := s.find(ctx, r, memory)
		if err != nil {
			return err
		}
		if found != "" && found != memory.RemoteID {
			memory.RemoteID = found
			_, gone, err := s.do(ctx, "erase", s.data(r, contact.Step{Memory: memory}))
			if err != nil {
				return err
			}
			there = !gone
		}
	}
	outcomes := map[Erasure]schemas.Outcome{
		Delete: schemas.OutcomeDeleted, SoftDelete: schemas.OutcomeSoftDeleted, Anonymize: schemas.OutcomeAnonymized,
	}
	if r.Erased(schemas.OutcomeNotPresent); there {
		r.Erased(outcomes[s.cfg.Erasure])
	}
	if !s.cfg.Confirms() {
		r.Remember(nil)
		return nil
	}
	memory.RememberErased(r)
	return nil
}

// Confirm implements [sinks.Confirmer].
func (s confirming) Confirm(ctx context.Context, clerkID string, state []byte) (bool, error) {
	data := s.data(sinks.Record{ClerkID: clerkID}, contact.Step{Memory: contact.Recall(state)})
	answer, gone, err := s.do(ctx, "confirm", data)
	if gone || err != nil {
		return gone, err
	}
	return s.cfg.ConfirmID != "" && at(answer.Body, s.cfg.ConfirmID) == "", nil
}

// data is what the templates see of a record. The members are listed in README.md.
func (s *Sink) data(r sinks.Record, step contact.Step) map[string]any {
	remoteID := step.Memory.RemoteID
	if remoteID == r.ClerkID { // stands for none, see upsert
		remoteID = ""
	}
	data := map[string]any{
		"id": r.ClerkID, "epoch": r.Version.Epoch, "version": r.Version.Number, "remote_id": remoteID, "new": step.New,
		"operation": "ERASE", "event_id": "", "occurred_at": "",
		"properties": map[string]any(step.All), "changed": map[string]any(step.Changed),
		"message_id": fmt.Sprintf("clerk-%s-%d-%d", strings.ReplaceAll(r.ClerkID, ".", "-"), r.Version.Epoch, r.Version.Number),
	}
	switch {
	case r.Change != nil:
		data["operation"], data["event_id"] = string(r.Change.Operation), r.Change.EventID
		data["occurred_at"] = time.UnixMilli(r.Change.OccurredAt).UTC().Format("2006-01-02T15:04:05.000Z")
	case r.Erasure != nil:
		data["event_id"] = r.Erasure.EventID
		data["occurred_at"] = time.UnixMilli(r.Erasure.RequestedAt).UTC().Format("2006-01-02T15:04:05.000Z")
	}
	return data
}

// batchData is what the templates of a batch see. Its id follows from the records.
func batchData(s *Sink, writes []write) map[string]any {
	records, sum := make([]any, len(writes)), sha256.New()
	for i, w := range writes {
		data := s.data(w.record, w.step)
		records[i] = data
		fmt.Fprintln(sum, data["message_id"])
	}
	return map[string]any{"records": records, "message_id": "clerk-batch-" + hex.EncodeToString(sum.Sum(nil)[:16])}
}
