package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/usertable"
)

// dialect is how SQLite says what init makes.
func (s *Sink) dialect() usertable.Dialect {
	return usertable.Dialect{
		Quote: usertable.Quote, Qualify: usertable.Quote, Key: "TEXT",
		Types: map[mapping.Kind]string{
			mapping.Text: "TEXT", mapping.JSON: "TEXT", mapping.Part: "TEXT", mapping.Bool: "INTEGER", mapping.Integer: "INTEGER",
			mapping.Time: s.cfg.TimeFormat.columnType(),
		},
		Epoch: "INTEGER", Version: "INTEGER", Deleted: "INTEGER", Side: " WITHOUT ROWID",
		View: "CREATE VIEW IF NOT EXISTS", Index: "INDEX IF NOT EXISTS",
		Week: s.cfg.TimeFormat.week(),
	}
}

// InitScript implements [sinks.Initializer]: a script for the sqlite3 shell.
func (s *Sink) InitScript() string {
	return usertable.Script("For the sqlite3 shell, on the file of PATH. It may run twice; what is there stays as it is.", s.plan.Steps(s.dialect()))
}

// Init implements [sinks.Initializer].
func (s *Sink) Init(ctx context.Context) error {
	db, err := s.connect()
	if err != nil {
		return err
	}
	return errors.Join(s.create(ctx, db), closeDB(db))
}

// create makes what is not there. On a table of ours that lacks columns it makes
// nothing: SQLite would take a column's name in an index for a text.
func (s *Sink) create(ctx context.Context, db *sql.DB) error {
	t, err := readTable(ctx, db, s.plan.Table)
	if err != nil {
		return classify("read the table's columns", err)
	}
	if t.kind != "" && !s.plan.Mapped {
		if problems := s.problems(t); len(problems) > 0 {
			return sinks.Fatal(sinks.ReasonMisconfigured, errors.Join(problems...))
		}
	}
	for _, step := range s.plan.Steps(s.dialect()) {
		if step.Advice {
			continue
		}
		_, err := db.ExecContext(ctx, step.Statement)
		var failure *sqlite.Error
		switch {
		case errors.As(err, &failure) && failure.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE:
			return sinks.Fatal(sinks.ReasonMisconfigured, fmt.Errorf("table %s holds users who share what %s wants unique: set UNIQUE_EMAIL=false", s.cfg.Table, step.Name))
		case err != nil:
			return classify("create "+step.Name, err)
		}
	}
	return nil
}
