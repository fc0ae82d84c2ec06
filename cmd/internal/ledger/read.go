package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
	"clerkconnect/sinks/runner"
)

// Ledger is the ledger of one deployment. Every field must be set, but for
// Codec and Sinks. Safe for concurrent use.
type Ledger struct {
	// Client names the brokers and the security.
	Client []kgo.Opt
	// Codec reads and writes records; nil means the zero value.
	Codec  *schemas.Codec
	Topics schemas.Topics
	// Partitions is the pinned number.
	Partitions int32
	// Deadline is the time from the request to the end of an erasure.
	Deadline time.Duration
	// Sinks are those configured in this process.
	Sinks []Sink
}

// readers is how many partitions are read at once.
const readers = 4

// page is what is read of one partition.
type page struct {
	demands  map[string]demand                     // by Clerk ID
	receipts map[string]map[string]schemas.Receipt // by Clerk ID and sink
	sinks    map[string]bool                       // who has receipts
}

// frame reads what every erasure is judged by.
func (l *Ledger) frame(ctx context.Context, now time.Time) (frame, error) {
	expected, err := l.Expected(ctx)
	if err != nil {
		return frame{}, err
	}
	reapplied, err := l.reapplied(ctx)
	return frame{expected: expected, reapplied: reapplied, deadline: l.Deadline, now: now}, err
}

// Read calls each for every erasure, in no order, and returns the sinks that
// have to answer or have answered. It reads both topics as they are at one
// moment, a partition at a time, so that what each drops costs no memory. each
// is not called concurrently.
func (l *Ledger) Read(ctx context.Context, now time.Time, each func(Entry)) ([]Sink, error) {
	f, err := l.frame(ctx, now)
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	return l.read(ctx, f, each)
}

func (l *Ledger) read(ctx context.Context, f frame, each func(Entry)) ([]Sink, error) {
	var mu sync.Mutex
	answered := map[string]bool{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for partition := range l.Partitions {
		group.Go(func() error {
			p, err := l.page(ctx, partition, "")
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(answered, p.sinks)
			for id, d := range p.demands {
				each(f.judge(d, p.receipts[id]))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	return withReceipts(f.expected, answered), nil
}

// Find returns the erasure of one user; found is false if none stands. earlier
// are sinks with a receipt for one that was withdrawn.
func (l *Ledger) Find(ctx context.Context, clerkID string, now time.Time) (entry Entry, found bool, earlier []string, err error) {
	f, err := l.frame(ctx, now)
	if err != nil {
		return Entry{}, false, nil, fmt.Errorf("read the ledger: %w", err)
	}
	p, err := l.page(ctx, schemas.Partition(clerkID, l.Partitions), clerkID)
	if err != nil {
		return Entry{}, false, nil, fmt.Errorf("read the ledger: %w", err)
	}
	d, found := p.demands[clerkID]
	if !found {
		for sink := range p.receipts[clerkID] {
			earlier = append(earlier, sink)
		}
		slices.Sort(earlier)
		return Entry{}, false, earlier, nil
	}
	return f.judge(d, p.receipts[clerkID]), true, nil, nil
}

// page reads a partition; only is the Clerk ID to look for, "" for all.
func (l *Ledger) page(ctx context.Context, partition int32, only string) (*page, error) {
	p := &page{demands: map[string]demand{}, receipts: map[string]map[string]schemas.Receipt{}, sinks: map[string]bool{}}
	err := compacted.Read(ctx, l.Client, l.Topics.Erasures(), partition, func(k *kgo.Record) error {
		if only != "" && string(k.Key) != only {
			return nil
		}
		return l.demand(ctx, k, p)
	})
	if err != nil {
		return nil, err
	}
	takenBack := map[string]int64{}
	err = compacted.Read(ctx, l.Client, l.Topics.ErasureReceipts(), partition, func(k *kgo.Record) error {
		id, sink, ok := schemas.SplitReceiptKey(string(k.Key))
		if !ok {
			return nil
		}
		if k.Value != nil {
			p.sinks[sink] = true
		}
		if _, demanded := p.demands[id]; !demanded && id != only {
			return nil
		}
		return l.receipt(ctx, k, p, takenBack)
	})
	return p, err
}

func (l *Ledger) demand(ctx context.Context, k *kgo.Record, p *page) error {
	id := string(k.Key)
	if k.Value == nil { // withdrawn, or a tick
		delete(p.demands, id)
		return nil
	}
	var e schemas.Erasure
	if err := l.codec().Decode(ctx, k.Value, &e); err != nil {
		return fmt.Errorf("offset %d: %w", k.Offset, err)
	}
	e.ClerkID = id
	p.demands[id] = asked(e, k.Timestamp)
	return nil
}

// receipt notes a receipt as the runner does (its restore): one that cannot be
// understood pays nothing, and one whose writer had not heard that it was taken
// back does not outlast that.
func (l *Ledger) receipt(ctx context.Context, k *kgo.Record, p *page, takenBack map[string]int64) error {
	key := string(k.Key)
	id, sink, _ := schemas.SplitReceiptKey(key)
	if k.Value == nil {
		delete(p.receipts[id], sink)
		takenBack[key] = k.Offset
		return nil
	}
	heard, err := strconv.ParseInt(schemas.Header(k.Headers, runner.HeaderHeard), 10, 64)
	if at, ok := takenBack[key]; ok && err == nil && heard <= at {
		return nil
	}
	var r schemas.Receipt
	err = l.codec().Decode(ctx, k.Value, &r)
	switch {
	case errors.Is(err, schemas.ErrMalformed) || errors.Is(err, schemas.ErrUnknownSchema):
		delete(p.receipts[id], sink)
		return nil
	case err != nil:
		return fmt.Errorf("offset %d: %w", k.Offset, err)
	}
	r.ClerkID, r.Sink = id, sink
	if p.receipts[id] == nil {
		p.receipts[id] = map[string]schemas.Receipt{}
	}
	p.receipts[id][sink] = r
	return nil
}

func (l *Ledger) codec() *schemas.Codec {
	if l.Codec == nil {
		return &schemas.Codec{}
	}
	return l.Codec
}
