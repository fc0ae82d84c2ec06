package storm

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"clerkconnect/sinks/resttest"
	"clerkconnect/sinks/runner"
	"clerkconnect/sinks/sinktest"
)

const sinkName = "tool"

// Config says what a storm goes over.
type Config struct {
	// Harness is the one of the sink's contract. Its Fields are compared.
	Harness sinktest.Harness
	// Destination is the imitation, with its limits, on Clock.
	Destination sinktest.Destination
	Server      *resttest.Server
	Clock       *resttest.Clock
	// Users is how many go through; 0: 10,000.
	Users int
	// CallsPerUser is the most requests per user that the test allows, failed
	// ones and those of erasures and confirmations too; 0: it only prints them.
	CallsPerUser float64
	// Seed draws the failures; 0: another each time. It is printed.
	Seed uint64
}

// deadline ends a storm that hangs; it is far beyond what a slow machine takes.
const deadline = 5 * time.Minute

// Run runs the storm.
func Run(t *testing.T, cfg Config) {
	if cfg.Users == 0 {
		cfg.Users = 10000
	}
	if cfg.Seed == 0 {
		cfg.Seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", cfg.Seed)
	b := newBroker(t)
	s := &storm{Config: cfg, t: t, broker: b, all: population(cfg.Users, cfg.Destination.Poison)}
	cfg.Server.SetWeather(resttest.Weather{RateLimited: 0.05, Unavailable: 0.02, Reset: 0.01, Seed: cfg.Seed})
	s.started = time.Now()
	s.start()
	s.write(s.all)
	s.note("written")
	s.killAfter(cfg.Users / 3)
	for i, u := range s.all {
		u.change(i)
	}
	s.write(s.all)
	s.note("changes written")
	s.killAfter(0)
	s.note("killed twice")
	s.finish()
	s.note("finished")
	s.check()
	requests := cfg.Server.Requests()
	perUser := float64(requests) / float64(cfg.Users)
	t.Logf("%d users in %s: %d requests, %.3f per user, %.0f %% of the vendor's limit in the busiest window; %s",
		cfg.Users, time.Since(s.started).Round(time.Millisecond), requests, perUser, 100*cfg.Server.Share(), answers(cfg.Server.Answers()))
	if cfg.CallsPerUser > 0 && perUser > cfg.CallsPerUser {
		t.Errorf("%.3f requests per user, want at most %.3f", perUser, cfg.CallsPerUser)
	}
}

func answers(kinds map[string]int) (text string) {
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		text += fmt.Sprintf("%s: %d, ", kind, kinds[kind])
	}
	return text
}

// storm is one under way.
type storm struct {
	Config
	t       *testing.T
	broker  *broker
	all     []*user
	runner  *runner.Runner
	kill    func()
	started time.Time

	reported int // users of whom something was wrong
}

func (s *storm) note(what string) {
	s.t.Logf("%s: %s, %d requests", time.Since(s.started).Round(time.Millisecond), what, s.Server.Requests())
}

// start starts a process of the sink.
func (s *storm) start() {
	s.t.Helper()
	sink := onClock(s.Destination.Sink(s.t), s.Clock)
	cfg := runner.DefaultConfig(sinkName)
	cfg.BackoffMin, cfg.BackoffMax, cfg.SlowRetry = time.Millisecond, 5*time.Millisecond, 20*time.Millisecond
	cfg.DrainTimeout = time.Millisecond // killed, not stopped
	r, err := runner.New(cfg, sink, runner.Options{
		Client: s.broker.client, Topics: topics, InstanceName: "a", Logger: slog.New(slog.DiscardHandler), SessionTimeout: 6 * time.Second,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	killed := false
	s.runner, s.kill = r, func() {
		if killed {
			return
		}
		killed = true
		cancel()
		if err := <-ended; err != nil {
			s.t.Errorf("Run: %v", err)
		}
	}
	s.t.Cleanup(s.kill)
}

// write writes the users as they are now, in transactions of 2000 records.
func (s *storm) write(users []*user) {
	for part := range slices.Chunk(users, 2000) {
		var records = part[0].records()
		for _, u := range part[1:] {
			records = append(records, u.records()...)
		}
		s.broker.write(records...)
	}
}

// killAfter kills the process when the tool has that many contacts and has seen
// further requests, or everything is applied, and starts another.
func (s *storm) killAfter(contacts int) {
	s.t.Helper()
	before := s.Server.Requests()
	s.eventually("far enough to be killed", func() bool {
		moved := s.Server.Requests()-before > min(20, s.Users/200)
		return moved && s.Destination.Contacts(s.t) >= contacts || s.runner.Status().LagRecords == 0
	})
	s.kill()
	s.start()
}

// finish waits until all is applied, and then, in fair weather, until all that was
// erased is read back.
func (s *storm) finish() {
	s.t.Helper()
	s.eventually("applied", func() bool {
		status := s.runner.Status()
		return len(status.Ready) == partitions && status.LagRecords == 0 && status.ErasuresOwed == 0
	})
	s.note("applied")
	s.Server.SetWeather(resttest.Weather{})
	s.eventually("settled", func() bool {
		status := s.runner.Status()
		return status.LagRecords == 0 && status.ErasuresOwed+status.ErasuresUnconfirmed == 0
	})
}

func (s *storm) eventually(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("after %s: not %s: %+v; %s", deadline, what, s.runner.Status(), answers(s.Server.Answers()))
		}
	}
}

// check compares the destination, the dead letters and the states with what must
// be.
func (s *storm) check() {
	s.t.Helper()
	s.kill()
	want, poisoned := 0, map[string]bool{}
	ids := make([]string, len(s.all))
	for i, u := range s.all {
		ids[i] = u.id
	}
	rows := s.Destination.Read(s.t, ids...)
	for _, u := range s.all {
		state := u.state
		if u.poison {
			state, poisoned[u.id] = nil, true
		}
		row, held := rows[u.id]
		if diff := s.Harness.Differs(state, row, held); diff != "" {
			s.wrong("%s: %s", u.id, diff)
		}
		if held {
			want++
		}
		if s.Destination.Welcomes != nil && held {
			s.checkWelcome(u)
		}
	}
	if n := s.Destination.Contacts(s.t); n != want {
		s.t.Errorf("%d contacts for %d users", n, want)
	}
	s.checkDead(poisoned)
	s.checkStates()
}

// wrong reports one of the users, if not ten were reported.
func (s *storm) wrong(format string, args ...any) {
	s.t.Helper()
	if s.reported++; s.reported <= 10 {
		s.t.Errorf(format, args...)
	}
}

func (s *storm) checkWelcome(u *user) {
	expected := 0
	if u.isNew {
		expected = 1
	}
	if n := s.Destination.Welcomes(s.t, u.id); n != expected {
		s.wrong("%s: welcomed %d times, want %d", u.id, n, expected)
	}
}

func (s *storm) checkDead(poisoned map[string]bool) {
	dead := map[string]bool{}
	for _, k := range s.broker.read(topics.DeadLetters(sinkName)) {
		if !poisoned[string(k.Key)] {
			s.wrong("dead letter of %s, who is not poison: %v", k.Key, k.Headers)
		}
		dead[string(k.Key)] = true
	}
	if len(dead) != len(poisoned) {
		s.t.Errorf("%d users in the dead letters, want %d", len(dead), len(poisoned))
	}
}

// checkStates: of users who are gone nothing is remembered.
func (s *storm) checkStates() {
	states := map[string][]byte{}
	for _, k := range s.broker.read(topics.SinkState(sinkName)) {
		states[string(k.Key)] = k.Value
	}
	for _, u := range s.all {
		if u.state == nil && states[u.id] != nil {
			s.wrong("%s is erased and confirmed, and still remembered", u.id)
		}
	}
}
