package runner

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/deadletters"
	"clerkconnect/sinks"
)

// item is one record on its way to the sink.
type item struct {
	record   sinks.Record
	raw      *kgo.Record         // nil: an erasure owed that comes as no record
	letter   *deadletters.Letter // that asks for this record once more; nil: none does
	occurred int64               // Unix milliseconds; 0: not known
	since    time.Time           // when an erasure was asked for
	snapshot bool

	fate      fate
	result    sinks.Result // of an applied item
	done      time.Time    // when an erasure was applied
	confirmed time.Time    // when it was read back
	receipt   schemas.Receipt
	due       time.Time   // of the debt that an erasure leaves behind; zero: none
	problem   sinks.Error // why an item was given up
	attempts  int         // failed calls of it

	note         []byte // what the sink wants remembered before the item is applied again
	showsNothing bool   // applied, and sent again in vain: nothing was sent
	toldAlone    bool   // logged as one that fails alone
}

// fate is what became of an item.
type fate int

const (
	pending    fate = iota
	superseded      // a later record, an erasure or the destination had the word
	applied         // the destination has it, or has erased it
	dead            // given up: to the dead letters
	parked          // an erasure given up for now: it stays owed
	held            // an erasure that is not to be done yet
	waived          // an erasure that a person has decided against
)

func (it *item) giveUp(problem sinks.Error, f fate) { it.problem, it.fate = problem, f }

// demand is the erasure that an item asks for.
func (it *item) demand() schemas.Erasure {
	if it.record.Erasure != nil {
		return *it.record.Erasure
	}
	return schemas.Erasure{
		ClerkID: it.record.ClerkID, Epoch: it.record.Version.Epoch, Version: it.record.Version.Number, RequestedAt: it.occurred,
	}
}

// debt is what is left of an erasure that is not done, or not read back.
func (it *item) debt() *debt {
	return &debt{erasure: it.demand(), since: it.since, due: it.due, held: it.fate == held}
}

// plan says what is to be applied, in rounds: no round has two records of one
// user, and each is applied before the next begins. There is one round unless
// the sink wants every change.
func (p *processor) plan(items []*item) [][]*item {
	kept := p.fence(items)
	switch {
	case p.feed:
		return inOrder(kept)
	case !p.facts.EveryChange:
		return [][]*item{p.hold(fold(kept))}
	}
	kept = p.hold(kept)
	var rounds [][]*item
	turns := map[string]int{}
	for _, it := range kept {
		turn := turns[it.record.ClerkID]
		turns[it.record.ClerkID]++
		if turn == len(rounds) {
			rounds = append(rounds, nil)
		}
		rounds[turn] = append(rounds[turn], it)
	}
	return rounds
}

// inOrder begins a round where a user comes a second time.
func inOrder(items []*item) (rounds [][]*item) {
	seen := map[string]bool{}
	for _, it := range items {
		if len(rounds) == 0 || seen[it.record.ClerkID] {
			rounds = append(rounds, nil)
			clear(seen)
		}
		seen[it.record.ClerkID] = true
		rounds[len(rounds)-1] = append(rounds[len(rounds)-1], it)
	}
	return rounds
}

// hold leaves out the erasures that were read and are not to be done yet. One
// is done only by a memory that was read after its time, so that a waiver that
// was written before is in it.
func (p *processor) hold(items []*item) []*item {
	if p.cfg.EraseAfter == 0 {
		return items
	}
	kept := items[:0:0]
	for _, it := range items {
		known := p.partitions[it.record.Source.Partition]
		until := it.since.Add(p.cfg.EraseAfter)
		_, paid := known.paid(it.record)
		if it.record.Erase() && it.raw != nil && !paid && until.After(known.readAt) {
			it.fate, it.due = held, until
		} else {
			kept = append(kept, it)
		}
	}
	return kept
}

// fence leaves out what an erasure supersedes: the changes that are not newer
// than an erasure that is owed, was paid, or stands before them; erasures that
// were waived; and what is older than what was applied. From a sink that wants
// every change no erasure takes one (ahead.go).
func (p *processor) fence(items []*item) []*item {
	kept := make([]*item, 0, len(items))
	erased := map[string]schemas.Version{}
	for _, it := range items {
		id := it.record.ClerkID
		if it.fate == applied && it.record.Erase() {
			erased[id] = it.record.Rank()
		}
		if it.fate != pending {
			continue
		}
		known := p.partitions[it.record.Source.Partition]
		if it.record.Erase() {
			it.absorb(known.debts[id])
		}
		if p.outdatedBy(known, it) {
			it.fate = superseded
			continue
		}
		if it.record.Erase() {
			erased[id] = it.record.Rank()
			if receipt, paid := known.paid(it.record); paid && receipt.WaivedAt != nil {
				it.fate = waived
				continue
			}
		}
		barrier, fenced := erased[id]
		if !fenced {
			barrier, fenced = known.erased.get(id)
		}
		if !it.record.Erase() && fenced && !p.facts.EveryChange && it.record.Version.Compare(barrier) <= 0 {
			it.fate = superseded
			continue
		}
		kept = append(kept, it)
	}
	return kept
}

// outdatedBy reports whether something newer of the user was applied before, as
// far as the sink remembers him: then this is a replay, or a deletion that was
// only inferred and taken back. A sink that wants every change wants it.
func (p *processor) outdatedBy(m *memory, it *item) bool {
	of := m.states.get(it.record.ClerkID)
	return of != nil && !p.facts.EveryChange && it.record.Rank().Compare(of.version) < 0
}

// absorb makes a tombstone pay also a debt that asks for more: the user is
// gone either way.
func (it *item) absorb(d *debt) {
	if d != nil && versionOf(d.erasure).Compare(it.record.Version) > 0 {
		it.record.Version, it.record.Erasure, it.since = versionOf(d.erasure), &d.erasure, d.since
	}
}

// fold leaves the last record of each user. The topic never steps back; a
// change that does is dropped all the same.
func fold(items []*item) []*item {
	last := make(map[string]*item, len(items))
	for _, it := range items {
		earlier := last[it.record.ClerkID]
		switch {
		case earlier == nil:
		case !it.record.Erase() && it.record.Version.Compare(earlier.record.Rank()) <= 0:
			it.fate = superseded
			continue
		default:
			earlier.fate = superseded
		}
		last[it.record.ClerkID] = it
	}
	kept := make([]*item, 0, len(last))
	for _, it := range items {
		if it.fate == pending {
			kept = append(kept, it)
		}
	}
	return kept
}
