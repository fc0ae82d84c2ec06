package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"clerkconnect/cmd/internal/ledger"
	"clerkconnect/connector/topics"
)

func newErasureReport() *cobra.Command {
	var since, until, format, file string
	cmd := &cobra.Command{
		Use:   "report --since TIME",
		Short: "Make a report of the erasures of a period, to be filed",
		Long: `report tells of every erasure that was asked for since a time, and of those from
before that are still open: what each sink has done, when and how, what is
missing and why, which sinks had to answer, and how long the topics of Kafka keep
what they hold of an erased user.

The page (html) is one file that needs nothing else; print it, or save it as PDF.
It names users by their Clerk ID and holds no other personal data. json is the
same for machines; its shape is described in cmd/internal/ledger/README.md.`,
		Example: `  clerk-connect erasure report --since 2026-11-01 --until 2026-12-01 --write november.html
  clerk-connect erasure report --since 30d --format json | jq .summary`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			now := time.Now()
			filter, form, err := reportOf(since, until, format, file, now)
			if err != nil {
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
			if report.Copies, err = d.copies(cmd); err != nil {
				return err
			}
			write := report.WritePage
			if form == "json" {
				write = func(w io.Writer) error { return ledger.WriteJSON(w, report) }
			}
			if file == "" {
				return write(d.out)
			}
			if err := writeFile(file, write); err != nil {
				return err
			}
			s := report.Summary
			d.say("Written to %s: %d erasures, %d complete (%d late), %d open (%d overdue).", file, s.Erasures, s.Complete, s.Late, s.Open, s.Overdue)
			return nil
		},
	}
	cmd.Flags().StringVar(&since, "since", "", "start of the period: a `time`, as 2026-11-01, 2026-11-01T10:00:00Z, or 30d ago")
	cmd.Flags().StringVar(&until, "until", "", "end of the period, not part of it: a `time`; now, unless given")
	cmd.Flags().StringVar(&format, "format", "", "`form`: html or json; without it what the name of --write ends in, else html")
	cmd.Flags().StringVar(&file, "write", "", "write it into this `file`, which only you can read")
	return cmd
}

// reportOf reads the flags.
func reportOf(since, until, format, file string, now time.Time) (filter ledger.Filter, form string, err error) {
	filter.Carry = true
	var errs [2]error
	filter.Since, errs[0] = parseMoment("--since", since, now)
	filter.Until, errs[1] = parseMoment("--until", until, now)
	switch {
	case since == "":
		errs[0] = errors.New("--since is missing: give the start of the period, as --since 2026-11-01 or --since 30d")
	case until != "" && errs[0] == nil && errs[1] == nil && !filter.Until.After(filter.Since):
		errs[1] = errors.New("--until is not after --since: give a later time")
	}
	form, err = formOf(format, file)
	err = errors.Join(errs[0], errs[1], err)
	if err != nil {
		return filter, form, &usageError{err}
	}
	return filter, form, nil
}

// formOf is the form of a report: what --format says, else what the name of the
// file does.
func formOf(format, file string) (string, error) {
	extension := strings.ToLower(filepath.Ext(file))
	switch {
	case format == "html" || format == "json":
		return format, nil
	case format != "":
		return "", fmt.Errorf("--format is %q: give html or json", format)
	case extension == ".json":
		return "json", nil
	case file == "" || extension == ".html" || extension == ".htm":
		return "html", nil
	}
	return "", fmt.Errorf("--write is %q: give a name that ends in .html or .json, or --format too; for a PDF print the page", file)
}

// copies are the topics of Kafka that hold users.
func (d *desk) copies(cmd *cobra.Command) ([]ledger.Copy, error) {
	list, err := topics.Lifetimes(cmd.Context(), d.Client, d.cfg.Topics)
	if err != nil {
		return nil, err
	}
	copies := make([]ledger.Copy, len(list))
	for i, l := range list {
		copies[i] = ledger.Copy{Topic: l.Topic, Why: l.Why}
		if l.AtMost > 0 {
			copies[i].AtMostSeconds = new(int64(l.AtMost.Seconds()))
		}
	}
	return copies, nil
}

// writeFile writes a file whole or not at all.
func writeFile(name string, write func(io.Writer) error) (err error) {
	temporary, err := os.CreateTemp(filepath.Dir(name), ".clerk-connect-report-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temporary.Name())
		}
	}()
	if err := errors.Join(write(temporary), temporary.Close()); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), name)
}
