package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

// rollbackTimeout bounds the tidying up after a failed pipeline, for which the
// caller's context may be over.
const rollbackTimeout = 5 * time.Second

var types = map[usertable.Kind]string{
	usertable.Text: "text", usertable.JSON: "jsonb", usertable.Bool: "boolean", usertable.Integer: "bigint", usertable.Time: "timestamptz(3)",
}

// arrayTypes are the types in which values travel.
var arrayTypes = map[usertable.Kind]string{
	usertable.Text: "text[]", usertable.JSON: "text[]", usertable.Bool: "boolean[]", usertable.Integer: "bigint[]", usertable.Time: "timestamptz[]",
}

// statements are the texts of the pipeline and of the two readers.
type statements struct {
	begin, settings, advance, remove, replace, commit string
	keys, confirm                                     string
}

func newStatements(users, versions string, columns []usertable.Column) statements {
	arrays, values := []string{"$1::text[]"}, []string{"i.id"}
	for i, c := range columns {
		value := "i." + usertable.Quote(c.Name)
		if c.Kind == usertable.JSON {
			value += "::jsonb"
		}
		arrays, values = append(arrays, "$"+strconv.Itoa(i+2)+"::"+arrayTypes[c.Kind]), append(values, value)
	}
	names := "id, " + usertable.Names(columns, "")
	return statements{
		begin: "BEGIN ISOLATION LEVEL READ COMMITTED",
		settings: "SELECT set_config('statement_timeout', $1, true), " +
			"CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END",
		advance: "INSERT INTO " + versions + " AS held (id, epoch, version, deleted)\n" +
			"SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::boolean[])" + usertable.AdvanceClause + "\nRETURNING held.id",
		remove: "DELETE FROM " + users + " AS u USING " + versions + " AS v\n" +
			"WHERE v.id = ANY($1::text[]) AND v.deleted AND u.id = v.id\nRETURNING v.id",
		replace: "INSERT INTO " + users + " (" + names + ")\nSELECT " + strings.Join(values, ", ") +
			"\nFROM unnest(" + strings.Join(arrays, ", ") + ") AS i (" + names + ")\n" +
			"JOIN " + versions + " AS v ON v.id = i.id AND v.xmin = pg_current_xact_id()::xid" + usertable.ReplaceClause(columns),
		commit: "COMMIT",
		// Bytewise order, whatever the collation of the database.
		keys:    "SELECT id FROM " + users + ` WHERE id COLLATE "C" > $1 ORDER BY id COLLATE "C" LIMIT $2`,
		confirm: "SELECT id FROM " + users + " WHERE id = $1",
	}
}

// arranged is a batch as the statements take it: by columns, ids sorted.
type arranged struct {
	ids     []string // all
	epochs  []int32
	numbers []int64
	deleted []bool
	erased  []string // ids of erasures
	users   []any    // ids of changes, then an array for each column
}

func arrange(batch []sinks.Record, columns []usertable.Column) arranged {
	sorted := slices.Clone(batch)
	slices.SortFunc(sorted, func(a, b sinks.Record) int { return cmp.Compare(a.ClerkID, b.ClerkID) })
	a := arranged{erased: []string{}}
	changed := []string{}
	var users []*schemas.User
	for _, r := range sorted {
		rank := r.Rank()
		a.ids, a.epochs = append(a.ids, r.ClerkID), append(a.epochs, rank.Epoch)
		a.numbers, a.deleted = append(a.numbers, rank.Number), append(a.deleted, r.Erase())
		if r.Erase() {
			a.erased = append(a.erased, r.ClerkID)
			continue
		}
		changed, users = append(changed, r.ClerkID), append(users, &r.Change.User)
	}
	a.users = append(a.users, changed)
	for _, c := range columns {
		a.users = append(a.users, array(c, users))
	}
	return a
}

// array returns a column's values of all users, nil for null.
func array(c usertable.Column, users []*schemas.User) any {
	switch c.Kind {
	case usertable.Bool:
		return values[bool](c, users)
	case usertable.Integer:
		return values[int64](c, users)
	case usertable.Time:
		return values[time.Time](c, users)
	default:
		return values[string](c, users)
	}
}

func values[T any](c usertable.Column, users []*schemas.User) []*T {
	list := make([]*T, len(users))
	for i, u := range users {
		if value, ok := c.Value(u).(T); ok {
			list[i] = &value
		}
	}
	return list
}

// effects are the ids that moved, and of these the ones whose row was deleted.
type effects struct{ moved, removed map[string]bool }

// Apply implements [sinks.Sink]: one transaction in one round trip.
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	pool, err := s.opened()
	if err != nil {
		return err
	}
	done, err := s.write(ctx, pool, arrange(batch, s.columns))
	if err != nil {
		return err
	}
	for _, r := range batch {
		switch {
		case !done.moved[r.ClerkID]:
			r.Superseded()
		case r.Erase() && done.removed[r.ClerkID]:
			r.Erased(schemas.OutcomeDeleted)
		case r.Erase():
			r.Erased(schemas.OutcomeNotPresent)
		}
	}
	return nil
}

// write sends the pipeline.
func (s *Sink) write(ctx context.Context, pool *pgxpool.Pool, a arranged) (effects, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return effects{}, classify("connect", 0, err)
	}
	defer conn.Release()
	var done effects
	pipeline := &pgx.Batch{}
	pipeline.Queue(s.statements.begin)
	pipeline.Queue(s.statements.settings, strconv.FormatInt(s.cfg.StatementTimeout.Milliseconds(), 10))
	pipeline.Queue(s.statements.advance, a.ids, a.epochs, a.numbers, a.deleted).Query(func(rows pgx.Rows) (err error) {
		done.moved, err = set(rows)
		return err
	})
	pipeline.Queue(s.statements.remove, a.erased).Query(func(rows pgx.Rows) (err error) {
		done.removed, err = set(rows)
		return err
	})
	pipeline.Queue(s.statements.replace, a.users...)
	pipeline.Queue(s.statements.commit)
	if err := conn.SendBatch(ctx, pipeline).Close(); err != nil {
		// Or the pool would throw the connection away.
		return effects{}, errors.Join(classify(fmt.Sprintf("write %d records", len(a.ids)), len(a.ids), err), rollback(ctx, conn.Conn()))
	}
	return done, nil
}

func rollback(ctx context.Context, conn *pgx.Conn) error {
	if conn.IsClosed() || conn.PgConn().TxStatus() == 'I' {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
		return classify("rollback", 0, err)
	}
	return nil
}

func set(rows pgx.Rows) (map[string]bool, error) {
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	members := make(map[string]bool, len(ids))
	for _, id := range ids {
		members[id] = true
	}
	return members, nil
}
