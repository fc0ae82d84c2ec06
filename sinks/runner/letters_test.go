package runner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"clerkconnect/schemas"
	"clerkconnect/schemas/deadletters"
	"clerkconnect/sinks"
)

var errPoison = errors.New("poison")

// picky is a destination that cannot compare: it holds what it was given last.
// It refuses the records of some users.
type picky struct {
	mu      sync.Mutex
	refused map[string]bool
	held    map[string]int64 // version by Clerk ID
}

func newPicky(refused ...string) *picky {
	p := &picky{refused: map[string]bool{}, held: map[string]int64{}}
	for _, id := range refused {
		p.refused[id] = true
	}
	return p
}

func (p *picky) apply(_ context.Context, batch []sinks.Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var failed sinks.BatchError
	for i, r := range batch {
		switch {
		case r.Erase():
			delete(p.held, r.ClerkID)
		case p.refused[r.ClerkID]:
			failed.Fail(i, sinks.Permanent(sinks.ReasonInvalidRecord, errPoison))
		default:
			p.held[r.ClerkID] = r.Version.Number
		}
	}
	return failed.Err()
}

func (p *picky) mend(ids ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		delete(p.refused, id)
	}
}

func (p *picky) version(id string) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held[id]
}

// letters returns all dead letters of a sink, by Clerk ID, oldest first.
func (b *broker) letters(name string) map[string][]*deadletters.Letter {
	b.t.Helper()
	folds := map[int32]*deadletters.Fold{}
	for _, k := range b.records(topics.DeadLetters(name)) {
		if folds[k.Partition] == nil {
			folds[k.Partition] = &deadletters.Fold{KeepClosed: true}
		}
		folds[k.Partition].Add(k)
	}
	letters := map[string][]*deadletters.Letter{}
	for _, fold := range folds {
		for _, l := range fold.Letters() {
			letters[l.ClerkID] = append(letters[l.ClerkID], l)
		}
	}
	return letters
}

// letter waits for the n-th letter about a user, from 1.
func (b *broker) letter(name, id string, n int) (letter *deadletters.Letter) {
	b.t.Helper()
	eventually(b.t, fmt.Sprintf("letter %d about %s", n, id), func() bool { return len(b.letters(name)[id]) >= n })
	return b.letters(name)[id][n-1]
}

// replay asks for letters to be tried again.
func (b *broker) replay(name string, letters ...*deadletters.Letter) {
	b.t.Helper()
	var words []*kgo.Record
	for _, l := range letters {
		words = append(words, l.Replay(topics.DeadLetters(name), "test", ""))
	}
	b.write(words...)
}

// answered waits until a letter has that answer.
func (b *broker) answered(name, id string, n int, want deadletters.Answer) {
	b.t.Helper()
	eventually(b.t, fmt.Sprintf("letter %d about %s is %q", n, id, want), func() bool {
		return len(b.letters(name)[id]) >= n && b.letters(name)[id][n-1].Answer == want
	})
}

func TestReplay_AppliesWhatWasMended(t *testing.T) {
	t.Parallel()
	onEachBroker(t, func(t *testing.T, b *broker) {
		destination := newPicky("bad")
		sink := newScripted(t, destination.apply)
		r := b.run(sinkName, "a", sink)
		b.write(upsert("bad", 1), upsert("good", 2))
		letter := b.letter(sinkName, "bad", 1)
		eventually(t, "counted", func() bool { return r.Status().DeadLetters == 1 })
		if letter.Origin.Topic != b.named(topics.Users()) || letter.Version.Number != 1 || letter.Reason != "invalid_record" || letter.Replays != 0 {
			t.Errorf("letter: %+v", letter)
		}
		destination.mend("bad")
		b.replay(sinkName, letter, letter)
		b.answered(sinkName, "bad", 1, deadletters.AnswerApplied)
		sent := len(sink.sent("bad")) // twice, or more often where a transaction was repeated
		b.replay(sinkName, letter)    // closed: nothing comes of it
		b.write(upsert("good", 3))
		eventually(t, "the next change, and nothing open", func() bool { return destination.version("good") == 3 && r.Status().DeadLetters == 0 })
		if got := len(sink.sent("bad")); sent < 2 || got != sent || destination.version("bad") != 1 {
			t.Errorf("sent %d times and %d times after it was closed, held version %d; want at least twice, never again, and 1", sent, got-sent, destination.version("bad"))
		}
		if n := len(b.letters(sinkName)["bad"]); n != 1 {
			t.Errorf("%d letters, want 1", n)
		}
	})
}

// What was asked for while nobody ran the sink is done when somebody does.
func TestReplay_IsRestored(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	destination := newPicky("bad", "worse")
	first := b.run(sinkName, "a", newScripted(t, destination.apply))
	b.write(upsert("bad", 1), upsert("worse", 1))
	bad, worse := b.letter(sinkName, "bad", 1), b.letter(sinkName, "worse", 1)
	first.stop()
	destination.mend("bad", "worse")
	b.replay(sinkName, bad, worse)
	b.write(worse.Close(topics.DeadLetters(sinkName), deadletters.AnswerDiscarded, "test", ""))
	b.run(sinkName, "b", newScripted(t, destination.apply))
	b.answered(sinkName, "bad", 1, deadletters.AnswerApplied)
	if destination.version("bad") != 1 || destination.version("worse") != 0 {
		t.Errorf("held: %d of bad, %d of worse; want 1, and nothing of what was discarded", destination.version("bad"), destination.version("worse"))
	}
}

// A newer change that the destination has closes the letter, also where the
// destination cannot compare.
func TestReplay_NeverOverNewer(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*broker, *picky, *running) *running{
		"applied before": func(b *broker, d *picky, r *running) *running {
			b.write(upsert("u", 2))
			eventually(b.t, "applied", func() bool { return d.version("u") == 2 })
			return r
		},
		"applied after a restart": func(b *broker, d *picky, r *running) *running {
			r.stop()
			b.write(upsert("u", 2))
			r = b.run(sinkName, "b", newScripted(b.t, d.apply))
			eventually(b.t, "applied", func() bool { return d.version("u") == 2 })
			return r
		},
		"in one batch": func(b *broker, _ *picky, r *running) *running {
			r.stop()
			b.write(upsert("u", 2))
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			destination := newPicky("u")
			r := b.run(sinkName, "a", newScripted(t, destination.apply))
			b.write(upsert("u", 1))
			letter := b.letter(sinkName, "u", 1)
			destination.mend("u")
			r = prepare(b, destination, r)
			b.replay(sinkName, letter)
			want := deadletters.AnswerSuperseded
			last := newScripted(t, destination.apply)
			if r == nil { // it is tried before the newer one is read, or falls to it
				b.run(sinkName, "b", last)
				eventually(t, "answered", func() bool { return b.letters(sinkName)["u"][0].Answer != "" })
				want = b.letters(sinkName)["u"][0].Answer
			}
			b.answered(sinkName, "u", 1, want)
			b.write(upsert("u", 3))
			eventually(t, "the last change", func() bool { return destination.version("u") == 3 })
			if versions := last.sent("u"); stepsBack(versions) || want != deadletters.AnswerSuperseded && want != deadletters.AnswerApplied {
				t.Errorf("sent %v, answer %q", versions, want)
			}
		})
	}
}

// stepsBack reports whether a version comes after a higher one.
func stepsBack(versions []int64) bool {
	return !slices.IsSorted(versions)
}

func TestReplay_OrderHoldsWithoutGuards(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	destination := newPicky("u")
	sink := newScripted(t, destination.apply)
	b.run(sinkName, "a", sink)
	b.write(upsert("u", 1))
	letter := b.letter(sinkName, "u", 1)
	destination.mend("u")
	b.write(upsert("u", 2))
	eventually(t, "applied", func() bool { return destination.version("u") == 2 })
	b.replay(sinkName, letter)
	b.write(upsert("other", 3))
	eventually(t, "what was said is heard", func() bool { return destination.version("other") == 3 })
	b.answered(sinkName, "u", 1, deadletters.AnswerSuperseded)
	if versions := sink.sent("u"); stepsBack(versions) {
		t.Errorf("sent %v, which steps back", versions)
	}
}

func TestReplay_NeverAfterAnErasure(t *testing.T) {
	t.Parallel()
	t.Run("read as a tombstone", func(t *testing.T) {
		t.Parallel()
		b := newBroker(t)
		destination := newPicky("u")
		sink := newScripted(t, destination.apply)
		b.run(sinkName, "a", sink)
		b.write(upsert("u", 1))
		letter := b.letter(sinkName, "u", 1)
		destination.mend("u")
		b.write(deletion("u", 2)...)
		b.answered(sinkName, "u", 1, deadletters.AnswerErased)
		b.replay(sinkName, letter)
		b.write(upsert("other", 3))
		eventually(t, "what was said is heard", func() bool { return destination.version("other") == 3 })
		if got := sink.sent("u"); stepsBack(got) || destination.version("u") != 0 {
			t.Errorf("sent %v, held %d; want nothing after the erasure", got, destination.version("u"))
		}
	})
	t.Run("known from the ledger alone", func(t *testing.T) {
		t.Parallel()
		b := newBroker(t)
		destination := newPicky("u")
		first := b.run(sinkName, "a", newScripted(t, destination.apply))
		b.write(upsert("u", 1))
		letter := b.letter(sinkName, "u", 1)
		destination.mend("u")
		first.stop()
		b.write(erasure("u", &schemas.Erasure{ClerkID: "u", Epoch: 1, Version: 2, Origin: schemas.OriginWebhook, RequestedAt: 1}))
		b.replay(sinkName, letter)
		sink := newScripted(t, destination.apply)
		b.run(sinkName, "a", sink)
		b.answered(sinkName, "u", 1, deadletters.AnswerErased)
		if got := sink.sent("u"); len(got) != 1 || got[0] != 2 {
			t.Errorf("sent %v, want the erasure alone", got)
		}
	})
	t.Run("paid before the word", func(t *testing.T) { // the letter was closed by nobody: the sink's own receipt is what is left
		t.Parallel()
		sink := newScripted(t, nil)
		p := bare(t, sink)
		p.partitions[0].erased.set("u", schemas.Version{Epoch: 1, Number: 2})
		letter := upsert("u", 1)
		letter.Headers = append(letter.Headers, kgo.RecordHeader{Key: deadletters.HeaderOrigin, Value: []byte("clerk.users/0/1")})
		p.partitions[0].letters.fold.Add(letter)
		it, err := p.decodeLetter(t.Context(), letter, p.partitions[0].letters.fold.Of("u")[0])
		if err != nil {
			t.Fatal(err)
		}
		b := &batch{items: []*item{it}, states: map[string]remembered{}}
		if err := p.carryOut(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		out, err := p.render(b)
		if err != nil || len(out) != 1 || schemas.Header(out[0].Headers, deadletters.HeaderAnswer) != string(deadletters.AnswerErased) || sink.callCount() != 0 {
			t.Errorf("output %v, %v, %d calls; want the answer erased and no call", out, err, sink.callCount())
		}
	})
}

// A letter is never a demand to erase, whatever it looks like.
func TestReplay_LetterWithoutAValueErasesNobody(t *testing.T) {
	t.Parallel()
	sink := newScripted(t, nil)
	p := bare(t, sink)
	it, err := p.decodeLetter(t.Context(), &kgo.Record{Key: []byte("u")}, &deadletters.Letter{ClerkID: "u", Origin: deadletters.Origin{Topic: topics.Users(), Offset: 1}})
	if err != nil || it.record.ClerkID != "u" || it.fate != dead {
		t.Errorf("decodeLetter: %+v, %v; want it given up", it, err)
	}
}

func TestReplay_ParkedAfterTooMany(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	destination := newPicky("u")
	r := b.run(sinkName, "a", newScripted(t, destination.apply), func(c *Config, _ *Options) { c.MaxReplays = 2 })
	b.write(upsert("u", 1))
	for n := 1; n <= 2; n++ {
		b.replay(sinkName, b.letter(sinkName, "u", n))
		b.answered(sinkName, "u", n, deadletters.AnswerDead)
	}
	letters := b.letters(sinkName)["u"]
	if len(letters) != 3 || letters[1].Replays != 1 || letters[1].Parked || letters[2].Replays != 2 || !letters[2].Parked {
		t.Fatalf("letters: %+v", letters)
	}
	if letters[2].Origin != letters[0].Origin || letters[2].Version != letters[0].Version {
		t.Errorf("the last letter has origin %s and version %v, the first %s and %v", letters[2].Origin, letters[2].Version, letters[0].Origin, letters[0].Version)
	}
	eventually(t, "counted", func() bool { s := r.Status(); return s.DeadLetters == 1 && s.DeadLettersParked == 1 })
	destination.mend("u")
	b.replay(sinkName, letters[2]) // who asks for a parked one has it
	b.answered(sinkName, "u", 3, deadletters.AnswerApplied)
}

// Where every change counts, each letter of a user is tried again, in order.
func TestReplay_EveryChange(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	destination := newPicky("u")
	sink := newScripted(t, destination.apply)
	sink.facts.EveryChange = true
	b.run(sinkName, "a", sink)
	b.write(upsert("u", 1), upsert("u", 2))
	first, second := b.letter(sinkName, "u", 1), b.letter(sinkName, "u", 2)
	destination.mend("u")
	b.replay(sinkName, second, first)
	b.answered(sinkName, "u", 1, deadletters.AnswerApplied)
	b.answered(sinkName, "u", 2, deadletters.AnswerApplied)
	if got := sink.sent("u"); !slices.Equal(got, []int64{1, 2, 1, 2}) {
		t.Errorf("sent %v, want 1 2 1 2", got)
	}
}

// A crash between the destination's acknowledgement and the commit.
func TestReplay_AnsweredOnceThroughFailedCommits(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	destination := newPicky("u")
	sink := newScripted(t, destination.apply)
	r := b.run(sinkName, "a", sink)
	b.write(upsert("u", 1))
	letter := b.letter(sinkName, "u", 1)
	destination.mend("u")
	faults := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.InvalidProducerEpoch, Count: 2, When: func(k kmsg.Request) bool {
		return k.(*kmsg.EndTxnRequest).TransactionalID == r.Group()+".a"
	}})
	b.replay(sinkName, letter)
	b.answered(sinkName, "u", 1, deadletters.AnswerApplied)
	r.stop()
	answers := 0
	for _, k := range b.records(topics.DeadLetters(sinkName)) {
		if schemas.Header(k.Headers, deadletters.HeaderAnswer) != "" {
			answers++
		}
	}
	if answers != 1 || faults.Hits() != 2 || len(sink.sent("u")) < 3 {
		t.Errorf("%d answers, %d failed commits, sent %d times; want 1, 2, 3 or more", answers, faults.Hits(), len(sink.sent("u")))
	}
}

// The receipts of other sinks that could not be taken are tried again by who
// takes receipts.
func TestReplay_OfReceipts(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	var mu sync.Mutex
	refusing, taken := true, 0
	sink := newScripted(t, func(_ context.Context, batch []sinks.Record) error {
		mu.Lock()
		defer mu.Unlock()
		var failed sinks.BatchError
		for i, r := range batch {
			switch {
			case r.Receipt == nil:
			case refusing:
				failed.Fail(i, sinks.Permanent(sinks.ReasonInvalidRecord, errPoison))
			default:
				taken++
			}
		}
		return failed.Err()
	})
	sink.facts.Receipts = true
	b.run(sinkName, "a", sink)
	b.write(receiptOf("u", "other", 1))
	letter := b.letter(sinkName, "u", 1)
	mu.Lock()
	refusing = false
	mu.Unlock()
	b.replay(sinkName, letter)
	b.answered(sinkName, "u", 1, deadletters.AnswerApplied)
	if mu.Lock(); taken != 1 {
		t.Errorf("taken %d times, want once", taken)
	}
	mu.Unlock()
}

// What retention has removed meanwhile holds nothing up.
func TestReplay_OfWhatIsGone(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	destination := newPicky("u")
	r := b.run(sinkName, "a", newScripted(t, destination.apply))
	b.write(upsert("u", 1))
	letter := b.letter(sinkName, "u", 1)
	r.stop()
	p := r.newProcessor(nil)
	fold, err := p.readLetters(t.Context(), letter.Partition, false)
	if err != nil {
		t.Fatal(err)
	}
	word := letter.Replay(b.named(topics.DeadLetters(sinkName)), "test", "")
	word.Offset = letter.Offset + 2
	fold.fold.Add(word)
	p.partitions[letter.Partition] = newMemory()
	p.partitions[letter.Partition].letters = fold
	gone := kadm.Offsets{}
	gone.Add(kadm.Offset{Topic: b.named(topics.DeadLetters(sinkName)), Partition: letter.Partition, At: letter.Offset + 1})
	if _, err := kadm.NewClient(b.producer).DeleteRecords(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	if p.Due().IsZero() {
		t.Error("not due")
	}
	out, err := p.Process(t.Context(), nil)
	if err != nil || len(out) != 0 || !p.Due().IsZero() {
		t.Errorf("Process: %v, %v, due %s; want nothing, and nothing due", out, err, p.Due())
	}
}

// Random histories at a destination that cannot compare: users are refused and
// mended, letters are tried again and discarded, commits fail, processes come
// and go. What the destination holds never steps back, and in the end is the
// latest of all.
func TestReplay_Random(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 7))
	b := newBroker(t)
	destination := newPicky()
	sink := newScripted(t, func(ctx context.Context, batch []sinks.Record) error {
		destination.mu.Lock()
		for _, r := range batch {
			if !r.Erase() && r.Version.Number < destination.held[r.ClerkID] {
				t.Errorf("%s: version %d after %d", r.ClerkID, r.Version.Number, destination.held[r.ClerkID])
			}
		}
		destination.mu.Unlock()
		return destination.apply(ctx, batch)
	})
	r := b.run(sinkName, "a", sink)
	const users = 12
	latest := map[string]int64{}
	erased := map[string]bool{}
	for version := int64(1); version <= 150; version++ {
		id := user(random.IntN(users))
		switch dice := random.IntN(20); {
		case erased[id]:
		case dice == 0:
			b.write(deletion(id, version)...)
			delete(latest, id)
			erased[id] = true
		default:
			b.write(upsert(id, version))
			latest[id] = version
		}
		destination.mu.Lock()
		destination.refused[user(random.IntN(users))] = random.IntN(3) == 0
		destination.mu.Unlock()
		switch random.IntN(12) {
		case 0:
			for _, letters := range b.letters(sinkName) {
				l := letters[random.IntN(len(letters))]
				b.replay(sinkName, l)
				if random.IntN(10) == 0 {
					b.replay(sinkName, l)
				}
			}
		case 1:
			r.stop()
			r = b.run(sinkName, "a", sink)
		case 2:
			b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.IllegalGeneration, Count: 1})
		}
	}
	destination.mu.Lock()
	clear(destination.refused)
	destination.mu.Unlock()
	eventually(t, "caught up", func() bool { s := r.Status(); return len(s.Ready) == partitions && s.LagRecords == 0 })
	for _, letters := range b.letters(sinkName) {
		for _, l := range letters {
			b.replay(sinkName, l)
		}
	}
	eventually(t, "no letter open", func() bool { // the status has none while a partition is restored
		for _, letters := range b.letters(sinkName) {
			if slices.ContainsFunc(letters, func(l *deadletters.Letter) bool { return l.Answer == "" }) {
				return false
			}
		}
		return true
	})
	destination.mu.Lock()
	defer destination.mu.Unlock()
	if !maps.Equal(destination.held, latest) {
		t.Errorf("held %v, want %v", destination.held, latest)
	}
}

// A newer change was applied and not committed: until it comes again the letter
// is not tried, though nothing that is committed speaks against it.
func TestReplay_NeverOverWhatIsNotCommitted(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	destination := newPicky("u")
	sink := newScripted(t, destination.apply)
	r := b.run(sinkName, "a", sink)
	b.write(upsert("u", 1))
	letter := b.letter(sinkName, "u", 1)
	eventually(t, "given up, and committed", func() bool { return r.Status().LagRecords == 0 })
	destination.mend("u")
	fails := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.IllegalGeneration, Count: -1})
	b.write(upsert("u", 2))
	eventually(t, "applied", func() bool { return slices.Contains(sink.sent("u"), 2) })
	b.replay(sinkName, letter)
	times := len(sink.sent("u"))
	eventually(t, "applied often", func() bool { return len(sink.sent("u")) > times+5 })
	fails.Remove()
	eventually(t, "answered", func() bool { return b.letters(sinkName)["u"][0].Answer != "" })
	if versions, answer := sink.sent("u"), b.letters(sinkName)["u"][0].Answer; stepsBack(versions) || answer != deadletters.AnswerSuperseded {
		t.Errorf("sent %v, the letter is %q; want no step back, superseded", versions, answer)
	}
}

// A record that fails alone holds up its partition, and with it no letter: that
// one is taken shows that the destination lives.
func TestReplay_BesideWhatIsHeldUp(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	destination := newPicky("u")
	sink := newScripted(t, func(ctx context.Context, batch []sinks.Record) error {
		if slices.ContainsFunc(batch, func(r sinks.Record) bool { return r.ClerkID == "holds" }) {
			return errDown
		}
		return destination.apply(ctx, batch)
	})
	r := b.run(sinkName, "a", sink)
	b.write(upsert("u", 1))
	letter := b.letter(sinkName, "u", 1)
	destination.mend("u")
	if schemas.Partition("holds", partitions) != letter.Partition {
		t.Fatal("the two users are not in one partition")
	}
	b.write(upsert("holds", 2))
	eventually(t, "attempted often", func() bool { return len(sink.sent("holds")) > r.cfg.MaxAttempts })
	b.replay(sinkName, letter)
	b.answered(sinkName, "u", 1, deadletters.AnswerApplied)
	b.letter(sinkName, "holds", 1)
}

// Receipts of other sinks are no changes of a user.
func TestReplay_OfReceiptsWaitsForNothing(t *testing.T) {
	t.Parallel()
	p := bare(t, newScripted(t, nil))
	p.feed = true
	if !p.caughtUp(t.Context(), nil, 0, &letters{behind: 100}) {
		t.Error("a receipt is not tried again before the users are read")
	}
}

// A partition is taken away while a batch waits: what the batch had applied in
// those that stay is read again, before any letter of them is tried.
func TestReplay_WaitsAgainAfterABatchWasDropped(t *testing.T) {
	t.Parallel()
	p := bare(t, newScripted(t, nil))
	p.partitions[1] = newMemory()
	p.partitions[0].letters.behind = 5
	p.Forget(1)
	if p.partitions[0].letters.behind != 0 {
		t.Error("letters are tried over what the dropped batch may have applied")
	}
}
