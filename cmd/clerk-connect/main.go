// Command clerk-connect keeps a compacted Kafka topic equal to the users of a
// Clerk instance, and any number of destinations equal to that topic.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"clerkconnect/cmd/internal/config"
)

// Exit codes.
const (
	exitOK            = 0
	exitFailure       = 1 // something went wrong while running
	exitConfiguration = 2 // flags or settings: nothing was started
)

func main() {
	// The first signal ends the program in order. From then on signals have
	// their usual effect, so that the second one ends it at once.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs one command and returns the exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return tell(ctx, root.ExecuteContext(ctx), stderr)
}

// tell says how a command has ended and returns the exit code.
func tell(ctx context.Context, err error, stderr io.Writer) int {
	if err == nil {
		return exitOK
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, "Interrupted.") // a script must not take it for done
		if err.Error() != context.Canceled.Error() {
			fmt.Fprintf(stderr, "Error: %v\n", err) // what the command has left behind, say
		}
		return exitFailure
	}
	var problems config.Problems
	var usage *usageError
	switch {
	case errors.Is(err, errLogged):
		return exitFailure
	case errors.As(err, &problems):
		fmt.Fprintf(stderr, "The configuration has %d problem(s):\n", len(problems))
		for _, problem := range problems {
			fmt.Fprintf(stderr, "  - %v\n", problem)
		}
		fmt.Fprintln(stderr, "clerk-connect config reference lists every setting.")
		return exitConfiguration
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "Error: %s\n", strings.ReplaceAll(err.Error(), "\n", "\nError: "))
		return exitConfiguration
	}
	fmt.Fprintf(stderr, "Error: %v\n", err)
	return exitFailure
}

// untilSignal is the error of what runs until a signal ends it: none if the
// signal came before there was anything to end.
func untilSignal(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// usageError is a flag or an argument that cannot be used.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "clerk-connect",
		Short: "Keeps a Kafka topic, and databases behind it, equal to the users of a Clerk instance",
		Long: `clerk-connect receives Clerk's webhooks and reads Clerk's Backend API, makes a
compacted Kafka topic of the latest state of each user out of the two, and keeps
databases and tools equal to that topic.

New here? This needs no account, no Kafka and no settings:

  clerk-connect dev`,
		Args:          noArguments,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
	})
	root.Version = versionLine()
	root.SetVersionTemplate("{{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newDev(), newRun(), newSnapshot(), newErasure(), newDLQ(), newAudit(), newSink(), newConfig(), newVersion())
	return root
}

// noArguments refuses arguments, with the nearest commands if there are any.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q; see %s --help", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		err = fmt.Errorf("unknown command %q; did you mean %s?", args[0], near[0])
	}
	return &usageError{err}
}
