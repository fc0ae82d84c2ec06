// Package embedded is a Kafka-compatible broker inside of the process, on
// loopback, with its data on disk: for developing, not for production. It is
// franz-go's kfake, which any Kafka client can talk to.
package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// DefaultPort is where the broker of a new data folder listens, if that port
// is free. It is beside Kafka's own 9092, so that both can run.
const DefaultPort = 19092

const (
	// compactEvery is how often the broker compacts: often enough that the
	// data of a day's session stays small.
	compactEvery = 10 * time.Minute
	// never is longer than any session: kfake compacts by itself every hour,
	// and ignores open transactions while it does (ten years, in milliseconds).
	never    = 10 * 365 * 24 * 60 * 60 * 1000
	infoName = "broker.json"
)

// Broker is a running broker. Make one with [Start].
type Broker struct {
	// Address is where clients connect: 127.0.0.1 and the port.
	Address string

	cluster *kfake.Cluster
	commits sync.RWMutex
}

// info is what a data folder keeps of its broker.
type info struct {
	Port int `json:"port"`
}

// Start starts a broker whose data is in the folder dir, which it makes if it
// is not there. Nobody else may use the folder meanwhile. The port of the first
// start is kept in the folder for the next ones, so that clients find it
// again; if it is taken by then, Start says so.
func Start(dir string, logger *slog.Logger) (*Broker, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	port, err := choosePort(filepath.Join(dir, infoName))
	if err != nil {
		return nil, err
	}
	cluster, err := kfake.NewCluster(
		kfake.Ports(port),
		kfake.ClusterID("clerk-connect"),
		kfake.DataDir(filepath.Join(dir, "data")),
		kfake.SyncWrites(),
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": strconv.Itoa(never)}),
		kfake.WithLogger(brokerLogger{logger}),
	)
	if err != nil {
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	return &Broker{Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), cluster: cluster}, nil
}

// choosePort returns the port that the folder's broker had before, or for a
// new folder DefaultPort, or a free one if that is taken.
func choosePort(path string) (int, error) {
	var known info
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := json.Unmarshal(text, &known); err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		if _, err := freePort(known.Port); err != nil {
			return 0, fmt.Errorf("the broker's port %d is taken: %w; end what listens there, or change the port in %s", known.Port, err, path)
		}
		return known.Port, nil
	case !errors.Is(err, fs.ErrNotExist):
		return 0, err
	}
	if known.Port, err = freePort(DefaultPort); err != nil {
		if known.Port, err = freePort(0); err != nil {
			return 0, err
		}
	}
	text, err = json.Marshal(known)
	if err != nil {
		return 0, err
	}
	return known.Port, os.WriteFile(path, append(text, '\n'), 0o600)
}

// freePort returns the port if nobody listens on it; for 0, any such port.
func freePort(port int) (int, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return 0, err
	}
	port = listener.Addr().(*net.TCPAddr).Port
	return port, listener.Close()
}

// CommitLock is to be held from the begin to the end of every transaction: the
// broker compacts while nobody holds it. Any number of owners may hold it.
func (b *Broker) CommitLock() sync.Locker { return b.commits.RLocker() }

// Run compacts now and then until ctx is done.
func (b *Broker) Run(ctx context.Context) {
	ticker := time.NewTicker(compactEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			b.Compact()
		}
	}
}

// Compact compacts all compacted topics, when no transaction is open.
func (b *Broker) Compact() {
	b.commits.Lock()
	defer b.commits.Unlock()
	b.cluster.Compact()
}

// Close writes what is not yet on disk, and stops the broker.
func (b *Broker) Close() {
	b.cluster.Close()
}

// brokerLogger passes on what kfake calls an error. Its warnings are about its
// own speed: they are told at debug.
type brokerLogger struct{ logger *slog.Logger }

func (l brokerLogger) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		l.logger.Error(fmt.Sprintf(format, args...), "component", "embedded_broker")
	case kfake.LogLevelWarn:
		l.logger.Debug(fmt.Sprintf(format, args...), "component", "embedded_broker")
	}
}
