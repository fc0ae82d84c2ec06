package config

import (
	"fmt"
	"slices"

	"clerkconnect/connector/clerk"
	"clerkconnect/sinks/mapping"
)

// mapped are settings of a sink in which a person says what goes where.
type mapped interface {
	Mapping() (variable string, list []mapping.Assignment)
}

// Warnings are what is allowed and hardly meant, for a process with these roles.
// c must be without problems.
func (c *Config) Warnings(roles []Role) (warnings []string) {
	if !slices.Contains(roles, RoleReceiver) && !slices.Contains(roles, RoleSnapshot) {
		return nil // the policy is that of other processes
	}
	policy, err := clerk.NewPolicy(c.Policy)
	if err != nil {
		return nil
	}
	kept := policy.Fields()
	leftOut := func(field string) bool { return !slices.Contains(kept, field) }
	for _, sink := range c.Sinks {
		settings, ok := sink.Settings.(mapped)
		if !ok {
			continue
		}
		variable, list := settings.Mapping()
		for _, a := range list {
			if a.Expression.Empty(leftOut) {
				warnings = append(warnings, fmt.Sprintf("%s%s: the policy leaves out all that %s is given (%s), so it is emptied for every user: name that in POLICY_INCLUDE, or %s no longer in %s%s",
					sink.Prefix(), variable, a.Target, a.Expression, a.Target, sink.Prefix(), variable))
			}
		}
	}
	return warnings
}
