package mysql

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-sql-driver/mysql"

	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

// contest is a unique key that users may contend for.
type contest struct {
	key    uniqueKey
	base   []string // the columns that its values come from
	column int      // the one of plan.Columns that is given up
}

// settle decides who has what several users claim, by the rules of package
// usertable. It takes values away from users whose claim is older, and from
// the writes of others what they must wait for; these fail with who holds it.
func (t transaction) settle(moved []*write, failed *sinks.BatchError) error {
	users, err := readTable(t.ctx, t.tx, "", t.plan.Table)
	if err != nil {
		return err
	}
	for _, key := range users.unique {
		c, ok := t.contest(users, key)
		if !ok {
			continue
		}
		var refused *mysql.MySQLError
		err := t.settleKey(users, c, moved)
		if errors.As(err, &refused) && strings.HasPrefix(string(refused.SQLState[:]), "42") {
			continue // an expression that cannot be used outside of its index: users of this key wait without settling
		}
		if err != nil {
			return err
		}
	}
	for _, w := range moved {
		if w.waits {
			failed.Fail(w.index, usertable.Waits(w.holder))
		}
	}
	return nil
}

// contest returns what of a key users may contend for, if its values come from
// columns of ours and nothing that only the server can know.
func (d *database) contest(users table, key uniqueKey) (contest, bool) {
	c := contest{key: key, base: users.dependsOn(key)}
	var ours []usertable.Column
	for _, name := range c.base {
		if at, ok := users.column(name); !ok || at.computed {
			return contest{}, false
		}
		for _, column := range d.plan.Columns {
			if strings.EqualFold(column.Name, name) {
				ours = append(ours, column)
			}
		}
	}
	for _, part := range key.parts {
		if part.prefix > 0 && !slices.ContainsFunc(ours, func(c usertable.Column) bool { return strings.EqualFold(c.Name, part.column) }) {
			return contest{}, false
		}
	}
	column, ok := usertable.Vacatable(ours)
	c.column = slices.IndexFunc(d.plan.Columns, func(c usertable.Column) bool { return c.Name == column.Name })
	at, _ := users.column(column.Name)
	return c, ok && at.holds(column.Vacant(usertable.SampleID)) // else too short: users of such a key wait without settling
}

// dependsOn returns the columns that a key's values come from: its own, or what
// its computed ones are computed from.
func (t table) dependsOn(key uniqueKey) []string {
	var names []string
	for _, part := range key.parts {
		expression := part.expression
		if c, _ := t.column(part.column); c.computed {
			expression = c.expression
		}
		if expression == "" {
			names = append(names, part.column)
		} else {
			names = append(names, identifiers(plain(expression))...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// plain returns an expression as it can be used in a statement. MySQL's
// catalogue shows the quotes of texts with a backslash before them.
func plain(expression string) string {
	if strings.Contains(expression, `_utf8mb4\'`) {
		return strings.ReplaceAll(expression, `\'`, `'`)
	}
	return expression
}

// identifiers returns the names in backquotes in an expression.
func identifiers(expression string) (names []string) {
	for i := 0; i < len(expression); i++ {
		quote := expression[i]
		if quote != '`' && quote != '\'' && quote != '"' {
			continue
		}
		end := i + 1
		for end < len(expression) && expression[end] != quote {
			if expression[end] == '\\' && quote != '`' {
				end++
			}
			end++
		}
		if quote == '`' {
			names = append(names, expression[i+1:min(end, len(expression))])
		}
		i = end
	}
	return names
}

// number is the name of the number of a claim beside columns of the
// application's.
const number = "clerk_connect_claim"

// claimed is a change that has a value in a key.
type claimed struct {
	*write
	value int      // a number of the value
	parts []string // the value
}

// settleKey settles one key.
func (t transaction) settleKey(users table, c contest, moved []*write) error {
	list, err := t.claims(users, c, sift(moved, func(w *write) bool { return !w.erase() }))
	if err != nil || len(list) == 0 {
		return err
	}
	claims := make([]usertable.Claim, len(list))
	for i, w := range list {
		claims[i] = usertable.Claim{ClerkID: w.record.ClerkID, Rank: w.next.Rank, Value: w.value}
	}
	holders, err := t.lockedHolders(users, c, list)
	if err != nil {
		return err
	}
	byID := make(map[string]*write, len(moved))
	for _, w := range moved {
		byID[w.record.ClerkID] = w
	}
	settlement := usertable.Settle(claims, holders, func(id string) bool { return byID[id] != nil })
	for id, holder := range settlement.Waits {
		w := byID[id]
		w.waits, w.holder = true, holder
		w.values[c.column] = t.plan.Columns[c.column].Vacant(id)
	}
	vacate := make([][]any, len(settlement.Vacate))
	for i, h := range settlement.Vacate {
		vacate[i] = []any{h.ClerkID, t.plan.Columns[c.column].Vacant(h.ClerkID)}
	}
	name := t.plan.Columns[c.column].Name
	return t.exec(updateOf(t.plan, users, []string{"u." + quote(name) + " = given.c0"}), vacate)
}

// claims has the server compute what changes have in a key, and which of these
// values it holds for equal. A value with a null in it is none.
func (t transaction) claims(users table, c contest, changes []*write) ([]claimed, error) {
	var given [][]any
	var selects []string
	for i, w := range changes {
		columns, args, known := []string{"? AS " + number}, []any{i}, true
		for _, name := range c.base {
			value, of, ok := t.valueOf(users, name, w)
			known = known && ok
			columns, args = append(columns, value+" AS "+quote(name)), append(args, of...)
		}
		if known {
			given, selects = append(given, args), append(selects, "SELECT "+strings.Join(columns, ", "))
		}
	}
	if len(given) == 0 {
		return nil, nil
	}
	parts, order := number, ""
	for i, part := range c.key.parts {
		parts += fmt.Sprintf(", %s AS p%d", users.partOf(part), i)
		order += fmt.Sprintf(", p%d", i)
	}
	query := "SELECT " + number + ", DENSE_RANK() OVER (ORDER BY " + order[2:] + ")" + order + " FROM (SELECT " + parts + " FROM (" + strings.Join(selects, " UNION ALL ") + ") AS given) AS parts"
	var list []claimed
	rows, err := t.tx.QueryContext(t.ctx, query, slices.Concat(given...)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var n, value int
		texts := make([]sql.NullString, len(c.key.parts))
		targets := []any{&n, &value}
		for i := range texts {
			targets = append(targets, &texts[i])
		}
		if err := rows.Scan(targets...); err != nil {
			return nil, err
		}
		claim := claimed{write: changes[n], value: value}
		for _, text := range texts {
			if text.Valid {
				claim.parts = append(claim.parts, text.String)
			}
		}
		if len(claim.parts) == len(texts) {
			list = append(list, claim)
		}
	}
	return list, rows.Err()
}

// partOf returns the expression of a key's part over columns of the users
// table.
func (t table) partOf(part keyPart) string {
	c, _ := t.column(part.column)
	switch {
	case part.expression != "":
		return "(" + plain(part.expression) + ")"
	case c.computed:
		return c.as("(" + plain(c.expression) + ")")
	case part.prefix > 0:
		return fmt.Sprintf("LEFT(%s, %d)", quote(c.name), part.prefix)
	}
	return quote(c.name)
}

// valueOf returns the expression, with its arguments, of what a column will
// hold when w is written. ok is false if only the server will know.
func (t transaction) valueOf(users table, name string, w *write) (expression string, args []any, ok bool) {
	c, _ := users.column(name)
	named := func(of usertable.Column) bool { return strings.EqualFold(of.Name, name) }
	inserted := slices.IndexFunc(t.plan.Inserts, named)
	own := "(SELECT me." + quote(c.name) + " FROM " + quote(t.plan.Table) + " AS me WHERE me." + quote(t.plan.Key) + " = ?)"
	if i := slices.IndexFunc(t.plan.Columns, named); i >= 0 {
		return c.as("?"), []any{w.values[i]}, true
	}
	switch {
	case strings.EqualFold(name, t.plan.Key):
		return c.as("?"), []any{w.record.ClerkID}, true
	case strings.EqualFold(name, t.plan.DeletedAt):
		return "CAST(NULL AS DATETIME)", nil, true
	case w.present:
		return own, []any{w.record.ClerkID}, true
	case inserted >= 0:
		return c.as("?"), []any{w.inserts[inserted]}, true
	case c.preset:
		return "(SELECT DEFAULT(" + quote(c.name) + ") FROM " + quote(t.plan.Table) + " LIMIT 1)", nil, true
	}
	return "NULL", nil, false
}

// lockedHolders returns who holds what is claimed, with guards and rows locked
// before they are looked at for the last time.
func (t transaction) lockedHolders(users table, c contest, claims []claimed) ([]usertable.Holder, error) {
	holders, err := t.holders(users, c, claims)
	if err != nil || len(holders) == 0 {
		return nil, err
	}
	var names []string
	for _, h := range holders {
		names = append(names, h.ClerkID)
	}
	slices.Sort(names)
	var rows [][]any
	for _, name := range slices.Compact(names) {
		rows = append(rows, []any{name})
	}
	guards, err := t.held(rows)
	if err != nil {
		return nil, err
	}
	if err := t.query(t.statements.present, rows, func(*sql.Rows) error { return nil }); err != nil {
		return nil, err
	}
	if holders, err = t.holders(users, c, claims); err != nil {
		return nil, err
	}
	for i := range holders {
		holders[i].Guard = guards[holders[i].ClerkID]
	}
	return holders, nil
}

// holders returns the rows that have a claimed value.
func (t transaction) holders(users table, c contest, claims []claimed) (list []usertable.Holder, err error) {
	conditions := make([]string, len(c.key.parts))
	for i, part := range c.key.parts {
		conditions[i] = "(u." + quote(part.column) + ") = ?"
		if part.expression != "" {
			conditions[i] = "(" + plain(part.expression) + ") = ?"
		}
	}
	rows := make([][]any, len(claims))
	for i, claim := range claims {
		rows[i] = []any{claim.value}
		for n, part := range c.key.parts {
			var value any = claim.parts[n]
			if part.prefix > 0 { // so that the index can be used; no two addresses begin alike for that long
				value = claim.values[slices.IndexFunc(t.plan.Columns, func(of usertable.Column) bool { return strings.EqualFold(of.Name, part.column) })]
			}
			rows[i] = append(rows[i], value)
		}
	}
	one := "(SELECT ? AS value, u." + quote(t.plan.Key) + " AS id FROM " + quote(t.plan.Table) + " AS u WHERE " + strings.Join(conditions, " AND ") + ")"
	err = t.query(selectsOf("", one, one, ""), rows, func(found *sql.Rows) error {
		var h usertable.Holder
		var id sql.NullString
		err := found.Scan(&h.Value, &id)
		h.ClerkID = id.String
		list = append(list, h)
		return err
	})
	return list, err
}
