package mongodb

import (
	"context"

	"go.mongodb.org/mongo-driver/v2/event"
)

// Paths and Lists are for the tests' reader.
var (
	Paths = paths
	Lists = lists
)

// Number is number.
func Number(text string) any { return number(text) }

// Between has a function called between the guards and the users.
func (s *Sink) Between(f func()) { s.between = f }

// Looked has do called after the guards were read and before they advance, where
// there are no transactions.
func (s *Sink) Looked(do func()) { s.looked = do }

// Watch has do called before each command is sent, from the next Open on.
func (s *Sink) Watch(do func(command, collection string)) {
	s.monitor = &event.CommandMonitor{Started: func(_ context.Context, e *event.CommandStartedEvent) {
		collection, _ := e.Command.Lookup(e.CommandName).StringValueOK()
		do(e.CommandName, collection)
	}}
}
