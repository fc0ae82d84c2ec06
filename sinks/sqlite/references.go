package sqlite

import (
	"context"
	"strings"

	"clerkconnect/sinks/usertable"
)

// catalogue is what of the database's schema decides about single records.
type catalogue struct {
	version    int64 // PRAGMA schema_version, which each change of the schema moves; 0: not read
	table      table
	references []reference
}

// reference is what of another table may refer to a user.
type reference struct {
	usertable.Reference
	blocks bool // a foreign key that lets no row be deleted that is referred to
}

// look returns the catalogue as it is in this transaction.
func (w *writer) look() (catalogue, error) {
	var version int64
	if err := w.tx.QueryRowContext(w.ctx, "PRAGMA schema_version").Scan(&version); err != nil || version == w.catalogue.version {
		return w.catalogue, err
	}
	t, err := readTable(w.ctx, w.tx, w.plan.Table)
	if err != nil {
		return catalogue{}, err
	}
	references, err := readReferences(w.ctx, w.tx, w.plan.Table, t)
	if err != nil {
		return catalogue{}, err
	}
	for _, r := range w.plan.References {
		references = append(references, reference{Reference: r})
	}
	w.catalogue = catalogue{version, t, references}
	return w.catalogue, nil
}

// readReferences finds the foreign keys that refer to a table. One that names
// no columns means the primary key.
func readReferences(ctx context.Context, q querier, name string, t table) ([]reference, error) {
	type row struct {
		table, from, to, onDelete string
		place                     int
	}
	rows, err := query(ctx, q, `SELECT other.name, key."from", coalesce(key."to", ''), key.on_delete, key.seq
		FROM pragma_table_list AS other JOIN pragma_foreign_key_list(other.name) AS key
		WHERE other.schema = 'main' AND other.type = 'table' AND key."table" = ? COLLATE NOCASE
		ORDER BY other.name, key.id, key.seq`,
		func(r *row) []any { return []any{&r.table, &r.from, &r.to, &r.onDelete, &r.place} }, name)
	var list []reference
	for _, r := range rows {
		if r.place == 0 {
			blocks := r.onDelete == "NO ACTION" || r.onDelete == "RESTRICT"
			list = append(list, reference{usertable.Reference{Table: []string{r.table}}, blocks})
		}
		if r.to == "" {
			for _, c := range t.columns {
				if c.primary == r.place+1 {
					r.to = c.name
				}
			}
		}
		last := &list[len(list)-1]
		last.Columns, last.Refers = append(last.Columns, r.from), append(last.Refers, r.to)
	}
	return list, err
}

// referring returns the tables that have a row which refers to a user; of those
// whose foreign keys keep the user's row from being deleted, if blocking.
func (w *writer) referring(clerkID string, blocking bool) ([]string, error) {
	c, err := w.look()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range c.references {
		if blocking && !r.blocks {
			continue
		}
		refers, err := w.refers(w.ctx, w.tx, r.Reference, clerkID)
		if err != nil {
			return nil, err
		}
		if refers {
			names = append(names, r.Name())
		}
	}
	return names, nil
}

// refers reports whether a row of r's table refers to a user. The user's own
// row does not count.
func (s *Sink) refers(ctx context.Context, q querier, r usertable.Reference, clerkID string) (bool, error) {
	qualified := make([]string, len(r.Table))
	for i, name := range r.Table {
		qualified[i] = usertable.Quote(name)
	}
	key := usertable.Quote(s.plan.Key)
	where := []string{"users." + key + " = ?"}
	for i := range r.Columns {
		where = append(where, "other."+usertable.Quote(r.Columns[i])+" = users."+usertable.Quote(r.Refers[i]))
	}
	if strings.EqualFold(r.Name(), s.plan.Table) {
		where = append(where, "other."+key+" IS NOT users."+key)
	}
	found, err := query(ctx, q, "SELECT 1 FROM "+s.users+" AS users JOIN "+strings.Join(qualified, ".")+" AS other WHERE "+strings.Join(where, " AND ")+" LIMIT 1",
		func(one *int) []any { return []any{one} }, clerkID)
	return len(found) > 0, err
}
