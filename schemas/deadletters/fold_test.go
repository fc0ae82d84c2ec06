package deadletters

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
)

// log is a partition in the making.
type log struct{ records []*kgo.Record }

func (l *log) write(k *kgo.Record) int64 {
	k.Offset, k.Timestamp = int64(len(l.records)), time.UnixMilli(int64(1000+len(l.records)))
	l.records = append(l.records, k)
	return k.Offset
}

// letter writes one about a user.
func (l *log) letter(id, topic string, headers ...kgo.RecordHeader) *Letter {
	k := &kgo.Record{Key: []byte(id), Value: []byte("value"), Headers: append([]kgo.RecordHeader{
		{Key: schemas.HeaderVersion, Value: []byte("7")}, {Key: schemas.HeaderEpoch, Value: []byte("1")},
		{Key: HeaderReason, Value: []byte("conflict")}, {Key: HeaderOrigin, Value: []byte(topic + "/0/5")},
	}, headers...)}
	l.write(k)
	return parse(k)
}

func (l *log) fold(f Fold) *Fold {
	for _, k := range l.records {
		f.Add(k)
	}
	return &f
}

func TestFold_TheFirstAnswerCounts(t *testing.T) {
	t.Parallel()
	var l log
	first, second := l.letter("a", "clerk.users"), l.letter("a", "clerk.users")
	l.write(first.Replay("t", "me", "mended"))
	l.write(first.Replay("t", "you", ""))
	f := l.fold(Fold{KeepClosed: true})
	if open, asked, _ := f.Count(); open != 2 || asked != 1 || f.Asked()[0].Asked.By != "me" || f.Asked()[0].Asked.Note != "mended" {
		t.Errorf("%d open, %d asked for, by %+v", open, asked, f.Asked()[0].Asked)
	}
	if l := f.Of("a")[0]; l.ClerkID != "a" || l.Reason != "conflict" || l.Origin != (Origin{"clerk.users", 0, 5}) || l.Version != (schemas.Version{Epoch: 1, Number: 7}) {
		t.Errorf("letter: %+v", l)
	}
	l.write(first.Close("t", AnswerApplied, "", ""))
	l.write(first.Close("t", AnswerDiscarded, "me", ""))
	l.write(first.Replay("t", "me", "")) // too late
	f = l.fold(Fold{KeepClosed: true})
	letters := f.Letters()
	if len(letters) != 2 || letters[0].Answer != AnswerApplied || letters[1].Answer != "" || len(f.Of("a")) != 1 || f.Of("a")[0].Offset != second.Offset {
		t.Errorf("letters: %+v %+v", letters[0], letters[1])
	}
	if _, asked, _ := f.Count(); asked != 0 {
		t.Errorf("%d asked for, want none", asked)
	}
}

func TestFold_ALetterTakesThePlaceOfAnother(t *testing.T) {
	t.Parallel()
	var l log
	first := l.letter("a", "clerk.users") // at offset 0, which nothing else may be taken to name
	l.letter("b", "clerk.users")
	l.letter("a", "clerk.users", kgo.RecordHeader{Key: HeaderLetter, Value: []byte("0")},
		kgo.RecordHeader{Key: HeaderReplays, Value: []byte("1")}, kgo.RecordHeader{Key: HeaderParked, Value: []byte("true")})
	f := l.fold(Fold{KeepClosed: true})
	letters := f.Letters()
	if open, _, parked := f.Count(); open != 2 || parked != 1 || letters[0].Offset != first.Offset || letters[0].Answer != AnswerDead || letters[2].Replays != 1 {
		t.Errorf("%d open, %d parked, %+v", open, parked, letters)
	}
	f.Drop(2)
	if open, _, parked := f.Count(); open != 1 || parked != 0 || len(f.Of("a")) != 0 {
		t.Errorf("after Drop: %d open, %d parked", open, parked)
	}
}

func TestFold_KeepsToItsTopic(t *testing.T) {
	t.Parallel()
	var l log
	l.letter("a", "clerk.users")
	l.letter("b/other", "clerk.erasure-receipts")
	l.write(&kgo.Record{Key: []byte(schemas.TickKey)})
	l.write(&kgo.Record{Key: []byte("a"), Headers: []kgo.RecordHeader{{Key: HeaderLetter, Value: []byte("0")}, {Key: HeaderWord, Value: []byte("later")}}})
	f := l.fold(Fold{Topic: "clerk.erasure-receipts"})
	if open, _, _ := f.Count(); open != 1 || len(f.Of("b")) != 1 {
		t.Errorf("%d open, want that of b alone", open)
	}
}

func TestParseOrigin(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Origin{
		"clerk.users/3/17": {"clerk.users", 3, 17}, "a/b/0/1": {"a/b", 0, 1}, "3/17": {}, "": {}, "clerk.users/x/1": {}, "clerk.users/1/-1": {}, "/1/1": {},
	} {
		got, ok := ParseOrigin(text)
		if ok != (want != Origin{}) || ok && (got != want || got.String() != text) {
			t.Errorf("ParseOrigin(%q): %v, %v; want %v", text, got, ok, want)
		}
	}
	if got, ok := ParsePlace("3/17"); !ok || got != (Origin{"", 3, 17}) {
		t.Errorf("ParsePlace: %v, %v", got, ok)
	}
}

func TestOriginal_TakesOffWhatMadeItALetter(t *testing.T) {
	t.Parallel()
	headers := []kgo.RecordHeader{{Key: "clerk-version"}, {Key: HeaderReason}, {Key: "other"}, {Key: HeaderParked}}
	kept := Original(headers)
	if !slices.EqualFunc(kept, []string{"clerk-version", "other"}, func(h kgo.RecordHeader, name string) bool { return h.Key == name }) {
		t.Errorf("kept %v", kept)
	}
}
