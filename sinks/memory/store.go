package memory

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// Store is the destination: what outlives a [Sink], and what several sinks may
// write to at once. The zero value is empty and ready to use. Safe for
// concurrent use.
type Store struct {
	mu        sync.Mutex
	users     map[string][]byte // changes as JSON, so that nothing of a batch is kept
	guards    map[string]sinks.Guard
	receipts  []schemas.Receipt
	intercept func(batch []sinks.Record) error
}

// User returns the change that the store holds of a user, false if none.
func (s *Store) User(clerkID string) (schemas.UserChange, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.users[clerkID]
	if !ok {
		return schemas.UserChange{}, false
	}
	return decode(data), true
}

// Users returns all that the store holds, by Clerk ID.
func (s *Store) Users() map[string]schemas.UserChange {
	s.mu.Lock()
	defer s.mu.Unlock()
	users := make(map[string]schemas.UserChange, len(s.users))
	for id, data := range s.users {
		users[id] = decode(data)
	}
	return users
}

// Receipts returns the receipts of other sinks, in the order in which they came.
func (s *Store) Receipts() []schemas.Receipt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.receipts)
}

// Restore puts a user back as a backup of the destination would: the store
// holds change and does not know that it was ever erased.
func (s *Store) Restore(change schemas.UserChange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.guards, change.ClerkID)
	_ = s.apply(sinks.Record{
		ClerkID: change.ClerkID, Change: &change, Version: schemas.Version{Epoch: change.Epoch, Number: change.Version},
	})
}

// Dump returns everything that the store holds, as text, the memory of
// erasures included.
func (s *Store) Dump() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var dump []byte
	for id, guard := range s.guards {
		dump = fmt.Appendf(dump, "%s %+v %s\n", id, guard, s.users[id])
	}
	return dump
}

// Intercept has f called at the start of every Apply, outside of the store's
// lock, so that a test can look at batches, hold them up, or make them fail. If f
// returns a *sinks.BatchError, the records that it lists are left out and all
// others are applied; any other error is returned and nothing is applied. nil
// ends it.
func (s *Store) Intercept(f func(batch []sinks.Record) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = f
}

// apply settles one record. The lock is held.
func (s *Store) apply(r sinks.Record) error {
	if r.Receipt != nil {
		s.receipts = append(s.receipts, *r.Receipt)
		return nil
	}
	guard, moved := s.guards[r.ClerkID].Advance(r)
	if !moved {
		r.Superseded()
		return nil
	}
	if s.guards == nil {
		s.guards, s.users = map[string]sinks.Guard{}, map[string][]byte{}
	}
	if r.Erase() {
		if _, held := s.users[r.ClerkID]; held {
			r.Erased(schemas.OutcomeDeleted)
		} else {
			r.Erased(schemas.OutcomeNotPresent)
		}
		delete(s.users, r.ClerkID)
	} else {
		data, err := json.Marshal(r.Change)
		if err != nil {
			return sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("change cannot be written as JSON"))
		}
		s.users[r.ClerkID] = data
	}
	s.guards[r.ClerkID] = guard
	return nil
}

// decode is the inverse of what apply wrote.
func decode(data []byte) schemas.UserChange {
	var change schemas.UserChange
	if err := json.Unmarshal(data, &change); err != nil {
		panic(fmt.Errorf("memory holds what it did not write: %w", err))
	}
	return change
}
