// Package telemetry makes the process's logger and metrics registry.
package telemetry

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector/throttle"
)

// Config says how to log. Its variables stand behind LOG_.
type Config struct {
	Level  string `env:"LEVEL" envDefault:"info" doc:"Least severity that is logged: debug, info, warn or error. Clerk user ids are logged at debug only, other user data never."`
	Format string `env:"FORMAT" envDefault:"json" doc:"json for machines, text for people."`
}

// Validate reports every problem of the configuration.
func (c Config) Validate() error {
	var errs []error
	if _, err := c.level(); err != nil {
		errs = append(errs, fmt.Errorf("LOG_LEVEL is %q: give debug, info, warn or error", c.Level))
	}
	if c.Format != "json" && c.Format != "text" {
		errs = append(errs, fmt.Errorf("LOG_FORMAT is %q: give json or text", c.Format))
	}
	return errors.Join(errs...)
}

func (c Config) level() (slog.Level, error) {
	switch c.Level {
	case "debug", "info", "warn", "error":
		var level slog.Level
		err := level.UnmarshalText([]byte(strings.ToUpper(c.Level)))
		return level, err
	}
	return 0, errors.New("unknown level")
}

// Logger returns a logger that writes to w. An invalid Config logs JSON at info.
func (c Config) Logger(w io.Writer) *slog.Logger {
	level, _ := c.level()
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// Registry returns a registry with the collectors of the Go runtime, the
// process and the build.
func Registry(version string) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "clerk_connect", Name: "build_info", Help: "1, labelled with the version.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build,
	)
	return registry
}

// KafkaLogger returns a logger for franz-go clients that passes on warnings
// and errors, whatever the process logs: what these clients say at info is
// for those who debug franz-go, and at debug they quote requests. What they
// say of the same broker or group again and again, as long as Kafka is away,
// is logged once in [throttle.Every].
func KafkaLogger(logger *slog.Logger) kgo.Logger {
	return kafkaLogger{throttle.New(logger.With("component", "kafka"))}
}

type kafkaLogger struct{ log *throttle.Logger }

func (k kafkaLogger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (k kafkaLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	severity := slog.LevelWarn
	if level == kgo.LogLevelError {
		severity = slog.LevelError
	}
	k.log.Log(severity, about(msg, keyvals), msg, keyvals...)
}

// about is a message and whom it is about, of which a deployment has a few.
func about(msg string, keyvals []any) string {
	for i := 0; i+1 < len(keyvals); i += 2 {
		switch keyvals[i] {
		case "addr", "broker", "group", "topic":
			msg += fmt.Sprint(" ", keyvals[i+1])
		}
	}
	return msg
}
