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
	never       = 10 * 365 * 24 * 60 * 60 * 1000
	infoName    = "broker.json"
	runningName = "running"
)

// Broker is a running broker. Make one with [Start].
type Broker struct {
	// Address is where clients connect: 127.0.0.1 and the port.
	Address string

	cluster *kfake.Cluster
	running string // file that is there while the broker runs, and after a crash
	commits sync.RWMutex
}

// info is what a data folder keeps of its broker.
type info struct {
	Port int `json:"port"`
}

// Start starts a broker whose data is in the folder dir, which it makes if it
// is not there. Nobody else may use the folder meanwhile. The port is kept in
// the folder, so that clients find the broker again at the next start; if it is
// taken by then, the broker has another one.
func Start(ctx context.Context, dir string, logger *slog.Logger) (*Broker, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	listener, err := listen(filepath.Join(dir, infoName))
	if err != nil {
		return nil, err
	}
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return listener, nil }),
		kfake.ClusterID("clerk-connect"),
		kfake.DataDir(filepath.Join(dir, "data")),
		kfake.SyncWrites(),
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": strconv.Itoa(never)}),
		kfake.WithLogger(brokerLogger{logger}),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("embedded broker: %w", err), listener.Close())
	}
	b := &Broker{
		Address: listener.Addr().String(),
		cluster: cluster,
		running: filepath.Join(dir, runningName),
	}
	if err := b.begin(ctx); err != nil {
		cluster.Close()
		return nil, fmt.Errorf("embedded broker: %w", err)
	}
	return b, nil
}

// begin repairs what a crash has left, and marks the folder until Close.
func (b *Broker) begin(ctx context.Context) error {
	if _, err := os.Stat(b.running); err == nil {
		return b.repair(ctx)
	}
	return os.WriteFile(b.running, nil, 0o600)
}

// listen listens where the folder's broker did before, for a new folder on
// DefaultPort, and on another port if that is taken.
func listen(path string) (net.Listener, error) {
	known := info{DefaultPort}
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &known)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	listener, err := listenOn(known.Port)
	if err != nil {
		if listener, err = listenOn(0); err != nil {
			return nil, err
		}
	}
	if text, err = json.Marshal(info{listener.Addr().(*net.TCPAddr).Port}); err == nil {
		err = os.WriteFile(path, append(text, '\n'), 0o600)
	}
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

func listenOn(port int) (net.Listener, error) {
	return net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
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
	_ = os.Remove(b.running) // else the next start looks for what to repair, and finds nothing
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
