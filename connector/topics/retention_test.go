package topics

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

const deadline = 28 * 24 * time.Hour

func TestCheckRetention(t *testing.T) { onBoth(t, checksRetention) }

func checksRetention(t *testing.T, f *fixture) {
	if _, err := f.ensure(t, "crm"); err != nil {
		t.Fatal(err)
	}
	names := f.cfg.Names()
	check := func(deadline time.Duration) string {
		t.Helper()
		problems, err := CheckRetention(t.Context(), f.opts, f.cfg, deadline)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for _, problem := range problems {
			text.WriteString(problem.Error() + "\n")
		}
		return text.String()
	}
	if got := check(deadline); got != "" {
		t.Fatalf("topics as they are created: got %q, want no problem", got)
	}
	if got := check(10 * 24 * time.Hour); strings.Count(got, "\n") != 2 || !strings.Contains(got, names.UserEvents()+" may keep an erased user for 15 days") ||
		!strings.Contains(got, names.DeadLetters("crm")) {
		t.Errorf("a deadline of 10 days: got %q, want the event log and the dead letters", got)
	}
	alter := func(topic, setting, value string) {
		t.Helper()
		answer, err := f.admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: setting, Value: &value}}, topic)
		if err != nil || answer[0].Err != nil {
			t.Fatal(err, answer)
		}
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) { // a broker hears of it a moment later
			described, err := f.admin.DescribeTopicConfigs(t.Context(), topic)
			if err == nil && slices.ContainsFunc(described[0].Configs, func(c kadm.Config) bool { return c.Key == setting && c.MaybeValue() == value }) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s of %s is not %s after two minutes", setting, topic, value)
			}
		}
	}
	follow := func(advice string) { // as a person would
		t.Helper()
		for _, line := range strings.Split(strings.TrimSpace(advice), "\n") {
			_, command, found := strings.Cut(line, "--entity-name ")
			topic, settings, ok := strings.Cut(command, " --add-config ")
			if !found || !ok {
				t.Fatalf("no command in %q", line)
			}
			for _, setting := range strings.Split(settings, ",") {
				name, value, _ := strings.Cut(setting, "=")
				alter(topic, name, value)
			}
		}
	}
	follow(check(10 * 24 * time.Hour))
	if got := check(10 * 24 * time.Hour); got != "" {
		t.Errorf("what was advised is set: got %q, want no problem", got)
	}
	follow(check(36 * time.Hour)) // shorter than the segments, and than what a compaction waits at least
	if got := check(36 * time.Hour); got != "" {
		t.Errorf("what was advised is set: got %q, want no problem", got)
	}
	if got := check(24 * time.Hour); !strings.Contains(got, "ERASURE_DEADLINE to more than 1 day") {
		t.Errorf("a deadline that no compaction can meet: got %q", got)
	}
	alter(names.UserEvents(), "segment.ms", "86400000")
	alter(names.UserEvents(), "retention.ms", "-1")
	alter(names.DeadLetters("crm"), "retention.ms", "1209600000")
	alter(names.DeadLetters("crm"), "segment.ms", "2592000000")          // 30 days
	alter(names.Users(), "max.compaction.lag.ms", "9223372036854775807") // Kafka's default
	alter(names.SinkState("crm"), "max.compaction.lag.ms", "2332800000") // 27 days
	alter(names.DeadLettersWebhook(), "retention.ms", "-1")              // holds no user
	alter(names.Users(), "delete.retention.ms", "31536000000")           // of tombstones, which hold no user
	got := check(deadline)
	for _, want := range []string{
		names.UserEvents() + " may keep an erased user for ever: retention.ms is -1, which is without end. Set it: kafka-configs --alter --entity-type topics --entity-name " + names.UserEvents() + " --add-config retention.ms=1209600000\n",
		names.DeadLetters("crm") + " may keep an erased user for 44 days, longer than ERASURE_DEADLINE (28 days): retention.ms is 14 days, segment.ms is 30 days. Set it: kafka-configs --alter --entity-type topics --entity-name " + names.DeadLetters("crm") + " --add-config segment.ms=86400000\n",
		names.Users() + " may keep an erased user for ever: max.compaction.lag.ms is 9223372036854775807, which is without end",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want it to contain %q", got, want)
		}
	}
	if strings.Count(got, "\n") != 3 {
		t.Errorf("got %q, want three problems: 27 days and a tick are within 28", got)
	}
	alter(names.SinkState("crm"), "max.compaction.lag.ms", "2332800001")
	if got := check(deadline); strings.Count(got, "\n") != 4 {
		t.Errorf("a millisecond above: got %q, want four problems", got)
	}
}

// A broker that does not know a setting leaves data without a bound.
func TestLifetime_SettingUnknownToTheBroker(t *testing.T) {
	t.Parallel()
	if l := lifetime("x", map[string]string{cleanupPolicy: "compact"}); l.AtMost != 0 || l.Why != "the broker does not know max.compaction.lag.ms" {
		t.Errorf("got %+v, want no bound", l)
	}
	if l := lifetime("x", map[string]string{cleanupPolicy: "delete", "retention.ms": "1"}); l.AtMost != 0 {
		t.Errorf("got %+v, want no bound", l)
	}
	if l := lifetime("x", map[string]string{cleanupPolicy: "delete", "retention.ms": "9223372036854", "segment.ms": "9223372036854"}); l.AtMost != 0 {
		t.Errorf("centuries: got %+v, want no bound", l)
	}
}
