package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"clerkconnect/cmd/internal/control"
	"clerkconnect/cmd/internal/ledger"
	"clerkconnect/connector"
)

func newSinkPause() *cobra.Command {
	var pause connector.Pause
	cmd := &cobra.Command{
		Use:   "pause NAME",
		Short: "Have a sink stand still, in every process that runs it",
		Long: `pause has the sink stand still until clerk-connect sink resume, also over restarts:
for a migration of the destination, say. Calls under way finish, the destination
is closed, no record is read. Nothing is lost: lag grows, and is worked off later,
if that is within the 30 days for which tombstones are kept.

ERASURES WAIT, TOO, and their deadlines go on. --keep-erasing lets them go on, if
the destination can be reached.`,
		Example: `  clerk-connect sink pause postgres --reason "migration to 17, until noon"
  clerk-connect sink pause crm --keep-erasing --reason "quota"`,
		Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := openDesk(cmd)
			if err != nil {
				return err
			}
			defer d.close()
			return d.pause(cmd.Context(), args[0], pause)
		},
	}
	cmd.Flags().StringVar(&pause.Reason, "reason", "", "a `word` on why, for colleagues; no personal data")
	cmd.Flags().BoolVar(&pause.KeepErasing, "keep-erasing", false, "erasures go on")
	return cmd
}

func (d *desk) pause(ctx context.Context, name string, pause connector.Pause) error {
	if err := d.knows(ctx, name); err != nil {
		return err
	}
	pause.Since, pause.By = time.Now().UnixMilli(), whoami()
	if err := d.writer.StoreState(ctx, connector.StateKeyPausePrefix+name, pause); err != nil {
		return err
	}
	d.say("Sink %s is paused. clerk-connect sink resume %s lets it go on.", name, name)
	if pause.KeepErasing {
		d.say("Erasures go on.")
	} else {
		d.say("ERASURES WAIT, TOO, and their deadlines go on: --keep-erasing lets them go on.")
	}
	return d.awaitWish(ctx, name, pausedState(pause))
}

// pausedState is what a process that has followed a pause says of its sink.
func pausedState(pause connector.Pause) string {
	if pause.KeepErasing {
		return control.StateErasing
	}
	return control.StatePaused
}

func newSinkResume() *cobra.Command {
	return &cobra.Command{
		Use:     "resume NAME",
		Short:   "Let a paused sink go on where it was",
		Long:    `resume ends a pause, in every process that runs the sink.`,
		Example: `  clerk-connect sink resume postgres`,
		Args:    oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := openDesk(cmd)
			if err != nil {
				return err
			}
			defer d.close()
			if err := d.knows(cmd.Context(), args[0]); err != nil {
				return err
			}
			state, err := control.Read(cmd.Context(), d.Client, d.Topics)
			if err != nil {
				return err
			}
			if _, paused := state.Pauses[args[0]]; !paused {
				d.say("Sink %s is not paused.", args[0])
				return nil
			}
			if err := d.writer.StoreState(cmd.Context(), connector.StateKeyPausePrefix+args[0], nil); err != nil {
				return err
			}
			d.say("Sink %s goes on.", args[0])
			return d.awaitWish(cmd.Context(), args[0], control.StateRunning, control.StateWaiting, control.StateStopped)
		},
	}
}

func newSinkRestart() *cobra.Command {
	return &cobra.Command{
		Use:   "restart NAME",
		Short: "Close a sink and open it again, in every process that runs it",
		Long: `restart has every process that runs the sink close it and open it again. A sink
that a fatal error has stopped, as a wrong password, tries again every
SINK_<NAME>_SLOW_RETRY (5 min): when it is mended at the destination, restart
ends that wait at once. Settings are read by another start of the process alone.`,
		Example: `  clerk-connect sink restart postgres`,
		Args:    oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := openDesk(cmd)
			if err != nil {
				return err
			}
			defer d.close()
			if err := d.knows(cmd.Context(), args[0]); err != nil {
				return err
			}
			wish := connector.Restart{RequestedAt: time.Now().UnixMilli(), By: whoami()}
			if err := d.writer.StoreState(cmd.Context(), connector.StateKeyRestartPrefix+args[0], wish); err != nil {
				return err
			}
			d.say("Asked for. clerk-connect sink status %s says how it is within a few seconds.", args[0])
			return nil
		},
	}
}

// knows reports a name that no sink of the deployment has.
func (d *desk) knows(ctx context.Context, name string) error {
	known, err := d.Expected(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(known, func(s ledger.Sink) bool { return s.Name == name }) {
		return nil
	}
	text := "none"
	if len(known) > 0 {
		text = known[0].Name
		for _, s := range known[1:] {
			text += ", " + s.Name
		}
	}
	return &usageError{fmt.Errorf("there is no sink %q: with this TOPIC_PREFIX there is %s", name, text)}
}

// wishWait is how long a command looks whether the processes have followed it.
// They tell of it within control.LookEvery, after calls under way have ended.
const wishWait = 20 * time.Second

// awaitWish waits until every process that has told of the sink lately says
// that it is in one of these states.
func (d *desk) awaitWish(ctx context.Context, name string, states ...string) error {
	for deadline := time.Now().Add(wishWait); ; {
		state, err := control.Read(ctx, d.Client, d.Topics)
		if err != nil {
			return err
		}
		live, missing := 0, []string(nil)
		for _, i := range instancesOf(state, name, time.Now()) {
			if i.Stale {
				continue
			}
			if live++; !slices.Contains(states, i.State) {
				missing = append(missing, i.Instance)
			}
		}
		switch {
		case live == 0:
			d.say("No process runs it now.")
			return nil
		case len(missing) == 0:
			d.say("%s followed.", map[bool]string{true: "The process that runs it has", false: fmt.Sprintf("All %d processes have", live)}[live == 1])
			return nil
		case time.Now().After(deadline):
			d.say("Not yet heard from: %v. A call of the destination may be under way.", missing)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(answersEvery):
		}
	}
}
