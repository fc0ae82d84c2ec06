package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"clerkconnect/cmd/internal/ledger"
)

func newDLQList() *cobra.Command {
	var filter mailFilter
	var all bool
	var output string
	cmd := &cobra.Command{
		Use:   "list NAME",
		Short: "List the dead letters of a sink, or of webhook, the oldest first",
		Long: `list shows the letters that nobody has answered; --all shows the closed ones too.
PLACE is partition/offset in the dead-letter topic, as dlq show takes it. Nothing
of what a letter holds is read.`,
		Example: `  clerk-connect dlq list postgres
  clerk-connect dlq list crm --reason conflict --since 24h
  clerk-connect dlq list crm -o json | jq -r '.letters[].clerk_id' | sort -u`,
		Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			now := time.Now()
			if err := checkOutput(output); err != nil {
				return err
			}
			if err := filter.parse(now); err != nil {
				return err
			}
			d, err := openDesk(cmd)
			if err != nil {
				return err
			}
			defer d.close()
			letters, err := d.letters(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return printLetters(d.out, output, args[0], letters, now, func(m mail) bool { return (all || m.open()) && filter.takes(m) })
		},
	}
	filter.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "closed letters, too")
	outputFlag(cmd, &output)
	return cmd
}

// mailList is what -o json prints. Times are RFC 3339.
type mailList struct {
	Name    string     `json:"name"`
	Open    int        `json:"open"`
	Asked   int        `json:"asked"`
	Parked  int        `json:"parked"`
	Erased  int        `json:"erased"`
	Letters []mailJSON `json:"letters"`
}

type mailJSON struct {
	Place      string     `json:"place"`
	ClerkID    string     `json:"clerk_id,omitempty"`
	EventID    string     `json:"event_id,omitempty"` // of a webhook
	Origin     string     `json:"origin,omitempty"`
	State      string     `json:"state"`
	Class      string     `json:"class,omitempty"`
	Reason     string     `json:"reason"`
	Message    string     `json:"message,omitempty"`
	Attempts   int        `json:"attempts,omitempty"`
	Replays    int        `json:"replays"`
	Parked     bool       `json:"parked"`
	HeldBy     string     `json:"held_by,omitempty"`
	Epoch      int32      `json:"epoch,omitempty"`
	Version    int64      `json:"version,omitempty"`
	Bytes      int        `json:"bytes"`
	GivenUpAt  time.Time  `json:"given_up_at"`
	AnsweredAt *time.Time `json:"answered_at,omitempty"`
	By         string     `json:"by,omitempty"`
	Note       string     `json:"note,omitempty"`
}

func (m mail) json() mailJSON {
	out := mailJSON{
		Place: m.place(), ClerkID: m.ClerkID, Origin: m.Origin.String(), State: m.state(), Class: m.Class, Reason: m.Reason, Message: m.Message,
		Attempts: m.Attempts, Replays: m.Replays, Parked: m.Parked, HeldBy: m.HeldBy, Epoch: m.Version.Epoch, Version: m.Version.Number,
		Bytes: m.Bytes, GivenUpAt: m.GivenUpAt.UTC(), By: m.AnsweredBy, Note: m.Note,
	}
	if m.Origin.Topic == "" {
		out.EventID = m.Key
	}
	if m.Answer != "" {
		out.AnsweredAt = new(m.AnsweredAt.UTC())
	} else if m.Asked != nil {
		out.By, out.Note = m.Asked.By, m.Asked.Note
	}
	return out
}

func (m mail) place() string { return fmt.Sprintf("%d/%d", m.Partition, m.Offset) }

// who names what a letter is about.
func (m mail) who() string {
	if m.ClerkID == "" {
		return m.Key
	}
	return m.ClerkID
}

func printLetters(w io.Writer, output, name string, letters []mail, now time.Time, takes func(mail) bool) error {
	list := mailList{Name: name, Letters: []mailJSON{}}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, m := range letters {
		if !takes(m) {
			continue
		}
		switch m.state() {
		case "open":
			list.Open++
		case "asked":
			list.Asked++
		case "parked":
			list.Parked++
		case "erased":
			if m.open() {
				list.Erased++
			}
		}
		if len(list.Letters) == 0 && output == "text" {
			fmt.Fprintln(table, "PLACE\tUSER\tREASON\tAGE\tSTATE")
		}
		list.Letters = append(list.Letters, m.json())
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", m.place(), cut(m.who(), 34), m.Reason, ledger.Span(now.Sub(m.GivenUpAt).Truncate(time.Second)), m.state())
	}
	if output == "json" {
		return ledger.WriteJSON(w, list)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%s of %s: %d open, %d asked for, %d parked, %d of erased users.\n",
		counted(len(list.Letters), "dead letter"), name, list.Open, list.Asked, list.Parked, list.Erased)
	return err
}
