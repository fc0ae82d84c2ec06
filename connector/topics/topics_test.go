package topics

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"clerkconnect/connector"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixture struct {
	cluster *kfake.Cluster
	opts    []kgo.Opt
	admin   *kadm.Client
	cfg     Config
	log     *slog.Logger
	out     *bytes.Buffer
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	f := newFixtureOn(t, cluster.ListenAddrs(), "test")
	f.cluster = cluster
	return f
}

// newKafkaFixture is on the Kafka that TEST_KAFKA_BROKERS names, with topics of
// its own, which are deleted at the end.
func newKafkaFixture(t *testing.T) *fixture {
	t.Helper()
	brokers := os.Getenv("TEST_KAFKA_BROKERS")
	if brokers == "" {
		skip := t.Skip
		if os.Getenv("CI") == "true" {
			skip = t.Fatal
		}
		skip("TEST_KAFKA_BROKERS is not set: not tried on Kafka")
	}
	f := newFixtureOn(t, strings.Split(brokers, ","), "test-topics-"+strings.ToLower(rand.Text()))
	f.cfg.ReplicationFactor = 1
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		for _, topic := range Settings(f.cfg, []string{"crm", "postgres", "mongodb"}) {
			_, _ = f.admin.DeleteTopic(ctx, topic.Name)
		}
	})
	return f
}

func newFixtureOn(t *testing.T, brokers []string, prefix string) *fixture {
	t.Helper()
	f := &fixture{
		opts: []kgo.Opt{kgo.SeedBrokers(brokers...)},
		cfg:  Config{Prefix: prefix, Partitions: 3, ReplicationFactor: -1, Create: true},
		out:  &bytes.Buffer{},
	}
	f.log = slog.New(slog.NewTextHandler(f.out, nil))
	client, err := kgo.NewClient(f.opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	f.admin = kadm.NewClient(client)
	return f
}

func (f *fixture) ensure(t *testing.T, sinks ...string) (connector.Pins, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	return Ensure(ctx, f.opts, f.cfg, sinks, f.log)
}

func (f *fixture) wantError(t *testing.T, parts ...string) {
	t.Helper()
	_, err := f.ensure(t, "crm")
	if err == nil {
		t.Fatalf("Ensure: got nil, want an error naming %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("Ensure: got %q, want it to name %q", err, part)
		}
	}
}

func (f *fixture) recreate(t *testing.T, topic string, partitions int32, settings []Setting) {
	t.Helper()
	if _, err := f.admin.DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	configs := map[string]*string{}
	for _, s := range settings {
		configs[s.Name] = &s.Value
	}
	if _, err := f.admin.CreateTopic(t.Context(), partitions, -1, configs, topic); err != nil {
		t.Fatal(err)
	}
}

// onBoth runs a test on the embedded broker and on Kafka.
func onBoth(t *testing.T, test func(*testing.T, *fixture)) {
	t.Parallel()
	t.Run("embedded", func(t *testing.T) { t.Parallel(); test(t, newFixture(t)) })
	t.Run("kafka", func(t *testing.T) { t.Parallel(); test(t, newKafkaFixture(t)) })
}

func TestEnsure_CreatesTheTableAndPinsIt(t *testing.T) { onBoth(t, createsAndPins) }

func createsAndPins(t *testing.T, f *fixture) {
	pins, err := f.ensure(t, "crm", "postgres")
	if err != nil {
		t.Fatal(err)
	}
	table := Settings(f.cfg, []string{"crm", "postgres"})
	if len(table) != 11 {
		t.Fatalf("Settings: got %d topics, want 11", len(table))
	}
	for _, topic := range table {
		details, err := f.admin.ListTopics(t.Context(), topic.Name)
		if err != nil || len(details[topic.Name].Partitions) != int(topic.Partitions) {
			t.Errorf("%s: got %d partitions (%v), want %d", topic.Name, len(details[topic.Name].Partitions), err, topic.Partitions)
		}
		described, err := f.admin.DescribeTopicConfigs(t.Context(), topic.Name)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, c := range described[0].Configs {
			found[c.Key] = c.MaybeValue()
		}
		for _, s := range topic.Settings {
			if found[s.Name] != s.Value {
				t.Errorf("%s: %s is %q, want %q", topic.Name, s.Name, found[s.Name], s.Value)
			}
		}
		pinned, dead := pins.TopicIDs[topic.Name], strings.Contains(topic.Name, "dead-letters")
		if (pinned == details[topic.Name].ID.String()) == dead {
			t.Errorf("%s: pinned id is %q, topic's is %s", topic.Name, pinned, details[topic.Name].ID)
		}
	}
	if pins.Partitions != 3 || pins.Epoch < 29_000_000 {
		t.Errorf("Ensure: got %d partitions, epoch %d", pins.Partitions, pins.Epoch)
	}
	again, err := f.ensure(t, "crm", "postgres", "mongodb")
	if err != nil || again.Epoch != pins.Epoch || len(again.TopicIDs) != len(pins.TopicIDs)+1 {
		t.Errorf("Ensure again with one sink more: got %+v, %v; want the pins %+v and one topic more", again, err, pins)
	}
}

func TestEnsure_RefusesWhatLosesData(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		spoil func(*testing.T, *fixture)
		want  []string
	}{
		{"compacted topic that deletes", func(t *testing.T, f *fixture) { setPolicy(t, f, "test.users", "compact,delete") }, []string{"test.users", "cleanup.policy", `"compact,delete"`, `"compact"`}},
		{"log that compacts", func(t *testing.T, f *fixture) { setPolicy(t, f, "test.user-events", "compact") }, []string{"test.user-events", "cleanup.policy", `"compact"`, `"delete"`}},
		{"configured partitions changed", func(_ *testing.T, f *fixture) { f.cfg.Partitions = 6 }, []string{"TOPIC_PARTITIONS is 6", "set TOPIC_PARTITIONS=3"}},
		{"topic's partitions changed", func(t *testing.T, f *fixture) {
			if _, err := f.admin.CreatePartitions(t.Context(), 1, "test.users"); err != nil {
				t.Fatal(err)
			}
		}, []string{"test.users", "partitions are 4, wanted 3"}},
		{"topic made anew", func(t *testing.T, f *fixture) { f.recreate(t, "test.sequencer-state", 3, compact) }, []string{"test.sequencer-state was made anew", "begin anew"}},
		{"topic gone", func(t *testing.T, f *fixture) {
			if _, err := f.admin.DeleteTopic(t.Context(), "test.erasures"); err != nil {
				t.Fatal(err)
			}
		}, []string{"test.erasures is gone"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			if _, err := f.ensure(t, "crm"); err != nil {
				t.Fatal(err)
			}
			test.spoil(t, f)
			f.wantError(t, test.want...)
		})
	}
}

func setPolicy(t *testing.T, f *fixture, topic, policy string) {
	t.Helper()
	if _, err := f.admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: cleanupPolicy, Value: &policy}}, topic); err != nil {
		t.Fatal(err)
	}
}

func TestEnsure_WarnsOfSofterDifferences(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := f.ensure(t); err != nil {
		t.Fatal(err)
	}
	f.recreate(t, "test.dead-letters.webhook", 3, []Setting{{cleanupPolicy, "delete"}, {"retention.ms", "1000"}})
	if _, err := f.ensure(t); err != nil {
		t.Fatal(err)
	}
	if want := "setting=retention.ms found=1000 told=true wanted=1209600000"; !strings.Contains(f.out.String(), want) {
		t.Errorf("log: got %s, want %s", f.out, want)
	}
}

func TestEnsure_LeavesOutASettingThatTheBrokerRefusesByName(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.cluster.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		f.cluster.KeepControl()
		create := req.(*kmsg.CreateTopicsRequest)
		for _, topic := range create.Topics {
			for _, c := range topic.Configs {
				if c.Name == "max.compaction.lag.ms" {
					response := create.ResponseKind().(*kmsg.CreateTopicsResponse)
					answer := kmsg.NewCreateTopicsResponseTopic()
					answer.Topic, answer.ErrorCode = topic.Topic, kerr.InvalidConfig.Code
					answer.ErrorMessage = kmsg.StringPtr("Unknown topic config name: max.compaction.lag.ms")
					response.Topics = append(response.Topics, answer)
					return response, nil, true
				}
			}
		}
		return nil, nil, false
	})
	if _, err := f.ensure(t); err != nil {
		t.Fatal(err)
	}
	if want := "setting=max.compaction.lag.ms"; !strings.Contains(f.out.String(), want) {
		t.Errorf("log: got %s, want %s", f.out, want)
	}
}

func TestEnsure_WithoutCreateNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.cfg.Create = false
	f.wantError(t, "test.connect-state is missing", "TOPIC_CREATE", "kafka-topics --create --topic test.connect-state --partitions 1 --config cleanup.policy=compact --config segment.ms=86400000")
	if _, err := f.admin.CreateTopic(t.Context(), 1, 1, map[string]*string{"cleanup.policy": new("compact")}, "test.connect-state"); err != nil {
		t.Fatal(err)
	}
	f.wantError(t, "test.user-events is missing", "test.users is missing", "test.dead-letters.crm is missing") // all of it at once
}

func TestEnsure_ConcurrentFirstStartsAgree(t *testing.T) { onBoth(t, concurrentStartsAgree) }

func concurrentStartsAgree(t *testing.T, f *fixture) {
	const processes = 4
	var wg sync.WaitGroup
	pins, errs := make([]connector.Pins, processes), make([]error, processes)
	instances := make([]string, processes)
	for i := range processes {
		wg.Go(func() {
			cfg := f.cfg
			cfg.Partitions = int32(2 + i%2) // two of them are configured wrongly
			log := slog.New(slog.DiscardHandler)
			if pins[i], errs[i] = Ensure(t.Context(), f.opts, cfg, nil, log); errs[i] == nil {
				instances[i], errs[i] = PinInstance(t.Context(), f.opts, cfg.Names(), fmt.Sprintf("ins_%d", i))
			}
		})
	}
	wg.Wait()
	stored, err := ReadPins(t.Context(), f.opts, f.cfg.Names())
	if err != nil {
		t.Fatal(err)
	}
	for i := range processes {
		if agrees := int32(2+i%2) == stored.Partitions; agrees != (errs[i] == nil) {
			t.Errorf("process %d: got %v; pinned are %d partitions", i, errs[i], stored.Partitions)
		}
		if errs[i] == nil && (instances[i] != stored.InstanceID || pins[i].Epoch != stored.Epoch || len(stored.TopicIDs) != 6) {
			t.Errorf("process %d: got instance %s, pins %+v; stored are %+v", i, instances[i], pins[i], stored)
		}
	}
}

// TestPinInstance_FirstOneWins takes the lock away between a process's read and
// its write: it must not overwrite what was pinned meanwhile.
func TestPinInstance_FirstOneWins(t *testing.T) { onBoth(t, firstOneWins) }

func firstOneWins(t *testing.T, f *fixture) {
	if _, err := f.ensure(t); err != nil {
		t.Fatal(err)
	}
	first := true
	slow, err := changePins(t.Context(), f.opts, f.cfg.Names(), func(p *connector.Pins) (bool, error) {
		if p.InstanceID != "" {
			return false, nil
		}
		if p.InstanceID = "ins_slow"; first { // called again under the lock
			first = false
			return true, nil
		}
		if pinned, err := PinInstance(t.Context(), f.opts, f.cfg.Names(), "ins_fast"); err != nil || pinned != "ins_fast" {
			t.Errorf("PinInstance: got %q, %v", pinned, err)
		}
		return true, nil
	})
	if err != nil || slow.InstanceID != "ins_fast" {
		t.Errorf("slow process: got %q, %v; want ins_fast", slow.InstanceID, err)
	}
	if again, err := PinInstance(t.Context(), f.opts, f.cfg.Names(), "ins_other"); err != nil || again != "ins_fast" {
		t.Errorf("PinInstance: got %q, %v; want ins_fast", again, err)
	}
}

// TestEnsure_RefusesASinkOfTheReceiversName: both would write one dead-letter topic.
func TestEnsure_RefusesASinkOfTheReceiversName(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := f.ensure(t, "webhook"); err == nil || !strings.Contains(err.Error(), "choose another name") {
		t.Errorf("Ensure: got %v, want an error", err)
	}
}

// TestRefusedSetting: a topic is created without a setting that the broker
// refuses by name, but never without its cleanup.policy.
func TestRefusedSetting(t *testing.T) {
	t.Parallel()
	settings := []Setting{{cleanupPolicy, "compact"}, {"retention.ms", "1"}, {"delete.retention.ms", "2"}}
	for _, test := range []struct {
		err     error
		message string
		want    int
	}{
		{kerr.InvalidConfig, "Unknown topic config name: retention.ms", 1},
		{kerr.InvalidConfig, "Unknown topic config name: delete.retention.ms", 2},
		{kerr.InvalidConfig, "Invalid value compact for configuration cleanup.policy", -1},
		{kerr.InvalidConfig, "something else", -1},
		{kerr.PolicyViolation, "retention.ms is too long", -1},
	} {
		if got := refusedSetting(test.err, test.message, settings); got != test.want {
			t.Errorf("%v, %q: got %d, want %d", test.err, test.message, got, test.want)
		}
	}
}

func TestConfig_ValidateNamesEveryVariable(t *testing.T) {
	t.Parallel()
	err := Config{Prefix: "a b", ReplicationFactor: 0}.Validate()
	for _, name := range []string{"TOPIC_PREFIX", "TOPIC_PARTITIONS", "TOPIC_REPLICATION_FACTOR"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Validate: got %v, want it to name %s", err, name)
		}
	}
}
