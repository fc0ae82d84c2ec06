package dev

import (
	"context"
	"time"
)

// counts are what the metrics say at one moment, since the session's start.
type counts struct {
	events       map[string]int // sequenced, by outcome
	snapshotRows int            // of them, from snapshots
	deliveries   int            // answered 200
	repeated     int            // deliveries whose id was seen before
	knownUsers   int            // in the topic
	sequencerLag int64
	sinkLag      int64
}

// counts reads the metrics of the session, the same that operators see.
func (s *session) counts() counts {
	c := counts{events: map[string]int{}, knownUsers: 0}
	families, err := s.registry.Gather()
	if err != nil {
		s.logger.Warn("gather metrics", "err", err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			value := int(metric.GetCounter().GetValue())
			labels := map[string]string{}
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			switch family.GetName() {
			case "clerk_connect_sequencer_events_total":
				c.events[labels["outcome"]] += value
				if labels["origin"] == "SNAPSHOT" {
					c.snapshotRows += value
				}
			case "clerk_connect_webhook_requests_total":
				if labels["code"] == "200" {
					c.deliveries += value
				}
			case "clerk_connect_webhook_repeated_total":
				c.repeated += value
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if lag, err := s.process.SequencerLag(ctx); err == nil {
		c.sequencerLag = lag
	}
	for _, r := range s.process.Sinks {
		c.sinkLag += max(0, r.Status().LagRecords)
	}
	if s.sim != nil {
		c.knownUsers = s.sim.Stats().Users
	} else {
		c.knownUsers = s.process.Sequencer.Status().Known
	}
	return c
}
