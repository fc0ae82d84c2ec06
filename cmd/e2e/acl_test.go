package e2e

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

// right is what a principal may do with a resource: name less the prefix of the
// deployment; a star at its end stands for every name that begins so.
type right struct {
	kind       kmsg.ACLResourceType
	name       string
	operations string
}

const (
	topicRight = kmsg.ACLResourceTypeTopic
	groupRight = kmsg.ACLResourceTypeGroup
	txnRight   = kmsg.ACLResourceTypeTransactionalId
)

// rights are the table "Kafka permissions" of deployments/README.md, line by
// line. What is changed here is changed there.
var rights = map[string][]right{
	"every process": {
		{topicRight, "*", "describe describe-configs create"},
		{topicRight, "connect-state", "read write"},
		{txnRight, "pins", "write"},
	},
	"receiver": {
		{topicRight, "user-events", "write"}, {topicRight, "dead-letters.webhook", "write"},
	},
	"sequencer": {
		{topicRight, "user-events", "read"}, {topicRight, "sequencer-state", "read write"},
		{topicRight, "users", "write"}, {topicRight, "erasures", "read write"}, {topicRight, "erasure-receipts", "read write"},
		{groupRight, "sequencer", "read"}, {txnRight, "sequencer.*", "write"},
	},
	"snapshot": {
		{topicRight, "user-events", "write"},
		{groupRight, "snapshot", "read"},
	},
	"sinks": {
		{topicRight, "users", "read"}, {topicRight, "erasures", "read"},
		{topicRight, "erasure-receipts", "read write"}, {topicRight, "sink-state.*", "read write"},
		{topicRight, "dead-letters.*", "read write"},
		{groupRight, "sink.*", "read"}, {txnRight, "sink.*", "write"},
	},
	"the erasure commands": {
		{topicRight, "erasure-receipts", "read write"}, {topicRight, "erasures", "read"}, {topicRight, "user-events", "write"},
	},
	"the dlq and sink commands": {
		{topicRight, "users", "read"}, {topicRight, "erasures", "read"}, {topicRight, "dead-letters.*", "read write"},
		{groupRight, "sink.*", "describe"},
	},
	"your consumers": {
		{topicRight, "users", "read"},
		{groupRight, "their-own", "read"},
	},
}

var operations = map[string]kmsg.ACLOperation{
	"read": kmsg.ACLOperationRead, "write": kmsg.ACLOperationWrite, "create": kmsg.ACLOperationCreate,
	"describe": kmsg.ACLOperationDescribe, "describe-configs": kmsg.ACLOperationDescribeConfigs,
}

// acls renders rights for Kafka.
func acls(prefix string, granted []right) (entries []kfake.ACL) {
	for _, r := range granted {
		name, pattern := prefix+"."+r.name, kmsg.ACLResourcePatternTypeLiteral
		if before, ok := strings.CutSuffix(name, "*"); ok {
			name, pattern = before, kmsg.ACLResourcePatternTypePrefixed
		}
		for _, operation := range strings.Fields(r.operations) {
			entries = append(entries, kfake.ACL{Resource: r.kind, Name: name, Pattern: pattern, Operation: operations[operation], Allow: true})
		}
	}
	return entries
}

// TestRights runs one process for each role, each with a login that has the
// rights that deployments/README.md asks for and no other.
func TestRights(t *testing.T) {
	s := newStack(t, false, 100)
	options := []kfake.Opt{kfake.NumBrokers(1), kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "secret")}
	roles := []string{"receiver", "sequencer", "snapshot", "sinks"}
	for _, role := range roles {
		granted := append(acls(s.topics.Prefix, rights["every process"]), acls(s.topics.Prefix, rights[role])...)
		options = append(options, kfake.User("PLAIN", role, "secret", granted...))
	}
	commands := append(acls(s.topics.Prefix, rights["every process"]), acls(s.topics.Prefix, rights["the erasure commands"])...)
	options = append(options, kfake.User("PLAIN", "officer", "secret", commands...))
	operator := append(acls(s.topics.Prefix, rights["every process"]), acls(s.topics.Prefix, rights["the dlq and sink commands"])...)
	options = append(options, kfake.User("PLAIN", "operator", "secret", operator...))
	options = append(options, kfake.User("PLAIN", "consumer", "secret", acls(s.topics.Prefix, rights["your consumers"])...))
	cluster, err := kfake.NewCluster(options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	login := func(user string) kgo.Opt { return kgo.SASL(plain.Auth{User: user, Pass: "secret"}.AsMechanism()) }
	s.cluster, s.brokers = cluster, cluster.ListenAddrs()
	s.opts = []kgo.Opt{kgo.SeedBrokers(s.brokers...), login("admin")}
	s.settings = func(name string) []string {
		return []string{"KAFKA_SASL_MECHANISM=PLAIN", "KAFKA_SASL_USER=" + name, "KAFKA_SASL_PASSWORD=secret"}
	}

	for range 2 { // the second time there is something to restore
		gone, stop := len(s.sim.Deleted()), s.load()
		var running []*process
		for _, role := range roles {
			running = append(running, s.start(role, role, ""))
		}
		for _, p := range running {
			eventually(t, patience, p.cmd.Args[3]+" ready", p.ready)
		}
		eventually(t, patience, "deletions", func() bool { return len(s.sim.Deleted()) > gone+5 })
		stop()
		s.settle(patience)
		for _, p := range running {
			p.stop()
			if strings.Contains(p.log.String(), "AUTHORIZATION_FAILED") {
				t.Errorf("a right is missing:\n%s", tail(p.log.String()))
			}
		}
	}

	for _, command := range []struct{ user, args string }{
		{"officer", "erasure list"}, {"officer", "erasure report --since 1h"}, {"officer", "erasure reapply sqlite --since 1h --yes --timeout 0"},
		{"officer", "erasure request user_unknown --yes --timeout 0"},
		{"operator", "sink status"}, {"operator", "sink pause sqlite --reason test"}, {"operator", "sink resume sqlite"}, {"operator", "sink restart sqlite"},
		{"operator", "dlq list sqlite"}, {"operator", "dlq replay sqlite --yes"}, {"operator", "dlq discard sqlite --all --yes"},
	} {
		cmd := exec.Command(binary, strings.Fields(command.args)...)
		cmd.Env = append(s.settings(command.user), "KAFKA_BROKERS="+strings.Join(s.brokers, ","), "TOPIC_PREFIX="+s.topics.Prefix)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s with the rights of an %s: %v\n%s", command.args, command.user, err, tail(string(out)))
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	consumer, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), login("consumer"), kgo.ConsumerGroup(s.topics.Prefix+".their-own"),
		kgo.ConsumeTopics(s.topics.Users()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	if fetches := consumer.PollFetches(ctx); fetches.Err() != nil || fetches.NumRecords() == 0 {
		t.Errorf("a consumer with the rights of one got %d records: %v", fetches.NumRecords(), fetches.Err())
	}
}
