package e2e

import (
	"context"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
)

func (s *stack) debug(differences []string) {
	seen := 0
	for _, d := range differences {
		if !strings.HasPrefix(d, "topic: ") {
			continue
		}
		if seen++; seen > 2 {
			break
		}
		id := strings.Fields(d)[1]
		p := schemas.Partition(id, partitions)
		s.t.Logf("%s partition %d", id, p)
		for _, topic := range []string{s.topics.UserEvents(), s.topics.SequencerState(), s.topics.Users()} {
			_ = compacted.Read(context.Background(), s.opts, topic, p, func(r *kgo.Record) error {
				if string(r.Key) == id {
					s.t.Logf("  %s offset %d producer %d/%d at %s", topic, r.Offset, r.ProducerID, r.ProducerEpoch, r.Timestamp)
				}
				return nil
			})
		}
	}
	cl, _ := kgo.NewClient(s.opts...)
	defer cl.Close()
	adm := kadm.NewClient(cl)
	for _, name := range []string{"sequencer", "sink.sqlite", "snapshot"} {
		gs, err := adm.DescribeGroups(context.Background(), s.topics.Prefix+"."+name)
		for _, g := range gs {
			s.t.Logf("group %s state %s proto %s err %v/%v", g.Group, g.State, g.Protocol, g.Err, err)
			for _, m := range g.Members {
				c, _ := m.Assigned.AsConsumer()
				s.t.Logf("  member %s client %s %+v", m.MemberID, m.ClientID, c)
			}
		}
	}
	l, err := adm.Lag(context.Background(), s.topics.Prefix+".sequencer")
	s.t.Logf("lag %v", err)
	for _, g := range l {
		for _, t := range g.Lag {
			for p, m := range t {
				s.t.Logf("  %d commit %+v lag %d end %d", p, m.Commit.At, m.Lag, m.End.Offset)
			}
		}
	}
}
