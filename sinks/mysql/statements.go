package mysql

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

// maxStatement is how long a statement may become before the rest of the batch
// goes into another, in bytes: longer ones are not faster. A server that takes
// less is given less.
const maxStatement = 4 << 20

// maxSelects is of how many SELECTs a statement may be made: a batch, for fewer
// are slower, and no more, because a server's stack has an end.
const maxSelects = maxBatch

// statement is the text of a statement of any number of rows: head, then first
// and as often as needed more, then tail.
type statement struct {
	head, first, more, tail string
	most                    int // rows; 0: any number
}

func (t statement) text(rows int) string {
	return t.head + t.first + strings.Repeat(t.more, rows-1) + t.tail
}

// rowsOf is a statement with a list of rows.
func rowsOf(head, row, tail string) statement {
	return statement{head: head, first: row, more: ", " + row, tail: tail}
}

// selectsOf is a statement with a list of SELECTs as a table.
func selectsOf(head, first, more, tail string) statement {
	return statement{head: head, first: first, more: " UNION ALL " + more, tail: tail, most: maxSelects}
}

// statements are those of one batch, in their order.
type statements struct {
	reserve, lock, advance                statement // the side table
	present, remove, mark, update, insert statement // the users table
}

// newStatements returns the statements of a plan for the table that was found.
func newStatements(p usertable.Plan, users table) statements {
	side := "INSERT INTO " + quote(p.Versions) + " (id, epoch, version, deleted) VALUES "
	key, of := quote(p.Key), "SELECT "+quote(p.Key)
	if p.DeletedAt != "" {
		of += ", " + quote(p.DeletedAt)
	}
	names, row := key, "(?"
	for _, list := range [][]usertable.Column{p.Columns, p.Inserts} {
		for _, c := range list {
			names += ", " + quote(c.Name)
			row += ", " + users.given(c, "?", quote(c.Name))
		}
	}
	sets := make([]string, len(p.Columns))
	for i, c := range p.Columns {
		sets[i] = "u." + quote(c.Name) + " = " + users.given(c, fmt.Sprintf("given.c%d", i), "u."+quote(c.Name))
	}
	mark := statement{}
	if p.DeletedAt != "" {
		deletedAt := "u." + quote(p.DeletedAt) + " = given.c"
		sets = append(sets, deletedAt+strconv.Itoa(len(sets)))
		mark = updateOf(p, users, []string{deletedAt + "0"})
	}
	update := updateOf(p, users, sets)
	if !p.Mapped && len(p.Inserts) == 0 && users.primary(p.Key) {
		update = upsertOf(p, users)
	}
	return statements{
		// An assignment that changes nothing locks the row that is there
		// exclusively. INSERT IGNORE would share it: two transactions could then
		// both wait for the other to let go.
		reserve: rowsOf(side, "(?, 0, 0, FALSE)", " ON DUPLICATE KEY UPDATE deleted = deleted"),
		lock:    rowsOf("SELECT id, epoch, version, deleted FROM "+quote(p.Versions)+" WHERE id IN (", "?", ") ORDER BY id FOR UPDATE"),
		advance: rowsOf(side, "(?, ?, ?, ?)", " ON DUPLICATE KEY UPDATE epoch = VALUES(epoch), version = VALUES(version), deleted = VALUES(deleted)"),
		present: rowsOf(of+" FROM "+quote(p.Table)+" WHERE "+key+" IN (", "?", ") ORDER BY "+key+" FOR UPDATE"),
		remove:  rowsOf("DELETE FROM "+quote(p.Table)+" WHERE "+key+" IN (", "?", ")"),
		mark:    mark,
		update:  update,
		insert:  rowsOf("INSERT INTO "+quote(p.Table)+" ("+names+") VALUES ", row+")", ""),
	}
}

// updateOf returns a statement that updates many users, each found by his Clerk
// ID and nothing else. ON DUPLICATE KEY UPDATE is shorter, and writes into the
// row of whoever holds the same value in any unique key that comes first. A row
// is given.id and as many values as there are sets, given.c0 and so on: names
// that no column of the application's meets.
func updateOf(p usertable.Plan, users table, sets []string) statement {
	first := "SELECT ? AS id"
	for i := range sets {
		first += fmt.Sprintf(", ? AS c%d", i)
	}
	key, _ := users.column(p.Key)
	return selectsOf("UPDATE (", first, "SELECT ?"+strings.Repeat(", ?", len(sets)),
		// From the few to the many, whatever the statistics say.
		") AS given STRAIGHT_JOIN "+quote(p.Table)+" AS u ON u."+quote(p.Key)+" = "+key.as("given.id")+" SET "+strings.Join(sets, ", "))
}

// upsertOf is updateOf for a table of ours, and faster. The Clerk ID is the
// primary key there, which InnoDB looks at before any other: a row that is
// there, and locked, is met by that key and no other. An application's table
// may have triggers besides, which are not to take this for a new row.
func upsertOf(p usertable.Plan, users table) statement {
	names, row, sets := quote(p.Key), "(?", []string(nil)
	for _, c := range p.Columns {
		name := quote(c.Name)
		names, row = names+", "+name, row+", "+users.given(c, "?", name)
		sets = append(sets, name+" = VALUES("+name+")")
	}
	if p.DeletedAt != "" {
		name := quote(p.DeletedAt)
		names, row = names+", "+name, row+", ?"
		sets = append(sets, name+" = VALUES("+name+")")
	}
	return rowsOf("INSERT INTO "+quote(p.Table)+" ("+names+") VALUES ", row+")", " ON DUPLICATE KEY UPDATE "+strings.Join(sets, ", "))
}

// given returns value, or for a column that takes no null and has a default,
// that default instead of null. name is the column's in the statement.
func (t table) given(c usertable.Column, value, name string) string {
	if at, _ := t.column(c.Name); at.nullable || c.Required {
		return value
	}
	return "COALESCE(" + value + ", DEFAULT(" + name + "))"
}

// samples returns each statement that the policy needs, with one row.
func (s statements) samples(policy usertable.Deletion) []string {
	list := []statement{s.reserve, s.lock, s.advance, s.present, s.update, s.insert}
	if policy == usertable.DeletionHard || policy == usertable.DeletionAuto {
		list = append(list, s.remove)
	}
	if policy == usertable.DeletionSoft {
		list = append(list, s.mark)
	}
	texts := make([]string, len(list))
	for i, t := range list {
		texts[i] = t.text(1)
	}
	return texts
}

// split calls run with as many of rows as fit into one statement of at most
// packet bytes, until all are done.
func (t statement) split(rows [][]any, packet int, run func(text string, args []any) error) error {
	// One byte of a packet is the command.
	frame, limit := len(t.head)+len(t.first)+len(t.tail)+1, min(packet, maxStatement)
	for len(rows) > 0 {
		count, args := 0, []any(nil)
		for size := frame; count < len(rows); count++ {
			size += len(t.more) + length(rows[count])
			if count == 0 && size > packet {
				return sinks.Permanent(sinks.ReasonTooLarge, errors.New("the user takes more than the server's max_allowed_packet"))
			}
			if count > 0 && size > limit || t.most > 0 && count == t.most {
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

// quote returns name as an identifier, whatever the sql_mode.
func quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }
