package config

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
)

// Role is a part of the pipeline that a process can run.
type Role string

// The roles.
const (
	RoleReceiver  Role = "receiver"  // webhooks to <prefix>.user-events
	RoleSequencer Role = "sequencer" // <prefix>.user-events to <prefix>.users
	RoleSnapshot  Role = "snapshot"  // the Backend API to <prefix>.user-events
	RoleSinks     Role = "sinks"     // <prefix>.users to the destinations
)

// RoleLedger is no role of a process: it is what the commands of the erasure
// ledger need. With it nothing that only they would use has to be set.
const RoleLedger Role = "ledger"

// Roles are all that a process can run, in the order of the flow.
func Roles() []Role { return []Role{RoleReceiver, RoleSequencer, RoleSnapshot, RoleSinks} }

// ParseRoles reads role names, without repetitions. No name is an error.
func ParseRoles(names []string) ([]Role, error) {
	var roles []Role
	for _, name := range clean(names) {
		role := Role(name)
		if !slices.Contains(Roles(), role) {
			return nil, fmt.Errorf("--roles has %q: give receiver, sequencer, snapshot or sinks, several by comma", name)
		}
		if !slices.Contains(roles, role) {
			roles = append(roles, role)
		}
	}
	if len(roles) == 0 {
		return nil, errors.New("--roles is empty: give receiver, sequencer, snapshot or sinks, several by comma")
	}
	return roles, nil
}

// needs says which settings some roles alone need, by the beginning and the
// end of the name. The first that fits decides.
var needs = []struct {
	prefix, suffix string
	roles          []Role
}{
	{"WEBHOOK_", "", []Role{RoleReceiver}}, {"CLERK_WEBHOOK_", "", []Role{RoleReceiver}},
	{"SNAPSHOT_", "", []Role{RoleSnapshot, RoleLedger}}, {"CLERK_SECRET_KEY", "", []Role{RoleSnapshot, RoleLedger}},
	{"SINK_", "_ERASE_AFTER", []Role{RoleSinks, RoleLedger}},
	{"SINK_", "", []Role{RoleSinks}},
}

func (f *field) neededBy(roles []Role) bool {
	for _, n := range needs {
		if strings.HasPrefix(f.name, n.prefix) && strings.HasSuffix(f.name, n.suffix) {
			return slices.ContainsFunc(n.roles, func(r Role) bool { return slices.Contains(roles, r) })
		}
	}
	return true
}

var instanceName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,100}$`)

// validate reports what is missing or wrong for these roles. What only other
// roles need is not looked at: it may be missing.
func (c *Config) validate(roles []Role) error {
	errs := []error{c.Kafka.Validate(), c.Registry.Validate(), c.Topics.Validate(), c.Erasure.Validate(), c.Admin.Validate(), c.Log.Validate()}
	problem := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	has := func(role Role) bool { return slices.Contains(roles, role) }
	problem(!instanceName.MatchString(c.InstanceName), "INSTANCE_NAME is %q: give 1 to 100 letters, digits, dots, underscores or hyphens", c.InstanceName)
	if has(RoleReceiver) || has(RoleSnapshot) || has(RoleLedger) {
		errs = append(errs, c.Policy.Validate())
		problem(c.Clerk.InstanceID != "" && !strings.HasPrefix(c.Clerk.InstanceID, "ins_"), "CLERK_INSTANCE_ID is %q: give ins_...", c.Clerk.InstanceID)
	}
	if has(RoleReceiver) {
		errs = append(errs, c.Webhook.Validate())
		_, port, _ := net.SplitHostPort(c.Admin.Addr)
		problem(c.Admin.Addr == c.Webhook.Addr && port != "0", "ADMIN_ADDR and WEBHOOK_ADDR are both %q: give each its own port; the first must not be on the internet", c.Admin.Addr)
	}
	if has(RoleSnapshot) || has(RoleLedger) && c.Snapshot.SecretKey != "" {
		errs = append(errs, c.Snapshot.Validate())
	}
	if has(RoleSinks) {
		problem(len(c.SinkNames) == 0, "SINKS is empty: name the sinks, as SINKS=postgres, or leave the role out (--roles receiver,sequencer,snapshot)")
		for _, sink := range c.Sinks {
			for _, err := range flatten(errors.Join(sink.Settings.Validate(), sink.Runner.Validate())) {
				errs = append(errs, fmt.Errorf("%s%w", sink.Prefix(), err))
			}
			problem(sink.Runner.EraseAfter > 0 && sink.Runner.EraseAfter >= c.Erasure.Deadline, "%sERASE_AFTER is %s, not below ERASURE_DEADLINE (%s): every erasure would be overdue before it is done",
				sink.Prefix(), sink.Runner.EraseAfter, c.Erasure.Deadline)
		}
	}
	return errors.Join(errs...)
}
