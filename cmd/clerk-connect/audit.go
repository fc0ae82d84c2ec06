package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"clerkconnect/cmd/internal/config"
	"clerkconnect/cmd/internal/console"
	"clerkconnect/sinks"
	"clerkconnect/sinks/audit"
)

func newAudit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Verify an audit log, and take its heads",
		Long: `audit reads the log that a sink of kind audit keeps. It takes the settings of that
sink as run does, SINKS and SINK_<NAME>_*, and talks to nothing but its database, where it
needs the right to read. NAME may be left out if there is one such sink.`,
		Example: `  export SINKS=audit SINK_AUDIT_URL_FILE=/run/secrets/audit-reader-url

  # Is the log as it was written?
  clerk-connect audit verify

  # Keep the heads where who can write to the database cannot, and hold the log against them later
  clerk-connect audit head > heads.txt
  clerk-connect audit verify --expect heads.txt`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAuditVerify(), newAuditHead())
	return cmd
}

// auditKind is what SINKS calls the sink.
const auditKind = "audit"

// openAudit opens the log of the sink that args name, or of the only one.
func openAudit(cmd *cobra.Command, args []string) (log *audit.Log, name string, err error) {
	environ := config.Environment()
	if len(args) > 0 {
		name = args[0]
	} else {
		names := config.SinksOfKind(environ, auditKind)
		switch len(names) {
		case 0:
			return nil, "", config.Problems{errors.New("SINKS has no sink of kind audit: name one there, as SINKS=audit, with SINK_AUDIT_URL")}
		case 1:
			name = names[0]
		default:
			return nil, "", &usageError{fmt.Errorf("SINKS has several audit logs: name one of %s; see %s --help", strings.Join(names, ", "), cmd.CommandPath())}
		}
	}
	entry, err := config.LoadSink(environ, name)
	if err != nil {
		return nil, "", err
	}
	cfg, ok := entry.Settings.(*audit.Config)
	if !ok {
		return nil, "", &usageError{fmt.Errorf("sink %s is of kind %s, and no audit log", name, entry.Kind.Name)}
	}
	log, err = audit.OpenLog(cmd.Context(), *cfg)
	return log, name, ofSettings(err)
}

// ofSettings tells what a person must mend in the settings from all else that
// can go wrong: the exit code does.
func ofSettings(err error) error {
	if err != nil && sinks.Classify(err).Class == sinks.ClassFatal {
		return &usageError{err}
	}
	return err
}

func oneOrNoSink(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return &usageError{fmt.Errorf("give the name of one sink of SINKS, or none; see %s --help", cmd.CommandPath())}
	}
	return nil
}

func newAuditVerify() *cobra.Command {
	var output, expect string
	cmd := &cobra.Command{
		Use:   "verify [NAME]",
		Short: "Check every row of the log",
		Long: `verify reads the whole log and says, row by row, what was removed, edited, moved or
slipped in. It may run while the log is being written.

What was cut off at the end, or written anew from some row on with all hashes made
right, cannot be seen in the log itself: --expect holds it against heads that were
taken before (clerk-connect audit head) and kept elsewhere.

Exit code: 0 the log is intact; 1 it is not, or could not be read to its end; 2 the
settings have to be mended.`,
		Example: `  clerk-connect audit verify
  clerk-connect audit verify --expect heads-2026-11-25.txt
  clerk-connect audit verify compliance -o json | jq .findings`,
		Args: oneOrNoSink,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			heads, err := readHeads(expect)
			if err != nil {
				return &usageError{err}
			}
			log, name, err := openAudit(cmd, args)
			if err != nil {
				return err
			}
			defer log.Close() //nolint:errcheck // nothing was written
			return verifyAudit(cmd.Context(), log, name, heads, output == "json", cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&expect, "expect", "", "`file` of heads, as audit head prints them: each must still be a row of the log")
	outputFlag(cmd, &output)
	return cmd
}

// verified is the JSON of a verification.
type verified struct {
	Sink       string    `json:"sink"`
	VerifiedAt time.Time `json:"verified_at"`
	audit.Report
	Findings []audit.Finding `json:"findings"`
}

func verifyAudit(ctx context.Context, log *audit.Log, name string, expect []audit.Head, inJSON bool, out, progress io.Writer) error {
	result := verified{Sink: name, VerifiedAt: time.Now().UTC().Truncate(time.Second), Findings: []audit.Finding{}}
	shown := time.Now()
	report, err := log.Verify(ctx, audit.VerifyOptions{
		Expect: expect,
		Found: func(f audit.Finding) {
			if inJSON {
				result.Findings = append(result.Findings, f)
			} else {
				fmt.Fprintf(out, "%s: %s\n", f.Chain, f.Text)
			}
		},
		Progress: func(chain string, rows int64) {
			if time.Since(shown) >= console.LinesEvery {
				shown = time.Now()
				fmt.Fprintf(progress, "%d rows, at %s\n", rows, chain)
			}
		},
	})
	if err != nil {
		return ofSettings(err)
	}
	if result.Report = report; inJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(result)
	} else {
		verdict := "The log is intact."
		if !report.Intact {
			verdict = "The log is NOT intact."
		}
		clients := ""
		if report.ClientsRemoved > 0 {
			clients = fmt.Sprintf(" The address and agent of %d rows are erased, as they may be.", report.ClientsRemoved)
		}
		_, err = fmt.Fprintf(out, "%d rows in %d chains.%s %s\n", report.Rows, len(report.Heads), clients, verdict)
	}
	if err == nil && !report.Intact {
		err = fmt.Errorf("the audit log of sink %s is not intact: %d finding(s)", name, report.Findings)
	}
	return err
}

func newAuditHead() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "head [NAME]",
		Short: "Print the last row of each chain, to be kept elsewhere",
		Long: `head prints, for each chain of the log, the number and the hash of its last row. They
hold no personal data. Whoever has them can show later, with audit verify --expect, that
nothing up to these rows was changed or cut off. Keep them where nobody who can write to
the database can, and take them as often as it matters.`,
		Example: `  clerk-connect audit head > heads-$(date +%F).txt
  clerk-connect audit head -o json`,
		Args: oneOrNoSink,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			log, name, err := openAudit(cmd, args)
			if err != nil {
				return err
			}
			defer log.Close() //nolint:errcheck // nothing was written
			heads, err := log.Heads(cmd.Context())
			if err != nil {
				return ofSettings(err)
			}
			return printHeads(cmd.OutOrStdout(), taken{Sink: name, TakenAt: time.Now().UTC().Truncate(time.Second), Heads: heads}, output == "json")
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// taken is the JSON of heads.
type taken struct {
	Sink    string       `json:"sink"`
	TakenAt time.Time    `json:"taken_at"`
	Heads   []audit.Head `json:"heads"`
}

func printHeads(w io.Writer, t taken, inJSON bool) error {
	if inJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(t)
	}
	_, err := fmt.Fprintf(w, "# heads of the audit log of sink %s, %s: chain, row, hash\n", t.Sink, t.TakenAt.Format(time.RFC3339))
	for _, head := range t.Heads {
		if err == nil {
			_, err = fmt.Fprintln(w, head.Chain, head.Seq, head.Hash)
		}
	}
	return err
}

var hashText = regexp.MustCompile(`^[0-9a-f]{64}$`)

// readHeads reads what audit head, or audit verify -o json, has printed. "" is
// no file.
func readHeads(path string) ([]audit.Head, error) {
	if path == "" {
		return nil, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--expect: %w", err)
	}
	var heads []audit.Head
	if text := bytes.TrimSpace(content); bytes.HasPrefix(text, []byte("{")) {
		var t taken
		if err := json.Unmarshal(text, &t); err != nil {
			return nil, fmt.Errorf("--expect: %s is no output of audit head: %w", path, err)
		}
		heads = t.Heads
	} else {
		lines := bufio.NewScanner(bytes.NewReader(content))
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
				continue
			}
			head := audit.Head{Chain: fields[0]}
			if len(fields) == 3 {
				head.Seq, _ = strconv.ParseInt(fields[1], 10, 64) // 0 is refused below
				head.Hash = fields[2]
			}
			heads = append(heads, head)
		}
	}
	for _, head := range heads {
		if head.Chain == "" || head.Seq < 1 || !hashText.MatchString(head.Hash) {
			return nil, fmt.Errorf("--expect: %s is no output of audit head: a line is chain, row and hash", path)
		}
	}
	if len(heads) == 0 {
		return nil, fmt.Errorf("--expect: %s has no heads", path)
	}
	return heads, nil
}
