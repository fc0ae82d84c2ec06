package audit

import (
	"context"

	"clerkconnect/schemas"
)

// store is a database of the log. Safe for concurrent use after connect.
type store interface {
	// connect makes the connections. creating: a file may be made for it.
	connect(ctx context.Context, creating bool) error
	close() error
	// create makes what is not there, and protects it; see [Sink.Init].
	create(ctx context.Context) error
	// script is what create does, for a person.
	script() string
	// ready finds what a person must mend.
	ready(ctx context.Context) error
	// within does work on the log, all of it or nothing if the database can.
	within(ctx context.Context, work func(context.Context, session) error) error
	// classify marks an error, and takes out of it what holds data.
	classify(operation string, err error) error

	// chains lists the chains that have a row.
	chains(ctx context.Context) ([]string, error)
	// rows returns the next rows of a chain, with their client data.
	rows(ctx context.Context, chain string, after int64, limit int) ([]stored, error)
	// heads returns the last row of each chain that has one.
	heads(ctx context.Context, chains []string) (map[string]Head, error)
	// users lists those of whom there are client data, as [sinks.Lister] does.
	users(ctx context.Context, after string, limit int) ([]string, error)
	// holds reports whether there are client data of a user.
	holds(ctx context.Context, clerkID string) (bool, error)
}

// session is a look at the log, with the means to append to it. What it reads
// of a chain holds if what it then writes is taken.
type session interface {
	heads(ctx context.Context, chains []string) (map[string]Head, error)
	// known returns which of the entries are in the log.
	known(ctx context.Context, entries []string) (map[string]bool, error)
	// erasures returns the highest rank of those users' erasures, by Clerk ID.
	erasures(ctx context.Context, ids []string) (map[string]schemas.Version, error)
	// latest returns the highest version of those users' changes, by Clerk ID.
	latest(ctx context.Context, ids []string) (map[string]schemas.Version, error)
	// insert appends rows, each behind its predecessor, with client data. It
	// is refused if a place is taken.
	insert(ctx context.Context, rows []Row, clients []*client) error
	// forget removes client data.
	forget(ctx context.Context, erased []bound) error
}

// bound is whose client data an erasure removes: up to a version.
type bound struct {
	clerkID string
	upTo    schemas.Version
}

// stored is a row as it was read.
type stored struct {
	Row
	client *client // nil: nothing there
}

// Head is the last row of a chain, or any row of it that was the last once.
type Head struct {
	Chain string `json:"chain"`
	Seq   int64  `json:"seq"`
	Hash  string `json:"hash"`
}
