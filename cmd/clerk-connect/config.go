package main

import (
	"errors"

	"github.com/spf13/cobra"

	"clerkconnect/cmd/internal/config"
)

func newConfig() *cobra.Command {
	var roles []string
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check the settings and print what they come to, without secrets",
		Long: `config reads the settings from the environment as run does, prints each with its
value and where it came from, and reports every problem at once. Secrets are
never printed. It connects to nothing.`,
		Example: `  # What would run use?
  KAFKA_BROKERS=kafka:9092 SINKS=postgres clerk-connect config

  # Is this enough for a process that only receives webhooks?
  clerk-connect config --roles receiver

  # Every setting there is, as Markdown
  clerk-connect config reference`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen, err := config.ParseRoles(roles)
			if err != nil {
				return &usageError{err}
			}
			c, problems := config.Load(config.Environment(), chosen)
			return errors.Join(c.Show(cmd.OutOrStdout()), problems)
		},
	}
	rolesFlag(cmd, &roles)
	cmd.AddCommand(&cobra.Command{
		Use:   "reference",
		Short: "Print the reference of all settings as Markdown",
		Args:  noArguments,
		RunE:  func(cmd *cobra.Command, _ []string) error { return config.Reference(cmd.OutOrStdout()) },
	})
	return cmd
}

func rolesFlag(cmd *cobra.Command, roles *[]string) {
	var all []string
	for _, role := range config.Roles() {
		all = append(all, string(role))
	}
	cmd.Flags().StringSliceVar(roles, "roles", all, "what this process does, by comma")
}
