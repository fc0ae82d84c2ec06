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
