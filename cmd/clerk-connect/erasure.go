package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/cmd/internal/config"
	"clerkconnect/cmd/internal/kafka"
	"clerkconnect/cmd/internal/ledger"
	"clerkconnect/connector"
	"clerkconnect/connector/topics"
	"clerkconnect/schemas/compacted"
)

func newErasure() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "erasure",
		Short: "The erasure ledger: who is to be erased, which sink has done it, and what people decide",
		Long: `erasure reads the ledger of erasures, and writes into it what people decide.

Each deletion at Clerk is a debt of every sink until that has confirmed it. The
ledger is two topics of Kafka, so that no other process has to run for reading:
<prefix>.erasures says who is to be erased, <prefix>.erasure-receipts what each
sink has done. It names users by their Clerk ID and holds nothing else of them.

The commands need KAFKA_BROKERS and the settings of the running processes where
they touch: TOPIC_PREFIX, SCHEMA_REGISTRY_*, ERASURE_DEADLINE, SINKS and
SINK_<NAME>_ERASE_AFTER; request asks Clerk if CLERK_SECRET_KEY is set, revoke
has to, and takes POLICY_* too. Passwords of destinations are not needed.`,
		Example: `  # Is there anything that a person has to do?
  clerk-connect erasure list --overdue

  # How far is one user, and what does each sink say?
  clerk-connect erasure show user_2abCdEfGhIjKlMnOpQrStUvWxYz

  # What a privacy officer files
  clerk-connect erasure report --since 2026-11-01 --until 2026-12-01 --write november.html`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newErasureList(), newErasureShow(), newErasureReport(), newErasureRequest(), newErasureRevoke(), newErasureWaive(), newErasureReapply())
	return cmd
}

// desk is where a command reads the ledger and writes into it.
type desk struct {
	*ledger.Ledger
	cfg    *config.Config
	pins   connector.Pins
	client *kgo.Client // that writes
	writer *connector.Writer
	out    io.Writer
	in     io.Reader
}

// reachTimeout bounds the wait for a broker: a person is waiting.
const reachTimeout = 15 * time.Second

// openDesk reads the settings and connects. Close it.
func openDesk(cmd *cobra.Command) (*desk, error) {
	c, err := config.Load(config.Environment(), []config.Role{config.RoleLedger})
	if err != nil {
		return nil, err
	}
	ctx := cmd.Context()
	d := &desk{cfg: c, out: cmd.OutOrStdout(), in: cmd.InOrStdin()}
	options, err := c.Kafka.Options(nil)
	if err != nil {
		return nil, err
	}
	if d.client, err = kgo.NewClient(append(append(options, connector.WriterOptions()...), kgo.ClientID("clerk-connect.erasure"))...); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if err := d.connect(ctx, options); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *desk) connect(ctx context.Context, options []kgo.Opt) error {
	if err := ping(ctx, d.client, d.cfg.Kafka); err != nil {
		return err
	}
	names := d.cfg.Topics.Names()
	codec, err := d.cfg.Registry.Codec(ctx, names)
	if err != nil {
		return err
	}
	d.pins, err = topics.ReadPins(ctx, options, names)
	if err != nil || d.pins.Partitions == 0 {
		if errors.Is(err, compacted.ErrNoPartition) {
			err = nil // which the next words say better
		}
		return errors.Join(fmt.Errorf("there is no deployment with topics %s.*: is TOPIC_PREFIX that of the running processes, and has clerk-connect run been started once?", names.Prefix), err)
	}
	d.Ledger = &ledger.Ledger{
		Client: options, Codec: codec, Topics: names, Partitions: d.pins.Partitions,
		Deadline: d.cfg.Erasure.Deadline, Sinks: d.cfg.LedgerSinks(),
	}
	d.writer = connector.NewWriter(d.client, codec, names, d.pins.Partitions)
	return nil
}

// ping ends a command that no broker answers.
func ping(ctx context.Context, client *kgo.Client, cfg kafka.Config) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	if err := cfg.Reach(ctx, client); err != nil {
		return fmt.Errorf("reach Kafka at %s: %w", strings.Join(cfg.Brokers, ","), err)
	}
	return nil
}

// reachKafka is ping for a command whose own client would try for ever.
func reachKafka(ctx context.Context, cfg kafka.Config) error {
	options, err := cfg.Options(nil)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	defer client.Close()
	return ping(ctx, client, cfg)
}

func (d *desk) close() { d.client.Close() }

func (d *desk) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

// errNotConfirmed ends a command that a person has not said yes to.
var errNotConfirmed = errors.New("nothing was done")

// care are the flags of commands that change something.
type care struct {
	yes, dryRun bool
	timeout     time.Duration
}

func (c *care) flags(cmd *cobra.Command, waitsFor string) {
	cmd.Flags().BoolVar(&c.yes, "yes", false, "do not ask; for scripts")
	cmd.Flags().BoolVar(&c.dryRun, "dry-run", false, "say what would be done, and do nothing")
	cmd.Flags().DurationVar(&c.timeout, "timeout", time.Minute, "how long to wait without a sign of "+waitsFor+"; 0 does not wait")
}

// confirm asks a person, unless --yes was given. done is true if the command
// ends here: it was a dry run.
func (d *desk) confirm(c care) (done bool, err error) {
	if c.dryRun {
		d.say("Dry run: nothing was done.")
		return true, nil
	}
	if c.yes {
		return false, nil
	}
	file, ok := d.in.(*os.File)
	if !ok || !isatty.IsTerminal(file.Fd()) {
		return false, &usageError{errors.New("nobody can be asked here, since the input is no terminal: give --yes")}
	}
	fmt.Fprint(d.out, "Go on? [y/N] ")
	answer, _ := bufio.NewReader(file).ReadString('\n') // the end of the input is a no
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return false, nil
	}
	return false, errNotConfirmed
}

// patience is how long a command waits before it says that it waits.
const patience = 3 * time.Second

// waiting runs wait, and says what is waited for if it takes long.
func (d *desk) waiting(what string, wait func() error) error {
	timer := time.AfterFunc(patience, func() { d.say("Waiting for %s ...", what) })
	defer timer.Stop()
	return wait()
}

// oneUser is the check of the arguments of commands that take one Clerk ID.
func oneUser(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return &usageError{fmt.Errorf("give one Clerk user ID, as %s user_2abCdEf...; see %s --help", cmd.CommandPath(), cmd.CommandPath())}
	}
	if err := ledger.CheckClerkID(args[0]); err != nil {
		return &usageError{err}
	}
	return nil
}

var daysAgo = regexp.MustCompile(`^([0-9]{1,5})d$`)

// parseMoment reads a point in time: 2026-11-01 or 2026-11-01 10:00 (UTC), RFC
// 3339, or a time before now, as 72h or 30d. "" is the zero value.
func parseMoment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02 15:04", time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	if m := daysAgo.FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1]) // digits
		return now.AddDate(0, 0, -n), nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Time{}, &usageError{fmt.Errorf("%s is %q: give a day, as 2026-11-01, a time, as \"2026-11-01 10:00\" or 2026-11-01T10:00:00Z, or how long ago, as 72h or 30d", flag, text)}
}

func outputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "text", "`form`: text or json")
}

func checkOutput(output string) error {
	if output != "text" && output != "json" {
		return &usageError{fmt.Errorf("--output is %q: give text or json", output)}
	}
	return nil
}
