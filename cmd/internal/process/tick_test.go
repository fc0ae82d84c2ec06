package process

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/cmd/internal/config"
	"clerkconnect/cmd/internal/telemetry"
	"clerkconnect/connector/topics"
	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
)

// newProcess is one with these roles on a broker of its own.
func newProcess(t *testing.T, roles ...config.Role) *Process {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	c, err := config.Load(map[string]string{
		"KAFKA_BROKERS": strings.Join(cluster.ListenAddrs(), ","), "TOPIC_PARTITIONS": "3", "ADMIN_ADDR": "127.0.0.1:0", "INSTANCE_NAME": "one",
		"SINKS": "sqlite", "SINK_SQLITE_PATH": filepath.Join(t.TempDir(), "users.db"),
	}, roles)
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(t.Context(), Settings{Config: c, Roles: roles, Logger: slog.New(slog.DiscardHandler), Registry: telemetry.Registry("test"), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestTicks: what a sink remembers stands in partitions that are written to,
// since only those are compacted.
func TestTicks(t *testing.T) {
	t.Parallel()
	p := newProcess(t, config.RoleSinks)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	for deadline := time.Now().Add(2 * time.Minute); len(p.Sinks[0].Status().Owned) < 3; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the sink does not own its partitions after two minutes")
		}
	}
	p.tickOwned(t.Context())
	for partition := range int32(3) {
		ticks := 0
		err := compacted.Read(t.Context(), p.Client, p.Topics.SinkState("sqlite"), partition, func(r *kgo.Record) error {
			if string(r.Key) == schemas.TickKey && r.Value == nil {
				ticks++
			}
			return nil
		})
		if err != nil || ticks != 1 {
			t.Errorf("partition %d: got %d ticks, %v, want 1", partition, ticks, err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestCheckRetention: topics as they are created keep nobody for too long, and
// a shorter deadline is a problem of the configuration.
func TestCheckRetention(t *testing.T) {
	t.Parallel()
	p := newProcess(t, config.RoleSinks)
	defer p.Close()
	if err := p.CheckRetention(t.Context()); err != nil {
		t.Errorf("got %v, want no problem", err)
	}
	p.settings.Config.Erasure.Deadline = topics.TickInterval
	var problems config.Problems
	if err := p.CheckRetention(t.Context()); !errors.As(err, &problems) || len(problems) != 4 {
		t.Errorf("a deadline of a day: got %v, want 4 problems", err)
	}
}
