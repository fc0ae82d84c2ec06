package main

import (
	"errors"
	"fmt"
	"os"

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
			if problems == nil {
				for _, warning := range c.Warnings(chosen) {
					fmt.Fprintln(cmd.ErrOrStderr(), "Warning:", warning)
				}
			}
			return errors.Join(c.Show(cmd.OutOrStdout()), problems)
		},
	}
	rolesFlag(cmd, &roles)
	cmd.AddCommand(newReference())
	return cmd
}

func newReference() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "reference",
		Short: "Print the reference of all settings as Markdown",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return config.Reference(cmd.OutOrStdout())
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			written, err := config.InsertReference(string(text))
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			return os.WriteFile(file, []byte(written), 0o644)
		},
	}
	cmd.Flags().StringVar(&file, "write", "", "write it into this `file`, between its two marks")
	return cmd
}

func rolesFlag(cmd *cobra.Command, roles *[]string) {
	var all []string
	for _, role := range config.Roles() {
		all = append(all, string(role))
	}
	cmd.Flags().StringSliceVar(roles, "roles", all, "what this process does, by comma")
}
