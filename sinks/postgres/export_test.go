package postgres

import "clerkconnect/sinks"

// Between has do called while unique keys are settled, after the erasures and
// before the first key.
func (s *Sink) Between(do func()) { s.hooks.between = do }

// Looked has do called after the first look for who holds a key.
func (s *Sink) Looked(do func()) { s.hooks.looked = do }

// Find returns the query for who holds the values of a unique key, and its
// arguments.
func (s *Sink) Find(key int, changes []sinks.Record) (query string, args []any) {
	return s.db.contested[key].find, s.db.values(changes, nil)
}
