package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/schemas/deadletters"
)

// errStillDead ends a replay of which something was given up again.
var errStillDead = errors.New("not all of it could be applied: clerk-connect dlq list names the letters, dlq show tells why")

func newDLQReplay() *cobra.Command {
	var filter mailFilter
	var parked bool
	var note string
	var with care
	cmd := &cobra.Command{
		Use:   "replay NAME",
		Short: "Have dead letters tried again, when what refused them is mended",
		Long: `replay asks for the open letters that the filters leave to be tried again, and
waits for the answers. The process that runs the sink does it, now or when it is
started; a paused sink does it when it is resumed. Repeating the command does no
harm: each letter is tried once.

No old state comes back: a letter that the user's next change or an erasure has
overtaken is closed instead. A letter that is given up again stays, with a
higher count; after SINK_<NAME>_MAX_REPLAYS (3) it is parked, and tried only with
--parked.

replay webhook asks for the users of the letters to be read from Clerk instead,
which needs a process with the role snapshot. Where the user is not known it
says what to send again in Clerk's dashboard.

Exit codes: 0 all asked for is answered (or --timeout 0), 1 something was given
up again, was not answered in time, or needs a person, 2 wrong usage.`,
		Example: `  clerk-connect dlq replay postgres --dry-run
  clerk-connect dlq replay postgres --reason invalid_record --note "column widened"
  clerk-connect dlq replay crm --clerk-id user_2abCdEf... --parked --yes`,
		Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := filter.parse(time.Now()); err != nil {
				return err
			}
			d, err := openDesk(cmd)
			if err != nil {
				return err
			}
			defer d.close()
			return d.replay(cmd, args[0], filter, parked, note, with)
		},
	}
	filter.flags(cmd)
	cmd.Flags().BoolVar(&parked, "parked", false, "parked letters, too")
	cmd.Flags().StringVar(&note, "note", "", "a `word` on why, kept with the letter; no personal data")
	with.flags(cmd, "the letters' answers")
	return cmd
}

func (d *desk) replay(cmd *cobra.Command, name string, filter mailFilter, parked bool, note string, with care) error {
	ctx := cmd.Context()
	letters, err := d.letters(ctx, name)
	if err != nil {
		return err
	}
	var chosen []mail
	left := map[string]int{}
	for _, m := range letters {
		switch state := m.state(); {
		case !m.open() || !filter.takes(m):
		case state == "open", state == "parked" && parked:
			chosen = append(chosen, m)
		default:
			left[state]++
		}
	}
	if n := left["asked"]; n > 0 {
		d.say("%d are asked for already.", n)
	}
	if n := left["parked"]; n > 0 {
		d.say("%d are parked, since they were tried often enough: --parked tries them all the same.", n)
	}
	if n := left["erased"]; n > 0 {
		d.say("%d are of erased users, and are never tried again.", n)
	}
	if len(chosen) == 0 {
		d.say("Nothing to try again.")
		return nil
	}
	d.say("%s of %s to try again: %s.", counted(len(chosen), "dead letter"), name, reasonsOf(chosen))
	if done, err := d.confirm(with); done || err != nil {
		return err
	}
	if name == webhookLetters {
		return d.reread(ctx, chosen, note)
	}
	words := make([]*kgo.Record, len(chosen))
	for i, m := range chosen {
		words[i] = m.Replay(d.Topics.DeadLetters(name), whoami(), note)
	}
	if err := d.produce(ctx, words); err != nil {
		return err
	}
	if with.timeout == 0 {
		d.say("Asked for. clerk-connect dlq list %s says what comes of it.", name)
		return nil
	}
	return d.await(ctx, name, chosen, with.timeout)
}

// answersEvery is how often a command looks for answers.
const answersEvery = time.Second

// await waits for the answers to letters, as long as there come any.
func (d *desk) await(ctx context.Context, name string, chosen []mail, timeout time.Duration) error {
	asked := map[string]bool{}
	for _, m := range chosen {
		asked[m.place()] = true
	}
	last, sign := 0, time.Now()
	for {
		letters, err := d.letters(ctx, name)
		if err != nil {
			return err
		}
		answers, n := map[deadletters.Answer]int{}, 0
		for _, m := range letters {
			if asked[m.place()] && m.Answer != "" {
				answers[m.Answer]++
				n++
			}
		}
		if n > last {
			last, sign = n, time.Now()
		}
		late := time.Since(sign) > timeout
		if n < len(chosen) && !late {
			select {
			case <-ctx.Done():
				d.say("Not waiting any more; what was asked for stands.")
				return ctx.Err()
			case <-time.After(answersEvery):
			}
			continue
		}
		d.say("%d applied, %d superseded by something newer, %d of erased users, %d given up again.", answers[deadletters.AnswerApplied],
			answers[deadletters.AnswerSuperseded], answers[deadletters.AnswerErased], answers[deadletters.AnswerDead])
		switch {
		case late && n < len(chosen):
			return fmt.Errorf("%d not answered yet: does a process run the sink, or is it paused? clerk-connect sink status %s; what was asked for stands", len(chosen)-n, name)
		case answers[deadletters.AnswerDead] > 0:
			return errStillDead
		}
		return nil
	}
}

// reread has the users of webhooks read from Clerk, as far as they are known.
func (d *desk) reread(ctx context.Context, chosen []mail, note string) error {
	topic := d.Topics.DeadLettersWebhook()
	var lost []mail
	asked := 0
	for _, m := range chosen {
		if m.ClerkID == "" {
			lost = append(lost, m)
			continue
		}
		wish := &connector.Reread{ClerkID: m.ClerkID, Reason: "person", RequestedAt: time.Now().UnixMilli()}
		if err := d.writer.Write(ctx, connector.SourceRecord{Reread: wish}); err != nil {
			return err
		}
		if err := d.produce(ctx, []*kgo.Record{m.Close(topic, deadletters.AnswerReread, whoami(), note)}); err != nil {
			return err
		}
		asked++
	}
	if asked > 0 {
		d.say("%s asked for to be read from Clerk again; a process with the role snapshot does it.", counted(asked, "user"))
	}
	if len(lost) == 0 {
		return nil
	}
	d.say("These name no user. In Clerk's dashboard, Webhooks, your endpoint, find the message and send it again; then discard the letter:")
	for _, m := range lost {
		d.say("  %s  %s (clerk-connect dlq discard webhook --partition %d --offset %d)", m.Key, m.Reason, m.Partition, m.Offset)
	}
	return errors.New("some need a person")
}

func newDLQDiscard() *cobra.Command {
	var filter mailFilter
	var note string
	var with care
	var all bool
	cmd := &cobra.Command{
		Use:   "discard NAME",
		Short: "Close dead letters without trying them again",
		Long: `discard closes the open letters that the filters leave. The destination goes on
without that change until the user's next one. What is closed is still shown by
dlq list --all until it expires, and its personal data ends with that.

Without a filter it wants --all, so that a forgotten one does no harm.`,
		Example: `  clerk-connect dlq discard postgres --partition 3 --offset 17 --note "test user"
  clerk-connect dlq discard webhook --all --yes`,
		Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := filter.parse(time.Now()); err != nil {
				return err
			}
			if filter.empty() && !all {
				return &usageError{errors.New("no filter is given: give --all to discard every open letter")}
			}
			d, err := openDesk(cmd)
			if err != nil {
				return err
			}
			defer d.close()
			return d.discard(cmd.Context(), args[0], filter, note, with)
		},
	}
	filter.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "every open letter")
	cmd.Flags().StringVar(&note, "note", "", "a `word` on why, kept with the letter; no personal data")
	cmd.Flags().BoolVar(&with.yes, "yes", false, "do not ask; for scripts")
	cmd.Flags().BoolVar(&with.dryRun, "dry-run", false, "say what would be done, and do nothing")
	return cmd
}

func (f *mailFilter) empty() bool {
	return len(f.reasons)+len(f.classes) == 0 && f.since+f.until+f.clerkID+f.heldBy == "" && f.partition < 0 && f.offset < 0
}

func (d *desk) discard(ctx context.Context, name string, filter mailFilter, note string, with care) error {
	letters, err := d.letters(ctx, name)
	if err != nil {
		return err
	}
	var chosen []mail
	var words []*kgo.Record
	for _, m := range letters {
		if m.open() && filter.takes(m) {
			chosen = append(chosen, m)
			words = append(words, m.Close(d.Topics.DeadLetters(name), deadletters.AnswerDiscarded, whoami(), note))
		}
	}
	if len(chosen) == 0 {
		d.say("Nothing to discard.")
		return nil
	}
	d.say("%s of %s to discard: %s.", counted(len(chosen), "dead letter"), name, reasonsOf(chosen))
	if done, err := d.confirm(with); done || err != nil {
		return err
	}
	if err := d.produce(ctx, words); err != nil {
		return err
	}
	d.say("Discarded.")
	return nil
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// reasonsOf counts letters by reason, in the order of their first one.
func reasonsOf(letters []mail) string {
	counts := map[string]int{}
	var order []string
	for _, m := range letters {
		if counts[m.Reason]++; counts[m.Reason] == 1 {
			order = append(order, m.Reason)
		}
	}
	for i, reason := range order {
		order[i] = fmt.Sprintf("%d %s", counts[reason], reason)
	}
	return strings.Join(order, ", ")
}
