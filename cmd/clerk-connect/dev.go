package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"clerkconnect/cmd/internal/config"
	"clerkconnect/cmd/internal/console"
	"clerkconnect/cmd/internal/dev"
)

func newDev() *cobra.Command {
	var output string
	options := dev.Options{}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything on this machine: embedded broker, simulated Clerk, SQLite",
		Long: `dev runs the whole pipeline in one process, without an account and without a
server: a Kafka-compatible broker on loopback, a simulated Clerk with users whose
webhooks come signed, some twice, some late, some in the wrong order, and a table
of the users in SQLite. Any Kafka client on this machine can read the topics.

Everything is kept in the data folder: the next start goes on from there. The
environment is not looked at (but for LOG_LEVEL and LOG_FORMAT), so that nothing
real is touched. --real uses your Clerk instance, and your Kafka if it is named:

  CLERK_SECRET_KEY              users are read with it
  CLERK_WEBHOOK_SIGNING_SECRET  webhooks are verified with it
  KAFKA_BROKERS                 optional; without it the embedded broker

and takes the other settings of clerk-connect config reference too, but for the
sinks: the destination is always SQLite. Simulated users never go to an outside
Kafka.`,
		Example: `  # A thousand users, five events a second; Ctrl-C ends it
  clerk-connect dev

  # A larger and busier instance, in another folder
  clerk-connect dev --data-dir /tmp/large --users 50000 --rate 100

  # For scripts: 30 seconds, then a summary as JSON; exit code 0 if Clerk, the
  # topic and the table are equal in the end
  clerk-connect dev --for 30s -o json

  # The users of your own development instance, on an embedded broker
  CLERK_SECRET_KEY=sk_test_... CLERK_WEBHOOK_SIGNING_SECRET=whsec_... \
    clerk-connect dev --real --data-dir ./clerk-real`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkDev(options, output); err != nil {
				return &usageError{err}
			}
			options.JSON = output == "json"
			options.Environment, options.Version = config.Environment(), version()
			options.Stdout, options.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			options.Terminal = console.IsTerminal(options.Stdout)
			return dev.Run(cmd.Context(), options)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.DataDir, "data-dir", ".clerk-connect", "`folder` of the broker's data, the simulated Clerk and users.db")
	flags.IntVar(&options.Users, "users", 1000, "users of the simulated Clerk at its first start")
	flags.Float64Var(&options.Rate, "rate", 5, "`events` per second of the simulated Clerk: sign-ups, changes, sign-ins, deletions")
	flags.Uint64Var(&options.Seed, "seed", 1, "what decides the simulated users and what they do")
	flags.DurationVar(&options.For, "for", 0, "end after this `time`, as 30s, drain and print a summary; 0 runs until Ctrl-C")
	flags.BoolVar(&options.Real, "real", false, "use the Clerk instance, and the Kafka, that the environment names")
	flags.StringVarP(&output, "output", "o", "text", "`form` of the summary: text, or json on standard output with all else on standard error")
	return cmd
}

func checkDev(o dev.Options, output string) error {
	var errs []error
	problem := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	problem(o.DataDir == "", "--data-dir is empty: give a folder")
	problem(o.Users < 0 || o.Users > 1_000_000, "--users is %d: give 0 to 1000000", o.Users)
	problem(!(o.Rate >= 0 && o.Rate <= 10_000), "--rate is %v: give 0 to 10000", o.Rate)
	problem(o.For < 0, "--for is %v: give a time, as 30s", o.For)
	problem(output != "text" && output != "json", "--output is %q: give text or json", output)
	return errors.Join(errs...)
}
