package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
	"clerkconnect/schemas/deadletters"
)

func newDLQ() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Dead letters: what a sink, or the receiver, has given up; try them again",
		Long: `dlq looks after dead letters. A record that a destination refuses for good, or a
webhook that cannot be understood, does not hold up the others: it goes to the
topic <prefix>.dead-letters.NAME with the reason, and stays there for 14 days.
NAME is a sink, or webhook for the receiver of webhooks.

A dead letter is

  open        nobody has answered it: the destination lacks this change
  asked       it is to be tried again, by whoever runs the sink
  parked      it was tried SINK_<NAME>_MAX_REPLAYS times again in vain
  erased      its user is erased, or to be: it is never tried again
  closed      answered: applied, superseded (the user has something newer),
              erased, dead (given up again: another letter has taken its
              place), reread, or discarded

What is newer wins, always: the next change of a user, and an erasure, close his
older letters by themselves, so that a replay brings no old state back.

The commands need KAFKA_BROKERS and, where the running processes have them,
TOPIC_PREFIX and SCHEMA_REGISTRY_*. They write words to Kafka; the running
processes do the work, now or when they are started.`,
		Example: `  clerk-connect dlq list postgres
  clerk-connect dlq show postgres 3/17
  clerk-connect dlq replay postgres --reason invalid_record`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDLQList(), newDLQShow(), newDLQReplay(), newDLQDiscard())
	return cmd
}

// webhookLetters is the name of the receiver's dead letters.
const webhookLetters = "webhook"

// oneName is the check of commands that take the name of a sink alone.
func oneName(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return &usageError{fmt.Errorf("give the name of one sink; see %s --help", cmd.CommandPath())}
	}
	return nil
}

// whoami names the person at the keyboard, for what is written to Kafka.
func whoami() string {
	name := os.Getenv("SUDO_USER")
	if u, err := user.Current(); err == nil && name == "" {
		name = u.Username
	}
	host, _ := os.Hostname()
	return name + "@" + host
}

// mail is a dead letter and what else is known of it.
type mail struct {
	*deadletters.Letter
	erased bool // its user is erased, or to be
}

// state is one word for where a letter stands.
func (m mail) state() string {
	switch {
	case m.Answer != "":
		return string(m.Answer)
	case m.erased:
		return "erased"
	case m.Asked != nil:
		return "asked"
	case m.Parked:
		return "parked"
	}
	return "open"
}

func (m mail) open() bool { return m.Answer == "" }

// mailFilter chooses letters.
type mailFilter struct {
	reasons, classes []string
	since, until     string
	clerkID, heldBy  string
	partition        int32
	offset           int64

	from, to time.Time
}

func (f *mailFilter) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.reasons, "reason", nil, "only these `reasons`, as conflict,too_large")
	flags.StringSliceVar(&f.classes, "class", nil, "only these `classes`: permanent, retry")
	flags.StringVar(&f.since, "since", "", "only what was given up since this `time`: 2026-11-01, 2026-11-01T10:00:00Z, 72h or 30d ago")
	flags.StringVar(&f.until, "until", "", "only what was given up before this `time`")
	flags.StringVar(&f.clerkID, "clerk-id", "", "only what is about this `user`")
	flags.StringVar(&f.heldBy, "held-by", "", "only conflicts with what this `user` holds")
	flags.Int32Var(&f.partition, "partition", -1, "only letters of this `partition`")
	flags.Int64Var(&f.offset, "offset", -1, "only the letter at this `offset`, with --partition")
}

// parse checks the flags.
func (f *mailFilter) parse(now time.Time) (err error) {
	if f.offset >= 0 && f.partition < 0 {
		return &usageError{errors.New("--offset is given without --partition: give both, as dlq list shows them before and behind the slash")}
	}
	if f.from, err = parseMoment("--since", f.since, now); err != nil {
		return err
	}
	f.to, err = parseMoment("--until", f.until, now)
	return err
}

func (f *mailFilter) takes(m mail) bool {
	switch {
	case len(f.reasons) > 0 && !slices.Contains(f.reasons, m.Reason),
		len(f.classes) > 0 && !slices.Contains(f.classes, m.Class),
		!f.from.IsZero() && m.GivenUpAt.Before(f.from),
		!f.to.IsZero() && !m.GivenUpAt.Before(f.to),
		f.clerkID != "" && m.ClerkID != f.clerkID,
		f.heldBy != "" && m.HeldBy != f.heldBy,
		f.partition >= 0 && m.Partition != f.partition,
		f.offset >= 0 && m.Offset != f.offset:
		return false
	}
	return true
}

// letters reads the dead letters of a sink, the oldest first, closed ones
// included.
func (d *desk) letters(ctx context.Context, name string) ([]mail, error) {
	topic := d.Topics.DeadLetters(name)
	if err := d.hasLetters(ctx, name); err != nil {
		return nil, err
	}
	var all []mail
	for p := range d.Partitions {
		fold := deadletters.Fold{KeepClosed: true}
		if err := compacted.Read(ctx, d.Client, topic, p, func(k *kgo.Record) error { fold.Add(k); return nil }); err != nil {
			return nil, err
		}
		open, _, _ := fold.Count()
		var erased map[string]schemas.Erasure
		if open > 0 && name != webhookLetters {
			var err error
			if erased, err = d.erasuresOf(ctx, p); err != nil {
				return nil, err
			}
		}
		for _, l := range fold.Letters() {
			e, ok := erased[l.ClerkID]
			newer := e.Inferred && l.Version.Compare(schemas.Version{Epoch: e.Epoch, Number: e.Version}) > 0
			all = append(all, mail{l, ok && !newer && l.Answer == ""})
		}
	}
	slices.SortStableFunc(all, func(a, b mail) int { return a.GivenUpAt.Compare(b.GivenUpAt) })
	return all, nil
}

// erasuresOf returns the erasures that stand of one partition, by Clerk ID.
func (d *desk) erasuresOf(ctx context.Context, partition int32) (map[string]schemas.Erasure, error) {
	erased := map[string]schemas.Erasure{}
	err := compacted.Read(ctx, d.Client, d.Topics.Erasures(), partition, func(k *kgo.Record) error {
		id := string(k.Key)
		if delete(erased, id); k.Value == nil || id == schemas.TickKey {
			return nil
		}
		var e schemas.Erasure
		if err := d.Codec.Decode(ctx, k.Value, &e); err != nil {
			return fmt.Errorf("erasure at %s/%d/%d: %w", k.Topic, k.Partition, k.Offset, err)
		}
		erased[id] = e
		return nil
	})
	return erased, err
}

// hasLetters says which names there are if there is none of that name.
func (d *desk) hasLetters(ctx context.Context, name string) error {
	found, err := kadm.NewClient(d.client).ListTopics(ctx)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	var names []string
	for _, topic := range found.Names() {
		if n, ok := strings.CutPrefix(topic, d.Topics.DeadLetters("")); ok {
			names = append(names, n)
		}
	}
	if !slices.Contains(names, name) {
		return &usageError{fmt.Errorf("there are no dead letters of %q: with this TOPIC_PREFIX there is %s", name, strings.Join(names, ", "))}
	}
	return nil
}

// produce writes words, and returns when they are acknowledged.
func (d *desk) produce(ctx context.Context, records []*kgo.Record) error {
	if err := d.client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("write to Kafka: %w", err)
	}
	return nil
}
