package telemetry

import (
	"bytes"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestLogger(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	Config{Level: "warn", Format: "json"}.Logger(&out).Info("quiet")
	Config{Level: "warn", Format: "json"}.Logger(&out).Warn("loud", "at", 1)
	if got := out.String(); strings.Contains(got, "quiet") || !strings.Contains(got, `"msg":"loud","at":1`) {
		t.Errorf("LOG_LEVEL=warn LOG_FORMAT=json: got %q", got)
	}
	out.Reset()
	Config{Level: "debug", Format: "text"}.Logger(&out).Debug("all")
	if got := out.String(); !strings.Contains(got, "level=DEBUG msg=all") {
		t.Errorf("LOG_LEVEL=debug LOG_FORMAT=text: got %q", got)
	}
	if err := (Config{Level: "trace", Format: "xml"}).Validate(); err == nil ||
		!strings.Contains(err.Error(), "LOG_LEVEL is") || !strings.Contains(err.Error(), "LOG_FORMAT is") {
		t.Errorf("Validate: got %v, want both problems", err)
	}
}

// TestKafkaLogger: what clients say below warn may quote requests, and stays
// out whatever the process logs.
func TestKafkaLogger(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	logger := KafkaLogger(Config{Level: "debug", Format: "text"}.Logger(&out))
	if got := logger.Level(); got != kgo.LogLevelWarn {
		t.Errorf("Level: got %v, want warn", got)
	}
	logger.Log(kgo.LogLevelError, "broken", "broker", 1)
	if got := out.String(); !strings.Contains(got, "level=ERROR msg=broken component=kafka broker=1") {
		t.Errorf("Log: got %q", got)
	}
}

// TestKafkaLogger_OnceForEachBroker: while Kafka is away each of a process's
// many clients says so again and again.
func TestKafkaLogger_OnceForEachBroker(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	logger := KafkaLogger(Config{Level: "info", Format: "text"}.Logger(&out))
	for range 100 {
		for _, addr := range []string{"kafka-1:9092", "kafka-2:9092"} {
			logger.Log(kgo.LogLevelWarn, "unable to open connection to broker", "addr", addr, "err", "refused")
		}
	}
	if got := strings.Count(out.String(), "\n"); got != 2 || !strings.Contains(out.String(), "addr=kafka-2:9092 err=refused") {
		t.Errorf("got %d lines, want one for each of two brokers:\n%s", got, out.String())
	}
}
