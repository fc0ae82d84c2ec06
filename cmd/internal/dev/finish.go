package dev

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	_ "modernc.org/sqlite" // the driver that the sink uses too

	"clerkconnect/connector/clerk"
	"clerkconnect/connector/snapshot"
	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
)

// Summary is what a session came to.
type Summary struct {
	Clerk string `json:"clerk"` // simulated or real
	Kafka string `json:"kafka"` // embedded or real

	UsersInClerk  *int `json:"users_in_clerk,omitempty"` // not known of a real Clerk
	UsersInTopic  int  `json:"users_in_topic"`
	RowsInTable   int  `json:"rows_in_table"`
	DeletedUsers  *int `json:"deleted_users,omitempty"`
	Converged     bool `json:"converged"`
	SnapshotRows  int  `json:"snapshot_rows"` // read in this session
	EventsCreated int  `json:"events_created"`

	SnapshotUnfinished bool `json:"snapshot_unfinished"` // interrupted: the next run goes on

	Events     map[string]int `json:"events"` // sequenced in this session, by outcome
	Deliveries int            `json:"deliveries"`
	Repeated   int            `json:"repeated_deliveries"`

	LatencyP50 float64 `json:"webhook_to_row_p50_ms"`
	LatencyP99 float64 `json:"webhook_to_row_p99_ms"`
	Duration   float64 `json:"duration_seconds"`

	differences []string
}

// finish drains what is under way and compares the three.
func (s *session) finish(ctx context.Context, interrupted bool) (Summary, error) {
	complete := s.snapshotComplete(ctx, interrupted)
	s.say.draining()
	if s.sim != nil {
		draining, cancel := context.WithTimeoutCause(ctx, drainTimeout, errors.New("the pending deliveries were not taken in time"))
		err := s.sim.Drain(draining)
		cancel()
		if err != nil {
			return Summary{}, fmt.Errorf("drain the simulated Clerk: %w", err)
		}
	}
	complete = complete || s.snapshotComplete(ctx, true)
	if complete { // else new events come in all the time
		if err := s.sequenced(ctx); err != nil {
			return Summary{}, err
		}
	}
	deadline := time.Now().Add(convergeTimeout)
	for {
		summary, err := s.compare(ctx)
		if !complete {
			err = nil // there may not even be a table yet
		}
		summary.SnapshotUnfinished, summary.Converged = !complete, summary.Converged && complete
		if err != nil || summary.Converged || !complete || time.Now().After(deadline) {
			s.count(&summary)
			return summary, err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// snapshotComplete says whether the snapshot task has nothing left to read,
// and waits for that unless a person wants to end.
func (s *session) snapshotComplete(ctx context.Context, interrupted bool) bool {
	wait := snapshotTimeout
	if interrupted {
		wait = 0
	}
	select {
	case <-s.bar.Complete:
	default:
		select {
		case <-s.bar.Complete:
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return s.process.Snapshot.Progress().Phase == snapshot.PhaseIdle
}

// sequenced waits until no event is left to the sequencer.
func (s *session) sequenced(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, drainTimeout, errors.New("the sequencer did not reach the end of the log in time"))
	defer cancel()
	for {
		status := s.process.Sequencer.Status()
		lag, err := s.process.SequencerLag(ctx)
		if err == nil && lag == 0 && len(status.Owned) > 0 && len(status.Ready) == len(status.Owned) {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// state is what one of the three says of a user.
type state struct {
	version     schemas.Version // of the topic and the table
	fingerprint int64           // of the topic and Clerk
}

// compare reads the topic, the table and Clerk's truth.
func (s *session) compare(ctx context.Context) (Summary, error) {
	summary := Summary{Clerk: string(s.sources.clerk), Kafka: string(s.sources.kafka)}
	topic, err := s.readTopic(ctx)
	if err != nil {
		return summary, err
	}
	rows, err := s.readTable(ctx)
	if err != nil {
		return summary, err
	}
	summary.UsersInTopic, summary.RowsInTable = len(topic), len(rows)
	differ := func(format string, args ...any) {
		summary.differences = append(summary.differences, fmt.Sprintf(format, args...))
	}
	for id, user := range topic {
		if row, ok := rows[id]; !ok || row.version != user.version {
			differ("%s: the table has version %+v, the topic %+v", id, row.version, user.version)
		}
	}
	for id := range rows {
		if _, ok := topic[id]; !ok {
			differ("%s: the table has a row, the topic no user", id)
		}
	}
	if s.sim != nil {
		if err := s.compareTruth(&summary, topic, differ); err != nil {
			return summary, err
		}
	}
	summary.Converged = len(summary.differences) == 0
	return summary, nil
}

// compareTruth holds the topic against what the simulated Clerk says.
func (s *session) compareTruth(summary *Summary, topic map[string]state, differ func(string, ...any)) error {
	truth := s.sim.Truth()
	users, deleted := len(truth), len(s.sim.Deleted())
	summary.UsersInClerk, summary.DeletedUsers = &users, &deleted
	for id, raw := range truth {
		event, err := s.process.Policy.Row(raw, clerk.ReadAt{Date: time.Now(), ReceivedAt: time.Now(), Origin: schemas.OriginSnapshot})
		if err != nil {
			return fmt.Errorf("the simulated Clerk's own user: %w", err)
		}
		user, ok := topic[id]
		switch {
		case !ok:
			differ("%s: Clerk has the user, the topic has not", id)
		case user.fingerprint != event.Fingerprint:
			differ("%s: the topic has another content than Clerk", id)
		}
	}
	for id := range topic {
		if _, ok := truth[id]; !ok {
			differ("%s: the topic has a user that Clerk has not", id)
		}
	}
	return nil
}

// readTopic reads <prefix>.users as any consumer would.
func (s *session) readTopic(ctx context.Context) (map[string]state, error) {
	users := map[string]state{}
	for partition := range s.process.Pins.Partitions {
		err := compacted.Read(ctx, s.process.Client, s.process.Topics.Users(), partition, func(r *kgo.Record) error {
			switch {
			case string(r.Key) == schemas.TickKey:
				return nil
			case r.Value == nil:
				delete(users, string(r.Key))
				return nil
			}
			var change schemas.UserChange
			if err := s.process.Codec.Decode(ctx, r.Value, &change); err != nil {
				return err
			}
			users[string(r.Key)] = state{
				version:     schemas.Version{Epoch: change.Epoch, Number: change.Version},
				fingerprint: clerk.Fingerprint(&change.User),
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return users, nil
}

// readTable reads the ids and versions that the sink has.
func (s *session) readTable(ctx context.Context) (map[string]state, error) {
	path, err := filepath.Abs(s.database())
	if err != nil {
		return nil, fmt.Errorf("read the table: %w", err)
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: "mode=ro&_pragma=busy_timeout(5000)"}).String())
	if err != nil {
		return nil, fmt.Errorf("read the table: %w", err)
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, "SELECT u.id, v.epoch, v.version FROM "+table+" AS u JOIN clerk_connect_versions AS v ON v.id = u.id")
	if err != nil {
		return nil, fmt.Errorf("read the table: %w", err)
	}
	defer rows.Close()
	users := map[string]state{}
	for rows.Next() {
		var id string
		var row state
		if err := rows.Scan(&id, &row.version.Epoch, &row.version.Number); err != nil {
			return nil, fmt.Errorf("read the table: %w", err)
		}
		users[id] = row
	}
	return users, rows.Err()
}

// count adds what was counted in the session.
func (s *session) count(summary *Summary) {
	counted := s.counts()
	summary.Events, summary.SnapshotRows, summary.Repeated = counted.events, counted.snapshotRows, counted.repeated
	if s.sim != nil {
		stats := s.sim.Stats()
		summary.Deliveries = stats.Deliveries
		for _, n := range stats.Events {
			summary.EventsCreated += n
		}
	} else {
		summary.Deliveries = counted.deliveries
	}
	p50, p99, _ := s.latency.quantiles()
	summary.LatencyP50, summary.LatencyP99 = float64(p50.Microseconds())/1000, float64(p99.Microseconds())/1000
	summary.Duration = time.Since(s.started).Seconds()
}
