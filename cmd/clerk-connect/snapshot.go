package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"clerkconnect/cmd/internal/config"
	"clerkconnect/cmd/internal/process"
	"clerkconnect/cmd/internal/telemetry"
	"clerkconnect/connector"
	"clerkconnect/connector/snapshot"
)

// progressEvery is the interval of the lines that say how far a snapshot is.
const progressEvery = 2 * time.Second

// errRead ends the process when what was asked for is done.
var errRead = errors.New("snapshot complete")

func newSnapshot() *cobra.Command {
	return &cobra.Command{
		Use:   "snapshot",
		Short: "Read all users from Clerk once more, and wait until they are in the topic's log",
		Long: `snapshot asks for a walk over all users of the Backend API and waits for its end.
The first walk needs no asking; another one makes up for webhooks that Clerk was
told to stop sending, or that a mistake has lost.

One process of the deployment does the walk: a running one with the role
snapshot, else this command. Ctrl-C ends the waiting; the wish is kept, and a
walk that was begun goes on wherever the role snapshot runs. What the topic
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
	c, err := config.Load(environ, roles)
	if err != nil {
		return err
	}
	p, err := process.New(cmd.Context(), process.Settings{
		Config: c, Roles: roles, Logger: c.Log.Logger(cmd.ErrOrStderr()), Registry: telemetry.Registry(version()), Version: version(),
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
		var shown time.Time
		err = snapshot.Follow(ctx, p.Client, p.Topics, wish.ID, func(at connector.SourceOffset) {
			done := at.FinishedAt != 0
			if at.Request != wish.ID || !done && time.Since(shown) < progressEvery {
				return
			}
			shown = time.Now()
			fmt.Fprintf(cmd.OutOrStdout(), "%d of %d users\n", at.Users, at.Total)
		})
		if err != nil {
			return err
		}
		return errRead // ends Run
	})
	if err := group.Wait(); !errors.Is(err, errRead) {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), "Snapshot complete.")
	return err
}
