package config

import (
	"errors"
	"fmt"
	"net/url"
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

// Roles are all of them, in the order of the flow.
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

var instanceName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,100}$`)

// validate reports what is missing or wrong for these roles. What only other
// roles need may be missing, but must not be wrong.
func (c *Config) validate(roles []Role) error {
	errs := []error{c.Kafka.Validate(), c.Topics.Validate(), c.Policy.Validate(), c.Admin.Validate(), c.Log.Validate(), c.Clerk.validate()}
	problem := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	problem(!instanceName.MatchString(c.InstanceName), "INSTANCE_NAME is %q: give 1 to 100 letters, digits, dots, underscores or hyphens", c.InstanceName)
	for _, sink := range c.Sinks {
		for _, err := range flatten(sink.Settings.Validate()) {
			errs = append(errs, fmt.Errorf("%s%w", sink.Prefix(), err))
		}
	}
	has := func(role Role) bool { return slices.Contains(roles, role) }
	problem(has(RoleReceiver) && len(c.Clerk.WebhookSigningSecret) == 0,
		"CLERK_WEBHOOK_SIGNING_SECRET is not set: give the signing secret of the webhook endpoint (Clerk dashboard, Webhooks), whsec_...")
	problem(has(RoleSnapshot) && c.Clerk.SecretKey == "",
		"CLERK_SECRET_KEY is not set: give the secret key of the Backend API (Clerk dashboard, API keys), sk_live_... or sk_test_...")
	problem(has(RoleSinks) && len(c.SinkNames) == 0,
		"SINKS is not set: name the sinks, as SINKS=postgres, or leave the role out (--roles receiver,sequencer,snapshot)")
	return errors.Join(errs...)
}

func (c Clerk) validate() error {
	var errs []error
	problem := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	for i, secret := range c.WebhookSigningSecret {
		problem(!strings.HasPrefix(secret, "whsec_") || len(secret) < len("whsec_")+8,
			"CLERK_WEBHOOK_SIGNING_SECRET: number %d is not a signing secret: give whsec_ and what follows it", i+1)
	}
	problem(c.SecretKey != "" && !strings.HasPrefix(c.SecretKey, "sk_"),
		"CLERK_SECRET_KEY is not a secret key: give sk_live_... or sk_test_..., not a publishable key (pk_...)")
	u, err := url.Parse(c.APIURL)
	problem(err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https",
		"CLERK_API_URL is %q: give a URL, as https://api.clerk.com/v1", c.APIURL)
	problem(!(c.RateShare > 0 && c.RateShare <= 1), "CLERK_RATE_SHARE is %v: give a number over 0 and up to 1", c.RateShare)
	problem(c.InstanceID != "" && !strings.HasPrefix(c.InstanceID, "ins_"), "CLERK_INSTANCE_ID is %q: give ins_...", c.InstanceID)
	return errors.Join(errs...)
}
