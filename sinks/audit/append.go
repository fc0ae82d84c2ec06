package audit

import (
	"context"
	"maps"
	"math"
	"slices"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// lastEpoch is that of an erasure which nothing outranks; see [sinks.Record.Rank].
const lastEpoch = math.MaxInt32

// reasonKept is what the receipt of an erasure says.
const reasonKept = "the log keeps that it happened, under the Clerk ID, and nothing else of the user"

// entry is one record of a batch on its way into the log.
type entry struct {
	record sinks.Record
	held   values // of a change
	rows   []Row

	superseded bool
	state      []byte          // to remember, nil: nothing
	outcome    schemas.Outcome // of an erasure
}

func newEntry(r sinks.Record) *entry {
	e := &entry{record: r}
	if r.Change != nil {
		e.held = valuesOf(&r.Change.User)
	}
	e.rows = rowsOf(r, e.held)
	return e
}

// report tells the runner what became of the record.
func (e *entry) report() {
	switch {
	case e.superseded:
		e.record.Superseded()
	case e.outcome == schemas.OutcomeAnonymized:
		e.record.ErasedBecause(e.outcome, reasonKept)
	case e.outcome != "":
		e.record.Erased(e.outcome)
	}
	if e.state != nil {
		e.record.Remember(e.state)
	}
}

// view is what the log says that matters to a batch.
type view struct {
	heads    map[string]Head
	known    map[string]bool
	erasures map[string]schemas.Version // highest rank, by user
	latest   map[string]schemas.Version // of changes, of users who are to be erased
}

// addition is what a batch adds to the log.
type addition struct {
	now     time.Time
	rows    []Row
	clients []*client
	erased  []bound
}

// paused is where a process may be paused, for tests: behind the first thing that
// it reads of the log, or with all of it read and nothing written.
type paused struct{ looked bool }

// look reads what matters to the entries.
func (s *Sink) look(ctx context.Context, log session, entries []*entry) (v view, err error) {
	chains, keys, changing, erasing := map[string]bool{}, []string{}, map[string]bool{}, map[string]bool{}
	for _, e := range entries {
		for _, row := range e.rows {
			chains[row.Chain] = true
			keys = append(keys, row.Entry)
		}
		switch {
		case e.record.Receipt != nil:
		case e.record.Erase():
			erasing[e.rows[0].ClerkID], changing[e.rows[0].ClerkID] = true, true
		default:
			changing[e.rows[0].ClerkID] = true
		}
	}
	sorted := func(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }
	// The ends first: what is read after them is at least as new, and if it is
	// newer, the place behind the end is taken.
	if v.heads, err = log.heads(ctx, sorted(chains)); err != nil {
		return v, err
	}
	s.between(paused{})
	if v.known, err = log.known(ctx, keys); err != nil {
		return v, err
	}
	if v.erasures, err = log.erasures(ctx, sorted(changing)); err != nil {
		return v, err
	}
	v.latest, err = log.latest(ctx, sorted(erasing))
	return v, err
}

// settle decides what e comes to, and takes it into v and a.
func (v *view) settle(e *entry, a *addition) {
	first := e.rows[0]
	id, rank := first.ClerkID, first.rank()
	covered := v.erased(id) && rank.Compare(v.erasures[id]) <= 0
	switch {
	case e.record.Receipt != nil:
	case e.record.Erase():
		latest, live := v.latest[id]
		e.superseded = live && latest.Compare(rank) > 0 && (!v.erased(id) || latest.Compare(v.erasures[id]) > 0)
		if !e.superseded {
			e.outcome = schemas.OutcomeNotPresent
			if live {
				e.outcome = schemas.OutcomeAnonymized
			}
		}
		a.erased = append(a.erased, bound{id, rank})
		if !covered {
			v.erasures[id] = rank
		}
	default:
		// A user who is erased is not remembered, and nothing of his clients is
		// kept; that it happened is.
		e.superseded = covered || v.known[first.Entry]
		if !covered {
			e.state = e.held.remember()
		}
		if rank.Compare(v.latest[id]) > 0 {
			v.latest[id] = rank
		}
	}
	for _, row := range e.rows {
		if v.known[row.Entry] {
			continue
		}
		v.known[row.Entry] = true
		if c := e.record.Change; c != nil && !covered && (c.ClientIP != nil || c.UserAgent != nil) {
			client := newClient(row, cleaned(c.ClientIP), cleaned(c.UserAgent))
			row.ClientHash = &client.hash
			a.clients = append(a.clients, client)
		}
		a.rows = append(a.rows, v.chain(row, a.now))
	}
}

func (v *view) erased(id string) bool { _, ok := v.erasures[id]; return ok }

// chain gives a row its place.
func (v *view) chain(row Row, now time.Time) Row {
	head, ok := v.heads[row.Chain]
	if !ok {
		head.Hash = genesis
	}
	row.Seq, row.PrevHash, row.RecordedAt = head.Seq+1, head.Hash, now.UnixMilli()
	row.Hash = row.Digest()
	v.heads[row.Chain] = Head{Chain: row.Chain, Seq: row.Seq, Hash: row.Hash}
	return row
}

// maxClient is how much of a user agent is kept, in bytes: a client may send as
// much as it likes.
const maxClient = 2 << 10

func cleaned(s *string) *string {
	if s == nil {
		return nil
	}
	return said((*s)[:min(len(*s), maxClient)]) // half a character is replaced
}

// write appends a batch, and returns where the chains end then.
func (s *Sink) write(ctx context.Context, log session, entries []*entry) (map[string]Head, error) {
	v, err := s.look(ctx, log, entries)
	if err != nil {
		return nil, err
	}
	for chain, written := range s.written {
		if written.Seq > v.heads[chain].Seq {
			v.heads[chain] = written // what was cut off leaves a gap
		}
	}
	addition := addition{now: s.now()}
	for _, e := range entries {
		v.settle(e, &addition)
	}
	s.between(paused{looked: true})
	if len(addition.rows) > 0 {
		if err := log.insert(ctx, addition.rows, addition.clients); err != nil {
			return nil, err
		}
	}
	if len(addition.erased) > 0 {
		if err := log.forget(ctx, addition.erased); err != nil {
			return nil, err
		}
	}
	return v.heads, nil
}
