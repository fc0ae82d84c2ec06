package runner

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
	"clerkconnect/schemas/deadletters"
)

// letters are the dead letters of one partition that nobody has answered. They
// equal what is committed, as the rest of the memory does.
//
// What is asked for is tried again in the course of the batches, before what
// was read of the user. An old record cannot win: whatever is applied of a
// user, and every erasure, closes the letters that are not newer in the same
// transaction, so that what is still open has nothing newer at the destination,
// but for what was applied and not committed: that is read again first (caughtUp).
type letters struct {
	fold   deadletters.Fold
	heard  int64     // what people have said before this offset is in here
	behind int64     // no replay before the users' partition is read up to here; 0: not known
	nextAt time.Time // no replay before: something could not be read, or is not read yet
}

// due returns when a letter is to be tried again, zero for at once; false if
// none is.
func (l *letters) due() (time.Time, bool) {
	_, asked, _ := l.fold.Count()
	return l.nextAt, asked > 0
}

// readLetters reads the dead letters of one partition: those of changes, or for
// the feed those of receipts.
func (r *Runner) readLetters(ctx context.Context, partition int32, feed bool) (*letters, error) {
	topics := r.options.Topics
	l := &letters{fold: deadletters.Fold{Topic: topics.Users()}}
	if feed {
		l.fold.Topic = topics.ErasureReceipts()
	}
	err := compacted.Read(ctx, r.options.Client, topics.DeadLetters(r.cfg.Name), partition, func(k *kgo.Record) error {
		l.fold.Add(k)
		l.heard = k.Offset + 1
		return nil
	})
	return l, err
}

// readLettersAgain reads the letters again about which people have said
// something. An error means that ctx has ended.
func (p *processor) readLettersAgain(ctx context.Context) error {
	for partition, m := range p.partitions {
		if !p.words.lettersAfter(partition, m.letters.heard) {
			continue
		}
		last := p.words.lastLetter(partition)
		for attempt := 1; ; attempt++ {
			fresh, err := p.readLetters(ctx, partition, p.feed)
			if err == nil {
				fresh.heard = max(fresh.heard, last+1)
				m.letters = fresh
				break
			}
			if attempt == 1 {
				p.logger.Warn("read dead letters again, will retry", "partition", partition, "err", err)
			}
			if err := sleep(ctx, p.backoff(attempt)); err != nil {
				return err
			}
		}
		_, asked, _ := m.letters.fold.Count()
		p.logger.Info("dead letters are to be tried again, or are discarded", "partition", partition, "to_try", asked)
		p.again = nil // the batch begins anew
		p.countDebts()
	}
	return nil
}

// replaySpan bounds how much of the dead letters is read for one batch, since
// those asked for may lie far apart.
const replaySpan = 5000

// lettersRetry is the wait after dead letters could not be read, caughtUpEvery how
// often it is looked whether the partition is.
const (
	lettersRetry  = 5 * time.Second
	caughtUpEvery = 500 * time.Millisecond
)

// caughtUp reports whether all is read, or is among records, that stood in the
// partition when letters were asked for first since it was restored. A batch
// that failed, or a predecessor, may have applied something newer of their users
// that is not committed. Receipts do not overtake each other.
func (p *processor) caughtUp(ctx context.Context, records []*kgo.Record, partition int32, l *letters) bool {
	if p.feed {
		return true
	}
	at := p.progress[0].At(partition)
	if at < 0 || l.behind == 0 {
		from, end, err := p.lag(ctx, partition)
		if err != nil {
			p.logger.Debug("look how far the partition is read", "partition", partition, "err", err)
			return false
		}
		at, l.behind = max(at, from), cmp.Or(l.behind, end)
	}
	for _, k := range records {
		if k.Partition == partition {
			at = max(at, k.Offset+1)
		}
	}
	return at >= l.behind-1 // the last in the log is the mark of a transaction
}

// addReplays adds the records that are to be tried again, at most a batch of
// them and one of each user; what b has something of its user of comes later.
// An error means that ctx has ended.
func (p *processor) addReplays(ctx context.Context, b *batch, records []*kgo.Record) error {
	room := p.cfg.BatchRecords
	for partition, m := range p.partitions {
		if at, due := m.letters.due(); !due || at.After(time.Now()) || room == 0 {
			continue
		}
		if !p.caughtUp(ctx, records, partition, m.letters) {
			m.letters.nextAt = time.Now().Add(caughtUpEvery)
			continue
		}
		chosen := m.letters.choose(b.users, room)
		if len(chosen) == 0 {
			continue
		}
		records, err := p.loadLetters(ctx, partition, chosen)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil { // it holds up nothing else
			p.logger.Warn("read dead letters to try again, will retry", "partition", partition, "err", err)
			m.letters.nextAt = time.Now().Add(lettersRetry)
			continue
		}
		for _, letter := range chosen {
			k := records[letter.Offset]
			if k == nil {
				m.letters.fold.Drop(letter.Offset) // retention was first
				continue
			}
			it, err := p.decodeLetter(ctx, k, letter)
			if err != nil {
				return err
			}
			b.items = append(b.items, it)
			b.users[letter.ClerkID] = true
			room--
		}
	}
	return nil
}

// choose returns what is to be tried now: the oldest letter of each user, of
// those that lie near each other.
func (l *letters) choose(busy map[string]bool, most int) (chosen []*deadletters.Letter) {
	seen := map[string]bool{}
	for _, letter := range l.fold.Asked() {
		if len(chosen) == most || len(chosen) > 0 && letter.Offset >= chosen[0].Offset+replaySpan {
			break
		}
		if !busy[letter.ClerkID] && !seen[letter.ClerkID] {
			seen[letter.ClerkID] = true
			chosen = append(chosen, letter)
		}
	}
	return chosen
}

func (p *processor) loadLetters(ctx context.Context, partition int32, chosen []*deadletters.Letter) (map[int64]*kgo.Record, error) {
	wanted := map[int64]bool{}
	for _, letter := range chosen {
		wanted[letter.Offset] = true
	}
	records := map[int64]*kgo.Record{}
	topic := p.options.Topics.DeadLetters(p.cfg.Name)
	from, to := chosen[0].Offset, chosen[len(chosen)-1].Offset+1
	err := compacted.ReadRange(ctx, p.options.Client, topic, partition, from, to, func(k *kgo.Record) error {
		if wanted[k.Offset] {
			records[k.Offset] = k
		}
		return nil
	})
	return records, err
}

// decodeLetter makes of a letter the record that it was. A letter is never a
// demand to erase.
func (p *processor) decodeLetter(ctx context.Context, k *kgo.Record, letter *deadletters.Letter) (*item, error) {
	raw := &kgo.Record{
		Topic: letter.Origin.Topic, Partition: k.Partition, Offset: letter.Origin.Offset, Timestamp: k.Timestamp,
		Key: k.Key, Value: k.Value, Headers: deadletters.Original(k.Headers),
	}
	decode := p.decode
	if p.feed {
		decode = p.decodeReceipt
	}
	var it *item
	if k.Value != nil {
		var err error
		if it, err = decode(ctx, raw); err != nil {
			return nil, err
		}
	}
	if it == nil {
		it = newItem(raw, letter.ClerkID)
		it.invalid(errUndecodable)
	}
	it.letter, it.occurred = letter, 0 // no measure of the delivery's time
	return it, nil
}

// answers are what a batch says of letters: of those that were tried again, and
// of those that something newer has overtaken.
func (p *processor) answers(b *batch) (out []*kgo.Record) {
	topic := p.options.Topics.DeadLetters(p.cfg.Name)
	erased := map[string]schemas.Version{}
	settled := map[*deadletters.Letter]bool{}
	for _, it := range b.items {
		settled[it.letter] = true
		if it.record.Erase() && it.fate != superseded && it.fate != dead {
			erased[it.record.ClerkID] = it.record.Rank()
		}
	}
	for _, it := range b.items {
		m := p.partitions[it.record.Source.Partition]
		if it.letter != nil && it.fate != dead { // a letter that takes its place is its answer
			answer := deadletters.AnswerApplied
			if it.fate != applied {
				answer = deadletters.AnswerSuperseded
				now, here := erased[it.record.ClerkID]
				before, there := m.erased.get(it.record.ClerkID)
				if here && it.record.Version.Compare(now) <= 0 || there && it.record.Version.Compare(before) <= 0 {
					answer = deadletters.AnswerErased
				}
			}
			out = append(out, it.letter.Close(topic, answer, "", ""))
		}
		if p.feed {
			continue
		}
		for _, letter := range m.letters.fold.Of(it.record.ClerkID) {
			if answer := p.overtakes(it, letter.Version); answer != "" && !settled[letter] {
				settled[letter] = true
				out = append(out, letter.Close(topic, answer, "", ""))
			}
		}
	}
	return out
}

// dropOvertaken takes for superseded what was given up where the same batch has
// something that would close its letter: a letter that is not written yet cannot
// be closed, and one that stayed open could be tried again over what is newer.
func (p *processor) dropOvertaken(b *batch) {
	given := map[string][]*item{} // up, by Clerk ID
	for _, it := range b.items {
		if it.fate == dead && !p.feed {
			given[it.record.ClerkID] = append(given[it.record.ClerkID], it)
		}
	}
	for _, it := range b.items {
		for _, older := range given[it.record.ClerkID] {
			if older == it { // of two that are the same the last has the letter
				break
			}
			headers, _ := schemas.ParseChangeHeaders(older.raw.Headers) // the letter's would be the same
			if p.overtakes(it, headers.Version) != "" {
				older.fate = superseded
			}
		}
	}
}

// overtakes returns how an item closes a letter of its user with an older
// version, "" if it does not. Where every change counts, only an erasure and the
// same change do.
func (p *processor) overtakes(it *item, version schemas.Version) deadletters.Answer {
	if it.record.Erase() {
		if it.fate != superseded && it.fate != dead && version.Compare(it.record.Rank()) <= 0 {
			return deadletters.AnswerErased
		}
		return ""
	}
	known := it.record.Version != schemas.Version{}
	reached := it.fate == applied || it.fate == dead || it.fate == superseded && it.result.Superseded
	order := it.record.Version.Compare(version)
	if known && reached && (order == 0 || order > 0 && !p.facts.EveryChange) {
		return deadletters.AnswerSuperseded
	}
	return ""
}

// takeOverLetters takes over what a committed batch has written.
func (p *processor) takeOverLetters(written []*kgo.Record) {
	slices.SortFunc(written, func(a, b *kgo.Record) int { return int(a.Offset - b.Offset) })
	for _, k := range written {
		if m, ok := p.partitions[k.Partition]; ok {
			m.letters.fold.Add(k)
		}
	}
}
