package sinktest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

const maxBatch = 20

var errOutage = errors.New("outage")

// destination is what a mutant writes to: rows by the Go names of their
// fields.
type destination struct {
	mu      sync.Mutex
	rows    map[string]map[string]any
	aliases map[string]*schemas.User
	kept    map[string]bool // whose row an erasure has left
	guards  map[string]sinks.Guard
	archive []string
	down    bool
}

// mutant is a right sink with places at which it can be made wrong.
type mutant struct {
	d      *destination
	guards map[string]sinks.Guard // the destination's
	kind   string

	advance func(sinks.Guard, sinks.Record) (sinks.Guard, bool)
	write   func(old, new map[string]any) map[string]any
	erase   func(d *destination, id string)
	outcome func(held bool) schemas.Outcome
	apply   func(m *mutant, ctx context.Context, batch []sinks.Record) error
	refuse  func(*schemas.User) bool
	poison  func(i int, quote string) error // what Apply returns of it; nil function: names it
	outage  error
	keys    func(all []string, after string, limit int) []string
	confirm func(gone bool) bool

	ownGuards, racy, uniqueEmail, alias, silent, deaf, advanceFirst, listsErased, keeps      bool
	closesOnce, closesOpenOnly, opensOnce, swallowsClosed, capabilitiesChange, open, tripped bool
}

func harnessOf(defect func(*mutant)) Harness {
	return Harness{New: func(testing.TB) Destination {
		d := &destination{rows: map[string]map[string]any{}, aliases: map[string]*schemas.User{}, kept: map[string]bool{}, guards: map[string]sinks.Guard{}}
		return Destination{
			Sink:  func(testing.TB) sinks.Sink { return newMutant(d, defect) },
			Read:  func(_ testing.TB, ids ...string) map[string]Row { return d.read(ids) },
			Dump:  func(testing.TB) []byte { return fmt.Append(nil, d.rows, d.guards, d.archive) },
			Break: func(testing.TB) func() { d.setDown(true); return func() { d.setDown(false) } },
			Poison: func(u *schemas.User) {
				poison := "poison"
				u.Locale = &poison
			},
		}
	}}
}

func newMutant(d *destination, defect func(*mutant)) *mutant {
	m := &mutant{
		d: d, kind: "mutant",
		advance: sinks.Guard.Advance,
		write:   func(_, new map[string]any) map[string]any { return new },
		erase:   func(d *destination, id string) { delete(d.rows, id) },
		outcome: func(held bool) schemas.Outcome {
			if held {
				return schemas.OutcomeDeleted
			}
			return schemas.OutcomeNotPresent
		},
		apply:   (*mutant).applyAll,
		refuse:  func(*schemas.User) bool { return false },
		outage:  sinks.RetryAfter(sinks.ReasonUnavailable, 0, errOutage),
		keys:    sortedPage,
		confirm: func(gone bool) bool { return gone },
	}
	defect(m)
	m.guards = d.guards
	if m.ownGuards {
		m.guards = map[string]sinks.Guard{}
	}
	return m
}

func (d *destination) setDown(down bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = down
}

func (d *destination) read(ids []string) map[string]Row {
	d.mu.Lock()
	defer d.mu.Unlock()
	rows := map[string]Row{}
	for _, id := range ids {
		if row, held := d.rows[id]; held {
			text, err := json.Marshal(row)
			if err != nil {
				panic(err)
			}
			var u schemas.User
			if err := json.Unmarshal(text, &u); err != nil {
				panic(err)
			}
			if alias := d.aliases[id]; alias != nil {
				u = *alias
			}
			rows[id] = RowOf(&u)
		}
	}
	return rows
}

func (m *mutant) Capabilities() sinks.Capabilities {
	kind := m.kind
	if m.capabilitiesChange && m.tripped {
		kind = "changed"
	}
	return sinks.Capabilities{Kind: kind, MaxBatch: maxBatch, MaxInFlight: 3}
}

func (m *mutant) Open(ctx context.Context) error {
	if m.opensOnce && m.tripped {
		return sinks.Fatal(sinks.ReasonMisconfigured, errors.New("opened before"))
	}
	m.tripped = true
	if err := ctx.Err(); err != nil {
		return err
	}
	m.open = true
	return nil
}

func (m *mutant) Close() error {
	if m.closesOnce && m.tripped && !m.open || m.closesOpenOnly && !m.tripped {
		return errors.New("not open")
	}
	m.open = false
	return nil
}

func (m *mutant) Apply(ctx context.Context, batch []sinks.Record) error {
	switch {
	case !m.open && m.swallowsClosed:
		return nil
	case !m.open:
		return errors.New("not open")
	}
	if err := ctx.Err(); err != nil && !m.deaf {
		return err
	}
	return m.apply(m, ctx, batch)
}

func (m *mutant) applyAll(_ context.Context, batch []sinks.Record) error {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if m.d.down {
		return m.outage
	}
	var failed sinks.BatchError
	for i, r := range batch {
		if r.Erase() || !has(r.Change.User.Locale, "poison") && !m.refuse(&r.Change.User) && !m.emailTaken(r) {
			continue
		}
		if m.advanceFirst {
			m.guards[r.ClerkID] = sinks.Guard{Rank: schemas.Version{Epoch: r.Version.Epoch, Number: r.Version.Number + 1}}
		}
		if m.poison != nil {
			return m.poison(i, *r.Change.User.FirstName)
		}
		failed.Fail(i, sinks.Permanent(sinks.ReasonInvalidRecord, errors.New("refused")))
	}
	for i, r := range batch {
		if failed.Failed(i) == nil {
			m.applyOne(r)
		}
	}
	return failed.Err()
}

func (m *mutant) emailTaken(r sinks.Record) bool {
	for id, row := range m.d.rows {
		email := r.Change.User.PrimaryEmailAddress
		if m.uniqueEmail && id != r.ClerkID && email != nil && row["PrimaryEmailAddress"] == *email {
			return true
		}
	}
	return false
}

func (m *mutant) applyOne(r sinks.Record) {
	guard, moved := m.advance(m.guards[r.ClerkID], r)
	if m.racy {
		m.d.mu.Unlock()
		time.Sleep(50 * time.Microsecond)
		m.d.mu.Lock()
	}
	if !moved {
		if !m.silent {
			r.Superseded()
		}
		return
	}
	m.guards[r.ClerkID] = guard
	if r.Erase() {
		_, held := m.d.rows[r.ClerkID]
		m.d.kept[r.ClerkID] = m.keeps && (held || m.d.kept[r.ClerkID])
		r.Erased(m.outcome(held || m.d.kept[r.ClerkID]))
		m.erase(m.d, r.ClerkID)
		return
	}
	text, err := json.Marshal(r.Change.User)
	if err != nil {
		panic(err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	row := map[string]any{}
	if err := decoder.Decode(&row); err != nil {
		panic(err)
	}
	m.d.rows[r.ClerkID] = m.write(m.d.rows[r.ClerkID], row)
	if m.alias {
		m.d.aliases[r.ClerkID] = &r.Change.User
	}
}

func (m *mutant) Keys(_ context.Context, after string, limit int) ([]string, error) {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	var all []string
	for id := range m.guards {
		if _, held := m.d.rows[id]; held || m.listsErased {
			all = append(all, id)
		}
	}
	return m.keys(all, after, limit), nil
}

// sortedPage is what Keys must return of all.
func sortedPage(all []string, after string, limit int) []string {
	slices.Sort(all)
	return page(all, after, limit)
}

func page(all []string, after string, limit int) []string {
	all = slices.DeleteFunc(all, func(id string) bool { return id <= after })
	return all[:min(limit, len(all))]
}

func (m *mutant) Confirm(_ context.Context, clerkID string, _ []byte) (bool, error) {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if m.d.down && m.outage != nil {
		return false, m.outage
	}
	_, held := m.d.rows[clerkID]
	return m.confirm(!held), nil
}

func has(s *string, part string) bool { return s != nil && strings.Contains(*s, part) }
