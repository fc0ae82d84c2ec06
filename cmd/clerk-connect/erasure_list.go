package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"clerkconnect/cmd/internal/ledger"
)

func newErasureList() *cobra.Command {
	var filter ledger.Filter
	var since, output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List erasures, the oldest first",
		Long: `list shows every erasure that stands, with its age, its state and what is
missing, the oldest first. An erasure is

  complete  every sink has done it, or a person has waived it
  late      complete, but after the deadline
  open      a sink has not done it, holds it back, or has not read it back yet
  overdue   open, and older than ERASURE_DEADLINE

The sinks that have to answer are those of SINKS in this process, and those
whose topics are in Kafka. To remove a sink for good, delete its topics
<prefix>.sink-state.NAME and <prefix>.dead-letters.NAME when its destination
is gone: until then the ledger expects it to answer.`,
		Example: `  clerk-connect erasure list --overdue
  clerk-connect erasure list --open --sink crm
  clerk-connect erasure list --since 30d -o json | jq '.erasures[].clerk_id'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			now := time.Now()
			if err := checkOutput(output); err != nil {
				return err
			}
			if filter.Since, err = parseMoment("--since", since, now); err != nil {
				return err
			}
			d, err := openDesk(cmd)
			if err != nil {
				return err
			}
			defer d.close()
			report, err := d.report(cmd, filter, now)
			if err != nil {
				return err
			}
			if output == "json" {
				return ledger.WriteJSON(d.out, report)
			}
			return printList(d.out, report)
		},
	}
	cmd.Flags().BoolVar(&filter.Open, "open", false, "only what a sink has still to do")
	cmd.Flags().BoolVar(&filter.Overdue, "overdue", false, "only what is open and older than ERASURE_DEADLINE")
	cmd.Flags().StringVar(&filter.Sink, "sink", "", "only the part of this `sink`")
	cmd.Flags().StringVar(&since, "since", "", "only what was asked for since this `time`: 2026-11-01, 2026-11-01T10:00:00Z, 72h or 30d ago")
	outputFlag(cmd, &output)
	return cmd
}

func (d *desk) report(cmd *cobra.Command, filter ledger.Filter, now time.Time) (*ledger.Report, error) {
	report, err := d.Report(cmd.Context(), filter, now)
	if err != nil {
		return nil, err
	}
	report.Program, report.InstanceID = "clerk-connect "+version(), d.pins.InstanceID
	return report, nil
}

// missingWidth leaves 80 columns for a line of the list with an ID of Clerk's
// usual length.
const missingWidth = 27

func printList(w io.Writer, r *ledger.Report) error {
	if len(r.Erasures) > 0 {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "USER\tAGE\tSTATE\tSINKS")
		for _, e := range r.Erasures {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", e.ClerkID, ledger.Span(time.Duration(e.AgeSeconds)*time.Second), short(e), cut(answers(e), missingWidth))
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	s := r.Summary
	_, err := fmt.Fprintf(w, "%d erasures: %d complete (%d late), %d open (%d overdue). Deadline: %s.\n",
		s.Erasures, s.Complete, s.Late, s.Open, s.Overdue, ledger.Span(time.Duration(r.DeadlineSeconds)*time.Second))
	return err
}

func short(e ledger.Entry) string {
	if e.Late {
		return "late"
	}
	return e.Verdict()
}

// answers says how many sinks have done it, and what the others say.
func answers(e ledger.Entry) string {
	done := 0
	var others []string
	for _, s := range e.Sinks {
		if s.State == ledger.StateConfirmed || s.State == ledger.StateDone {
			done++
		} else {
			others = append(others, s.Sink+" "+string(s.State))
		}
	}
	return strings.TrimSpace(fmt.Sprintf("%d/%d %s", done, len(e.Sinks), strings.Join(others, ", ")))
}

func cut(text string, width int) string {
	if len(text) <= width {
		return text
	}
	return text[:width-2] + ".."
}

func newErasureShow() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one erasure, and what every sink says of it",
		Long: `show tells of the erasure of one user: when and how it was asked for, by when it
has to be done, and of each sink what it has done, when, how, why so, and whether
a second look has found nothing of the user.

The states of a sink:

  confirmed    done, and read back
  done         done; this kind of sink reads nothing back
  unconfirmed  done, and not read back yet
  held         not to be done yet (SINK_<NAME>_ERASE_AFTER)
  waived       a person decided that this sink keeps the user
  owed         not done; it is tried again for ever`,
		Example: `  clerk-connect erasure show user_2abCdEfGhIjKlMnOpQrStUvWxYz
  clerk-connect erasure show user_2abCdEfGhIjKlMnOpQrStUvWxYz -o json`,
		Args: oneUser,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
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
			if output == "json" {
				return ledger.WriteJSON(d.out, e)
			}
			return printEntry(d.out, e, time.Now())
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// find returns the erasure of a user, or an error that says what there is
// instead.
func (d *desk) find(cmd *cobra.Command, clerkID string) (ledger.Entry, error) {
	e, found, earlier, err := d.Find(cmd.Context(), clerkID, time.Now())
	switch {
	case err != nil:
		return e, err
	case found:
		return e, nil
	case len(earlier) > 0:
		return e, fmt.Errorf("no erasure of %s stands: an earlier one was taken back, after %s had done it", clerkID, strings.Join(earlier, ", "))
	}
	return e, fmt.Errorf("no erasure of %s is in the ledger of %s", clerkID, d.Topics.Prefix)
}

const minute = "2006-01-02 15:04"

func printEntry(w io.Writer, e ledger.Entry, now time.Time) error {
	fmt.Fprintf(w, "User       %s\n", e.ClerkID)
	fmt.Fprintf(w, "Asked for  %s UTC, %s ago: %s\n", e.RequestedAt.Format(minute), ledger.Span(now.Sub(e.RequestedAt)), e.How())
	if e.Reason != "" {
		fmt.Fprintf(w, "Reason     %s\n", e.Reason)
	}
	fmt.Fprintf(w, "Event      %s\n", e.EventID)
	due := "in " + ledger.Span(e.DueAt.Sub(now))
	if now.After(e.DueAt) {
		due = ledger.Span(now.Sub(e.DueAt)) + " ago"
	}
	fmt.Fprintf(w, "Due        %s UTC, %s\n", e.DueAt.Format(minute), due)
	state := e.Verdict()
	if e.CompletedAt != nil {
		state += " after " + ledger.Span(e.CompletedAt.Sub(e.RequestedAt))
	}
	fmt.Fprintf(w, "State      %s\n\n", state)
	if len(e.Sinks) == 0 {
		_, err := fmt.Fprintln(w, "No sink has to answer.")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SINK\tSTATE\tHOW\tDONE (UTC)\tREAD BACK (UTC)")
	moment := func(t *time.Time) string {
		if t == nil {
			return "-"
		}
		return t.Format(minute)
	}
	var remarks strings.Builder
	for _, s := range e.Sinks {
		how := "-"
		if s.Outcome != "" {
			how = strings.ToLower(strings.ReplaceAll(string(s.Outcome), "_", " "))
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", s.Sink, s.State, how, moment(s.DoneAt), moment(s.ConfirmedAt))
		for _, remark := range []string{s.Reason, s.Missing} {
			if remark != "" {
				fmt.Fprintf(&remarks, "%s: %s\n", s.Sink, remark)
			}
		}
		if s.Repeated != nil {
			fmt.Fprintf(&remarks, "%s: repeated, as asked for on %s UTC; when it was done first is not kept\n", s.Sink, s.Repeated.Format(minute))
		}
		if s.KeepsData() {
			fmt.Fprintf(&remarks, "%s: the user is marked as deleted, and the data is kept\n", s.Sink)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if remarks.Len() > 0 {
		fmt.Fprint(w, "\n", remarks.String())
	}
	return nil
}
