package topics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
)

// Bounds of the wait until a topic that was just created can be seen with a
// leader for every partition, which takes a cluster a second or two.
const (
	visibleTimeout = 30 * time.Second
	visiblePoll    = 100 * time.Millisecond
)

// Ensure creates the topics that are missing, checks those that are there, and
// returns the deployment's pins, which it takes when there are none. sinks are
// the names of the configured sinks, opts say how to reach the brokers.
//
// It fails, naming topic, setting, found and wanted, if going on would lose
// data: a cleanup.policy or a number of partitions other than it must be, a
// pinned topic that is gone or was made anew. Other differences are logged as
// warnings. Several processes may call it at once; they agree.
func Ensure(ctx context.Context, opts []kgo.Opt, cfg Config, sinks []string, log *slog.Logger) (connector.Pins, error) {
	if slices.Contains(sinks, "webhook") {
		return connector.Pins{}, errors.New(`a sink cannot be named "webhook": the webhook receiver's dead letters have that topic; choose another name`)
	}
	client, err := kgo.NewClient(append(opts[:len(opts):len(opts)], kgo.MetadataMinAge(visiblePoll))...) // the default, 5 s, hides new topics
	if err != nil {
		return connector.Pins{}, err
	}
	defer client.Close()
	e := ensurer{admin: kadm.NewClient(client), opts: opts, cfg: cfg, log: log}
	pins, err := e.ensure(ctx, Settings(cfg, sinks))
	if err != nil {
		return connector.Pins{}, fmt.Errorf("topics of prefix %s: %w", cfg.Prefix, err)
	}
	return pins, nil
}

type ensurer struct {
	admin *kadm.Client
	opts  []kgo.Opt
	cfg   Config
	log   *slog.Logger
}

// ensure works in an order that makes concurrent first starts agree: the number
// of partitions is pinned before the first topic that has it is created.
func (e *ensurer) ensure(ctx context.Context, table []Topic) (connector.Pins, error) {
	if err := e.create(ctx, table[:1]); err != nil { // connect-state
		return connector.Pins{}, err
	}
	found, err := e.list(ctx, table)
	if err != nil {
		return connector.Pins{}, err
	}
	pins, err := changePins(ctx, e.opts, e.cfg.Names(), func(p *connector.Pins) (bool, error) { return e.begin(p, found) })
	if err != nil {
		return connector.Pins{}, err
	}
	if found, err = e.list(ctx, table); err != nil { // after the pins were read, or another's new topics look lost
		return connector.Pins{}, err
	}
	if err := e.lost(pins, found); err != nil {
		return connector.Pins{}, err
	}
	if err := e.create(ctx, table); err != nil {
		return connector.Pins{}, err
	}
	if found, err = e.list(ctx, table); err != nil {
		return connector.Pins{}, err
	}
	if err := errors.Join(partitions(table, found), e.settings(ctx, table)); err != nil {
		return connector.Pins{}, err
	}
	return changePins(ctx, e.opts, e.cfg.Names(), func(p *connector.Pins) (bool, error) { return pinIDs(p, table, found) })
}

// begin pins the number of partitions and the epoch, once, and holds the
// configuration against them ever after. The epoch is the minute of the pinning
// (minutes since 1970), so that topics which were deleted and made anew outrank
// what sinks remember of the old ones.
func (e *ensurer) begin(pins *connector.Pins, found kadm.TopicDetails) (bool, error) {
	if pins.Partitions != 0 {
		if pins.Partitions != e.cfg.Partitions {
			return false, fmt.Errorf("TOPIC_PARTITIONS is %d, but the topics were created with %d, and a user's place follows from that number: set TOPIC_PARTITIONS=%d (another number needs new topics: another TOPIC_PREFIX and a new snapshot)",
				e.cfg.Partitions, pins.Partitions, pins.Partitions)
		}
		return false, nil
	}
	if events := found[e.cfg.Names().UserEvents()]; events.Err == nil && len(events.Partitions) > 0 {
		if n := int32(len(events.Partitions)); n != e.cfg.Partitions {
			return false, fmt.Errorf("topic %s: partitions are %d, wanted %d: set TOPIC_PARTITIONS=%d, or let clerk-connect create the topic", events.Topic, n, e.cfg.Partitions, n)
		}
		e.log.Warn("topics exist without pins; pinning them as they are", "topic", e.cfg.Names().ConnectState())
	}
	pins.Partitions = e.cfg.Partitions
	pins.Epoch = int32(time.Now().Unix() / 60)
	return true, nil
}

// lost refuses to replace a topic that was there before.
func (e *ensurer) lost(pins connector.Pins, found kadm.TopicDetails) error {
	var errs []error
	for name, topic := range found {
		if _, pinned := pins.TopicIDs[name]; pinned && topic.Err != nil {
			errs = append(errs, fmt.Errorf("topic %s is gone: it was there when the deployment was pinned, and what only it held is lost. %s", name, remedy))
		}
	}
	return errors.Join(errs...)
}

const remedy = "Restore it, or begin anew: stop every process, and delete every topic of this prefix or set another TOPIC_PREFIX; " +
	"the first snapshot fills the new topics. A lost sink-state topic alone: give that sink another name."

// pinIDs pins the id of every topic whose loss matters, and refuses a topic
// that has another id than the pinned one. Brokers without topic ids (before
// Kafka 2.8) pin none; a dead-letter topic may be made anew.
func pinIDs(pins *connector.Pins, table []Topic, found kadm.TopicDetails) (bool, error) {
	var errs []error
	changed := false
	ids := map[string]string{}
	for name, id := range pins.TopicIDs {
		ids[name] = id
	}
	for _, topic := range table {
		id := found[topic.Name].ID
		if id == (kadm.TopicID{}) || strings.Contains(topic.Name, ".dead-letters.") {
			continue
		}
		switch ids[topic.Name] {
		case id.String():
		case "":
			ids[topic.Name], changed = id.String(), true
		default:
			errs = append(errs, fmt.Errorf("topic %s was made anew: its id is %s, pinned is %s; what only it held is lost. %s", topic.Name, id, ids[topic.Name], remedy))
		}
	}
	pins.TopicIDs = ids
	return changed, errors.Join(errs...)
}

func partitions(table []Topic, found kadm.TopicDetails) error {
	var errs []error
	for _, topic := range table {
		if n := int32(len(found[topic.Name].Partitions)); n != topic.Partitions {
			errs = append(errs, fmt.Errorf("topic %s: partitions are %d, wanted %d: every topic of a deployment has the pinned number, connect-state has one; delete the topic if it is empty, else begin anew with another TOPIC_PREFIX",
				topic.Name, n, topic.Partitions))
		}
	}
	return errors.Join(errs...)
}

// list returns the details of the topics, with Err where one does not exist.
func (e *ensurer) list(ctx context.Context, table []Topic) (kadm.TopicDetails, error) {
	names := make([]string, len(table))
	for i, topic := range table {
		names[i] = topic.Name
	}
	found, err := e.admin.ListTopics(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	for _, topic := range found {
		if topic.Err != nil && !errors.Is(topic.Err, kerr.UnknownTopicOrPartition) {
			return nil, fmt.Errorf("topic %s: %w", topic.Topic, topic.Err)
		}
	}
	return found, nil
}

// create creates those of the topics that are missing and waits until all of
// them can be used.
func (e *ensurer) create(ctx context.Context, table []Topic) error {
	ctx, cancel := context.WithTimeoutCause(ctx, visibleTimeout, errors.New("topics could not be used in time: does every partition have a leader?"))
	defer cancel()
	for {
		missing, err := e.missing(ctx, table)
		if err != nil || len(missing) == 0 {
			return err
		}
		var errs []error
		for _, topic := range missing {
			errs = append(errs, e.createOne(ctx, topic))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(visiblePoll):
		}
	}
}

// missing returns the topics that are not there, or not with all their leaders.
func (e *ensurer) missing(ctx context.Context, table []Topic) ([]Topic, error) {
	found, err := e.list(ctx, table)
	if errors.Is(err, kerr.LeaderNotAvailable) {
		return table, nil
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(table), func(topic Topic) bool {
		details := found[topic.Name]
		led := true
		for _, p := range details.Partitions {
			led = led && p.Leader >= 0
		}
		return details.Err == nil && len(details.Partitions) > 0 && led
	}), nil
}
