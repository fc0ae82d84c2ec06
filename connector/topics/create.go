package topics

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
)

// createOne creates a topic unless it is there. A setting that the broker does
// not take is left out with a warning if the broker refuses it by name, as some
// Kafka-compatible brokers do; never the cleanup.policy.
func (e *ensurer) createOne(ctx context.Context, topic Topic) error {
	settings := slices.Clone(topic.Settings)
	for {
		configs := make(map[string]*string, len(settings))
		for i := range settings {
			configs[settings[i].Name] = &settings[i].Value
		}
		if !e.cfg.Create {
			if found, err := e.admin.ListTopics(ctx, topic.Name); err != nil || !found.Has(topic.Name) {
				return errors.Join(err, fmt.Errorf("topic %s is missing and TOPIC_CREATE is false: create it with %s", topic.Name, topic.creation()))
			}
			return nil
		}
		response, err := e.admin.CreateTopic(ctx, topic.Partitions, e.cfg.ReplicationFactor, configs, topic.Name)
		switch {
		case err == nil:
			e.log.Info("topic created", "topic", topic.Name, "partitions", topic.Partitions)
			return nil
		case errors.Is(err, kerr.TopicAlreadyExists):
			return nil
		}
		refused := refusedSetting(err, response.ErrMessage, settings)
		if refused < 0 {
			return fmt.Errorf("create topic %s: %w: %s", topic.Name, err, response.ErrMessage)
		}
		e.log.Warn("broker refuses a topic setting; creating the topic without it",
			"topic", topic.Name, "setting", settings[refused].Name, "wanted", settings[refused].Value, "err", response.ErrMessage)
		settings = slices.Delete(settings, refused, refused+1)
	}
}

// creation is the command of Kafka that creates the topic.
func (t Topic) creation() string {
	command := fmt.Sprintf("kafka-topics --create --topic %s --partitions %d", t.Name, t.Partitions)
	for _, s := range t.Settings {
		command += " --config " + s.Name + "=" + s.Value
	}
	return command
}

// refusedSetting returns the index of the setting that the broker's message
// names, the longest if one's name is part of another's, and -1 if none.
func refusedSetting(err error, message string, settings []Setting) int {
	refused := -1
	if !errors.Is(err, kerr.InvalidConfig) {
		return refused
	}
	for i, s := range settings {
		if strings.Contains(message, s.Name) && s.Name != cleanupPolicy && (refused < 0 || len(s.Name) > len(settings[refused].Name)) {
			refused = i
		}
	}
	return refused
}

// settings compares the settings of the topics with the table.
func (e *ensurer) settings(ctx context.Context, table []Topic) error {
	names := make([]string, len(table))
	for i, topic := range table {
		names[i] = topic.Name
	}
	described, err := e.admin.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	var errs []error
	for _, topic := range table {
		resource, err := described.On(topic.Name, nil)
		if err = errors.Join(err, resource.Err); err != nil {
			errs = append(errs, fmt.Errorf("topic %s: read settings: %w (the principal needs DescribeConfigs)", topic.Name, err))
			continue
		}
		found := map[string]string{}
		for _, c := range resource.Configs {
			found[c.Key] = c.MaybeValue()
		}
		for _, want := range topic.Settings {
			have, told := found[want.Name]
			switch {
			case have == want.Value:
			case want.Name == cleanupPolicy:
				errs = append(errs, fmt.Errorf("topic %s: cleanup.policy is %q, wanted %q: with the wrong one the broker removes records that are still needed, or keeps none of the events in between; set it with kafka-configs --alter --entity-type topics --entity-name %s --add-config cleanup.policy=%s",
					topic.Name, have, want.Value, topic.Name, want.Value))
			default:
				e.log.Warn("topic setting differs", "topic", topic.Name, "setting", want.Name, "found", have, "told", told, "wanted", want.Value)
			}
		}
	}
	return errors.Join(errs...)
}
