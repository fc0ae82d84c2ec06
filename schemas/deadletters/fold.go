package deadletters

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
)

// Fold is what the entries of one partition come to, added in their order. The
// zero value is empty and ready to use. Not safe for concurrent use.
type Fold struct {
	// Topic, if set, leaves out the letters of records of other topics.
	Topic string
	// KeepClosed keeps letters that have an answer, for people to look at.
	KeepClosed bool

	open   map[int64]*Letter
	asked  map[int64]*Letter    // those of open
	users  map[string][]*Letter // those of open, by Clerk ID, the oldest first
	parked int
	closed []*Letter
}

// Add takes in one record.
func (f *Fold) Add(k *kgo.Record) {
	if string(k.Key) == schemas.TickKey {
		return
	}
	about, err := strconv.ParseInt(schemas.Header(k.Headers, HeaderLetter), 10, 64)
	said := err == nil
	word, answer := schemas.Header(k.Headers, HeaderWord), Answer(schemas.Header(k.Headers, HeaderAnswer))
	switch {
	case said && answer != "":
		f.close(about, answer, k)
	case said && word == WordReplay:
		f.ask(about, k)
	case said && word != "": // one of a later program
	default:
		if said { // it takes the place of that one
			f.close(about, AnswerDead, k)
		}
		f.insert(parse(k))
	}
}

func (f *Fold) insert(l *Letter) {
	if f.Topic != "" && l.Origin.Topic != f.Topic {
		return
	}
	if f.open == nil {
		f.open, f.asked, f.users = map[int64]*Letter{}, map[int64]*Letter{}, map[string][]*Letter{}
	}
	f.Drop(l.Offset) // nobody writes an offset twice
	f.open[l.Offset] = l
	f.users[l.ClerkID] = append(f.users[l.ClerkID], l)
	if l.Parked {
		f.parked++
	}
}

// ask notes the first word about a letter that is open.
func (f *Fold) ask(offset int64, k *kgo.Record) {
	if letter := f.open[offset]; letter != nil && letter.Asked == nil {
		letter.Asked = &Word{
			Offset: k.Offset, At: k.Timestamp,
			By: schemas.Header(k.Headers, HeaderBy), Note: schemas.Header(k.Headers, HeaderNote),
		}
		f.asked[offset] = letter
	}
}

// close notes the first answer to a letter. One that retention has removed is
// past caring.
func (f *Fold) close(offset int64, answer Answer, k *kgo.Record) {
	letter := f.open[offset]
	if letter == nil || offset >= k.Offset {
		return
	}
	letter.Answer, letter.AnsweredAt = answer, k.Timestamp
	letter.AnsweredBy, letter.Note = schemas.Header(k.Headers, HeaderBy), schemas.Header(k.Headers, HeaderNote)
	f.Drop(offset)
	if f.KeepClosed {
		f.closed = append(f.closed, letter)
	}
}

// Drop forgets a letter, as one that retention has removed.
func (f *Fold) Drop(offset int64) {
	letter := f.open[offset]
	if letter == nil {
		return
	}
	delete(f.open, offset)
	delete(f.asked, offset)
	rest := slices.DeleteFunc(f.users[letter.ClerkID], func(l *Letter) bool { return l == letter })
	if f.users[letter.ClerkID] = rest; len(rest) == 0 {
		delete(f.users, letter.ClerkID)
	}
	if letter.Parked {
		f.parked--
	}
}

// Of returns the open letters about a user, the oldest first. The slice is the
// fold's own.
func (f *Fold) Of(clerkID string) []*Letter { return f.users[clerkID] }

// Asked returns the open letters that are to be tried again, the oldest first.
func (f *Fold) Asked() []*Letter { return sorted(slices.Collect(maps.Values(f.asked))) }

// Count returns how many letters are open, and how many of them are to be
// tried again, or are parked.
func (f *Fold) Count() (open, asked, parked int) { return len(f.open), len(f.asked), f.parked }

// Letters returns the open letters and, with KeepClosed, the closed ones, the
// oldest first.
func (f *Fold) Letters() []*Letter {
	return sorted(append(slices.Collect(maps.Values(f.open)), f.closed...))
}

func sorted(letters []*Letter) []*Letter {
	slices.SortFunc(letters, func(a, b *Letter) int { return cmp.Compare(a.Offset, b.Offset) })
	return letters
}
