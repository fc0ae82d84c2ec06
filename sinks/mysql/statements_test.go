package mysql_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"clerkconnect/sinks/mysql"
)

// TestStatements_UseIndexes has the server plan statements over tables of some
// hundred rows, whose columns have other character sets and collations than
// the connection.
func TestStatements_UseIndexes(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"VARCHAR(255)", "VARCHAR(64) CHARACTER SET latin1", "VARCHAR(255) COLLATE utf8mb4_unicode_ci", "VARBINARY(64)"} {
		s := newServer(t)
		s.exec(t, strings.Replace(articleTable, "clerk_id VARCHAR(255)", "clerk_id "+kind, 1))
		s.exec(t, "CREATE TABLE orders (u INT, FOREIGN KEY (u) REFERENCES users (id))")
		s.exec(t, "CREATE TABLE posts (author "+kind+", KEY (author)) DEFAULT CHARSET utf8mb4")
		s.exec(t, "INSERT INTO users (clerk_id, email) WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 900) SELECT concat('user_', i), i FROM n")
		s.exec(t, "INSERT INTO orders SELECT id FROM users")
		s.exec(t, "INSERT INTO posts SELECT clerk_id FROM users")
		s.exec(t, "ANALYZE TABLE users, orders, posts")
		cfg := s.with(articleSettings())
		cfg.References = []string{"posts.author"}
		update, referring, err := open(t, cfg).Updates(t.Context(), 50)
		if err != nil || len(referring) != 2 {
			t.Fatalf("statements: got %d, %v", len(referring), err)
		}
		for _, statement := range append(referring, update) {
			args := make([]any, strings.Count(statement, "?"))
			for i := range args {
				args[i] = fmt.Sprint("user_", i)
			}
			s.named(t, "EXPLAIN "+statement, func(names []string, values []any) {
				table, access := values[slices.Index(names, "table")], values[slices.Index(names, "type")]
				if name := fmt.Sprintf("%s", table); name != "<nil>" && !strings.HasPrefix(name, "<") && fmt.Sprintf("%s", access) == "ALL" {
					t.Errorf("%s: the whole table %s is read by %.90s", kind, name, statement)
				}
			}, args...)
		}
	}
}

// TestIdentifiers reads expressions as the catalogues of both servers show
// them.
func TestIdentifiers(t *testing.T) {
	t.Parallel()
	for expression, want := range map[string]string{
		"case when `deleted_at` is null then `email` end":                 "deleted_at email",
		"if(`state` = 'it\\'s `not`' and `b` > 1,`email`,NULL)":           "state b email",
		`if((` + "`state`" + ` = _utf8mb4\'on\'),` + "`email`" + `,NULL)`: "state email",
		"lower(`email`)": "email",
		"1":              "",
		"`open":          "open",
	} {
		if got := strings.Join(mysql.Identifiers(expression), " "); got != want {
			t.Errorf("%s: got %q, want %q", expression, got, want)
		}
	}
}
