package process

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"clerkconnect/cmd/internal/config"
)

// told passes the log on, a line at a time.
type told func(line string)

func (t told) Write(line []byte) (int, error) { t(string(line)); return len(line), nil }

// TestNew_ThrottlesWhatItSaysOfKafka: an outage of an hour is no hour of lines.
func TestNew_ThrottlesWhatItSaysOfKafka(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var warning string
	log := slog.New(slog.NewTextHandler(told(func(line string) {
		if strings.Contains(line, "Kafka cannot be reached") {
			warning = line
			cancel()
		}
	}), nil))
	cfg := config.New()
	cfg.Kafka.Brokers, cfg.Admin.Addr = []string{"127.0.0.1:1"}, "127.0.0.1:0"
	_, err := New(ctx, Settings{Config: cfg, Logger: log, Registry: prometheus.NewRegistry()})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("New: got %v, want that it waits for Kafka until it is told to end", err)
	}
	if !strings.Contains(warning, "held_back=0") {
		t.Errorf("log: got %q, want a throttled warning", warning)
	}
}
