package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

// Apply implements [sinks.Sink]: one transaction, in which the side table
// decides, record by record, what may touch the users table. If a record is
// refused, a second one has each record by itself within it, settles who may
// have what several users claim, and leaves out those that fail.
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	if s.db == nil {
		return errNotOpen
	}
	w, err := s.attempt(ctx, batch, (*writer).all)
	if ofRecord(err) {
		w, err = s.attempt(ctx, batch, (*writer).each)
	}
	if err != nil {
		return classifyBatch(fmt.Sprintf("write %d records", len(batch)), len(batch), err)
	}
	for i, r := range batch {
		switch {
		case w.failed.Failed(i) != nil:
		case !w.moved[i]:
			r.Superseded()
		case r.Erase():
			w.fates[i].Report(r)
		}
	}
	if w.erased {
		// Overwrites what the write-ahead log still holds of the erased.
		if _, err := s.db.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
			return classify("checkpoint", err)
		}
	}
	return w.failed.Err()
}

// writer is one transaction.
type writer struct {
	*Sink
	statements // those of the transaction
	ctx        context.Context
	tx         *sql.Tx
	batch      []sinks.Record
	args       []any // of a change, reused
	careful    bool  // something of the batch was refused

	moved  []bool           // the guard of each record has moved
	fates  []usertable.Fate // of the erasures
	erased bool             // a row was deleted or made anonymous
	failed sinks.BatchError
}

// attempt runs write in a transaction.
func (s *Sink) attempt(ctx context.Context, batch []sinks.Record, write func(*writer) error) (*writer, error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it has nothing to do
	w := &writer{
		Sink: s, statements: s.statements.in(tx), tx: tx, batch: batch,
		ctx:   context.WithoutCancel(ctx), // a batch takes milliseconds; cancelling each statement would cost more than it
		moved: make([]bool, len(batch)), fates: make([]usertable.Fate, len(batch)),
		args: make([]any, 1+len(s.statements.marks)),
	}
	if err := write(w); err != nil {
		return nil, err
	}
	s.between()
	return w, tx.Commit()
}

// in returns the statements as they run in a transaction.
func (st statements) in(tx *sql.Tx) statements {
	for _, statement := range []**sql.Stmt{&st.advance, &st.update, &st.insert, &st.remove, &st.mark, &st.anonymize} {
		if *statement != nil {
			*statement = tx.Stmt(*statement)
		}
	}
	return st
}

// ordered returns the positions of the records, erasures first: who is deleted
// may hold what another is to have.
func (w *writer) ordered() (erasures, changes []int) {
	for i, r := range w.batch {
		if r.Erase() {
			erasures = append(erasures, i)
		} else {
			changes = append(changes, i)
		}
	}
	return erasures, changes
}

// all writes the records as if none could be refused.
func (w *writer) all() error {
	erasures, changes := w.ordered()
	for _, i := range append(erasures, changes...) {
		if err := w.record(i, w.put); err != nil {
			return err
		}
	}
	return nil
}

// each writes the records one by one, the newest change first. Of one that is
// refused everything is taken back.
func (w *writer) each() error {
	w.careful = true
	order, changes := w.ordered()
	slices.SortFunc(changes, func(a, b int) int { return newestFirst(w.batch[a], w.batch[b]) })
	order = append(order, changes...)
	for _, i := range order {
		if err := w.exec("SAVEPOINT record"); err != nil {
			return err
		}
		err := w.record(i, w.settled)
		if err != nil {
			if !ofRecord(err) || w.exec("ROLLBACK TO record") != nil { // a trigger may have ended it all
				return err
			}
			if err = w.refuse(i, err); err != nil {
				return err
			}
		}
		if err := w.exec("RELEASE record"); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) exec(text string) error {
	_, err := w.tx.ExecContext(w.ctx, text)
	return err
}

// refuse notes why a record failed. If it waits, its row is written without
// what it waits for, so that it stands in nobody's way.
func (w *writer) refuse(i int, why error) error {
	r := w.batch[i]
	var wait waiting
	if errors.As(why, &wait) {
		if err := w.put(r, w.vacate(r.ClerkID, w.args, wait.vacant)); err != nil {
			return err
		}
		why = wait.error
	}
	operation, err := w.operation(why)
	if err != nil {
		return err
	}
	w.failed.Fail(i, classifyBatch(operation, 1, why))
	return nil
}

// operation says what was done when err came, and which triggers may have
// refused it.
func (w *writer) operation(err error) (string, error) {
	text := "write a record"
	var failure *sqlite.Error
	if !errors.As(err, &failure) || failure.Code() != sqlite3.SQLITE_CONSTRAINT_TRIGGER {
		return text, nil
	}
	triggers, err := w.triggers(w.ctx, w.tx)
	return text + ": refused by a trigger of " + w.plan.Table + " (" + strings.Join(triggers, ", ") + ")", err
}

// record writes one record, if it moves the guard. put writes the row of a
// change.
func (w *writer) record(i int, put func(sinks.Record, []any) error) error {
	r := w.batch[i]
	rank := r.Rank()
	moved, err := affected(w.advance.ExecContext(w.ctx, r.ClerkID, rank.Epoch, rank.Number, r.Erase()))
	if err != nil || moved == 0 {
		return err
	}
	w.moved[i] = true
	if r.Erase() {
		w.fates[i], err = w.erase(r)
		return err
	}
	if err := (usertable.Plan{Columns: w.plan.Columns}).Check(r); err != nil {
		return err
	}
	w.args[0] = r.ClerkID
	for i, c := range w.plan.Columns {
		w.args[1+i] = w.value(c.Value(r.ClerkID, &r.Change.User))
	}
	return put(r, w.args)
}

// put writes the row of a change. The values of inserts are made when they are
// needed.
func (w *writer) put(r sinks.Record, args []any) error {
	if w.update != nil {
		own := 1 + len(w.plan.Columns)
		rows, err := affected(w.update.ExecContext(w.ctx, args[:own]...))
		if err != nil || rows > 0 {
			return err
		}
		if err := (usertable.Plan{Columns: w.plan.Inserts}).Check(r); err != nil {
			return err
		}
		for i, c := range w.plan.Inserts {
			args[own+i] = w.value(c.Value(r.ClerkID, &r.Change.User))
		}
	}
	_, err := w.insert.ExecContext(w.ctx, args...)
	return err
}

// settled is put, and where a unique key refuses the row it settles who has it.
func (w *writer) settled(r sinks.Record, args []any) error {
	err := w.put(r, args)
	if taken(err) {
		err = w.settle(r, args)
	}
	return err
}

// erase does what the policy says to a user's row.
func (w *writer) erase(r sinks.Record) (fate usertable.Fate, err error) {
	policy := w.plan.Deletion
	var referring []string
	if policy == usertable.DeletionAuto {
		if referring, err = w.referring(r.ClerkID, false); err != nil {
			return fate, err
		}
	}
	fate = policy.Fate(true, referring)
	var rows int64
	switch at := w.value(usertable.DeletedAt(r)); fate.Deletion {
	case usertable.DeletionSoft:
		rows, err = affected(w.mark.ExecContext(w.ctx, r.ClerkID, at))
	case usertable.DeletionAnonymize:
		rows, err = affected(w.anonymize.ExecContext(w.ctx, slices.Concat([]any{r.ClerkID}, w.anonymous(r.ClerkID), []any{at})...))
	default:
		rows, err = w.delete(r.ClerkID)
	}
	if err != nil {
		return fate, err
	}
	if rows == 0 {
		return policy.Fate(false, nil), nil
	}
	w.erased = w.erased || fate.Deletion != usertable.DeletionSoft
	return fate, nil
}

// delete deletes a user's row, or names the tables whose rows keep it: those of
// deferred foreign keys would refuse the commit, and with it the whole batch.
func (w *writer) delete(clerkID string) (rows int64, err error) {
	var names []string
	if w.careful {
		if names, err = w.referring(clerkID, true); err != nil {
			return 0, err
		}
	}
	rows, err = affected(w.remove.ExecContext(w.ctx, clerkID))
	if (err == nil || ofRecord(err)) && len(names) > 0 {
		err = sinks.RetryAfter(sinks.ReasonConflict, 0, fmt.Errorf("rows of %s refer to the user, by foreign keys that do not let it be deleted: set DELETION=auto, or make them ON DELETE CASCADE", strings.Join(names, ", ")))
	}
	return rows, err
}

func affected(result sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}
