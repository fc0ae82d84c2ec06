package topics

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TickInterval is how often every partition of a compacted topic is written
// to, because brokers compact only those that are.
const TickInterval = 24 * time.Hour

// The settings that decide how long a user is kept.
const (
	retentionTime = "retention.ms"
	segmentTime   = "segment.ms"
	minLag        = "min.compaction.lag.ms"
	maxLag        = "max.compaction.lag.ms"
)

// Lifetime is how long a topic keeps what it holds of a user after his
// erasure. It follows from the topic's settings as they are in Kafka.
type Lifetime struct {
	Topic string
	// AtMost is the bound; 0 if there is none.
	AtMost time.Duration
	// Why names the settings that AtMost follows from, or the one that leaves
	// no bound.
	Why string

	settings map[string]string
}

// Lifetimes returns the lifetime of every topic of the deployment that holds
// users, by name: also the topics of sinks that are not configured any more.
//
// A log goes by segments, each when its newest record is retention.ms old, and
// its oldest is at most segment.ms older. A compacted topic loses a value when
// the segment of the tombstone is compacted: max.compaction.lag.ms after the
// tombstone was written, if the partition is still written to, which a tick
// does. The tombstone itself may stay for as long as it likes: it names the
// Clerk ID and holds nothing of the user. Brokers look every few minutes.
// Topics of positions, erasures, receipts and state hold no user.
func Lifetimes(ctx context.Context, opts []kgo.Opt, cfg Config) ([]Lifetime, error) {
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	found, err := admin.ListTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	personal := slices.DeleteFunc(found.Names(), func(name string) bool { return !cfg.holdsUsers(name) })
	if len(personal) == 0 {
		return nil, nil
	}
	described, err := admin.DescribeTopicConfigs(ctx, personal...)
	if err != nil {
		return nil, fmt.Errorf("read settings of topics: %w", err)
	}
	var list []Lifetime
	for _, topic := range described {
		if topic.Err != nil {
			return nil, fmt.Errorf("topic %s: read settings: %w (the principal needs DescribeConfigs)", topic.Name, topic.Err)
		}
		settings := map[string]string{}
		for _, c := range topic.Configs {
			settings[c.Key] = c.MaybeValue()
		}
		list = append(list, lifetime(topic.Name, settings))
	}
	slices.SortFunc(list, func(a, b Lifetime) int { return cmp.Compare(a.Topic, b.Topic) })
	return list, nil
}

// holdsUsers reports whether a topic of that name is ours and holds what the
// policy keeps of users, or what a sink remembers of them.
func (c Config) holdsUsers(name string) bool {
	names := c.Names()
	return name == names.UserEvents() || name == names.Users() ||
		strings.HasPrefix(name, names.SinkState("")) ||
		strings.HasPrefix(name, names.DeadLetters("")) && name != names.DeadLettersWebhook()
}

func lifetime(topic string, settings map[string]string) Lifetime {
	l := Lifetime{Topic: topic, settings: settings}
	if l.compacted() {
		lag, bounded := millisecondsOf(settings[maxLag])
		if !bounded {
			l.Why = without(maxLag, settings)
			return l
		}
		l.AtMost = lag + TickInterval
		l.Why = fmt.Sprintf("%s is %s, and a day until the next write", maxLag, days(lag))
		return l
	}
	for _, name := range []string{retentionTime, segmentTime} {
		if _, bounded := millisecondsOf(settings[name]); !bounded {
			l.Why = without(name, settings)
			return l
		}
	}
	retention, _ := millisecondsOf(settings[retentionTime])
	segment, _ := millisecondsOf(settings[segmentTime])
	l.AtMost = retention + segment
	l.Why = fmt.Sprintf("%s is %s, %s is %s", retentionTime, days(retention), segmentTime, days(segment))
	return l
}

func (l Lifetime) compacted() bool { return strings.Contains(l.settings[cleanupPolicy], "compact") }

// mend returns how the topic is made to keep nobody for longer than deadline:
// by the settings of the table of topics where they do, else by as much as the
// deadline leaves. ok is false if no settings can.
func (l Lifetime) mend(deadline time.Duration) (how string, ok bool) {
	var settings []string
	set := func(name string, value time.Duration) {
		if had, bounded := millisecondsOf(l.settings[name]); !bounded || had > value {
			settings = append(settings, fmt.Sprintf("%s=%d", name, value.Milliseconds()))
		}
	}
	if l.compacted() {
		lag := min(usually(users, maxLag), deadline-TickInterval)
		if lag < time.Millisecond {
			return "", false
		}
		if _, told := l.settings[minLag]; told {
			set(minLag, lag) // a broker takes none above the other
		}
		set(maxLag, lag)
	} else {
		segment := min(usually(kept, segmentTime), deadline/2)
		if had, bounded := millisecondsOf(l.settings[segmentTime]); bounded {
			segment = min(segment, had)
		}
		set(segmentTime, segment)
		set(retentionTime, min(usually(kept, retentionTime), deadline-segment))
	}
	return fmt.Sprintf("kafka-configs --alter --entity-type topics --entity-name %s --add-config %s", l.Topic, strings.Join(settings, ",")), true
}

func without(name string, settings map[string]string) string {
	value, told := settings[name]
	if !told {
		return "the broker does not know " + name
	}
	return fmt.Sprintf("%s is %s, which is without end", name, value)
}

// usually returns the value of the table of topics.
func usually(settings []Setting, name string) time.Duration {
	value, _ := millisecondsOf(settings[slices.IndexFunc(settings, func(s Setting) bool { return s.Name == name })].Value)
	return value
}

// millisecondsOf reads a setting; bounded is false if it stands for no end, as
// -1 or Kafka's largest number do, or is not there.
func millisecondsOf(value string) (d time.Duration, bounded bool) {
	const century = 100 * 365 * 24 * time.Hour
	ms, err := strconv.ParseInt(value, 10, 64)
	if err != nil || ms < 0 || ms > math.MaxInt64/int64(time.Millisecond) {
		return 0, false
	}
	d = time.Duration(ms) * time.Millisecond
	return d, d <= century
}

// days writes a duration as people say it: in days where it is whole days.
func days(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == day:
		return "1 day"
	case d > 0 && d%day == 0:
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}

// CheckRetention returns what is wrong with the settings of the topics, as
// they are in Kafka: every topic that may keep what it holds of a user for
// longer than deadline after his erasure was asked for.
func CheckRetention(ctx context.Context, opts []kgo.Opt, cfg Config, deadline time.Duration) (problems []error, err error) {
	list, err := Lifetimes(ctx, opts, cfg)
	if err != nil {
		return nil, err
	}
	for _, l := range list {
		advice := "Set ERASURE_DEADLINE to more than " + days(TickInterval)
		if how, ok := l.mend(deadline); ok {
			advice = "Set it: " + how
		}
		switch {
		case l.AtMost == 0:
			problems = append(problems, fmt.Errorf("topic %s may keep an erased user for ever: %s. %s", l.Topic, l.Why, advice))
		case l.AtMost > deadline:
			problems = append(problems, fmt.Errorf("topic %s may keep an erased user for %s, longer than ERASURE_DEADLINE (%s): %s. %s", l.Topic, days(l.AtMost), days(deadline), l.Why, advice))
		}
	}
	return problems, nil
}
