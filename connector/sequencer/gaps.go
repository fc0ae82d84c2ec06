package sequencer

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/schemas/compacted"
)

// gapInterval is how often an open gap is looked at again.
const gapInterval = 5 * time.Second

// gaps knows the partitions whose events were lost to retention before they
// were sequenced. A gap is flagged in connect-state, where the snapshot task
// finds it, and is closed when that task has removed the flag.
type gaps struct {
	cfg   Config
	gauge prometheus.Gauge

	flagging sync.Mutex // held while connect-state is read or written

	mu   sync.Mutex
	open map[int32]bool
	read bool // what processes before this one flagged is in open
}

func newGaps(cfg Config, gauge prometheus.Gauge) *gaps {
	return &gaps{cfg: cfg, gauge: gauge, open: map[int32]bool{}}
}

// list returns the partitions with an open gap; known says that those are in
// it that processes before this one have flagged.
func (g *gaps) list() (open []int32, known bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]int32, 0, len(g.open))
	for partition := range g.open {
		list = append(list, partition)
	}
	slices.Sort(list)
	return list, g.read
}

// check flags a gap if the log of a partition begins behind the group's offset.
func (g *gaps) check(ctx context.Context, partition int32) error {
	client, err := kgo.NewClient(g.cfg.Client...)
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	topic := g.cfg.Topics.UserEvents()
	start, err := logStart(ctx, admin, topic, partition)
	if err != nil {
		return err
	}
	committed, err := admin.FetchOffsets(ctx, Group(g.cfg.Topics))
	if err != nil {
		return fmt.Errorf("fetch offsets: %w", err)
	}
	gap := connector.Gap{Committed: -1, LogStart: start, FlaggedAt: time.Now().UnixMilli()}
	if offset, ok := committed.Lookup(topic, partition); ok {
		gap.Committed = offset.At
	}
	if gap.LogStart <= max(gap.Committed, 0) {
		return nil
	}
	return g.flag(ctx, partition, gap)
}

// logStart returns the first offset of a partition. A partition whose leader is
// away has an error of its own, beside which the answer's offset means nothing.
func logStart(ctx context.Context, admin *kadm.Client, topic string, partition int32) (int64, error) {
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return 0, fmt.Errorf("list start offsets: %w", err)
	}
	start, ok := starts.Lookup(topic, partition)
	if !ok {
		return 0, fmt.Errorf("list start offsets: no answer for %s/%d", topic, partition)
	}
	if start.Err != nil {
		return 0, fmt.Errorf("list start offsets: %s/%d: %w", topic, partition, start.Err)
	}
	return start.Offset, nil
}

// flag notes a gap where the snapshot task and other processes find it.
func (g *gaps) flag(ctx context.Context, partition int32, gap connector.Gap) error {
	g.cfg.Logger.Error("events were lost to retention before they were sequenced; a snapshot will make up for them",
		"partition", partition, "offset", gap.Committed, "log_start", gap.LogStart)
	g.flagging.Lock()
	defer g.flagging.Unlock()
	if err := g.cfg.Writer.StoreState(ctx, connector.StateKeyGapPrefix+strconv.Itoa(int(partition)), gap); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open[partition] = true
	g.gauge.Set(float64(len(g.open)))
	return nil
}

// watchForever closes gaps whose flag is gone.
func (g *gaps) watchForever(ctx context.Context) {
	if err := g.refresh(ctx); err != nil && ctx.Err() == nil {
		g.cfg.Logger.Warn("look for gaps", "err", err)
	}
	ticker := time.NewTicker(gapInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if open, known := g.list(); known && len(open) == 0 {
			continue
		}
		if err := g.refresh(ctx); err != nil && ctx.Err() == nil {
			g.cfg.Logger.Warn("look for gaps", "err", err)
		}
	}
}

// refresh takes the open gaps from connect-state, also those that a process
// before this one has flagged.
func (g *gaps) refresh(ctx context.Context) error {
	g.flagging.Lock()
	defer g.flagging.Unlock()
	open := map[int32]bool{}
	err := compacted.Read(ctx, g.cfg.Client, g.cfg.Topics.ConnectState(), 0, func(r *kgo.Record) error {
		number, ok := strings.CutPrefix(string(r.Key), connector.StateKeyGapPrefix)
		if !ok {
			return nil
		}
		partition, err := strconv.ParseInt(number, 10, 32)
		if err != nil {
			return fmt.Errorf("key of a gap: %w", err)
		}
		if r.Value == nil {
			delete(open, int32(partition))
		} else {
			open[int32(partition)] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.read = open, true
	g.gauge.Set(float64(len(open)))
	return nil
}
