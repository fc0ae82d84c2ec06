package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas/compacted"
)

// Reapplied is a person's word that the erasures of a sink are repeated, kept
// in <prefix>.connect-state: the receipts that follow have new dates, and by
// them alone an erasure that was done in time would look late.
type Reapplied struct {
	Sink string `json:"sink"`
	// At is when it was said, Since from when on receipts were taken back.
	At    time.Time `json:"at"`
	Since time.Time `json:"since"`
	// Erasures is how many were.
	Erasures int `json:"erasures"`
	// Owed are those that the sink had not done by then, by Clerk ID: what it
	// does of them later is no repetition. Nil with Unsure: they were too many.
	Owed   []string `json:"owed,omitempty"`
	Unsure bool     `json:"unsure,omitempty"`
}

const (
	reapplyPrefix = "reapply/"
	// mostOwed keeps a Reapplied below the size of a record: 33 bytes each.
	mostOwed = 10_000
)

// NewReapplied returns the word, and cuts what is too much of it.
func NewReapplied(sink string, at, since time.Time, erasures int, owed []string) Reapplied {
	r := Reapplied{Sink: sink, At: at.UTC(), Since: since.UTC(), Erasures: erasures, Owed: owed}
	if len(owed) > mostOwed {
		r.Owed, r.Unsure = nil, true
	}
	slices.Sort(r.Owed)
	return r
}

// StateKey is where it is kept.
func (r Reapplied) StateKey() string {
	return reapplyPrefix + r.Sink + "/" + strconv.FormatInt(r.At.UnixMilli(), 10)
}

// repeats reports whether what a sink did at that time was the repetition of
// an erasure that was asked for before.
func (r Reapplied) repeats(sink, clerkID string, asked, done time.Time) bool {
	if r.Sink != sink || r.Unsure || !asked.Before(r.At) || done.Before(r.At) {
		return false
	}
	_, owed := slices.BinarySearch(r.Owed, clerkID)
	return !owed
}

// reapplied reads all of them, the oldest first.
func (l *Ledger) reapplied(ctx context.Context) ([]Reapplied, error) {
	byKey := map[string]Reapplied{}
	err := compacted.Read(ctx, l.Client, l.Topics.ConnectState(), 0, func(k *kgo.Record) error {
		key := string(k.Key)
		if !strings.HasPrefix(key, reapplyPrefix) {
			return nil
		}
		var r Reapplied
		if k.Value == nil {
			delete(byKey, key)
			return nil
		}
		if err := json.Unmarshal(k.Value, &r); err != nil {
			return fmt.Errorf("offset %d: %w", k.Offset, err)
		}
		byKey[key] = r
		return nil
	})
	if err != nil {
		return nil, err
	}
	list := []Reapplied{}
	for _, r := range byKey {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b Reapplied) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Sink, b.Sink)) })
	return list, nil
}
