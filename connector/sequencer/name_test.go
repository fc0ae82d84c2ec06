package sequencer_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"clerkconnect/connector"
	"clerkconnect/connector/sequencer"
)

// TestSequencer_LateJoinRequest: a slow network delivers an abandoned request
// to join the group behind its repetition. The broker takes it for another
// process of this name and fences the only one there is, which has to go on.
func TestSequencer_LateJoinRequest(t *testing.T) {
	brokers(t, func(t *testing.T, opts []kgo.Opt) {
		d := deploy(t, opts, 2)
		s, stop := d.start(t, "alone")
		if err := d.writer.Write(t.Context(), connector.SourceRecord{Event: event("user_1", 1000, "n")}); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "caught up", d.caughtUp(t, s))

		name := sequencer.Group(d.topics) + ".alone"
		late := kmsg.NewPtrJoinGroupRequest()
		late.Group, late.InstanceID, late.ProtocolType = sequencer.Group(d.topics), &name, "consumer"
		late.SessionTimeoutMillis, late.RebalanceTimeoutMillis = 6000, 6000
		metadata := kmsg.NewConsumerMemberMetadata()
		metadata.Version, metadata.Topics = 1, []string{d.topics.UserEvents()}
		protocol := kmsg.NewJoinGroupRequestProtocol()
		protocol.Name, protocol.Metadata = "cooperative-sticky", metadata.AppendTo(nil)
		late.Protocols = append(late.Protocols, protocol)
		ghost, err := kgo.NewClient(opts...)
		if err != nil {
			t.Fatal(err)
		}
		defer ghost.Close()
		response, err := late.RequestWith(t.Context(), ghost)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("late join: error code %d, member %s", response.ErrorCode, response.MemberID)

		if err := d.writer.Write(t.Context(), connector.SourceRecord{Event: event("user_2", 1000, "n")}); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "user_2 is in the topic", func() bool { return d.table(t)["user_2"] != nil })
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}
