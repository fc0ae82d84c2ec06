package mysql

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/go-sql-driver/mysql"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/usertable"
)

// timeLayout is UTC, which no session setting moves; storedLayout is how the
// server shows a time of any precision.
const (
	timeLayout   = "2006-01-02 15:04:05.000"
	storedLayout = "2006-01-02 15:04:05.999999"
)

// write is one record of a batch on its way.
type write struct {
	index  int // in the batch
	record sinks.Record

	next  sinks.Guard // as it shall be
	moved bool        // the user is to be written

	present   bool   // the user has a row
	deletedAt string // of that row; "": it does not say so
	referring []string
	fate      usertable.Fate // of an erasure

	values, inserts []any // of a change, as plan.Columns and plan.Inserts
	waits           bool  // another user holds what this one needs: the guard stays
	holder          string
}

func (w *write) erase() bool { return w.record.Erase() }

// Apply implements [sinks.Sink]: one transaction, in which the side table
// decides what may touch the users table. If a unique key refuses it, a second
// one settles first who may have the key.
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	db, err := s.opened()
	if err != nil {
		return err
	}
	var writes []*write
	var failed sinks.BatchError
	write := func() {
		for _, settle := range []bool{false, true} {
			if writes, failed, err = db.apply(ctx, batch, settle); !duplicate(err) {
				break
			}
		}
	}
	write()
	if err != nil && sinks.Classify(classify("", len(batch), err)).Class == sinks.ClassFatal {
		// A migration has changed the table, or somebody the rights: look again,
		// and say by name what there is to mend.
		var fresh *database
		if fresh, err = s.refresh(ctx, db); err == nil {
			db = fresh
			write()
		}
	}
	if err != nil {
		return classify(db.operation(ctx, len(batch), err), len(batch), err)
	}
	for _, w := range writes {
		switch {
		case failed.Failed(w.index) != nil:
		case !w.moved:
			w.record.Superseded()
		case w.erase():
			w.fate.Report(w.record)
		}
	}
	return failed.Err()
}

// duplicate reports whether err is the refusal of a unique key.
func duplicate(err error) bool {
	var refused *mysql.MySQLError
	return errors.As(err, &refused) && slices.Contains([]uint16{1062, 1169, 1586}, refused.Number)
}

// transaction is that of one batch.
type transaction struct {
	*database
	ctx context.Context
	tx  *sql.Tx
}

func (d *database) apply(ctx context.Context, batch []sinks.Record, settle bool) (writes []*write, failed sinks.BatchError, err error) {
	writes = make([]*write, len(batch))
	for i, r := range batch {
		writes[i] = &write{index: i, record: r}
	}
	// Everybody takes the locks in the same order.
	slices.SortFunc(writes, func(a, b *write) int { return cmp.Compare(a.record.ClerkID, b.record.ClerkID) })
	tx, err := d.pool.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return nil, failed, err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it has nothing to do
	t := transaction{database: d, ctx: ctx, tx: tx}
	moved, err := t.prepare(writes, &failed)
	if err == nil && settle {
		err = t.settle(moved, &failed)
	}
	if err == nil {
		err = t.advance(moved)
	}
	if err == nil {
		err = t.touch(moved)
	}
	if err == nil {
		err = tx.Commit()
	}
	return writes, failed, err
}

// prepare decides what moves, and what is written of it. Records that can never
// be written are failed and left out.
func (t transaction) prepare(writes []*write, failed *sinks.BatchError) ([]*write, error) {
	if err := t.guards(writes); err != nil {
		return nil, err
	}
	var moved []*write
	for _, w := range writes {
		if !w.moved {
			continue
		}
		if !w.erase() {
			if err := t.plan.Check(w.record); err != nil {
				failed.Fail(w.index, err)
				continue
			}
			w.values, w.inserts = t.values(t.plan.Columns, w.record), t.values(t.plan.Inserts, w.record)
		}
		moved = append(moved, w)
	}
	if err := t.look(moved); err != nil {
		return nil, err
	}
	return moved, t.decide(sift(moved, (*write).erase))
}

// guards reads the guards, and decides what moves. The rows are there, and
// locked, before they are read, so that nobody can be between the reading and
// the writing.
func (t transaction) guards(writes []*write) error {
	if err := t.exec(t.statements.reserve, ids(writes)); err != nil {
		return err
	}
	held, err := t.held(ids(writes))
	if err != nil {
		return err
	}
	for _, w := range writes {
		guard, ok := held[w.record.ClerkID]
		if !ok { // trailing spaces, which MySQL does not compare, or bytes that are not UTF-8
			return sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("the id is not kept as it is"))
		}
		w.next, w.moved = guard.Advance(w.record)
	}
	return nil
}

// held locks and reads guards that are there.
func (t transaction) held(ids [][]any) (map[string]sinks.Guard, error) {
	guards := map[string]sinks.Guard{}
	err := t.query(t.statements.lock, ids, func(rows *sql.Rows) error {
		var id string
		var guard sinks.Guard
		err := rows.Scan(&id, &guard.Rank.Epoch, &guard.Rank.Number, &guard.Deleted)
		guards[id] = guard
		return err
	})
	return guards, err
}

// look locks and reads what matters of the users' rows.
func (t transaction) look(moved []*write) error {
	byID := make(map[string]*write, len(moved))
	for _, w := range moved {
		byID[w.record.ClerkID] = w
	}
	return t.query(t.statements.present, ids(moved), func(rows *sql.Rows) error {
		var id string
		var at sql.NullString
		targets := []any{&id, &at}
		if t.plan.DeletedAt == "" {
			targets = targets[:1]
		}
		err := rows.Scan(targets...)
		// The column's collation may hold another id for equal: that is another
		// user.
		if w := byID[id]; w != nil {
			w.present, w.deletedAt = true, at.String
		}
		return err
	})
}

// advance writes the guards of those that moved and do not wait.
func (t transaction) advance(moved []*write) error {
	var rows [][]any
	for _, w := range moved {
		if !w.waits {
			rows = append(rows, []any{w.record.ClerkID, w.next.Rank.Epoch, w.next.Rank.Number, w.next.Deleted})
		}
	}
	return t.exec(t.statements.advance, rows)
}

// touch writes the users table.
func (t transaction) touch(moved []*write) error {
	var gone, marked, known, fresh [][]any
	for _, w := range moved {
		switch {
		case w.erase() && w.fate.Deletion == usertable.DeletionHard:
			gone = append(gone, []any{w.record.ClerkID})
		case w.erase() && w.fate.Deletion == usertable.DeletionSoft:
			if w.deletedAt == "" {
				marked = append(marked, []any{w.record.ClerkID, t.deletedAt(w)})
			}
		case w.erase() && w.fate.Deletion == usertable.DeletionAnonymize:
			known = append(known, t.row(w, t.anonymous(w), t.deletedAt(w)))
		case w.erase():
		case w.present:
			known = append(known, t.row(w, w.values, nil))
		default:
			fresh = append(fresh, slices.Concat([]any{w.record.ClerkID}, w.values, w.inserts))
		}
	}
	// Deletions first: who is deleted may hold what another is to have.
	for _, part := range []struct {
		statement statement
		rows      [][]any
	}{{t.statements.remove, gone}, {t.statements.mark, marked}, {t.statements.update, known}, {t.statements.insert, fresh}} {
		if err := t.exec(part.statement, part.rows); err != nil {
			return err
		}
	}
	return nil
}

// row returns the row of an update.
func (t transaction) row(w *write, values []any, deletedAt any) []any {
	row := slices.Concat([]any{w.record.ClerkID}, values)
	if t.plan.DeletedAt != "" {
		row = append(row, deletedAt)
	}
	return row
}

// values returns what columns are given of the user of r. A part of the
// metadata is JSON in a column of JSON, and text elsewhere.
func (d *database) values(columns []usertable.Column, r sinks.Record) []any {
	row := make([]any, len(columns))
	for i, c := range columns {
		row[i] = native(c.Value(r.ClerkID, &r.Change.User))
		if row[i] != nil && d.partAsJSON(c) {
			row[i] = c.Expression.JSON(r.ClerkID, &r.Change.User)
		}
	}
	return row
}

func (d *database) partAsJSON(c usertable.Column) bool {
	at, _ := d.users.column(c.Name)
	return at.json && c.Kind() == mapping.Part
}

// native returns a value as the driver is given it.
func native(value any) any {
	if moment, ok := value.(time.Time); ok {
		return moment.UTC().Format(timeLayout)
	}
	return value
}

// ids returns the Clerk IDs of writes, a row each.
func ids(writes []*write) [][]any {
	rows := make([][]any, len(writes))
	for i, w := range writes {
		rows[i] = []any{w.record.ClerkID}
	}
	return rows
}

// sift returns the writes for which keep is true.
func sift(writes []*write, keep func(*write) bool) []*write {
	var kept []*write
	for _, w := range writes {
		if keep(w) {
			kept = append(kept, w)
		}
	}
	return kept
}

// exec runs s with rows, in as many statements as it takes; none for no rows.
func (t transaction) exec(s statement, rows [][]any) error {
	return s.split(rows, t.packet, func(text string, args []any) error {
		_, err := t.tx.ExecContext(t.ctx, text, args...)
		return err
	})
}

// query is exec for a statement that returns rows.
func (t transaction) query(s statement, rows [][]any, scan func(*sql.Rows) error) error {
	return s.split(rows, t.packet, func(text string, args []any) error {
		found, err := t.tx.QueryContext(t.ctx, text, args...)
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
