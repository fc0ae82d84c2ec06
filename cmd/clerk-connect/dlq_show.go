package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/cmd/internal/ledger"
	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
	"clerkconnect/schemas/deadletters"
)

func newDLQShow() *cobra.Command {
	var personal bool
	var output string
	cmd := &cobra.Command{
		Use:   "show NAME PLACE",
		Short: "Show one dead letter: why it is here, and on demand what it holds",
		Long: `show tells all that is known of one dead letter. PLACE is partition/offset as dlq
list prints it, or the origin of the record as the log names it:
topic/partition/offset.

What the letter holds is personal data and is printed only with --personal-data;
of a webhook there is nothing to print, since its body is not kept.`,
		Example: `  clerk-connect dlq show postgres 3/17
  clerk-connect dlq show postgres clerk.users/3/4711 --personal-data`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return &usageError{fmt.Errorf("give a sink and a place, as %s postgres 3/17; see %s --help", cmd.CommandPath(), cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			place, ok := deadletters.ParsePlace(args[1])
			if !ok {
				return &usageError{fmt.Errorf("%q is no place: give partition/offset, as 3/17, or topic/partition/offset", args[1])}
			}
			if err := checkOutput(output); err != nil {
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
			m, ok := find(letters, place)
			if !ok {
				return fmt.Errorf("%s has no dead letter at %s: clerk-connect dlq list %s --all lists them", args[0], args[1], args[0])
			}
			return d.show(cmd, args[0], m, personal, output)
		},
	}
	cmd.Flags().BoolVar(&personal, "personal-data", false, "print what the letter holds")
	outputFlag(cmd, &output)
	return cmd
}

// find returns the letter at a place, or the latest of a record.
func find(letters []mail, place deadletters.Origin) (found mail, ok bool) {
	for _, m := range letters {
		if place.Topic == "" && m.Partition == place.Partition && m.Offset == place.Offset || m.Origin == place {
			found, ok = m, true
		}
	}
	return found, ok
}

func (d *desk) show(cmd *cobra.Command, name string, m mail, personal bool, output string) error {
	var value any
	if personal {
		fmt.Fprintln(cmd.ErrOrStderr(), "This prints personal data of a user: keep it out of tickets and chats.")
		var err error
		if value, err = d.valueOf(cmd.Context(), name, m); err != nil {
			return err
		}
	}
	if output == "json" {
		return ledger.WriteJSON(d.out, struct {
			mailJSON
			Value any `json:"value,omitempty"`
		}{m.json(), value})
	}
	line := func(title, text string) {
		if text != "" {
			d.say("%-12s%s", title, text)
		}
	}
	number := func(n int) string {
		if n == 0 {
			return ""
		}
		return strconv.Itoa(n)
	}
	line("place", m.place())
	line("user", m.ClerkID)
	if m.Origin.Topic == "" {
		line("svix-id", m.Key)
	}
	line("record", m.Origin.String())
	line("state", m.state())
	line("reason", m.Reason)
	line("message", m.Message)
	line("class", m.Class)
	line("attempts", number(m.Attempts))
	line("replays", number(m.Replays))
	line("held by", m.HeldBy)
	if m.Versioned {
		line("version", fmt.Sprintf("%d/%d", m.Version.Epoch, m.Version.Number))
	}
	line("given up", m.GivenUpAt.UTC().Format(time.RFC3339))
	if m.Answer != "" {
		line("answered", m.AnsweredAt.UTC().Format(time.RFC3339))
	} else if m.Asked != nil {
		line("asked", m.Asked.At.UTC().Format(time.RFC3339)+" by "+m.Asked.By)
	}
	line("by", m.AnsweredBy)
	line("note", m.Note)
	if value != nil {
		return ledger.WriteJSON(d.out, value)
	}
	if m.Bytes > 0 && !personal && m.Origin.Topic != "" {
		line("value", fmt.Sprintf("%d bytes, personal data: shown with --personal-data", m.Bytes))
	}
	return nil
}

// valueOf decodes what a letter holds.
func (d *desk) valueOf(ctx context.Context, name string, m mail) (any, error) {
	var letter *kgo.Record
	err := compacted.ReadRange(ctx, d.Client, d.Topics.DeadLetters(name), m.Partition, m.Offset, m.Offset+1, func(k *kgo.Record) error {
		letter = k
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case letter == nil || letter.Offset != m.Offset:
		return nil, errors.New("the letter has just expired")
	case letter.Value == nil:
		return nil, errors.New("this letter holds nothing: the body of a webhook that cannot be understood is not kept; Svix has it, in Clerk's dashboard")
	}
	var into any = &schemas.UserChange{}
	if m.Origin.Topic == d.Topics.ErasureReceipts() {
		into = &schemas.Receipt{}
	}
	if err := d.Codec.Decode(ctx, letter.Value, into); err != nil {
		return nil, fmt.Errorf("the value cannot be read, which may be why it is here: %w", err)
	}
	return avroNames(reflect.ValueOf(into)), nil
}

// avroNames is a value of package schemas under the names that it has in the
// topic, which are all that a reader knows.
func avroNames(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return avroNames(v.Elem())
	case reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = avroNames(v.Index(i))
		}
		return list
	case reflect.Struct:
		record := make(map[string]any, v.NumField())
		for i := range v.NumField() {
			record[v.Type().Field(i).Tag.Get("avro")] = avroNames(v.Field(i))
		}
		return record
	}
	return v.Interface()
}
