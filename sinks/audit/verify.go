package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Problem is a kind of [Finding].
type Problem string

// The problems that verification finds.
const (
	ProblemMissing   Problem = "missing"   // rows are not there
	ProblemEdited    Problem = "edited"    // a row is not what was hashed
	ProblemMoved     Problem = "moved"     // a row does not follow the one before it
	ProblemTruncated Problem = "truncated" // a chain ends before a head that was kept
	ProblemReplaced  Problem = "replaced"  // a row is another one than a head that was kept
	ProblemClient    Problem = "client"    // client data are not what was hashed
)

// Finding is one thing that is wrong with a log. It names places, never what
// stands there.
type Finding struct {
	Chain   string  `json:"chain"`
	Seq     int64   `json:"seq"`          // of the row, or the first of several
	To      int64   `json:"to,omitempty"` // last of several
	Problem Problem `json:"problem"`
	Text    string  `json:"text"` // for people
}

// Report is what a verification comes to.
type Report struct {
	Intact bool   `json:"intact"`
	Rows   int64  `json:"rows"`
	Heads  []Head `json:"heads"` // ends of the chains, ascending by name
	// ClientsRemoved is how many rows had client data that are gone: by
	// erasures, or because they were kept long enough.
	ClientsRemoved int64 `json:"clients_removed"`
	Findings       int64 `json:"-"`
}

// VerifyOptions say how to verify. The zero value verifies in silence.
type VerifyOptions struct {
	// Expect are heads that were kept elsewhere: each must still be a row.
	Expect []Head
	// Found is called for each finding, in the order of chains and rows.
	Found func(Finding)
	// Progress is called now and then with the chain at hand and all rows so
	// far.
	Progress func(chain string, rows int64)
}

// Log reads an audit log. It writes nothing. Safe for concurrent use.
type Log struct{ store store }

// OpenLog connects to the log that cfg names. Its errors are classified as a
// sink's are.
func OpenLog(ctx context.Context, cfg Config) (*Log, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	store, err := newStore(cfg)
	if err != nil {
		return nil, err
	}
	if err := store.connect(ctx, false); err != nil {
		return nil, errors.Join(store.classify("connect", err), store.close())
	}
	return &Log{store}, nil
}

// Close ends the connections.
func (l *Log) Close() error {
	if err := l.store.close(); err != nil {
		return l.store.classify("close", err)
	}
	return nil
}

// Heads returns the last row of each chain, ascending by name.
func (l *Log) Heads(ctx context.Context) ([]Head, error) {
	chains, err := l.store.chains(ctx)
	if err != nil {
		return nil, l.store.classify("list chains", err)
	}
	heads, err := l.store.heads(ctx, chains)
	if err != nil {
		return nil, l.store.classify("read heads", err)
	}
	list := make([]Head, 0, len(heads))
	for _, chain := range slices.Sorted(maps.Keys(heads)) {
		list = append(list, heads[chain])
	}
	return list, nil
}

// page is how many rows are read at once.
const page = 1000

// Verify reads the whole log. Rows that are appended meanwhile may be in it.
func (l *Log) Verify(ctx context.Context, options VerifyOptions) (Report, error) {
	if options.Found == nil {
		options.Found = func(Finding) {}
	}
	if options.Progress == nil {
		options.Progress = func(string, int64) {}
	}
	report := Report{Heads: []Head{}}
	chains, err := l.store.chains(ctx)
	if err != nil {
		return report, l.store.classify("list chains", err)
	}
	expected := map[string][]Head{}
	for _, head := range options.Expect {
		expected[head.Chain] = append(expected[head.Chain], head)
		chains = append(chains, head.Chain)
	}
	slices.Sort(chains)
	for _, chain := range slices.Compact(chains) {
		c := checker{report: &report, options: options, last: Head{Chain: chain, Hash: genesis}, after: math.MinInt64, expected: expected[chain]}
		if err := c.read(ctx, l.store); err != nil {
			return report, l.store.classify("read rows", err)
		}
		c.end()
	}
	report.Intact = report.Findings == 0
	return report, nil
}

// checker goes through one chain.
type checker struct {
	report   *Report
	options  VerifyOptions
	last     Head   // as it stands in the log
	after    int64  // seq of the row that was read last
	expected []Head // that were not met yet
}

func (c *checker) read(ctx context.Context, from store) error {
	for {
		rows, err := from.rows(ctx, c.last.Chain, c.after, page)
		if err != nil {
			return err
		}
		for i := range rows {
			c.check(&rows[i])
		}
		c.options.Progress(c.last.Chain, c.report.Rows)
		if len(rows) < page {
			return nil
		}
	}
}

func (c *checker) found(problem Problem, from, to int64, format string, args ...any) {
	c.report.Findings++
	c.options.Found(Finding{Chain: c.last.Chain, Seq: from, To: to, Problem: problem, Text: fmt.Sprintf(format, args...)})
}

func (c *checker) check(row *stored) {
	c.report.Rows++
	c.after = row.Seq
	switch next := c.last.Seq + 1; {
	case row.Seq < next:
		c.found(ProblemMoved, row.Seq, 0, "there is a row %d that has no place", row.Seq)
		return
	case row.Seq == next && row.PrevHash != c.last.Hash:
		c.found(ProblemMoved, row.Seq, 0, "row %d does not follow row %d: one of them was replaced", row.Seq, row.Seq-1)
	case row.Seq == next+1:
		c.found(ProblemMissing, next, 0, "row %d is missing", next)
	case row.Seq > next:
		c.found(ProblemMissing, next, row.Seq-1, "rows %d to %d are missing", next, row.Seq-1)
	}
	switch {
	case row.Format != Format:
		c.found(ProblemEdited, row.Seq, 0, "row %d has format %d: this program knows %d", row.Seq, row.Format, Format)
	case row.Digest() != row.Hash:
		c.found(ProblemEdited, row.Seq, 0, "row %d was edited: it is not what was hashed", row.Seq)
	}
	switch {
	case row.ClientHash == nil:
	case row.client == nil:
		c.report.ClientsRemoved++
	case row.client.digest() != *row.ClientHash || row.client.entry != row.Entry || row.client.clerkID != row.ClerkID:
		c.found(ProblemClient, row.Seq, 0, "client data of row %d were altered", row.Seq)
	}
	c.last.Seq, c.last.Hash = row.Seq, row.Hash
	c.expected = slices.DeleteFunc(c.expected, func(head Head) bool {
		if head.Seq == row.Seq && head.Hash != row.Hash {
			c.found(ProblemReplaced, row.Seq, 0, "row %d is not the one that was expected", row.Seq)
		}
		return head.Seq == row.Seq
	})
}

// end reports what was expected and did not come.
func (c *checker) end() {
	for _, head := range c.expected {
		if head.Seq > c.last.Seq {
			c.found(ProblemTruncated, head.Seq, 0, "the chain ends at row %d, row %d was expected", c.last.Seq, head.Seq)
		} else {
			c.found(ProblemMissing, head.Seq, 0, "row %d was expected and is missing", head.Seq)
		}
	}
	if c.last.Seq > 0 {
		c.report.Heads = append(c.report.Heads, c.last)
	}
}
