package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"clerkconnect/cmd/internal/config"
	"clerkconnect/sinks"
)

func newSink() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sink",
		Short: "Prepare and look after the destinations of SINKS",
		Long: `sink prepares the destinations of SINKS, and looks after the sinks that run.

init and test take the settings of the sink that they name, SINKS and
SINK_<NAME>_*, and talk to nothing but its destination.

list, status, pause, resume and restart need KAFKA_BROKERS and, where the running
processes have them, TOPIC_PREFIX and SCHEMA_REGISTRY_*. What they ask for is
written to Kafka; the running processes follow within seconds, others when they
are started.`,
		Example: `  # Before a real user goes there
  clerk-connect sink init postgres
  clerk-connect sink test postgres

  # Is every sink where it should be?
  clerk-connect sink status`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSinkInit(), newSinkTest(), newSinkList(), newSinkStatus(), newSinkPause(), newSinkResume(), newSinkRestart())
	return cmd
}

// initTimeout bounds the making of tables and indexes; an index over a large
// table takes its time.
const initTimeout = 30 * time.Minute

func newSinkInit() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "init NAME",
		Short: "Create what a sink needs at its destination: tables, indexes, views",
		Long: `init creates what the sink NAME of SINKS needs at its destination and does not
find there: its users table or collection by default, the small table beside it
that remembers versions, indexes, and a sample view. What is there is left as it
is, so that it may be run again. Users are not touched.

It takes the settings of that sink alone, and talks to nothing but its destination;
the login needs the right to create. --dry-run prints what would be done, in the
destination's own language, for somebody who may; it connects to nothing.`,
		Example: `  export SINKS=postgres SINK_POSTGRES_DSN_FILE=/run/secrets/postgres-dsn
  clerk-connect sink init postgres --dry-run | psql "$ADMIN_DSN"
  clerk-connect sink init postgres`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &usageError{fmt.Errorf("give the name of one sink of SINKS; see %s --help", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return initSink(cmd, args[0], dryRun) },
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be done, and connect to nothing")
	return cmd
}

func initSink(cmd *cobra.Command, name string, dryRun bool) (err error) {
	entry, err := config.LoadSink(config.Environment(), name)
	if err != nil {
		return err
	}
	sink, err := entry.Kind.New(entry.Settings)
	if err != nil {
		return fmt.Errorf("sink %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, sink.Close()) }()
	ctx, cancel := context.WithTimeout(cmd.Context(), initTimeout)
	defer cancel()
	return initialize(ctx, cmd.OutOrStdout(), name, entry.Kind.Name, sink, dryRun)
}

// initialize prepares the destination of a sink, or says on out what it would
// do, or that there is nothing to do.
func initialize(ctx context.Context, out io.Writer, name, kind string, sink sinks.Sink, dryRun bool) error {
	initializer, ok := sink.(sinks.Initializer)
	if !ok {
		return fmt.Errorf("sink %s: a sink of kind %s needs nothing at its destination, so there is nothing to initialise", name, kind)
	}
	if dryRun {
		_, err := fmt.Fprintln(out, strings.TrimRight(initializer.InitScript(), "\n"))
		return err
	}
	if err := initializer.Init(ctx); err != nil {
		return fmt.Errorf("sink %s: init: %w", name, err)
	}
	_, err := fmt.Fprintf(out, "Sink %s: the destination has what it needs. clerk-connect sink init %s --dry-run prints what that is.\n", name, name)
	return err
}
