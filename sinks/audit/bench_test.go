package audit

import (
	"testing"
	"time"

	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
)

// BenchmarkApply measures how many changes a second are logged, each with
// client data, of users who are new to the log and of users who are not.
// times-plain is how often the time of plain INSERTs of the same rows, of a
// hundred each, goes into it: a table of the same columns and keys, without
// triggers, chains, and client data.
func BenchmarkApply(b *testing.B) {
	for _, database := range databases[:4] {
		b.Run(database.name, func(b *testing.B) {
			sinktest.Benchmark(b, func(b *testing.B) sinktest.Bench {
				bed := database.bed(b)
				return sinktest.Bench{Sink: bed.open(b), Plain: bed.plain(b)}
			})
		})
	}
}

// plain returns what inserts the rows of a batch into a table beside the log.
func (b bed) plain(t testing.TB) func(batch []sinks.Record) time.Duration {
	cfg := b.cfg
	cfg.Table = "plain"
	store, err := newStore(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.connect(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.close() })
	switch s := store.(type) {
	case *sqlStore:
		_, err = s.db.Exec(s.steps(s.names)[0])
	case *mongoStore:
		err = s.log.Database().CreateCollection(t.Context(), "plain")
		s.transactions = false
		if err == nil {
			err = s.create(t.Context())
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	seq := int64(0)
	return func(batch []sinks.Record) time.Duration {
		var rows []Row
		for _, r := range batch {
			row := newEntry(r).rows[0]
			seq++
			row.Seq, row.PrevHash, row.Hash, row.RecordedAt = seq, genesis, genesis, 1_700_000_000_000
			rows = append(rows, row)
		}
		start := time.Now()
		var err error
		switch s := store.(type) {
		case *sqlStore:
			tx, begin := s.db.Begin()
			if begin != nil {
				t.Fatal(begin)
			}
			if err = (&sqlSession{sqlStore: s, tx: tx}).insert(t.Context(), rows, nil); err == nil {
				err = tx.Commit()
			}
		case *mongoStore:
			err = (&mongoSession{s}).insert(t.Context(), rows, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
}
