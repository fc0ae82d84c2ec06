package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/usertable"
)

// statements are what Apply, Keys and Confirm run, prepared. Their parameters
// are ?1 for the Clerk ID and from ?2 on, in the order of the plan, columns and
// then inserts.
type statements struct {
	bare  []bool   // of each column and insert: it takes no null
	marks []string // its value, as it is written

	advance *sql.Stmt
	// update and insert write a user; update is nil where insert does both.
	update, insert *sql.Stmt
	// remove, mark and anonymize are erasures; the latter two have the time as
	// their last parameter.
	remove, mark, anonymize *sql.Stmt
	keys                    *sql.Stmt
	left                    *sql.Stmt // counts rows of an erased user that are not as the policy leaves them
}

// prepareStatements writes and prepares the statements for a table.
func (s *Sink) prepareStatements(ctx context.Context, db *sql.DB, t table) (statements, error) {
	st := statements{}
	for i, column := range slices.Concat(s.plan.Columns, s.plan.Inserts) {
		c, _ := t.column(column.Name)
		mark := fmt.Sprintf("?%d", i+2)
		if c.notNull && c.preset.Valid && !column.Required {
			mark = "coalesce(" + mark + ", " + c.preset.String + ")"
		}
		st.marks, st.bare = append(st.marks, mark), append(st.bare, c.notNull)
	}
	var err error
	for statement, text := range s.texts(&st) {
		if *statement, err = db.PrepareContext(ctx, text); err != nil {
			return statements{}, err
		}
	}
	return st, nil
}

// texts are the statements as SQL. OR ABORT stands against a constraint that
// says ON CONFLICT REPLACE, which would delete the row of another user.
func (s *Sink) texts(st *statements) map[**sql.Stmt]string {
	p := s.plan
	key := usertable.Quote(p.Key)
	self := " WHERE " + key + " = ?1"
	last := fmt.Sprintf("?%d", len(p.Columns)+2)
	deletedAt := usertable.Quote(p.DeletedAt)
	names, marks, sets := []string{p.Key}, append([]string{"?1"}, st.marks...), []string(nil)
	anonymous, same := []string(nil), []string{"TRUE"}
	for i, c := range p.Columns {
		name := usertable.Quote(c.Name)
		names, sets = append(names, c.Name), append(sets, name+" = "+st.marks[i])
		value, held := fmt.Sprintf("?%d", i+2), fmt.Sprintf("?%d", i+2)
		if st.deletionTime(i, c) {
			value, held = "coalesce("+deletedAt+", "+last+")", deletedAt
		}
		anonymous, same = append(anonymous, name+" = "+value), append(same, name+" IS "+held)
	}
	for _, c := range p.Inserts {
		names = append(names, c.Name)
	}
	insert := "INSERT OR ABORT INTO " + s.users + " (" + usertable.QuoteAll(names, "") + ") VALUES (" + strings.Join(marks, ", ") + ")"
	texts := map[**sql.Stmt]string{
		&st.advance: "INSERT INTO " + s.versions + " AS held (id, epoch, version, deleted) VALUES (?, ?, ?, ?)" + usertable.AdvanceClause,
		&st.insert:  insert,
		&st.remove:  "DELETE FROM " + s.users + self,
		&st.keys:    "SELECT " + key + " FROM " + s.users + " WHERE " + key + " > ? ORDER BY " + key + " LIMIT ?",
		&st.left:    "SELECT count(*) FROM " + s.users + self,
	}
	if p.DeletedAt != "" {
		erased := deletedAt + " IS NOT NULL"
		sets = append(sets, deletedAt+" = NULL")
		mark := deletedAt + " = coalesce(" + deletedAt + ", "
		texts[&st.mark] = "UPDATE OR ABORT " + s.users + " SET " + mark + "?2)" + self
		texts[&st.anonymize] = "UPDATE OR ABORT " + s.users + " SET " + strings.Join(append(anonymous, mark+last+")"), ", ") + self
		texts[&st.keys] = "SELECT " + key + " FROM " + s.users + " WHERE " + key + " > ? AND " + deletedAt + " IS NULL ORDER BY " + key + " LIMIT ?"
		if p.Deletion != usertable.DeletionSoft {
			erased += " AND " + strings.Join(same, " AND ")
		}
		texts[&st.left] += " AND NOT (" + erased + ")"
	}
	// A table of ours takes an upsert, which is one statement instead of two. An
	// application may have triggers on inserts, which an upsert of a row that is
	// there would run, and what is only inserted need not be made for every
	// change.
	if !p.Mapped && len(p.Inserts) == 0 {
		texts[&st.insert] = insert + " ON CONFLICT (" + key + ") DO UPDATE SET " + strings.Join(sets, ", ")
	} else {
		texts[&st.update] = "UPDATE OR ABORT " + s.users + " SET " + strings.Join(sets, ", ") + self
	}
	return texts
}

// deletionTime reports whether the i-th column of an erased user whose row stays has
// the time of the deletion.
func (st *statements) deletionTime(i int, c usertable.Column) bool {
	return st.bare[i] && c.Kind() == mapping.Time
}

// anonymous returns the values of our columns of an erased user whose row stays.
func (s *Sink) anonymous(clerkID string) []any {
	values := make([]any, len(s.plan.Columns))
	for i, c := range s.plan.Columns {
		c.Required = s.statements.bare[i]
		if !s.statements.deletionTime(i, c) {
			values[i] = c.Anonymous(clerkID, time.Time{})
		}
	}
	return values
}
