package mysql

import (
	"context"

	"clerkconnect/sinks/usertable"
)

// Updates returns the statement that writes rows of users who are there, and
// the one that says which of as many users references refer to.
func (s *Sink) Updates(ctx context.Context, rows int) (update string, referring []string, err error) {
	db, err := s.opened()
	if err != nil {
		return "", nil, err
	}
	keys, err := foreignKeys(ctx, db.pool, db.plan.Table)
	if db.plan.Deletion != usertable.DeletionAuto {
		keys = nil
	}
	for _, r := range append(keys, db.references...) {
		referring = append(referring, db.referring(r).text(rows))
	}
	return db.statements.update.text(rows), referring, err
}

// Identifiers is identifiers, of what plain makes of an expression.
func Identifiers(expression string) []string { return identifiers(plain(expression)) }
