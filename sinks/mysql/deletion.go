package mysql

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/usertable"
)

// decide decides what the erasures come to, by the policy. The users' rows are
// locked: whoever inserts a row with a foreign key to one of them waits.
func (t transaction) decide(erasures []*write) error {
	if t.plan.Deletion == usertable.DeletionAuto {
		if err := t.refer(sift(erasures, func(w *write) bool { return w.present })); err != nil {
			return err
		}
	}
	for _, w := range erasures {
		w.fate = t.plan.Deletion.Fate(w.present, w.referring)
	}
	return nil
}

// refer notes the tables that have rows which refer to the users of writes.
func (t transaction) refer(writes []*write) error {
	if len(writes) == 0 {
		return nil
	}
	// Anew each time, because a migration, of another application's schema
	// perhaps, may have added one that cascades. MariaDB opens every table that
	// this user may see for it, about a quarter of a millisecond each.
	keys, err := foreignKeys(t.ctx, t.tx, t.plan.Table)
	if err != nil {
		return err
	}
	for _, r := range slices.Concat(t.references, keys) {
		rows := make([][]any, len(writes))
		for i, w := range writes {
			rows[i] = append(rows[i], i)
			for range r.columns {
				rows[i] = append(rows[i], w.record.ClerkID)
			}
			if t.self(r) {
				rows[i] = append(rows[i], w.record.ClerkID)
			}
		}
		if err := t.query(t.referring(r), rows, func(found *sql.Rows) error {
			var i int
			err := found.Scan(&i)
			if err == nil {
				writes[i].referring = append(writes[i].referring, r.table)
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// self reports whether r may be a user's word about himself, which does not
// count. A foreign key's does: InnoDB does not delete a row that refers to
// itself.
func (d *database) self(r reference) bool {
	return r.configured && r.schema == "" && r.table == d.plan.Table
}

// referring returns the statement that says which of some users rows of r
// refer to.
func (d *database) referring(r reference) statement {
	from := quote(r.table)
	if r.schema != "" {
		from = quote(r.schema) + "." + from
	}
	conditions := make([]string, len(r.columns))
	for i, c := range r.columns {
		conditions[i] = "o." + quote(c.name) + " = " + c.as("(SELECT u."+quote(r.refers[i])+" FROM "+quote(d.plan.Table)+" AS u WHERE u."+quote(d.plan.Key)+" = ?)")
	}
	if d.self(r) {
		conditions = append(conditions, "NOT (o."+quote(d.plan.Key)+" <=> ?)")
	}
	one := "(SELECT ? AS n FROM " + from + " AS o WHERE " + strings.Join(conditions, " AND ") + " LIMIT 1)"
	return selectsOf("", one, one, "")
}

// deletedAt returns when the user was erased: for the first time, if the row
// says so.
func (t transaction) deletedAt(w *write) any {
	if w.deletedAt != "" {
		return w.deletedAt
	}
	return native(usertable.DeletedAt(w.record))
}

// anonymous returns the values of an erased user whose row stays.
func (t transaction) anonymous(w *write) []any {
	at := usertable.DeletedAt(w.record)
	for _, layout := range []string{storedLayout, time.DateOnly} {
		if stored, err := time.Parse(layout, w.deletedAt); err == nil {
			at = stored
		}
	}
	row := make([]any, len(t.plan.Columns))
	for i, c := range t.plan.Columns {
		row[i] = t.neutral(c, w.record.ClerkID, at)
	}
	return row
}

// neutral returns what a column holds of an erased user.
func (d *database) neutral(c usertable.Column, clerkID string, at time.Time) any {
	value := native(c.Anonymous(clerkID, at))
	if value != nil && d.partAsJSON(c) {
		if value = c.Expression.JSON(clerkID, &schemas.User{}); value == "" {
			return "{}"
		}
	}
	return value
}

// Keys implements [sinks.Lister]. Users whose row an erasure has left are not
// listed.
func (s *Sink) Keys(ctx context.Context, after string, limit int) ([]string, error) {
	db, err := s.opened()
	if err != nil {
		return nil, err
	}
	key := quote(db.plan.Key)
	if c, _ := db.users.column(db.plan.Key); c.text() && !strings.HasSuffix(c.collate, "_bin") {
		key = "CAST(" + key + " AS BINARY)" // reads the whole index, for each call
	}
	live := ""
	if db.plan.DeletedAt != "" {
		live = " AND " + quote(db.plan.DeletedAt) + " IS NULL"
	}
	return db.read(ctx, "list keys", "SELECT "+quote(db.plan.Key)+" FROM "+quote(db.plan.Table)+" WHERE "+key+" > ?"+live+" ORDER BY "+key+" LIMIT ?", after, limit)
}

// Confirm implements [sinks.Confirmer].
func (s *Sink) Confirm(ctx context.Context, clerkID string, _ []byte) (bool, error) {
	db, err := s.opened()
	if err != nil {
		return false, err
	}
	condition, args := db.erased(clerkID)
	rows, err := db.read(ctx, "confirm an erasure", "SELECT "+quote(db.plan.Key)+" FROM "+quote(db.plan.Table)+" WHERE "+quote(db.plan.Key)+" = ? AND NOT COALESCE("+condition+", FALSE)",
		append([]any{clerkID}, args...)...)
	if err != nil || !slices.Contains(rows, clerkID) {
		return err == nil, err
	}
	return false, db.kept(ctx, clerkID)
}

// kept returns why the row of a user who was erased is not as it was left, if
// that can be told.
func (d *database) kept(ctx context.Context, clerkID string) error {
	erased, err := d.read(ctx, "look at the guard", "SELECT id FROM "+quote(d.plan.Versions)+" WHERE id = ? AND deleted", clerkID)
	if err != nil || len(erased) == 0 {
		return err
	}
	triggers, err := d.triggers(ctx)
	if err != nil {
		return err
	}
	return usertable.Kept(d.plan.Table, triggers)
}

// triggers names the triggers of the users table, if the user may see them.
func (d *database) triggers(ctx context.Context) ([]string, error) {
	return d.read(ctx, "read the triggers", "SELECT trigger_name FROM information_schema.triggers"+
		" WHERE event_object_schema = database() AND event_object_table = ? ORDER BY trigger_name", d.plan.Table)
}

// tolerance returns how many seconds a time may differ from that of the
// deletion because one of both columns holds less of it.
func (d *database) tolerance(name string) string {
	c, _ := d.users.column(name)
	if at, _ := d.users.column(d.plan.DeletedAt); c.kind == "date" || at.kind == "date" {
		return "86400"
	}
	return "1"
}

// erased returns the condition by which a row that is there is one of an erased
// user, with nothing of the user left but what the policy keeps. The server
// compares: it knows what it makes of a value in a column of another type.
func (d *database) erased(clerkID string) (string, []any) {
	if d.plan.DeletedAt == "" {
		return "FALSE", nil
	}
	at := quote(d.plan.DeletedAt)
	conditions, args := []string{at + " IS NOT NULL"}, []any(nil)
	if d.plan.Deletion == usertable.DeletionSoft {
		return conditions[0], nil
	}
	for _, c := range d.plan.Columns {
		name, value, stored := quote(c.Name), d.neutral(c, clerkID, time.Time{}), "?"
		if has, _ := d.users.column(c.Name); has.kind == "json" {
			stored = "CAST(? AS JSON)"
		}
		switch {
		case value != nil && c.Kind() == mapping.Time && !c.Expression.Constant():
			conditions = append(conditions, "ABS(TIMESTAMPDIFF(SECOND, "+name+", "+at+")) <= "+d.tolerance(c.Name))
		default:
			conditions = append(conditions, name+" <=> "+d.users.given(c, stored, name))
			args = append(args, value)
		}
	}
	return strings.Join(conditions, " AND "), args
}
