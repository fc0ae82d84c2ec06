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
	"github.com/jackc/pgx/v5/pgconn"

	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

// rollbackTimeout bounds the tidying up after a failed pipeline, for which the
// caller's context may be over.
const rollbackTimeout = 5 * time.Second

// effects are what became of a batch.
type effects struct {
	moved   map[string]bool     // ids whose guard moved
	removed map[string]bool     // ids whose row was deleted
	kept    map[string][]string // ids whose row an erasure kept, and the tables that refer to it, if that was asked
}

// report says of each record that has not failed what was done.
func (e effects) report(policy usertable.Deletion, batch []sinks.Record, failed *sinks.BatchError) {
	for i, r := range batch {
		referring, kept := e.kept[r.ClerkID]
		switch {
		case failed.Failed(i) != nil:
		case !e.moved[r.ClerkID]:
			r.Superseded()
		case r.Erase():
			policy.Fate(kept || e.removed[r.ClerkID], referring).Report(r)
		}
	}
}

// Apply implements [sinks.Sink]: one transaction in one round trip. If a unique
// key on columns of ours refuses it, another one settles who may have what.
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	db, err := s.opened()
	if err != nil {
		return err
	}
	var failed sinks.BatchError
	fit, err := db.sift(ctx, batch, &failed)
	if err != nil {
		return err
	}
	if len(fit) == 0 {
		return failed.Err()
	}
	done, err := db.pipeline(ctx, fit)
	if err != nil {
		done, err = s.again(ctx, db, batch, fit, &failed, err)
	}
	if err != nil {
		return classify(db.operation(ctx, fit, err), len(fit), err)
	}
	done.report(db.plan.Deletion, batch, &failed)
	return failed.Err()
}

// operation says what was done when err came, and what a person may do about
// it.
func (d *database) operation(ctx context.Context, records []sinks.Record, err error) string {
	text := fmt.Sprintf("write %d records", len(records))
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return text
	}
	switch refused.Code {
	case codeRaised:
		if triggers, err := d.triggers(ctx); err == nil && len(triggers) > 0 {
			return text + ": refused by a trigger of " + d.users + " (" + strings.Join(triggers, ", ") + ")"
		}
	case codeForeign:
		if _, erasures := split(records); len(erasures) == 0 {
			return text + ": the foreign key " + refused.ConstraintName + " refuses a value of ours"
		}
		return text + ": rows of " + refused.TableName + " refer to an erased user, which the foreign key " + refused.ConstraintName +
			" forbids to delete or to change: set DELETION=auto or anonymize, delete those rows, or give the key an action"
	}
	return text
}

// sift returns the records that have a value in every column that takes no
// null, sorted by id. The others fail, unless they come too late in any case.
func (d *database) sift(ctx context.Context, batch []sinks.Record, failed *sinks.BatchError) ([]sinks.Record, error) {
	fit := make([]sinks.Record, 0, len(batch))
	unfit := map[int]error{}
	var ids []string
	for i, r := range batch {
		if !r.Erase() {
			if err := d.plan.Check(r); err != nil {
				unfit[i], ids = err, append(ids, r.ClerkID)
				continue
			}
		}
		fit = append(fit, r)
	}
	slices.SortFunc(fit, func(a, b sinks.Record) int { return cmp.Compare(a.ClerkID, b.ClerkID) })
	if len(unfit) == 0 {
		return fit, nil
	}
	guards, err := d.heard(ctx, ids)
	for i, cause := range unfit {
		if _, moves := guards[batch[i].ClerkID].Advance(batch[i]); moves {
			failed.Fail(i, cause)
		}
	}
	return fit, err
}

func collectGuards(rows pgx.Rows) (map[string]sinks.Guard, error) {
	guards := map[string]sinks.Guard{}
	var id string
	var g sinks.Guard
	_, err := pgx.ForEachRow(rows, []any{&id, &g.Rank.Epoch, &g.Rank.Number, &g.Deleted}, func() error {
		guards[id] = g
		return nil
	})
	return guards, err
}

// pipeline writes records, sorted by id, in one round trip.
func (d *database) pipeline(ctx context.Context, records []sinks.Record) (effects, error) {
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return effects{}, classify("connect", 0, err)
	}
	defer conn.Release()
	changes, erasures := split(records)
	done := effects{removed: map[string]bool{}, kept: map[string][]string{}}
	batch := &pgx.Batch{}
	batch.Queue(d.begin)
	batch.Queue(d.settings, d.timeout())
	batch.Queue(d.advance, ranks(records)...).Query(func(rows pgx.Rows) (err error) {
		done.moved, err = set(rows)
		return err
	})
	if len(erasures) > 0 || len(changes) == 0 {
		d.queueErasures(batch, erasures, &done)
	}
	if len(changes) > 0 || len(erasures) == 0 {
		batch.Queue(d.replace, d.values(changes, nil)...)
	}
	batch.Queue(d.commit)
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		// Or the pool would throw the connection away.
		return effects{}, errors.Join(err, rollback(ctx, conn.Conn()))
	}
	return done, nil
}

// queueErasures adds the statements of erasures whose guards have advanced.
func (d *database) queueErasures(batch *pgx.Batch, erasures []sinks.Record, done *effects) {
	ids := idsOf(erasures)
	if d.hold != "" {
		batch.Queue(d.hold, ids)
	}
	if d.keep != "" {
		batch.Queue(d.keep, d.remains(erasures)...).Query(func(rows pgx.Rows) error {
			var id string
			var referring []string
			_, err := pgx.ForEachRow(rows, []any{&id, &referring}, func() error {
				done.kept[id] = slices.Clone(referring)
				return nil
			})
			return err
		})
	}
	if d.remove != "" {
		batch.Queue(d.remove, ids).Query(func(rows pgx.Rows) (err error) {
			done.removed, err = set(rows)
			return err
		})
	}
	if d.unchanged != "" {
		// Last: the table is locked against new foreign keys since the deletion.
		batch.Queue(d.unchanged)
	}
}

func (d *database) timeout() string {
	return strconv.FormatInt(d.cfg.StatementTimeout.Milliseconds(), 10)
}

// split parts changes from erasures.
func split(records []sinks.Record) (changes, erasures []sinks.Record) {
	for _, r := range records {
		if r.Erase() {
			erasures = append(erasures, r)
		} else {
			changes = append(changes, r)
		}
	}
	return changes, erasures
}

func idsOf(records []sinks.Record) []string {
	ids := make([]string, len(records))
	for i, r := range records {
		ids[i] = r.ClerkID
	}
	return ids
}

// ranks returns the arguments of the statement that advances the guards.
func ranks(records []sinks.Record) []any {
	epochs, numbers, deleted := make([]int32, len(records)), make([]int64, len(records)), make([]bool, len(records))
	for i, r := range records {
		rank := r.Rank()
		epochs[i], numbers[i], deleted[i] = rank.Epoch, rank.Number, r.Erase()
	}
	return []any{idsOf(records), epochs, numbers, deleted}
}

// vacant are the values, by Clerk ID and column, that stand in nobody's way and
// are written instead of a user's own.
type vacant map[string]map[string]any

// values returns the arguments of the statement that writes changes.
func (d *database) values(changes []sinks.Record, instead vacant) []any {
	args := []any{idsOf(changes)}
	for _, t := range slices.Concat(d.columns, d.inserts) {
		args = append(args, t.array(changes, func(t target, r sinks.Record) any {
			if value, waits := instead[r.ClerkID][t.Column.Name]; waits {
				return value
			}
			return t.value(r.ClerkID, &r.Change.User)
		}))
	}
	return args
}

// remains returns the arguments of the statement that keeps the rows of the
// erased.
func (d *database) remains(erasures []sinks.Record) []any {
	deletedAt := make([]time.Time, len(erasures))
	at := map[string]time.Time{}
	for i, r := range erasures {
		deletedAt[i] = usertable.DeletedAt(r)
		at[r.ClerkID] = deletedAt[i]
	}
	args := []any{idsOf(erasures), deletedAt}
	if d.plan.Deletion == usertable.DeletionSoft {
		return args
	}
	for _, t := range d.columns {
		args = append(args, t.array(erasures, func(t target, r sinks.Record) any { return t.anonymous(r.ClerkID, at[r.ClerkID]) }))
	}
	return args
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
