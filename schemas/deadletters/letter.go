// Package deadletters is the protocol of <prefix>.dead-letters.<name>, where a
// sink, or the receiver of webhooks, puts what it has given up.
//
// Such a topic is an append log in which people and owners talk about letters,
// each entry in the partition of its letter:
//
//   - A letter: the record as it was, with headers that say why it is here.
//   - A word of a person about a letter, which [HeaderLetter] names by its offset:
//     that it is to be tried again ([HeaderWord]).
//   - An answer to a letter ([HeaderAnswer]), which closes it: the owner's, in
//     the transaction of what it says, or a person's, who discards it.
//   - A letter that names another with [HeaderLetter]: that was tried again and
//     given up once more, and this one has taken its place.
//
// The first answer to a letter is the one that counts, and an offset is never
// used again, so a letter is tried at most once for each time that it was given
// up, however often a word is repeated. [Fold] says what an entry comes to.
package deadletters

import (
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
)

// Headers of a sink's letter, beside those of its record.
const (
	HeaderSink     = "dlq-sink"
	HeaderClass    = "dlq-class"
	HeaderReason   = "dlq-reason"
	HeaderMessage  = "dlq-message" // the sink's words for a person, which quote no personal data: at most MaxMessage bytes
	HeaderAttempts = "dlq-attempts"
	HeaderOrigin   = "dlq-origin"  // topic/partition/offset of the record
	HeaderHeldBy   = "dlq-held-by" // for a conflict: Clerk ID of who holds what the record needs, if known
	HeaderReplays  = "dlq-replays" // how often it was tried again; none: never
	HeaderParked   = "dlq-parked"  // "true": tried again so often that it is left alone
)

// Headers of the receiver's letter, beside HeaderReason. It has no body.
const (
	HeaderClerkID    = "dlq-clerk-id"    // the user it is about, if that could be read
	HeaderEventType  = "dlq-event-type"  // Clerk's type, if that could be read
	HeaderBytes      = "dlq-bytes"       // size of the body
	HeaderSHA256     = "dlq-sha256"      // of the body, hexadecimal
	HeaderErrorAt    = "dlq-offset"      // byte position of the error in the body; -1: unknown
	HeaderReceivedAt = "dlq-received-at" // Unix milliseconds
)

// Headers of what is said about a letter.
const (
	HeaderLetter = "dlq-letter" // offset of the letter in this partition
	HeaderWord   = "dlq-word"   // WordReplay
	HeaderAnswer = "dlq-answer" // an Answer
	HeaderBy     = "dlq-by"     // who has said so
	HeaderNote   = "dlq-note"   // and why

	WordReplay = "replay"

	// MaxMessage keeps a letter within the room that is left for its headers.
	MaxMessage = 500

	headerPrefix = "dlq-"
)

// Answer says how a letter was closed.
type Answer string

// The answers. An open letter has none.
const (
	AnswerApplied    Answer = "applied"    // tried again, and the destination has it
	AnswerSuperseded Answer = "superseded" // the user has something newer
	AnswerErased     Answer = "erased"     // the user is erased, or is to be
	AnswerDead       Answer = "dead"       // tried again and given up: another letter has taken its place
	AnswerReread     Answer = "reread"     // of a webhook: the user is read from Clerk instead
	AnswerDiscarded  Answer = "discarded"  // a person does not want it
)

// Letter is one dead letter. Times are those of the broker's records.
type Letter struct {
	Partition int32
	Offset    int64 // in the dead-letter topic

	Key      string // of the record: a Clerk ID, for a receipt with the sink behind it; of a webhook: svix-id
	ClerkID  string // "" if it is not known
	Origin   Origin // where the record was read; zero for a webhook
	Class    string
	Reason   string
	Message  string
	Attempts int
	HeldBy   string
	Replays  int
	Parked   bool
	// Version of the change, if its headers have one.
	Version   schemas.Version
	Versioned bool
	Bytes     int // of the value, or of the webhook's body
	GivenUpAt time.Time

	Asked      *Word  // the word that it is to be tried again; nil: nobody has asked
	Answer     Answer // "": open
	AnsweredAt time.Time
	AnsweredBy string // a person
	Note       string // that person's
}

// Origin is the place of a record in Kafka.
type Origin struct {
	Topic     string
	Partition int32
	Offset    int64
}

// String renders o as HeaderOrigin has it; "" for the zero value.
func (o Origin) String() string {
	if o == (Origin{}) {
		return ""
	}
	return o.Topic + "/" + strconv.Itoa(int(o.Partition)) + "/" + strconv.FormatInt(o.Offset, 10)
}

// ParseOrigin is the inverse of [Origin.String]; ok is false for anything else.
func ParseOrigin(text string) (o Origin, ok bool) {
	topic, partition, offset, ok := cutLast(text)
	return Origin{topic, partition, offset}, ok && topic != ""
}

// cutLast splits a/1/2 into a, 1 and 2.
func cutLast(text string) (before string, partition int32, offset int64, ok bool) {
	last := strings.LastIndexByte(text, '/')
	if last < 0 {
		return "", 0, 0, false
	}
	middle := strings.LastIndexByte(text[:last], '/')
	if middle >= 0 {
		before = text[:middle]
	}
	n, err := strconv.ParseInt(text[middle+1:last], 10, 32)
	offset, err2 := strconv.ParseInt(text[last+1:], 10, 64)
	return before, int32(n), offset, err == nil && err2 == nil && n >= 0 && offset >= 0
}

// ParsePlace reads partition/offset, or topic/partition/offset with topic "" if
// it was left out.
func ParsePlace(text string) (Origin, bool) {
	topic, partition, offset, ok := cutLast(text)
	return Origin{topic, partition, offset}, ok
}

// Word is what a person has said about a letter.
type Word struct {
	Offset int64
	By     string
	Note   string
	At     time.Time
}

// parse reads a letter.
func parse(k *kgo.Record) *Letter {
	header := func(name string) string { return schemas.Header(k.Headers, name) }
	number := func(name string) int {
		n, _ := strconv.Atoi(header(name))
		return n
	}
	l := &Letter{
		Partition: k.Partition, Offset: k.Offset, Key: string(k.Key),
		Class: header(HeaderClass), Reason: header(HeaderReason), Message: header(HeaderMessage), HeldBy: header(HeaderHeldBy),
		Attempts: number(HeaderAttempts), Replays: number(HeaderReplays), Parked: header(HeaderParked) == "true",
		Bytes: len(k.Value), GivenUpAt: k.Timestamp,
	}
	l.Origin, _ = ParseOrigin(header(HeaderOrigin))
	if l.Origin.Topic == "" {
		l.ClerkID, l.Bytes = header(HeaderClerkID), number(HeaderBytes)
		return l
	}
	l.ClerkID, _, _ = schemas.SplitReceiptKey(l.Key)
	if l.ClerkID == "" {
		l.ClerkID = l.Key
	}
	if headers, err := schemas.ParseChangeHeaders(k.Headers); err == nil {
		l.Version, l.Versioned = headers.Version, true
	}
	return l
}

// about returns a record that says something about l, with the key of the letter.
func (l *Letter) about(topic string, headers ...kgo.RecordHeader) *kgo.Record {
	return &kgo.Record{
		Topic: topic, Partition: l.Partition, Key: []byte(l.Key),
		Headers: append([]kgo.RecordHeader{{Key: HeaderLetter, Value: strconv.AppendInt(nil, l.Offset, 10)}}, headers...),
	}
}

// Replay is the word that l is to be tried again.
func (l *Letter) Replay(topic, by, note string) *kgo.Record {
	return l.about(topic, signed(kgo.RecordHeader{Key: HeaderWord, Value: []byte(WordReplay)}, by, note)...)
}

// Close is the answer to l. by and note are a person's; "" for an owner.
func (l *Letter) Close(topic string, answer Answer, by, note string) *kgo.Record {
	return l.about(topic, signed(kgo.RecordHeader{Key: HeaderAnswer, Value: []byte(answer)}, by, note)...)
}

func signed(first kgo.RecordHeader, by, note string) []kgo.RecordHeader {
	headers := []kgo.RecordHeader{first}
	for _, h := range []kgo.RecordHeader{{Key: HeaderBy, Value: []byte(by)}, {Key: HeaderNote, Value: []byte(note)}} {
		if len(h.Value) > 0 {
			headers = append(headers, h)
		}
	}
	return headers
}

// Original returns the headers of the record that a letter holds, without
// those that made it a letter.
func Original(headers []kgo.RecordHeader) []kgo.RecordHeader {
	kept := make([]kgo.RecordHeader, 0, len(headers))
	for _, h := range headers {
		if !strings.HasPrefix(h.Key, headerPrefix) {
			kept = append(kept, h)
		}
	}
	return kept
}

// Followed reports whether k is what a person has said, so that an owner who
// follows the topic has to look: a word, or that a letter is discarded.
func Followed(k *kgo.Record) bool {
	return schemas.Header(k.Headers, HeaderWord) != "" || schemas.Header(k.Headers, HeaderAnswer) == string(AnswerDiscarded)
}
