package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/spf13/cobra"

	"clerkconnect/cmd/internal/config"
	"clerkconnect/cmd/internal/process"
	"clerkconnect/cmd/internal/telemetry"
)

func newRun() *cobra.Command {
	var roles []string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the pipeline, or some roles of it, against a real Kafka",
		Long: `run is the production form. Its settings come from the environment (see
clerk-connect config reference); what is missing is an error, all of it at once.

The roles, of which every process runs those that --roles names:

  receiver   takes webhooks and writes them to <prefix>.user-events
  sequencer  makes <prefix>.users, the latest state of each user, out of them
  snapshot   reads the Backend API: once by itself, then when asked or needed
  sinks      keeps the destinations of SINKS equal to <prefix>.users

Before anything runs, the retention and compaction of every topic that holds users
is checked, as it is in Kafka: none may keep an erased user for longer than
ERASURE_DEADLINE. Exit code 2 if one may, with what to set instead.

Any number of processes may run each role. SIGTERM or Ctrl-C ends the process in
order: what was taken in is passed on. A second signal ends it at once; nothing
that was acknowledged is lost then either.`,
		Example: `  # Everything in one process
  export KAFKA_BROKERS=kafka:9092 CLERK_SECRET_KEY_FILE=/run/secrets/clerk-key
  export CLERK_WEBHOOK_SIGNING_SECRET_FILE=/run/secrets/clerk-webhook WEBHOOK_ADDR=:8080
  export SINKS=postgres SINK_POSTGRES_DSN_FILE=/run/secrets/postgres-dsn
  clerk-connect run

  # The process that faces the internet holds no key and no database password
  clerk-connect run --roles receiver
  clerk-connect run --roles sequencer,snapshot,sinks`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen, err := config.ParseRoles(roles)
			if err != nil {
				return &usageError{err}
			}
			c, err := config.Load(config.Environment(), chosen)
			if err != nil {
				return err
			}
			logger := c.Log.Logger(cmd.ErrOrStderr())
			logger.Info("starting", "version", version(), "roles", chosen, "instance", c.InstanceName, "admin", c.Admin.Addr)
			for _, warning := range c.Warnings(chosen) {
				logger.Warn(warning)
			}
			err = runRoles(cmd.Context(), c, chosen, logger)
			if problems := (config.Problems)(nil); errors.As(err, &problems) {
				return err // told like every problem of settings
			}
			if err != nil && cmd.Context().Err() == nil {
				logger.Error("cannot go on", "err", err)
				return errLogged
			}
			logger.Info("stopped")
			return untilSignal(cmd.Context(), err)
		},
	}
	rolesFlag(cmd, &roles)
	return cmd
}

// errLogged is an error of which the log tells already.
var errLogged = errors.New("see the log")

func runRoles(ctx context.Context, c *config.Config, roles []config.Role, logger *slog.Logger) error {
	p, err := process.New(ctx, process.Settings{
		Config: c, Roles: roles, Logger: logger, Registry: telemetry.Registry(version()), Version: version(),
	})
	if err != nil {
		return err
	}
	if err := p.CheckRetention(ctx); err != nil {
		p.Close()
		return err
	}
	return p.Run(ctx)
}
