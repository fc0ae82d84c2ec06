package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/cmd/internal/console"
	"clerkconnect/cmd/internal/ledger"
	"clerkconnect/sinks/runner"
)

func newErasureWaive() *cobra.Command {
	var sink string
	var undo bool
	var careful care
	cmd := &cobra.Command{
		Use:   "waive ID --sink SINK",
		Short: "Let one sink keep a user, while it holds the erasure back",
		Long: `waive decides that one sink does not erase a user. It can be done only while
that sink holds the erasure back, SINK_<NAME>_ERASE_AFTER after it was asked for:
give the command that setting as the running process has it. All other sinks go on.
The ledger and every report show the waiver, with its time.

--undo takes a waiver back: the sink owes the erasure again, at once if the time
has passed.`,
		Example: `  export SINKS=crm=hubspot SINK_CRM_ERASE_AFTER=72h
  clerk-connect erasure waive user_2abCdEfGhIjKlMnOpQrStUvWxYz --sink crm
  clerk-connect erasure waive user_2abCdEfGhIjKlMnOpQrStUvWxYz --sink crm --undo`,
		Args: oneUser,
		RunE: func(cmd *cobra.Command, args []string) error {
			if sink == "" {
				return &usageError{errors.New("--sink is missing: name the sink that keeps the user")}
			}
			d, err := openDesk(cmd)
			if err != nil {
				return err
			}
			defer d.close()
			e, err := d.find(cmd, args[0])
			if err != nil {
				return err
			}
			i := slices.IndexFunc(e.Sinks, func(s ledger.SinkEntry) bool { return s.Sink == sink })
			if i < 0 {
				return fmt.Errorf("no sink %q has to answer for %s; clerk-connect erasure show names those that have", sink, e.ClerkID)
			}
			if undo {
				return d.unwaive(cmd, e, e.Sinks[i], careful)
			}
			return d.waive(cmd, e, e.Sinks[i], careful)
		},
	}
	cmd.Flags().StringVar(&sink, "sink", "", "`name` of the sink")
	cmd.Flags().BoolVar(&undo, "undo", false, "take a waiver back")
	careful.flags(cmd, "the sink, for --undo")
	return cmd
}

// waivable says why a sink's part of an erasure cannot be waived, nil if it
// can.
func waivable(id string, s ledger.SinkEntry) error {
	switch s.State {
	case ledger.StateHeld:
		return nil
	case ledger.StateOwed:
		return fmt.Errorf("%s does not hold the erasure of %s back, as far as the settings here tell, and may be doing it now. Only what is held back can be waived: is SINK_<NAME>_ERASE_AFTER here that of the running process?", s.Sink, id)
	}
	return fmt.Errorf("too late: %s has erased %s on %s UTC (%s)", s.Sink, id, s.DoneAt.Format(minute), s.Result())
}

func (d *desk) waive(cmd *cobra.Command, e ledger.Entry, s ledger.SinkEntry, careful care) error {
	if s.State == ledger.StateWaived {
		d.say("%s keeps %s already, by the decision of %s UTC.", s.Sink, e.ClerkID, s.WaivedAt.Format(minute))
		return nil
	}
	if err := waivable(e.ClerkID, s); err != nil {
		return err
	}
	d.say("%s will keep %s, and would have erased him on %s UTC. Every report shows it.", s.Sink, e.ClerkID, s.HeldUntil.Format(minute))
	if done, err := d.confirm(careful); done || err != nil {
		return err
	}
	if err := d.Waive(cmd.Context(), d.client, e, s.Sink, time.Now()); err != nil {
		return err
	}
	// What was committed before the time counts: the sink reads again before
	// it erases. A person may have thought for longer than that.
	now, err := d.sinkEntry(cmd, e.ClerkID, s.Sink)
	switch {
	case err != nil:
		return err
	case now.State != ledger.StateWaived:
		return waivable(e.ClerkID, now)
	case time.Now().After(*s.HeldUntil):
		return fmt.Errorf("the waiver is written, but after %s UTC: %s may be erasing the user now. Look at clerk-connect erasure show %s in a minute", s.HeldUntil.Format(minute), s.Sink, e.ClerkID)
	}
	d.say("Done: %s keeps the user. To take it back: clerk-connect erasure waive %s --sink %s --undo", s.Sink, e.ClerkID, s.Sink)
	return nil
}

// sinkEntry reads one sink's part again.
func (d *desk) sinkEntry(cmd *cobra.Command, id, sink string) (ledger.SinkEntry, error) {
	e, err := d.find(cmd, id)
	if err != nil {
		return ledger.SinkEntry{}, err
	}
	i := slices.IndexFunc(e.Sinks, func(s ledger.SinkEntry) bool { return s.Sink == sink })
	if i < 0 {
		return ledger.SinkEntry{}, fmt.Errorf("sink %s does not have to answer any more", sink)
	}
	return e.Sinks[i], nil
}

func (d *desk) unwaive(cmd *cobra.Command, e ledger.Entry, s ledger.SinkEntry, careful care) error {
	if s.State != ledger.StateWaived {
		return fmt.Errorf("%s has no waiver for %s: its state is %s", s.Sink, e.ClerkID, s.State)
	}
	d.say("%s will erase %s after all.", s.Sink, e.ClerkID)
	if done, err := d.confirm(careful); done || err != nil {
		return err
	}
	follower, err := d.Follow(cmd.Context(), d.Topics.ErasureReceipts())
	if err != nil {
		return err
	}
	defer follower.Close()
	words, err := d.TakeBack(cmd.Context(), d.client, s.Sink, []string{e.ClerkID})
	if err != nil {
		return err
	}
	now, err := d.sinkEntry(cmd, e.ClerkID, s.Sink)
	if err != nil {
		return err
	}
	if now.State == ledger.StateHeld {
		d.say("Done: the waiver is taken back; %s holds the erasure back until %s UTC.", s.Sink, now.HeldUntil.Format(minute))
		return nil
	}
	return d.awaitReceipts(cmd.Context(), follower, s.Sink, words, careful)
}

func newErasureReapply() *cobra.Command {
	var since string
	var careful care
	cmd := &cobra.Command{
		Use:   "reapply SINK --since TIME",
		Short: "Repeat the erasures of one sink, after a backup of its destination was restored",
		Long: `reapply takes the receipts of one sink back that are younger than a time: it owes
those erasures again, and does them again, within seconds if it runs. Use it when
a backup of the destination was restored: whoever was erased since the backup was
taken is in it. Give the time at which the backup was begun, or an earlier one;
to repeat more than is needed does no harm.

What else has changed since the backup does not come back by this. To fill the
destination anew, see "Which statement wins" in sinks/README.md.`,
		Example: `  # The backup that was restored was begun on the 14th at 2 in the morning
  clerk-connect erasure reapply postgres --since "2026-11-14 02:00"`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &usageError{fmt.Errorf("give one sink; see %s --help", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := parseMoment("--since", since, time.Now())
			if err != nil {
				return err
			}
			if since == "" {
				return &usageError{errors.New("--since is missing: give the time at which the backup was begun, as --since 2026-11-14")}
			}
			d, err := openDesk(cmd)
			if err != nil {
				return err
			}
			defer d.close()
			return d.reapply(cmd.Context(), args[0], from, careful)
		},
	}
	cmd.Flags().StringVar(&since, "since", "", "repeat what was done since this `time`: 2026-11-14, \"2026-11-14 02:00\", 2026-11-14T02:00:00Z, or 72h ago")
	careful.flags(cmd, "the sink")
	return cmd
}

func (d *desk) reapply(ctx context.Context, sink string, since time.Time, careful care) error {
	var ids, owed []string
	waived := 0
	now := time.Now()
	sinks, err := d.Read(ctx, now, func(e ledger.Entry) {
		for _, s := range e.Sinks {
			switch {
			case s.Sink != sink:
			case s.State == ledger.StateWaived:
				waived++
			case s.DoneAt == nil:
				owed = append(owed, e.ClerkID)
			case !s.DoneAt.Before(since):
				ids = append(ids, e.ClerkID)
			}
		}
	})
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(sinks, func(s ledger.Sink) bool { return s.Name == sink }) {
		return ledger.UnknownSinkError(sink, sinks)
	}
	d.say("%s has done %d erasures since %s UTC; they will be repeated.", sink, len(ids), since.UTC().Format(minute))
	if waived > 0 {
		d.say("%d that were waived stay so.", waived)
	}
	if len(ids) == 0 {
		return nil
	}
	if done, err := d.confirm(careful); done || err != nil {
		return err
	}
	follower, err := d.Follow(ctx, d.Topics.ErasureReceipts())
	if err != nil {
		return err
	}
	defer follower.Close()
	word := ledger.NewReapplied(sink, now, since, len(ids), owed)
	if err := d.writer.StoreState(ctx, word.StateKey(), word); err != nil {
		return err
	}
	words := map[string]int64{}
	for some := range slices.Chunk(ids, 1000) {
		written, err := d.TakeBack(ctx, d.client, sink, some)
		for id, offset := range written {
			words[id] = offset
		}
		if err != nil {
			return fmt.Errorf("%d of %d are taken back; the same command goes on: %w", len(words), len(ids), err)
		}
	}
	return d.awaitReceipts(ctx, follower, sink, words, careful)
}

// awaitReceipts waits until a sink has answered every word that was written.
func (d *desk) awaitReceipts(ctx context.Context, follower *ledger.Follower, sink string, words map[string]int64, careful care) error {
	total := len(words)
	if careful.timeout == 0 {
		d.say("%d erasures are owed again by %s.", total, sink)
		return nil
	}
	shown := time.Now()
	err := d.waiting("sink "+sink, func() error {
		return follower.Until(ctx, careful.timeout, func(k *kgo.Record) (heard, done bool) {
			id, ok := ledger.Heard(k, sink, words)
			if !ok {
				return false, false
			}
			delete(words, id)
			if len(words) > 0 && time.Since(shown) >= console.LinesEvery {
				shown = time.Now()
				d.say("%d of %d", total-len(words), total)
			}
			return true, len(words) == 0
		})
	})
	if errors.Is(err, ledger.ErrNoEffect) {
		return fmt.Errorf("%d erasures are owed again by %s, and will be done; %d are not done yet: %s", total, sink, len(words),
			d.whyNothing(ctx, runner.Group(d.Topics, sink), "sink "+sink, "--roles sinks", careful.timeout))
	}
	if err != nil {
		return err
	}
	d.say("Done: %s has answered for all %d.", sink, total)
	return nil
}
