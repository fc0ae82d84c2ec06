package runner

import (
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// item is one record on its way to the sink.
type item struct {
	record   sinks.Record
	raw      *kgo.Record // nil: an erasure owed that comes as no record
	occurred int64       // Unix milliseconds; 0: not known
	snapshot bool

	fate     fate
	result   sinks.Result // of an applied item
	problem  sinks.Error  // why an item was given up
	attempts int          // failed calls of it
}

// fate is what became of an item.
type fate int

const (
	pending    fate = iota
	superseded      // a later record, an erasure or the destination had the word
	applied         // the destination has it, or has erased it
	dead            // given up: to the dead letters
	parked          // an erasure given up for now: it stays owed
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

// plan says what is to be applied, in rounds: no round has two records of one
// user, and each is applied before the next begins. There is one round unless
// the sink wants every change.
func (p *processor) plan(items []*item) [][]*item {
	kept := p.fence(items)
	if !p.facts.EveryChange {
		return [][]*item{fold(kept)}
	}
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

// fence leaves out what an erasure supersedes: the changes that are not newer
// than an erasure that is owed, was paid, or stands before them.
func (p *processor) fence(items []*item) []*item {
	kept := make([]*item, 0, len(items))
	erased := map[string]schemas.Version{}
	for _, it := range items {
		if it.fate != pending {
			continue
		}
		id := it.record.ClerkID
		known := p.partitions[it.record.Source.Partition]
		if it.record.Erase() {
			it.absorb(known.debts[id])
			erased[id] = it.record.Rank()
		}
		barrier, fenced := erased[id]
		if !fenced {
			barrier, fenced = known.erased[id]
		}
		if !it.record.Erase() && fenced && it.record.Version.Compare(barrier) <= 0 {
			it.fate = superseded
			continue
		}
		kept = append(kept, it)
	}
	return kept
}

// absorb makes a tombstone pay also a debt that asks for more: the user is
// gone either way.
func (it *item) absorb(d *debt) {
	if d != nil && versionOf(d.erasure).Compare(it.record.Version) > 0 {
		it.record.Version, it.record.Erasure = versionOf(d.erasure), &d.erasure
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
