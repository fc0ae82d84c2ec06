package runner

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// known is what the sink's topic of states holds of one user.
type known struct {
	state []byte // what the sink remembers; nil: nothing
	// version of the change that was applied last; zero: not known. What is
	// older is not sent any more.
	version schemas.Version
	// unapplied: the state is only a note, made before a first call that is
	// not known to have succeeded.
	unapplied bool
}

// remembered is what a batch makes of a user.
type remembered struct {
	partition int32
	known     *known // nil: forgotten
}

// Headers of a state. Without any, a state was written by a release that knew
// none: something was applied, of a version that is not known.
const (
	headerUnapplied = "clerk-unapplied" // "true": see known.unapplied
	headerStateless = "clerk-stateless" // "true": the sink remembers nothing, and the user is no new one any more
)

// enabledKey is the key under which each partition of the topic of states has
// the moment that the sink was first run, in Unix milliseconds. It begins with
// what no Clerk ID does.
const enabledKey = schemas.TickKey + "/enabled"

// maxState is how much a sink may remember of a user.
const maxState = 4 << 10

var errNothingNew = errors.New("the sink wants something remembered first that is remembered already, or nothing")

// readState takes over one record of the topic of states.
func (m *memory) readState(k *kgo.Record) error {
	id := string(k.Key)
	switch {
	case id == enabledKey:
		return m.readEnabled(k)
	case k.Value == nil:
		m.states.delete(id)
		return nil
	}
	of := known{state: k.Value, unapplied: schemas.Header(k.Headers, headerUnapplied) == "true"}
	if schemas.Header(k.Headers, headerStateless) == "true" {
		of.state = nil
	}
	if headers, err := schemas.ParseChangeHeaders(k.Headers); err == nil {
		of.version = headers.Version
	}
	m.states.set(id, of)
	return nil
}

// readEnabled takes the earliest: of two processes that began at once, the one
// that lost the partition may have written last.
func (m *memory) readEnabled(k *kgo.Record) error {
	at, err := strconv.ParseInt(string(k.Value), 10, 64)
	if err != nil {
		return fmt.Errorf("key %s holds no time: %w", enabledKey, err)
	}
	if m.enabled == 0 || at < m.enabled {
		m.enabled = at
	}
	return nil
}

// stateRecord renders what is known of a user; nil forgets.
func (p *processor) stateRecord(id string, r remembered) *kgo.Record {
	out := &kgo.Record{Topic: p.options.Topics.SinkState(p.cfg.Name), Partition: r.partition, Key: []byte(id)}
	if r.known == nil {
		return out
	}
	out.Value = r.known.state
	if out.Value == nil {
		out.Value = []byte{}
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: headerStateless, Value: []byte("true")})
	}
	if r.known.unapplied {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: headerUnapplied, Value: []byte("true")})
	}
	if v := r.known.version; v != (schemas.Version{}) {
		out.Headers = append(out.Headers,
			kgo.RecordHeader{Key: schemas.HeaderEpoch, Value: strconv.AppendInt(nil, int64(v.Epoch), 10)},
			kgo.RecordHeader{Key: schemas.HeaderVersion, Value: strconv.AppendInt(nil, v.Number, 10)})
	}
	return out
}

// enabledRecord keeps when the sink was first run.
func (p *processor) enabledRecord(partition int32, m *memory) *kgo.Record {
	return &kgo.Record{
		Topic: p.options.Topics.SinkState(p.cfg.Name), Partition: partition,
		Key: []byte(enabledKey), Value: strconv.AppendInt(nil, m.enabled, 10),
	}
}

// equal reports whether nothing is to be written: nil is nothing known.
func (of *known) equal(other *known) bool {
	if of == nil || other == nil {
		return of == other
	}
	return bytes.Equal(of.state, other.state) && (of.state == nil) == (other.state == nil) &&
		of.version == other.version && of.unapplied == other.unapplied
}

// knownOf is what is known of a user in the course of b, nil if nothing.
func (p *processor) knownOf(b *batch, id string, partition int32) *known {
	if latest, ok := b.states[id]; ok {
		return latest.known
	}
	return p.committedOf(id, partition)
}

// committedOf is what Kafka has of a user, nil if nothing.
func (p *processor) committedOf(id string, partition int32) *known {
	if m, ok := p.partitions[partition]; ok {
		return m.states.get(id)
	}
	return nil
}

// stateOf is what the sink remembers of a user in the course of b.
func (p *processor) stateOf(b *batch, id string, partition int32) []byte {
	return p.knownOf(b, id, partition).stateForSink()
}

func (of *known) stateForSink() []byte {
	if of == nil {
		return nil
	}
	return bytes.Clone(of.state)
}

// give returns record as the sink is to see it: with its state, and whether
// the user is new. of is what is known of him.
func (p *processor) give(record sinks.Record, of *known) sinks.Record {
	record.State = of.stateForSink()
	if m, ok := p.partitions[record.Source.Partition]; ok && record.Change != nil {
		record.New = (of == nil || of.unapplied) && m.isNewSince(record.Change)
	}
	return sinks.Track(record)
}

// isNewSince reports whether the user of a change signed up after the sink was
// first run.
func (m *memory) isNewSince(change *schemas.UserChange) bool {
	created := change.User.CreatedAt // nil: the policy leaves it out
	return created != nil && m.enabled > 0 && *created > m.enabled
}

// remember takes over what the sink said of an applied record. forget: an
// erasure ends what is remembered.
func (p *processor) remember(b *batch, it *item, forget bool) error {
	if len(it.result.State) > maxState {
		return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("sink remembers %d bytes of a user, at most %d", len(it.result.State), maxState))
	}
	if p.afterErasure(it) {
		return nil
	}
	id, partition := it.record.ClerkID, it.record.Source.Partition
	before := p.knownOf(b, id, partition)
	now := known{}
	if before != nil {
		now.state, now.version = before.state, before.version
	}
	if it.result.Remembered {
		now.state = it.result.State
	}
	if it.record.Erase() {
		switch {
		case forget && it.fate == applied && !it.result.Remembered, it.result.Remembered && now.state == nil:
			b.states[id] = remembered{partition: partition}
		case it.result.Remembered:
			b.states[id] = remembered{partition, &now}
		}
		return nil
	}
	if it.fate == applied {
		now.version = it.record.Version
	}
	switch {
	case now.state != nil || p.notNewAgain(it, before):
		b.states[id] = remembered{partition, &now}
	case before != nil:
		b.states[id] = remembered{partition: partition}
	}
	return nil
}

// notNewAgain reports whether it must be kept that a user is known of whom the
// sink remembers nothing: one who would be new with each change. Databases,
// where that means nothing, are spared it.
func (p *processor) notNewAgain(it *item, before *known) bool {
	if before != nil && before.state == nil {
		return true
	}
	m, ok := p.partitions[it.record.Source.Partition]
	return ok && p.pacer != nil && !it.result.Skipped && m.isNewSince(it.record.Change)
}

// note takes over what is to be remembered before a record is applied again,
// and reports whether that is anything new.
func (p *processor) note(b *batch, it *item, result sinks.Result) (bool, error) {
	if len(result.State) > maxState {
		return false, sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("sink remembers %d bytes of a user, at most %d", len(result.State), maxState))
	}
	id, partition := it.record.ClerkID, it.record.Source.Partition
	if p.feed || bytes.Equal(result.State, p.stateOf(b, id, partition)) {
		return false, nil
	}
	it.note = bytes.Clone(result.State)
	b.notes = append(b.notes, it)
	return true, nil
}

// renderNotes returns what b has to have committed before it goes on.
func (p *processor) renderNotes(b *batch) (out []*kgo.Record) {
	for _, it := range b.notes {
		out = append(out, p.stateRecord(it.record.ClerkID, remembered{it.record.Source.Partition, p.noted(it)}))
	}
	return out
}

// noted is what Kafka has of a user when his note is committed: nothing of what
// b has applied, which comes again after a crash.
func (p *processor) noted(it *item) *known {
	now := known{unapplied: true}
	if before := p.committedOf(it.record.ClerkID, it.record.Source.Partition); before != nil {
		now = *before
	}
	now.state = it.note
	return &now
}

// notesCommitted makes the notes of b part of what is known.
func (p *processor) notesCommitted(b *batch) {
	for _, it := range b.notes {
		id := it.record.ClerkID
		if m, ok := p.partitions[it.record.Source.Partition]; ok {
			m.states.set(id, *p.noted(it))
		}
		if r, ok := b.states[id]; ok && r.known != nil { // of an earlier change in b
			now := *r.known
			now.state = it.note
			b.states[id] = remembered{r.partition, &now}
		} else if ok {
			delete(b.states, id)
		}
	}
	b.notes = nil
}
