package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/cmd/internal/control"
	"clerkconnect/cmd/internal/ledger"
	"clerkconnect/connector"
	"clerkconnect/schemas/compacted"
	"clerkconnect/schemas/deadletters"
	"clerkconnect/sinks/runner"
)

func newSinkList() *cobra.Command {
	cmd := newSinkStatus()
	cmd.Use, cmd.Short = "list", "List the sinks of the deployment, with their state"
	cmd.Long = "list is clerk-connect sink status for all sinks: see clerk-connect sink status --help."
	cmd.Example = "  clerk-connect sink list -o json | jq -r '.sinks[].name'"
	cmd.Args = noArguments
	return cmd
}

func newSinkStatus() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Say how each sink is, or one of them in detail",
		Long: `status says how the sinks of the deployment are. A sink is

  running   its destination is open
  waiting   it cannot be opened yet: it is tried again
  stopped   until a person has mended something: the reason says what
  paused    by clerk-connect sink pause
  erasing   paused with --keep-erasing
  absent    no process has told of it for 3 minutes

LAG is how many records it has not applied, marks of transactions included, and
how old the first of them is; ERASURES what it owes. These come from Kafka, or
from what the processes that run it have said within the last minute.`,
		Example: `  clerk-connect sink status
  clerk-connect sink status postgres
  clerk-connect sink status -o json | jq '.sinks[] | select(.state == "stopped")'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return &usageError{fmt.Errorf("give one sink, or none for all; see %s --help", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			d, err := openDesk(cmd)
			if err != nil {
				return err
			}
			defer d.close()
			if len(args) == 1 {
				if err := d.knows(cmd.Context(), args[0]); err != nil {
					return err
				}
			}
			statuses, err := d.statuses(cmd.Context(), strings.Join(args, ""), time.Now())
			if err != nil {
				return err
			}
			switch {
			case output == "json":
				return ledger.WriteJSON(d.out, map[string]any{"sinks": statuses})
			case len(args) == 1:
				return printStatus(d.out, statuses[0], time.Now())
			}
			return printStatuses(d.out, statuses)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// sinkStatus is what is known of one sink. Times are RFC 3339.
type sinkStatus struct {
	Name      string           `json:"name"`
	Kind      string           `json:"kind,omitempty"`
	State     string           `json:"state"`
	Reason    string           `json:"reason,omitempty"` // why the last call failed
	Pause     *connector.Pause `json:"pause,omitempty"`
	Instances []instanceStatus `json:"instances"`

	Partitions int   `json:"partitions"`
	Owned      int   `json:"partitions_owned"`
	Ready      int   `json:"partitions_ready"`
	Lag        int64 `json:"lag_records"`
	LagSeconds int64 `json:"lag_seconds"`

	Owed          int        `json:"erasures_owed"`
	Held          int        `json:"erasures_held"`
	Unconfirmed   int        `json:"erasures_unconfirmed"`
	OldestErasure *time.Time `json:"oldest_erasure,omitempty"`
	DeadLetters   int        `json:"dead_letters"`
	Parked        int        `json:"dead_letters_parked"`
}

// instanceStatus is what one process says.
type instanceStatus struct {
	Instance string `json:"instance"`
	Stale    bool   `json:"stale"` // it has said nothing for long: it may be gone
	control.Status
}

func instancesOf(state *control.State, name string, now time.Time) []instanceStatus {
	instances := []instanceStatus{}
	for id, s := range state.Statuses {
		if instance, sink, _ := strings.Cut(id, "/"); sink == name {
			instances = append(instances, instanceStatus{instance, now.Sub(time.UnixMilli(s.At)) > control.StaleAge, s})
		}
	}
	slices.SortFunc(instances, func(a, b instanceStatus) int { return cmp.Compare(a.Instance, b.Instance) })
	return instances
}

// stateAbsent: nobody runs it, as far as it is known.
const stateAbsent = "absent"

// statuses returns what is known of all sinks, or of the one of that name.
func (d *desk) statuses(ctx context.Context, only string, now time.Time) ([]sinkStatus, error) {
	known, err := d.Expected(ctx)
	if err != nil {
		return nil, err
	}
	state, err := control.Read(ctx, d.Client, d.Topics)
	if err != nil {
		return nil, err
	}
	statuses := []sinkStatus{}
	for _, sink := range known {
		if only != "" && sink.Name != only {
			continue
		}
		s := sinkStatus{Name: sink.Name, Kind: sink.Kind, State: stateAbsent, Partitions: int(d.Partitions), Instances: instancesOf(state, sink.Name, now)}
		if pause, ok := state.Pauses[sink.Name]; ok {
			s.Pause = &pause
		}
		s.sum()
		if s.Pause != nil {
			s.State = pausedState(*s.Pause)
		}
		if sink.HasRun {
			if err := d.measure(ctx, &s, now); err != nil {
				return nil, err
			}
		}
		statuses = append(statuses, s)
	}
	return statuses, nil
}

// worst orders states: a sink is as bad as its worst process.
var worst = []string{stateAbsent, control.StatePaused, control.StateErasing, control.StateRunning, control.StateWaiting, control.StateStopped}

// sum takes together what the live processes say.
func (s *sinkStatus) sum() {
	for _, i := range s.Instances {
		s.Kind = cmp.Or(s.Kind, i.Kind)
		if i.Stale {
			continue
		}
		if slices.Index(worst, i.State) > slices.Index(worst, s.State) {
			s.State = i.State
		}
		s.Reason = cmp.Or(s.Reason, i.Reason)
		s.Owned += i.Owned
		s.Ready += i.Ready
		s.Owed += i.Owed
		s.Held += i.Held
		s.Unconfirmed += i.Unread
		if at := time.UnixMilli(i.OldestAt).UTC(); i.OldestAt != 0 && (s.OldestErasure == nil || at.Before(*s.OldestErasure)) {
			s.OldestErasure = &at
		}
	}
}

// measure asks Kafka for what it knows, whether a process runs or not.
func (d *desk) measure(ctx context.Context, s *sinkStatus, now time.Time) error {
	admin := kadm.NewClient(d.client)
	users, group := d.Topics.Users(), runner.Group(d.Topics, s.Name)
	committed, err := admin.FetchOffsets(ctx, group)
	if err != nil {
		return fmt.Errorf("offsets of %s: %w", group, err)
	}
	starts, err := admin.ListStartOffsets(ctx, users)
	if err != nil {
		return err
	}
	ends, err := admin.ListEndOffsets(ctx, users)
	if err != nil {
		return err
	}
	var oldest time.Time
	for p := range d.Partitions {
		start, _ := starts.Lookup(users, p)
		end, _ := ends.Lookup(users, p)
		position := start.Offset
		if at, ok := committed.Lookup(users, p); ok {
			position = max(position, at.At)
		}
		if end.Offset <= position {
			continue
		}
		first, data, err := d.firstAfter(ctx, users, p, position)
		if err != nil {
			return err
		}
		if !data {
			continue // nothing but the mark of a transaction
		}
		s.Lag += end.Offset - position
		if oldest.IsZero() || first.Before(oldest) {
			oldest = first
		}
	}
	if !oldest.IsZero() {
		s.LagSeconds = int64(max(0, now.Sub(oldest)).Seconds())
	}
	return d.countLetters(ctx, s)
}

// firstSpan is how far the first record behind a position is looked for.
const firstSpan = 2000

// firstAfter returns when the first record from an offset on was written, and
// whether there is any.
func (d *desk) firstAfter(ctx context.Context, topic string, partition int32, offset int64) (at time.Time, found bool, err error) {
	err = compacted.ReadRange(ctx, d.Client, topic, partition, offset, offset+firstSpan, func(k *kgo.Record) error {
		if !found {
			at, found = k.Timestamp, true
		}
		return nil
	})
	return at, found, err
}

func (d *desk) countLetters(ctx context.Context, s *sinkStatus) error {
	for p := range d.Partitions {
		var fold deadletters.Fold
		if err := compacted.Read(ctx, d.Client, d.Topics.DeadLetters(s.Name), p, func(k *kgo.Record) error { fold.Add(k); return nil }); err != nil {
			return err
		}
		open, _, parked := fold.Count()
		s.DeadLetters += open
		s.Parked += parked
	}
	return nil
}

func printStatuses(w io.Writer, statuses []sinkStatus) error {
	if len(statuses) == 0 {
		_, err := fmt.Fprintln(w, "There is no sink: SINKS names none, and none has ever run.")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SINK\tKIND\tSTATE\tREADY\tLAG\tERASURES\tDEAD\tREASON")
	for _, s := range statuses {
		lag := fmt.Sprint(s.Lag)
		if s.Lag > 0 {
			lag += " " + ledger.Span(time.Duration(s.LagSeconds)*time.Second)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d/%d\t%s\t%d\t%d\t%s\n", cut(s.Name, 16), s.Kind, s.State, s.Ready, s.Partitions, lag, s.Owed, s.DeadLetters, s.Reason)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, s := range statuses {
		if s.Pause != nil {
			fmt.Fprintln(w, s.pauseText(time.Now()))
		}
	}
	return nil
}

func (s sinkStatus) pauseText(now time.Time) string {
	text := fmt.Sprintf("%s is paused since %s, by %s", s.Name, ledger.Span(now.Sub(time.UnixMilli(s.Pause.Since)).Truncate(time.Second)), s.Pause.By)
	if s.Pause.Reason != "" {
		text += ": " + s.Pause.Reason
	}
	if !s.Pause.KeepErasing {
		text += ". ITS ERASURES WAIT, and their deadlines go on"
	}
	return text + "."
}

func printStatus(w io.Writer, s sinkStatus, now time.Time) error {
	line := func(title, format string, args ...any) {
		fmt.Fprintf(w, "%-14s%s\n", title, fmt.Sprintf(format, args...))
	}
	line("sink", "%s", s.Name)
	line("kind", "%s", cmp.Or(s.Kind, "not known: no process has told"))
	line("state", "%s", s.State)
	if s.Reason != "" {
		line("last failure", "%s", s.Reason)
	}
	if s.Pause != nil {
		line("pause", "%s", s.pauseText(now))
	}
	line("partitions", "%d of %d owned, %d ready", s.Owned, s.Partitions, s.Ready)
	line("lag", "%d records, the first %s old", s.Lag, ledger.Span(time.Duration(s.LagSeconds)*time.Second))
	line("erasures", "%d owed, %d of them held back, %d done and not confirmed yet", s.Owed, s.Held, s.Unconfirmed)
	if s.OldestErasure != nil {
		line("oldest owed", "asked for %s ago", ledger.Span(now.Sub(*s.OldestErasure).Truncate(time.Second)))
	}
	line("dead letters", "%d, %d of them parked", s.DeadLetters, s.Parked)
	if len(s.Instances) == 0 {
		line("processes", "none has told of it")
	}
	for n, i := range s.Instances {
		title := ""
		if n == 0 {
			title = "processes"
		}
		age := ledger.Span(now.Sub(time.UnixMilli(i.At)).Truncate(time.Second))
		if i.Stale {
			line(title, "%s: not heard of for %s", i.Instance, age)
			continue
		}
		line(title, "%s: %s, %d/%d partitions, told %s ago", i.Instance, i.State, i.Ready, i.Owned, age)
		if i.HeldUpBy != "" {
			line("", "held up by %s, which fails alone: tried %d times, next at %s", i.HeldUpBy, i.Attempts, time.UnixMilli(i.NextAt).UTC().Format(time.RFC3339))
		}
	}
	return nil
}
