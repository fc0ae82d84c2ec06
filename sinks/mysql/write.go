package mysql

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

// maxStatement is how long a statement may become before the rest of the batch
// goes into another, in bytes: longer ones are not faster. A server that takes
// less is given less.
const maxStatement = 4 << 20

// timeLayout is UTC, which no session setting moves.
const timeLayout = "2006-01-02 15:04:05.000"

// statement is the text of a statement of any number of rows: head, then row
// for each of them, separated by commas, then tail.
type statement struct{ head, row, tail string }

func (t statement) text(rows int) string {
	return t.head + t.row + strings.Repeat(", "+t.row, rows-1) + t.tail
}

// statements are those of one batch, in their order.
type statements struct {
	reserve, lock, advance          statement // the side table
	present, remove, insert, update statement // the users table
}

func newStatements(users, versions string, columns []usertable.Column) statements {
	names, sets := "id", make([]string, len(columns))
	for i, c := range columns {
		names += ", " + quote(c.Name)
		sets[i] = quote(c.Name) + " = VALUES(" + quote(c.Name) + ")"
	}
	side := "INSERT INTO " + versions + " (id, epoch, version, deleted) VALUES "
	insert := statement{"INSERT INTO " + users + " (" + names + ") VALUES ", "(?" + strings.Repeat(", ?", len(columns)) + ")", ""}
	update := insert
	update.tail = " ON DUPLICATE KEY UPDATE " + strings.Join(sets, ", ")
	return statements{
		// An assignment that changes nothing locks the row that is there
		// exclusively. INSERT IGNORE would share it: two transactions could then
		// both wait for the other to let go.
		reserve: statement{side, "(?, 0, 0, FALSE)", " ON DUPLICATE KEY UPDATE deleted = deleted"},
		lock:    statement{"SELECT id, epoch, version, deleted FROM " + versions + " WHERE id IN (", "?", ") ORDER BY id FOR UPDATE"},
		advance: statement{side, "(?, ?, ?, ?)", " ON DUPLICATE KEY UPDATE epoch = VALUES(epoch), version = VALUES(version), deleted = VALUES(deleted)"},
		present: statement{"SELECT id FROM " + users + " WHERE id IN (", "?", ") ORDER BY id FOR UPDATE"},
		remove:  statement{"DELETE FROM " + users + " WHERE id IN (", "?", ")"},
		insert:  insert,
		update:  update,
	}
}

// samples returns each statement with one row.
func (s statements) samples() []string {
	var texts []string
	for _, t := range []statement{s.reserve, s.lock, s.advance, s.present, s.remove, s.insert, s.update} {
		texts = append(texts, t.text(1))
	}
	return texts
}

// Apply implements [sinks.Sink]: one transaction, in which the side table
// decides what may touch the users table.
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	db, packet, err := s.opened()
	if err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return classify("begin", 0, err)
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it has nothing to do
	w := writer{ctx: ctx, tx: tx, statements: s.statements, columns: s.columns, packet: packet}
	done, err := w.write(batch)
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return classify(fmt.Sprintf("write %d records", len(batch)), len(batch), err)
	}
	for _, r := range batch {
		switch {
		case !done.moved[r.ClerkID]:
			r.Superseded()
		case r.Erase() && done.present[r.ClerkID]:
			r.Erased(schemas.OutcomeDeleted)
		case r.Erase():
			r.Erased(schemas.OutcomeNotPresent)
		}
	}
	return nil
}

// effects are the ids that moved, and of these the ones that had a row.
type effects struct{ moved, present map[string]bool }

// writer is one transaction.
type writer struct {
	ctx        context.Context
	tx         *sql.Tx
	statements statements
	columns    []usertable.Column
	packet     int
}

func (w *writer) write(batch []sinks.Record) (effects, error) {
	// Everybody takes the locks in the same order.
	sorted := slices.Clone(batch)
	slices.SortFunc(sorted, func(a, b sinks.Record) int { return cmp.Compare(a.ClerkID, b.ClerkID) })
	moved, err := w.advance(sorted)
	if err != nil {
		return effects{}, err
	}
	done := effects{moved: map[string]bool{}, present: map[string]bool{}}
	var ids [][]any
	for _, r := range moved {
		done.moved[r.ClerkID] = true
		ids = append(ids, []any{r.ClerkID})
	}
	if err := w.query(w.statements.present, ids, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		done.present[id] = true
		return err
	}); err != nil {
		return effects{}, err
	}
	return done, w.touch(moved, done.present)
}

// advance moves the guards of records and returns those records that moved
// theirs. The rows are there, and locked, before they are read, so that nobody
// can be between the reading and the writing.
func (w *writer) advance(sorted []sinks.Record) (moved []sinks.Record, err error) {
	ids := make([][]any, len(sorted))
	for i, r := range sorted {
		ids[i] = []any{r.ClerkID}
	}
	if err := w.exec(w.statements.reserve, ids); err != nil {
		return nil, err
	}
	guards := map[string]sinks.Guard{}
	if err := w.query(w.statements.lock, ids, func(rows *sql.Rows) error {
		var id string
		var guard sinks.Guard
		err := rows.Scan(&id, &guard.Rank.Epoch, &guard.Rank.Number, &guard.Deleted)
		guards[id] = guard
		return err
	}); err != nil {
		return nil, err
	}
	var advanced [][]any
	for _, r := range sorted {
		held, ok := guards[r.ClerkID]
		if !ok { // trailing spaces, which MySQL does not compare, or bytes that are not UTF-8
			return nil, sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("the id is not kept as it is"))
		}
		if guard, ok := held.Advance(r); ok {
			moved = append(moved, r)
			advanced = append(advanced, []any{r.ClerkID, guard.Rank.Epoch, guard.Rank.Number, guard.Deleted})
		}
	}
	return moved, w.exec(w.statements.advance, advanced)
}

// touch writes the users table. A user who is not there is inserted plainly: ON
// DUPLICATE KEY would take any other unique key for the user's own, and write
// into the row of whoever holds it.
func (w *writer) touch(moved []sinks.Record, present map[string]bool) error {
	var gone, fresh, known [][]any
	for _, r := range moved {
		switch {
		case !r.Erase() && present[r.ClerkID]:
			known = append(known, w.row(r))
		case !r.Erase():
			fresh = append(fresh, w.row(r))
		case present[r.ClerkID]:
			gone = append(gone, []any{r.ClerkID})
		}
	}
	// Deletions first: who is deleted may hold what another is to have.
	if err := w.exec(w.statements.remove, gone); err != nil {
		return err
	}
	if err := w.exec(w.statements.update, known); err != nil {
		return err
	}
	return w.exec(w.statements.insert, fresh)
}

func (w *writer) row(r sinks.Record) []any {
	row := make([]any, 1+len(w.columns))
	row[0] = r.ClerkID
	for i, c := range w.columns {
		row[1+i] = c.Value(&r.Change.User)
		if moment, ok := row[1+i].(time.Time); ok {
			row[1+i] = moment.UTC().Format(timeLayout)
		}
	}
	return row
}

// exec runs t with rows, in as many statements as it takes; none for no rows.
func (w *writer) exec(t statement, rows [][]any) error {
	return w.split(t, rows, func(text string, args []any) error {
		_, err := w.tx.ExecContext(w.ctx, text, args...)
		return err
	})
}

// query is exec for a statement that returns rows.
func (w *writer) query(t statement, rows [][]any, scan func(*sql.Rows) error) error {
	return w.split(t, rows, func(text string, args []any) error {
		found, err := w.tx.QueryContext(w.ctx, text, args...)
		if err != nil {
			return err
		}
		defer found.Close()
		for found.Next() {
			if err := scan(found); err != nil {
				return err
			}
		}
		return found.Err()
	})
}

// split calls run with as many of rows as fit into one statement, until all are
// done.
func (w *writer) split(t statement, rows [][]any, run func(text string, args []any) error) error {
	// One byte of a packet is the command.
	frame, limit := len(t.head)+len(t.tail)+1, min(w.packet, maxStatement)
	for len(rows) > 0 {
		count, args := 0, []any(nil)
		for size := frame; count < len(rows); count++ {
			size += len(t.row) + 2 + length(rows[count])
			if count == 0 && size > w.packet {
				return sinks.Permanent(sinks.ReasonTooLarge, errors.New("the user takes more than the server's max_allowed_packet"))
			}
			if count > 0 && size > limit {
				break
			}
			args = append(args, rows[count]...)
		}
		if err := run(t.text(count), args); err != nil {
			return err
		}
		rows = rows[count:]
	}
	return nil
}

// length returns at least how many bytes values take in a statement.
func length(values []any) int {
	total := 0
	for _, value := range values {
		total += 20 // the longest integer
		if text, ok := value.(string); ok {
			total += len(text)
			for i := range len(text) {
				if strings.IndexByte("\x00\n\r\x1a'\"\\", text[i]) >= 0 {
					total++ // the driver escapes it
				}
			}
		}
	}
	return total
}
