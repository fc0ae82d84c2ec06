package main

import (
	"errors"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"clerkconnect/cmd/internal/config"
	"clerkconnect/cmd/internal/console"
	"clerkconnect/cmd/internal/process"
	"clerkconnect/cmd/internal/telemetry"
	"clerkconnect/connector"
	"clerkconnect/connector/snapshot"
)

// errRead ends the process when what was asked for is done.
var errRead = errors.New("snapshot complete")

// errNotRead is the end of the waiting before that.
var errNotRead = errors.New("the snapshot is not complete: a process with the role snapshot goes on with it, or this command when it is given again")

func newSnapshot() *cobra.Command {
	return &cobra.Command{
		Use:   "snapshot",
		Short: "Read all users from Clerk once more, and wait until they are in the topic's log",
		Long: `snapshot asks for a walk over all users of the Backend API and waits for its end.
The first walk needs no asking; another one makes up for webhooks that Clerk was
told to stop sending, or that a mistake has lost.

One process of the deployment does the walk: a running one with the role
snapshot, else this command. Ctrl-C ends the waiting (exit code 1); the wish is
kept, and a walk that was begun goes on wherever the role snapshot runs. What the topic
already knows is dropped by the sequencer: a snapshot never does harm. Give the
command the settings of the running processes, POLICY_* above all.`,
		Example: `  KAFKA_BROKERS=kafka:9092 CLERK_SECRET_KEY_FILE=/run/secrets/clerk-key clerk-connect snapshot`,
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return takeSnapshot(cmd) },
	}
}

func takeSnapshot(cmd *cobra.Command) error {
	roles := []config.Role{config.RoleSnapshot}
	environ := config.Environment()
	environ["ADMIN_ADDR"] = "127.0.0.1:0" // a running process on this machine has the real one
	if environ["LOG_LEVEL"] == "" {
		environ["LOG_LEVEL"] = "warn" // a person is told by the bar
	}
	c, err := config.Load(environ, roles)
	if err != nil {
		return err
	}
	if err := reachKafka(cmd.Context(), c.Kafka); err != nil {
		return err
	}
	say := console.New(cmd.OutOrStdout(), console.IsTerminal(cmd.OutOrStdout()))
	bar := console.NewBar(say)
	p, err := process.New(cmd.Context(), process.Settings{
		Config: c, Roles: roles, Logger: c.Log.Logger(say.Above(cmd.ErrOrStderr())), Registry: telemetry.Registry(version()), Version: version(),
		Progress: func(at snapshot.Progress) {
			if at.Phase == snapshot.PhasePaused { // all else is in the checkpoints, whoever writes them
				bar.Progress(at)
			}
		},
	})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(cmd.Context())
	group.Go(func() error { return p.Run(ctx) })
	group.Go(func() error {
		wish, err := p.RequestSnapshot(ctx)
		if err != nil {
			return err
		}
		var pace snapshot.Pace
		err = snapshot.Follow(ctx, p.Client, p.Topics, wish.ID, func(at connector.SourceOffset) {
			if at.Request == wish.ID {
				bar.Progress(pace.Progress(at))
			}
		})
		if err != nil {
			return err
		}
		return errRead // ends Run
	})
	err = group.Wait()
	say.Clear()
	switch {
	case errors.Is(err, errRead):
		return nil
	case cmd.Context().Err() != nil:
		return errNotRead
	default:
		return err
	}
}
