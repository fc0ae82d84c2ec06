package sqlite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

// uniqueKey is a unique index or constraint of the users table.
type uniqueKey struct {
	terms     []term
	predicate string // rows for which it is not true are not in it; "": all are
}

// term is a column or an expression of a unique key.
type term struct {
	column    string // "": an expression
	text      string // as SQL
	collation string
}

// of reports whether a column has a part in the key.
func (u uniqueKey) of(column string) bool {
	return slices.ContainsFunc(u.terms, func(t term) bool {
		return strings.EqualFold(t.column, column) || t.column == "" && mentions(t.text, column)
	})
}

// isKey reports whether it makes a column unique, byte for byte, in all rows.
func (u uniqueKey) isKey(column string) bool {
	return len(u.terms) == 1 && u.predicate == "" && strings.EqualFold(u.terms[0].column, column) && u.terms[0].collation == "BINARY"
}

// readUnique reads the unique keys of a table from the catalogue. The pragmas
// know the columns; expressions and predicates are only in the statement that
// created the index.
func readUnique(ctx context.Context, q querier, table string) ([]uniqueKey, error) {
	type row struct {
		index, sql, column, collation string
		partial                       bool
	}
	rows, err := query(ctx, q, `SELECT list.name, coalesce(made.sql, ''), list.partial, coalesce(part.name, ''), part.coll
		FROM pragma_index_list(?) AS list JOIN pragma_index_xinfo(list.name) AS part
		LEFT JOIN sqlite_schema AS made ON made.type = 'index' AND made.name = list.name
		WHERE list."unique" AND part.key ORDER BY list.seq, part.seqno`,
		func(r *row) []any { return []any{&r.index, &r.sql, &r.partial, &r.column, &r.collation} }, table)
	var keys []uniqueKey
	for i, r := range rows {
		if i == 0 || rows[i-1].index != r.index {
			keys = append(keys, uniqueKey{})
		}
		key := &keys[len(keys)-1]
		t := term{column: r.column, text: usertable.Quote(r.column), collation: r.collation}
		terms, predicate := readIndex(r.sql)
		if r.partial {
			key.predicate = predicate
		}
		if place := len(key.terms); r.column == "" && place < len(terms) {
			t.text = terms[place]
		}
		key.terms = append(key.terms, t)
	}
	return keys, err
}

// taken reports whether err is the refusal of a unique key.
func taken(err error) bool {
	var failure *sqlite.Error
	return errors.As(err, &failure) &&
		(failure.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || failure.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// waiting says that a record waits, and with which columns vacant its row is
// written meanwhile.
type waiting struct {
	error
	vacant []usertable.Column
}

// settle writes a row that was refused, after it has decided who has what
// several users claim, or returns a [waiting].
func (w *writer) settle(r sinks.Record, args []any) error {
	c, err := w.look()
	if err != nil {
		return err
	}
	var movable []usertable.Column
	for _, u := range c.table.unique {
		if column, ok := w.movable(u); ok {
			movable = append(movable, column)
		}
	}
	// With the row there, whatever is in a key beside our columns is known.
	if err := w.put(r, w.vacate(r.ClerkID, args, movable)); err != nil {
		return err
	}
	wait := waiting{}
	for _, u := range c.table.unique {
		holders, err := w.holders(c, u, args)
		if err != nil {
			return err
		}
		if len(holders) == 0 {
			continue
		}
		column, ok := w.movable(u)
		if !ok {
			wait.error = usertable.Waits(holders[0].ClerkID)
			continue
		}
		wait.vacant = append(wait.vacant, column)
		settled := usertable.Settle([]usertable.Claim{{ClerkID: r.ClerkID, Rank: r.Rank()}}, holders, func(string) bool { return false })
		if holder, waits := settled.Waits[r.ClerkID]; waits {
			wait.error = usertable.Waits(holder)
		}
		for _, h := range settled.Vacate {
			if err := w.take(column, h.ClerkID); err != nil {
				return err
			}
		}
	}
	if wait.error != nil {
		return wait
	}
	return w.put(r, args)
}

// take takes the value of a column away from a user.
func (w *writer) take(c usertable.Column, clerkID string) error {
	text := "UPDATE OR ABORT " + w.users + " SET " + usertable.Quote(c.Name) + " = ? WHERE " + usertable.Quote(w.plan.Key) + " = ?"
	_, err := w.tx.ExecContext(w.ctx, text, c.Vacant(clerkID), clerkID)
	return err
}

// movable returns which of our columns in a unique key is given up.
func (w *writer) movable(u uniqueKey) (usertable.Column, bool) {
	var ours []usertable.Column
	for _, c := range w.plan.Columns {
		if u.of(c.Name) {
			ours = append(ours, c)
		}
	}
	return usertable.Vacatable(ours)
}

// vacate returns args with columns vacant.
func (w *writer) vacate(clerkID string, args []any, columns []usertable.Column) []any {
	args = slices.Clone(args)
	for i, c := range w.plan.Columns {
		if slices.ContainsFunc(columns, func(v usertable.Column) bool { return v.Name == c.Name }) {
			args[1+i] = c.Vacant(clerkID)
		}
	}
	return args
}

// holders returns the rows that have in a unique key what the user's row would
// have with args. The user's row must be there.
func (w *writer) holders(c catalogue, u uniqueKey, args []any) ([]usertable.Holder, error) {
	key := usertable.Quote(w.plan.Key)
	var mine, terms, same []string
	for _, column := range c.table.columns {
		text := usertable.Quote(column.name)
		if i := slices.IndexFunc(w.plan.Columns, func(p usertable.Column) bool { return strings.EqualFold(p.Name, column.name) }); i >= 0 {
			text = w.statements.marks[i] + " AS " + text
		}
		mine = append(mine, text)
	}
	for i, t := range u.terms {
		terms = append(terms, fmt.Sprintf("(%s) AS t%d", t.text, i))
		same = append(same, fmt.Sprintf("held.t%d = mine.t%d COLLATE %s", i, i, usertable.Quote(t.collation)))
	}
	where := ""
	if u.predicate != "" {
		where = " WHERE " + u.predicate
	}
	text := "SELECT coalesce(held.k, ''), coalesce(guard.epoch, 0), coalesce(guard.version, 0), coalesce(guard.deleted, 0)\n" +
		"FROM (SELECT " + strings.Join(terms, ", ") + " FROM (SELECT " + strings.Join(mine, ", ") + " FROM " + w.users + " WHERE " + key + " = ?1) AS " + w.users + where + ") AS mine\n" +
		"JOIN (SELECT " + key + " AS k, " + strings.Join(terms, ", ") + " FROM " + w.users + where + ") AS held ON " + strings.Join(same, " AND ") + "\n" +
		"LEFT JOIN " + w.versions + " AS guard ON guard.id = held.k\nWHERE held.k IS NOT ?1"
	return query(w.ctx, w.tx, text, func(h *usertable.Holder) []any {
		return []any{&h.ClerkID, &h.Guard.Rank.Epoch, &h.Guard.Rank.Number, &h.Guard.Deleted}
	}, args[:1+len(w.plan.Columns)]...)
}

// newestFirst compares two records of a batch: who has a value for good has it
// at once, and the other is told to wait.
func newestFirst(a, b sinks.Record) int {
	if order := b.Rank().Compare(a.Rank()); order != 0 {
		return order
	}
	return strings.Compare(b.ClerkID, a.ClerkID)
}
