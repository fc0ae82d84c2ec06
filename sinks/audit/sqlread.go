package audit

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
)

// chains goes from one to the next by the key: DISTINCT would read every row.
func (s *sqlStore) chains(ctx context.Context) (chains []string, err error) {
	next := "SELECT chain FROM " + s.names.log + " WHERE chain > " + s.placeholder(1) + " ORDER BY chain LIMIT 1"
	for found := []string{""}; len(found) > 0; chains = append(chains, found...) {
		if found, err = s.list(ctx, next, found[0]); err != nil {
			return nil, err
		}
	}
	return chains, nil
}

func (s *sqlStore) usersQuery() string {
	return fmt.Sprintf("SELECT DISTINCT clerk_id FROM %s WHERE clerk_id > %s ORDER BY clerk_id LIMIT %s",
		s.names.client, s.placeholder(1), s.placeholder(2))
}

func (s *sqlStore) users(ctx context.Context, after string, limit int) ([]string, error) {
	return s.list(ctx, s.usersQuery(), after, limit)
}

func (s *sqlStore) holds(ctx context.Context, clerkID string) (bool, error) {
	found, err := s.list(ctx, "SELECT clerk_id FROM "+s.names.client+" WHERE clerk_id = "+s.placeholder(1)+" LIMIT 1", clerkID)
	return len(found) > 0, err
}

func (s *sqlStore) list(ctx context.Context, query string, args ...any) (list []string, err error) {
	err = each(ctx, s.db, query, args, func(rows *sql.Rows) error {
		var item string
		err := rows.Scan(&item)
		list = append(list, item)
		return err
	})
	return list, err
}

func (s *sqlStore) rowsQuery() string {
	return fmt.Sprintf("SELECT l.%s, c.client_hash, c.entry, c.clerk_id, c.salt, c.client_ip, c.user_agent FROM %s AS l"+
		" LEFT JOIN %s AS c ON c.client_hash = l.client_hash WHERE l.chain = %s AND l.seq > %s ORDER BY l.seq LIMIT %s",
		strings.Join(columnNames(), ", l."), s.names.log, s.names.client, s.placeholder(1), s.placeholder(2), s.placeholder(3))
}

func (s *sqlStore) rows(ctx context.Context, chain string, after int64, limit int) (found []stored, err error) {
	err = each(ctx, s.db, s.rowsQuery(), []any{chain, after, limit}, func(rows *sql.Rows) error {
		var row stored
		var hash, entry, clerkID, salt *string
		var c client
		targets := make([]any, 0, len(columns)+6)
		for _, column := range columns {
			field := column.field(&row.Row)
			if column.kind == moment {
				field = scanned{field}
			}
			targets = append(targets, field)
		}
		if err := rows.Scan(append(targets, &hash, &entry, &clerkID, &salt, &c.ip, &c.userAgent)...); err != nil {
			return err
		}
		if hash != nil {
			c.hash, c.entry, c.clerkID, c.salt = *hash, *entry, *clerkID, *salt
			row.client = &c
		}
		found = append(found, row)
		return nil
	})
	return found, err
}

// momentLayout is ISO 8601 with milliseconds, in UTC: how SQLite keeps times.
const momentLayout = "2006-01-02T15:04:05.000Z"

// scanned takes a moment out of a column, into an *int64 or **int64. One that
// this package could not have written is -1, so that its row's hash is wrong.
type scanned struct{ into any }

func (m scanned) Scan(value any) error {
	millis := int64(-1)
	switch v := value.(type) {
	case nil:
		if into, ok := m.into.(**int64); ok {
			*into = nil
			return nil
		}
	case time.Time:
		if v.Nanosecond()%int(time.Millisecond) == 0 {
			millis = v.UnixMilli()
		}
	case string:
		if t, err := time.Parse(momentLayout, v); err == nil && t.Format(momentLayout) == v {
			millis = t.UnixMilli()
		}
	}
	switch into := m.into.(type) {
	case *int64:
		*into = millis
	case **int64:
		*into = &millis
	}
	return nil
}
