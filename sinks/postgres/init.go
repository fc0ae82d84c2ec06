package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"clerkconnect/sinks"
	"clerkconnect/sinks/usertable"
)

// steps returns what Init makes.
func (s *Sink) steps() []usertable.Step {
	steps := s.plan.Steps(usertable.Dialect{
		Quote: usertable.Quote, Qualify: s.qualify, Key: "text", Types: types,
		Epoch: "integer", Version: "bigint", Deleted: "boolean",
		View: "CREATE OR REPLACE VIEW", Index: "INDEX IF NOT EXISTS",
		Week: "date_trunc('week', $ AT TIME ZONE 'UTC')::date",
	})
	index := s.plan.Table + "_" + s.plan.Key + "_bytes_idx"
	return append(steps, usertable.Step{
		Comment: "A table of millions of users wants this one, where the collation of the database is not C, for the walks that compare it with the topic.",
		Name:    index, Advice: true,
		Statement: "CREATE INDEX IF NOT EXISTS " + usertable.Quote(index) + " ON " + s.names.users + " (" + usertable.Quote(s.plan.Key) + ` COLLATE "C")`,
	})
}

// InitScript implements [sinks.Initializer]: a script for psql.
func (s *Sink) InitScript() string {
	return usertable.Script("For psql. It may run twice; what is there stays as it is.", s.steps())
}

// Init implements [sinks.Initializer].
func (s *Sink) Init(ctx context.Context) error {
	pool, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	return s.create(ctx, pool, true)
}

// create creates what is not there. Where the users table is, it stays as it
// is unless all is asked for: an index on a table of millions takes its time.
func (s *Sink) create(ctx context.Context, pool *pgxpool.Pool, all bool) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// Two that start together would trip over each other.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext($1))", s.names.users); err != nil {
			return err
		}
		users, err := s.there(ctx, tx, s.plan.Table)
		if err != nil {
			return err
		}
		if !users && strings.Contains(s.plan.Table, ".") { // made, it would hardly be what was meant
			return sinks.Fatal(sinks.ReasonMisconfigured, errors.New(s.absent(s.names.users)))
		}
		if s.plan.Mapped && !users && !all {
			return nil // Open says so
		}
		for _, step := range s.steps() {
			if step.Advice || users && !all && step.Name != s.plan.Versions {
				continue
			}
			// PostgreSQL asks for the right to create even where IF NOT EXISTS
			// has nothing to do.
			there, err := s.there(ctx, tx, step.Name)
			if err != nil {
				return err
			}
			if there {
				continue
			}
			if _, err := tx.Exec(ctx, step.Statement); err != nil {
				return s.notCreated(step.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return classify("create what is not there", 0, err)
	}
	return nil
}

// notCreated says of a missing right what it is a right to.
func (s *Sink) notCreated(name string, err error) error {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || refused.Code != "42501" {
		return err
	}
	return sinks.Fatal(sinks.ReasonUnauthorized, fmt.Errorf("the role may not create %s: GRANT CREATE ON SCHEMA %s, and for an index make it the table's owner; or let the owner run what sink init --dry-run prints",
		s.qualify(name), usertable.Quote(s.cfg.Schema)))
}

// there reports whether the schema has a table, index or view of that name.
func (s *Sink) there(ctx context.Context, tx pgx.Tx, name string) (there bool, err error) {
	err = tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2)",
		s.cfg.Schema, name).Scan(&there)
	return there, err
}
