package postgres

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

// maxLooks is how often the rows that hold claimed values are looked for until
// the guards of all that are found are locked.
const maxLooks = 4

// The SQLSTATEs after which a batch is written in another way.
const (
	codeUnique  = "23505" // a unique key refuses
	codeForeign = "23503" // a foreign key refuses
	codeRaised  = "P0001" // a trigger or a function of the application's refuses
	codeChanged = "22012" // division by zero: the foreign keys are others by now
	// The class of statements that the catalogue or the rights refuse: a table
	// or a column is gone, or has another name or type.
	classSchema = "42"
)

// again writes records that err has refused in another way, if there is one.
// The catalogue is read again first, because the application may have changed
// its keys since.
func (s *Sink) again(ctx context.Context, db *database, batch, records []sinks.Record, failed *sinks.BatchError, err error) (effects, error) {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return effects{}, err
	}
	references := s.plan.Deletion == usertable.DeletionAuto && (refused.Code == codeForeign || refused.Code == codeChanged)
	schema := strings.HasPrefix(refused.Code, classSchema)
	if refused.Code != codeUnique && !references && !schema {
		return effects{}, err
	}
	db, failure := s.refresh(ctx, db)
	switch {
	case failure != nil:
		return effects{}, failure // it says by name what there is to mend
	case references, schema:
		return db.pipeline(ctx, records)
	case !slices.ContainsFunc(db.contested, func(c contested) bool { return c.name == refused.ConstraintName }):
		return effects{}, err
	}
	return db.settle(ctx, batch, records, failed)
}

// contested is a unique key on columns of ours, and how to find out who claims
// and who holds its values.
type contested struct {
	name   string
	vacate target
	find   string // see findHolders
	clear  string // gives the column $2 to the rows of $1
}

// contestedKeys returns the unique keys that hold values of ours.
func (l layout) contestedKeys() []contested {
	var list []contested
	for _, k := range l.table.keys {
		members := l.table.members(k)
		var ours []usertable.Column
		for _, t := range l.columns {
			if slices.Contains(members, t.Number) {
				c := t.Column
				c.Required = c.Required || t.NotNull || k.NullsEqual
				ours = append(ours, c)
			}
		}
		c, ok := usertable.Vacatable(ours)
		if !ok {
			continue
		}
		i := slices.IndexFunc(l.columns, func(t target) bool { return t.Column.Name == c.Name })
		given := l.columns[i]
		if !given.holds(c.Vacant(usertable.SampleID)) {
			continue // too short: the users of such a key wait without settling
		}
		given.Column = c
		list = append(list, contested{name: k.Name, vacate: given, find: l.find(k), clear: l.clear(given)})
	}
	return list
}

func (l layout) clear(t target) string {
	value, _ := t.convert("i." + t.name())
	return "UPDATE " + l.users + " AS u SET " + t.name() + " = " + value + "\nFROM " + l.given([]target{t}) + " WHERE u." + l.key + " = i." + l.key
}

// find returns the query for who claims and who holds the values of a key: the
// Clerk ID of each claim, the number of its value, whether there is a holder,
// and his Clerk ID. The rows as they would be are made first, so that the
// expressions and the condition of the index can be said of them.
func (l layout) find(k uniqueKey) string {
	alone, notNull, equal, numbered := make([]string, len(k.Expressions)), "true", "h.\"?id\" IS DISTINCT FROM c.\"?id\"", make([]string, len(k.Expressions))
	for n, expression := range k.Expressions {
		name := `"?` + strconv.Itoa(n) + `"`
		collate := ""
		if k.Collations[n] != "" {
			collate = " COLLATE " + k.Collations[n]
		}
		alone[n] = "(" + expression + ")" + collate + " AS " + name
		numbered[n] = name
		same := "h." + name + " OPERATOR(" + k.Operators[n] + ") c." + name
		if k.NullsEqual {
			same = "(" + same + " OR h." + name + " IS NULL AND c." + name + " IS NULL)"
		} else {
			notNull += " AND " + name + " IS NOT NULL"
		}
		equal += " AND " + same
	}
	where := ""
	if k.Condition != "" {
		where = " WHERE " + k.Condition
	}
	of := func(rows, id string) string {
		return "(SELECT " + id + ` AS "?id", ` + strings.Join(alone, ", ") + " FROM " + rows + where + ")"
	}
	return `WITH c AS MATERIALIZED (SELECT "?id", ` + strings.Join(numbered, ", ") + ", dense_rank() OVER (ORDER BY " + strings.Join(numbered, ", ") + `) AS "?value"` +
		" FROM " + of(l.candidates(), `"?claim"`) + " AS k WHERE " + notNull + ")\n" +
		`SELECT c."?id", c."?value", h."?there" IS NOT NULL, coalesce(h."?id", '') FROM c LEFT JOIN (SELECT true AS "?there", * FROM ` + of(l.users, l.key+"::text") + " AS u) AS h ON " + equal
}

// candidates returns the rows as they would be: what we write, else what is
// there, else the default if it is constant.
func (l layout) candidates() string {
	ours := map[string]string{l.plan.Key: "i." + l.key}
	if l.deletedAt != "" {
		ours[l.plan.DeletedAt] = "NULL::" + l.deletion().Type
	}
	for _, t := range l.columns {
		ours[t.Column.Name] = t.written("i." + t.name())
	}
	inserted := map[string]string{}
	for _, t := range l.inserts {
		inserted[t.Column.Name] = t.written("i." + t.name())
	}
	plain, generated := []string{"i." + l.key + ` AS "?claim"`}, []string{"*"}
	for _, a := range l.table.columns {
		name := usertable.Quote(a.Name)
		value, written := ours[a.Name]
		switch insert, ok := inserted[a.Name]; {
		case a.Formula != "":
			generated = append(generated, "("+a.Formula+") AS "+name)
			continue
		case written:
		case ok:
			value = "CASE WHEN o." + l.key + " IS NULL THEN " + insert + " ELSE o." + name + " END"
		case a.constant():
			value = "CASE WHEN o." + l.key + " IS NULL THEN " + a.Default + " ELSE o." + name + " END"
		default:
			value = "o." + name
		}
		plain = append(plain, "("+value+")::"+a.Type+" AS "+name)
	}
	return "(SELECT " + strings.Join(generated, ", ") + " FROM (SELECT " + strings.Join(plain, ", ") + " FROM " + l.given(slices.Concat(l.columns, l.inserts)) +
		" LEFT JOIN " + l.users + " AS o ON o." + l.key + " = i." + l.key + ") AS r) AS r"
}

// settle writes records in a transaction of several steps, in which the guards
// decide what moves, and [usertable.Settle] who may have what must be unique.
func (d *database) settle(ctx context.Context, batch, records []sinks.Record, failed *sinks.BatchError) (done effects, err error) {
	waits := map[string]string{}
	err = pgx.BeginTxFunc(ctx, d.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		s := settling{database: d, ctx: ctx, tx: tx, waits: waits, instead: vacant{}}
		if _, err := tx.Exec(ctx, d.settings, d.timeout()); err != nil {
			return err
		}
		// A process that is paused in here loses its locks.
		if _, err := tx.Exec(ctx, "SELECT set_config('idle_in_transaction_session_timeout', $1, true)", d.timeout()); err != nil {
			return err
		}
		done, err = s.run(records)
		return err
	})
	if err != nil {
		return effects{}, err
	}
	for i, r := range batch {
		if holder, waiting := waits[r.ClerkID]; waiting {
			failed.Fail(i, usertable.Waits(holder))
		}
	}
	return done, nil
}

// settling is one transaction of settle.
type settling struct {
	*database
	ctx     context.Context
	tx      pgx.Tx
	guards  map[string]sinks.Guard // locked; zero: nothing is known
	waits   map[string]string      // who waits for whom
	instead vacant
}

func (s *settling) run(records []sinks.Record) (effects, error) {
	done := effects{moved: map[string]bool{}, removed: map[string]bool{}, kept: map[string][]string{}}
	if _, err := s.tx.Exec(s.ctx, s.reserve, idsOf(records)); err != nil {
		return done, err
	}
	s.guards = map[string]sinks.Guard{}
	if err := s.lockGuards(idsOf(records)); err != nil {
		return done, err
	}
	var moved []sinks.Record
	for _, r := range records {
		next, moves := s.guards[r.ClerkID].Advance(r)
		if moves {
			moved, done.moved[r.ClerkID], s.guards[r.ClerkID] = append(moved, r), true, next
		}
	}
	changes, erasures := split(moved)
	// First: most of what they hold is free then, without being settled.
	if err := s.erase(erasures, &done); err != nil {
		return done, err
	}
	s.hooks.between()
	for _, key := range s.contested {
		if err := s.settleKey(key, changes); err != nil {
			return done, err
		}
	}
	advanced := slices.DeleteFunc(slices.Clone(changes), func(r sinks.Record) bool { _, waits := s.waits[r.ClerkID]; return waits })
	if err := s.moveGuards(advanced); err != nil {
		return done, err
	}
	if len(changes) == 0 {
		return done, nil
	}
	_, err := s.tx.Exec(s.ctx, s.write, s.values(changes, s.instead)...)
	return done, err
}

func (s *settling) lockGuards(ids []string) error {
	rows, err := s.tx.Query(s.ctx, s.statements.guards, ids)
	if err != nil {
		return err
	}
	locked, err := collectGuards(rows)
	for _, id := range ids {
		s.guards[id] = locked[id]
	}
	return err
}

func (s *settling) erase(erasures []sinks.Record, done *effects) error {
	if len(erasures) == 0 {
		return nil
	}
	if err := s.moveGuards(erasures); err != nil {
		return err
	}
	batch := &pgx.Batch{}
	s.queueErasures(batch, erasures, done)
	return s.tx.SendBatch(s.ctx, batch).Close()
}

// moveGuards writes the guards of records as they were decided.
func (s *settling) moveGuards(records []sinks.Record) error {
	args := ranks(records)
	epochs, numbers := args[1].([]int32), args[2].([]int64)
	for i, r := range records {
		epochs[i], numbers[i] = s.guards[r.ClerkID].Rank.Epoch, s.guards[r.ClerkID].Rank.Number
	}
	_, err := s.tx.Exec(s.ctx, s.move, args...)
	return err
}

// settleKey decides who has the values of one key, and takes them from those
// who give way.
func (s *settling) settleKey(key contested, changes []sinks.Record) error {
	claims, holders, err := s.lockHolders(key, changes)
	if err != nil {
		return err
	}
	written := map[string]bool{}
	for _, r := range changes {
		written[r.ClerkID] = true
	}
	settled := usertable.Settle(claims, holders, func(id string) bool { return written[id] })
	for id, holder := range settled.Waits {
		if s.waits[id] == "" {
			s.waits[id] = holder
		}
		if s.instead[id] == nil {
			s.instead[id] = map[string]any{}
		}
		s.instead[id][key.vacate.Column.Name] = key.vacate.Vacant(id)
	}
	if len(settled.Vacate) == 0 {
		return nil
	}
	ids := map[string]bool{}
	for _, h := range settled.Vacate {
		ids[h.ClerkID] = true
	}
	sorted := make([]sinks.Record, 0, len(ids))
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		sorted = append(sorted, sinks.Record{ClerkID: id})
	}
	_, err = s.tx.Exec(s.ctx, key.clear, idsOf(sorted), key.vacate.array(sorted, func(_ target, r sinks.Record) any { return key.vacate.Vacant(r.ClerkID) }))
	return err
}

// lockHolders returns who claims and who holds the values of a key. The guards
// of the holders are locked, and were so before the last look.
func (s *settling) lockHolders(key contested, changes []sinks.Record) (claims []usertable.Claim, holders []usertable.Holder, err error) {
	for range maxLooks {
		var ids []string
		if claims, holders, err = s.look(key, changes); err != nil {
			return nil, nil, err
		}
		s.hooks.looked()
		for i, h := range holders {
			guard, locked := s.guards[h.ClerkID]
			if holders[i].Guard = guard; !locked && h.ClerkID != "" && !slices.Contains(ids, h.ClerkID) {
				ids = append(ids, h.ClerkID)
			}
		}
		if len(ids) == 0 {
			return claims, holders, nil
		}
		slices.Sort(ids)
		if err := s.lockGuards(ids); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, sinks.RetryAfter(sinks.ReasonConflict, 0, errors.New("who holds a unique value changes all the time"))
}

func (s *settling) look(key contested, changes []sinks.Record) (claims []usertable.Claim, holders []usertable.Holder, err error) {
	rows, err := s.tx.Query(s.ctx, key.find, s.values(changes, s.instead)...)
	if err != nil {
		return nil, nil, err
	}
	seen := map[string]bool{}
	var claim, holder string
	var value int
	var held bool
	_, err = pgx.ForEachRow(rows, []any{&claim, &value, &held, &holder}, func() error {
		if !seen[claim] {
			seen[claim] = true
			claims = append(claims, usertable.Claim{ClerkID: claim, Rank: s.guards[claim].Rank, Value: value})
		}
		if held {
			holders = append(holders, usertable.Holder{ClerkID: holder, Value: value})
		}
		return nil
	})
	return claims, holders, err
}
