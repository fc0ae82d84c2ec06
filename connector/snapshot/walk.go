package snapshot

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"clerkconnect/connector"
	"clerkconnect/connector/clerk"
	"clerkconnect/schemas"
)

// Outcomes of a row.
const (
	rowWritten    = "written"
	rowClockAhead = "clock_ahead" // updated_at is ahead of Clerk's own clock: read again later
	rowMalformed  = "malformed"   // dead-lettered without its content
)

// clockAheadWait is the longest wait before a user whose updated_at is ahead is
// read again: the time may be mended before it comes.
const clockAheadWait = 24 * time.Hour

// rereadsPerPage bounds the re-reads between two pages, so that neither a storm
// of re-reads holds a walk up nor the other way about.
const rereadsPerPage = 10

// walk begins a walk, or goes on with the one that is under way, to its end.
func (o *owner) walk(ctx context.Context, reason string) error {
	if err := o.begin(ctx, reason); err != nil {
		return fmt.Errorf("begin snapshot: %w", err)
	}
	if err := o.pages(ctx); err != nil {
		return fmt.Errorf("snapshot %s after %d of %d users: %w", o.offset.Snapshot, o.offset.Users, o.offset.Total, err)
	}
	return nil
}

// begin stores the offset of a new walk, unless one is under way whose rows are
// of the same policy.
func (o *owner) begin(ctx context.Context, reason string) error {
	hash := o.t.deps.Policy.Hash()
	if o.offset.Snapshot != "" && o.offset.FinishedAt == 0 && o.offset.PolicyHash == hash {
		if o.covered == nil { // another owner began it
			o.covered = o.olderGaps(o.offset.StartedAt)
		}
		o.t.log.Info("snapshot goes on", "snapshot", o.offset.Snapshot, "users", o.offset.Users, "total", o.offset.Total)
		return nil
	}
	covered := o.state.gaps() // before the first request: what is flagged later needs another walk
	total, date, err := o.t.api.count(ctx)
	if err != nil {
		return err
	}
	next := connector.SourceOffset{
		Snapshot:      date.UTC().Format("20060102T150405Z") + "-" + strings.ToLower(rand.Text()[:6]),
		Total:         total,
		StartedAt:     date.UnixMilli(),
		PolicyHash:    hash,
		Request:       reason,
		LastCompleted: o.offset.LastCompleted,
	}
	if err := o.t.deps.Writer.StoreState(ctx, connector.StateKeySnapshotOffset, next); err != nil {
		return err
	}
	o.offset, o.covered = next, covered
	o.t.log.Info("snapshot begins", "snapshot", next.Snapshot, "total", total, "reason", reason)
	return nil
}

// olderGaps returns the gaps that were flagged before a walk began.
func (o *owner) olderGaps(startedAt int64) map[string]int64 {
	older := o.state.gaps()
	for key := range older {
		var gap connector.Gap
		if _, ok := get(o.state, key, &gap); !ok || gap.FlaggedAt+clockDifference.Milliseconds() >= startedAt {
			delete(older, key)
		}
	}
	return older
}

// pages writes page after page, each followed by its checkpoint.
func (o *owner) pages(ctx context.Context) error {
	place := &listing{api: o.t.api, id: o.offset.After, created: o.offset.AfterCreated, date: time.UnixMilli(o.offset.StartedAt)}
	var pace Pace
	for {
		o.progress(&pace)
		rows, err := place.next(ctx)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return o.finish(ctx, place.date)
		}
		if err := o.write(ctx, rows, o.records(rows, place.date)); err != nil {
			return err
		}
		place.advance(rows)
		next := o.offset
		next.After, next.AfterCreated, next.Users = place.id, place.created, next.Users+int64(len(rows))
		if err := o.t.deps.Writer.StoreState(ctx, connector.StateKeySnapshotOffset, next); err != nil {
			return err
		}
		o.offset = next
		o.answered(nil)
		o.rereads(ctx, rereadsPerPage)
	}
}

// finish writes the end of the walk into every partition, then settles what the
// walk was for. The checkpoint comes after the gaps, so that a process that
// takes over in between ends this walk again rather than forgets a gap.
func (o *owner) finish(ctx context.Context, date time.Time) error {
	if err := o.t.deps.Writer.Write(ctx, connector.SourceRecord{SnapshotEnd: o.offset.Snapshot}); err != nil {
		return err
	}
	for key, offset := range o.covered {
		if err := o.settle(ctx, key, offset); err != nil {
			return err
		}
	}
	next := o.offset
	next.FinishedAt, next.LastCompleted = max(date.UnixMilli(), next.StartedAt), next.StartedAt
	if err := o.t.deps.Writer.StoreState(ctx, connector.StateKeySnapshotOffset, next); err != nil {
		return err
	}
	o.offset, o.covered = next, nil
	o.answered(nil)
	o.t.metrics.lastSuccess.Set(float64(next.FinishedAt) / 1000)
	o.t.log.Info("snapshot is complete", "snapshot", next.Snapshot, "users", next.Users, "total", next.Total,
		"duration_seconds", (next.FinishedAt-next.StartedAt)/1000) // as exact as Clerk's clock, the Date header
	var wish connector.SnapshotRequest
	if offset, ok := get(o.state, connector.StateKeySnapshotRequest, &wish); ok && wish.ID == next.Request {
		return o.settle(ctx, connector.StateKeySnapshotRequest, offset)
	}
	return nil
}

// records turns the rows of a page into what is written.
func (o *owner) records(rows []row, date time.Time) []connector.SourceRecord {
	now, instance := o.t.deps.Now(), o.instance()
	records := make([]connector.SourceRecord, 0, len(rows))
	for i, r := range rows {
		record, outcome := o.record(r.raw, clerk.ReadAt{
			Date: date, ReceivedAt: now, Origin: schemas.OriginSnapshot, InstanceID: instance, Snapshot: o.offset.Snapshot,
		}, o.letter(i))
		o.t.metrics.rows.WithLabelValues(outcome).Inc()
		if outcome == rowMalformed {
			o.t.log.Error("row of a snapshot page cannot be understood; dead-lettered", "snapshot", o.offset.Snapshot, "row", o.offset.Users+int64(i))
		}
		records = append(records, record)
	}
	return records
}

// record turns a user object into an event, into a wish to read it again when
// its updated_at is ahead, or else into a dead letter of the given id.
func (o *owner) record(raw []byte, at clerk.ReadAt, letter string) (connector.SourceRecord, string) {
	event, err := o.t.deps.Policy.Row(raw, at)
	ahead := new(clerk.TooFarAheadError)
	switch {
	case err == nil:
		return connector.SourceRecord{Event: event}, rowWritten
	case errors.As(err, &ahead):
		ripe := min(ahead.UpdatedAt, at.ReceivedAt.Add(clockAheadWait).UnixMilli())
		return connector.SourceRecord{Reread: &connector.Reread{
			ClerkID: ahead.ClerkID, IfVersion: at.IfVersion, Reason: "clock_ahead",
			RequestedAt: at.ReceivedAt.UnixMilli(), NotBefore: ripe,
		}}, rowClockAhead
	}
	if malformed := new(clerk.MalformedError); errors.As(err, &malformed) {
		return deadLetter(raw, letter, malformed.ClerkID, clerk.ReasonUser, malformed.Offset, at.ReceivedAt), rowMalformed
	}
	return deadLetter(raw, letter, "", "missing_id", -1, at.ReceivedAt), rowMalformed
}

// deadLetter says what may be said of a user object that is given up. clerkID is
// "" if not known.
func deadLetter(raw []byte, letter, clerkID, reason string, offset int64, receivedAt time.Time) connector.SourceRecord {
	sum := sha256.Sum256(raw)
	return connector.SourceRecord{DeadLetter: &connector.DeadLetter{
		EventID: letter, ClerkID: clerkID, Reason: reason, Bytes: len(raw), SHA256: hex.EncodeToString(sum[:]), Offset: offset, ReceivedAt: receivedAt.UnixMilli(),
	}}
}

// write makes the records of a page durable. If one is larger than the broker
// takes, each goes by itself, and that one becomes a dead letter: it would hold
// the walk up for ever.
func (o *owner) write(ctx context.Context, rows []row, records []connector.SourceRecord) error {
	err := o.t.deps.Writer.Write(ctx, records...)
	if !errors.Is(err, kerr.MessageTooLarge) {
		return err
	}
	for i, record := range records {
		if _, err := o.writeOne(ctx, rows[i].raw, record, o.letter(i)); err != nil {
			return err
		}
	}
	return nil
}

// writeOne writes the record of a user object, or the dead letter of one that
// is too large, and returns which it was.
func (o *owner) writeOne(ctx context.Context, raw []byte, record connector.SourceRecord, letter string) (connector.SourceRecord, error) {
	err := o.t.deps.Writer.Write(ctx, record)
	if !errors.Is(err, kerr.MessageTooLarge) || record.Event == nil {
		return record, err
	}
	o.t.log.Error("user is larger than the broker takes; dead-lettered", "event_id", letter, "bytes", len(raw))
	record = deadLetter(raw, letter, record.Event.ClerkID, "too_large", -1, o.t.deps.Now())
	return record, o.t.deps.Writer.Write(ctx, record)
}

// letter is the id of the dead letter of a row of the next page.
func (o *owner) letter(row int) string {
	return fmt.Sprintf("snapshot/%s/row-%d", o.offset.Snapshot, o.offset.Users+int64(row))
}

func (o *owner) progress(pace *Pace) {
	now := pace.Progress(o.offset)
	o.t.report(func(p *Progress) { *p = now })
}
