package sinks_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// roster is a complete sink: it keeps a line for each user on whatever it is
// given, here the standard output. Everything else (fetching, folding,
// retries, dead letters, offsets) is the runner's.
type roster struct {
	out    io.Writer
	mu     sync.Mutex
	guards map[string]sinks.Guard // a real destination keeps these itself
}

var _ sinks.Sink = (*roster)(nil)

func (s *roster) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{Kind: "roster", MaxBatch: 100, MaxInFlight: 1}
}

func (s *roster) Open(context.Context) error { return nil }

func (s *roster) Close() error { return nil }

func (s *roster) Apply(_ context.Context, batch []sinks.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed sinks.BatchError
	for i, r := range batch {
		guard, moved := s.guards[r.ClerkID].Advance(r)
		if !moved {
			r.Superseded() // the destination holds something newer
			continue
		}
		if err := s.write(r); err != nil {
			failed.Fail(i, err)
			continue
		}
		s.guards[r.ClerkID] = guard
	}
	return failed.Err()
}

func (s *roster) write(r sinks.Record) error {
	if r.Erase() {
		r.Erased(schemas.OutcomeDeleted)
		_, err := fmt.Fprintln(s.out, "-", r.ClerkID)
		return err // unmarked: retried
	}
	name := r.Change.User.Username
	if name == nil || strings.ContainsAny(*name, "\r\n") {
		return sinks.Permanent(sinks.ReasonInvalidRecord, fmt.Errorf("a line needs a user name"))
	}
	_, err := fmt.Fprintln(s.out, "+", r.ClerkID, *name)
	return err
}

func Example() {
	sink := &roster{out: os.Stdout, guards: map[string]sinks.Guard{}}
	ada, version := "ada", func(n int64) schemas.Version { return schemas.Version{Epoch: 1, Number: n} }
	state := &schemas.UserChange{User: schemas.User{Username: &ada}}
	for _, batch := range [][]sinks.Record{
		{{ClerkID: "user_1", Version: version(1), Change: state}, {ClerkID: "user_2", Version: version(1), Change: &schemas.UserChange{}}},
		{{ClerkID: "user_1", Version: version(3)}},                // erased
		{{ClerkID: "user_1", Version: version(2), Change: state}}, // late: superseded
	} {
		if err := sink.Apply(context.Background(), batch); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// + user_1 ada
	// record 1: invalid_record (permanent): a line needs a user name
	// - user_1
}
