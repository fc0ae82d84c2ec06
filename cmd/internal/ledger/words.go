package ledger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
)

// clerkIDs are what the IDs of Clerk's users look like.
var clerkIDs = regexp.MustCompile(`^user_[A-Za-z0-9_-]{1,123}$`)

// CheckClerkID returns an error for what cannot be a Clerk ID, so that nobody's
// e-mail address or user name gets into the ledger by mistake, where it would
// stay. It does not repeat it.
func CheckClerkID(id string) error {
	if !clerkIDs.MatchString(id) {
		return errors.New("that is not a Clerk user ID: give one, as user_2abCdEf...; after user_ come letters, digits, hyphens and underscores")
	}
	return nil
}

// requestPrefix begins the event id of an erasure that a person asked for. It
// goes on with something random, and with the person's reason, if there is one.
const requestPrefix = "request/"

// reasons are what may stand in an event id, which is a header in ASCII. There
// is no @ among it: the ledger holds no e-mail addresses.
var reasons = regexp.MustCompile(`^[A-Za-z0-9 ._:#/+-]{1,100}$`)

// CheckReason returns an error for what cannot be kept as a reason. It does not
// repeat it.
func CheckReason(reason string) error {
	if reason != "" && !reasons.MatchString(reason) {
		return errors.New("--reason cannot be kept: give 1 to 100 letters, digits, spaces and . _ : # / + -, as \"ticket DSR-118\", and nothing that names a person")
	}
	return nil
}

func reasonOf(eventID string) string {
	rest, ok := strings.CutPrefix(eventID, requestPrefix)
	if !ok {
		return ""
	}
	_, reason, _ := strings.Cut(rest, "/")
	return reason
}

// Request is the event by which a person asks for an erasure. It is final: the
// user never comes back. instanceID is the pinned one.
func Request(clerkID, instanceID, reason string, now time.Time) *schemas.UserEvent {
	id := requestPrefix + strings.ToLower(rand.Text()[:12])
	if reason != "" {
		id += "/" + reason
	}
	at := now.UnixMilli()
	return &schemas.UserEvent{
		ClerkID: clerkID, Operation: schemas.EventDelete, Origin: schemas.OriginRequest, EventID: id, InstanceID: instanceID,
		StatedAt: at, OccurredAt: at, ReceivedAt: at,
	}
}

// Waive writes that a sink keeps the user of an erasure. client must have been
// made with connector.WriterOptions. It returns when the broker has
// acknowledged it.
func (l *Ledger) Waive(ctx context.Context, client *kgo.Client, e Entry, sink string, now time.Time) error {
	value, err := l.codec().Encode(&schemas.Receipt{
		ClerkID: e.ClerkID, Sink: sink, Epoch: e.version.Epoch, Version: e.version.Number,
		Outcome: schemas.OutcomeNotPresent, // older readers know no other word
		DoneAt:  now.UnixMilli(), WaivedAt: new(now.UnixMilli()),
	})
	if err != nil {
		return err
	}
	if err := client.ProduceSync(ctx, l.word(e.ClerkID, sink, value)).FirstErr(); err != nil {
		return fmt.Errorf("write the waiver: %w", err)
	}
	return nil
}

// TakeBack takes the receipts, or waivers, of a sink back, so that the
// erasures are owed again. client is as for Waive. It returns where each word
// stands, by Clerk ID: a receipt that knows of it is the answer ([Heard]). On
// an error some may have been written; writing all again is harmless.
func (l *Ledger) TakeBack(ctx context.Context, client *kgo.Client, sink string, clerkIDs []string) (map[string]int64, error) {
	records := make([]*kgo.Record, len(clerkIDs))
	for i, id := range clerkIDs {
		records[i] = l.word(id, sink, nil)
	}
	written := map[string]int64{}
	for i, result := range client.ProduceSync(ctx, records...) {
		if result.Err != nil {
			return written, fmt.Errorf("take %d receipts back, %d are written: %w", len(records), i, result.Err)
		}
		id, _, _ := schemas.SplitReceiptKey(string(result.Record.Key))
		written[id] = result.Record.Offset
	}
	return written, nil
}

// word is a record that a person writes about a sink.
func (l *Ledger) word(clerkID, sink string, value []byte) *kgo.Record {
	return &kgo.Record{
		Topic: l.Topics.ErasureReceipts(), Partition: schemas.Partition(clerkID, l.Partitions),
		Key: []byte(schemas.ReceiptKey(clerkID, sink)), Value: value,
	}
}
