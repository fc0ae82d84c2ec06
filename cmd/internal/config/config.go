// Package config is every setting of the program: one struct, composed of the
// Config structs of the packages, filled from environment variables.
//
// All problems are reported at once, each with the variable's name, what was
// found (never a secret) and what to write instead. A variable under one of
// our prefixes that is not a setting is a problem too, since it is probably a
// misspelt one. A variable that is set to nothing counts as not set.
package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"clerkconnect/cmd/internal/admin"
	"clerkconnect/cmd/internal/kafka"
	"clerkconnect/cmd/internal/kinds"
	"clerkconnect/cmd/internal/ledger"
	"clerkconnect/cmd/internal/telemetry"
	"clerkconnect/connector/clerk"
	"clerkconnect/connector/snapshot"
	"clerkconnect/connector/topics"
	"clerkconnect/connector/webhook"
	"clerkconnect/sinks/runner"
)

// Config is every setting of the program.
type Config struct {
	InstanceName string `env:"INSTANCE_NAME" doc:"Name of this process among those of the deployment: stable over restarts, unique among live processes, 1 to 100 letters, digits, dots, underscores and hyphens. Without it the host's name."`

	Kafka    kafka.Config         `envPrefix:"KAFKA_"`
	Registry kafka.RegistryConfig `envPrefix:"SCHEMA_REGISTRY_"`
	Topics   topics.Config        `envPrefix:"TOPIC_"`
	Clerk    Clerk                `envPrefix:"CLERK_"`
	Snapshot snapshot.Config      // its variables have their whole names
	Policy   clerk.PolicyConfig   `envPrefix:"POLICY_"`
	Webhook  webhook.Config       `envPrefix:"WEBHOOK_"`
	Erasure  ledger.Config        `envPrefix:"ERASURE_"`
	Admin    admin.Config         `envPrefix:"ADMIN_"`
	Log      telemetry.Config     `envPrefix:"LOG_"`

	SinkNames []string `env:"SINKS" doc:"The sinks: a name each, and the kind where it differs, as postgres,crm=hubspot. A name is 1 to 40 lower-case letters, digits and hyphens; it is part of topic and group names, so a new name is a new sink that starts from nothing. The settings of a sink stand behind SINK_, its name in capitals (hyphens as underscores), and an underscore."`
	// Sinks are those of SinkNames with their own settings.
	Sinks []*Sink `env:"-"`

	fields []*field
	empty  []string // variables that are set to nothing
}

// Clerk are the settings of Clerk's side that no package has.
type Clerk struct {
	WebhookSigningSecret []string `env:"WEBHOOK_SIGNING_SECRET" secret:"true" doc:"Signing secret of the webhook endpoint, whsec_...; several, by comma, while they are rotated; what receives webhooks needs it."`
	InstanceID           string   `env:"INSTANCE_ID" doc:"Clerk's instance, ins_...; without it that of the first signed delivery is pinned."`
}

// Sink is one configured sink.
type Sink struct {
	Name     string
	Kind     kinds.Kind
	Settings kinds.Settings
	Runner   runner.Config
}

// Prefix is what stands before the variables of the sink.
func (s *Sink) Prefix() string {
	return "SINK_" + strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_")) + "_"
}

// Problems are all that is wrong with a configuration.
type Problems []error

// Error implements error with one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, err := range p {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Environment returns the process's variables.
func Environment() map[string]string {
	environ := map[string]string{}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		environ[name] = value
	}
	return environ
}

// Load returns the configuration that the variables say, for a process with
// these roles. Its error is of type [Problems]; the configuration is then
// what could be read.
func Load(environ map[string]string, roles []Role) (*Config, error) {
	c := New()
	for name, value := range environ {
		if value == "" {
			c.empty = append(c.empty, name)
		}
	}
	problems := fill(c.fields, environ, roles)
	problems = append(problems, c.loadSinks(environ, roles)...)
	if c.InstanceName == "" {
		c.InstanceName, _ = os.Hostname()
	}
	c.Webhook.SigningSecrets, c.Webhook.InstanceID = c.Clerk.WebhookSigningSecret, c.Clerk.InstanceID
	problems = append(problems, unknown(environ, c.fields)...)
	problems = append(problems, c.withoutUnread(flatten(c.validate(roles)))...)
	if len(problems) == 0 {
		return c, nil
	}
	slices.SortStableFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return c, Problems(c.explainEmpty(problems))
}

// New returns a configuration of defaults.
func New() *Config {
	c := &Config{}
	c.fields = fieldsOf(reflect.ValueOf(c).Elem(), "")
	fill(c.fields, nil, Roles())
	return c
}

// fill fills the fields that the roles need. What only others need is not even
// read: a process that faces the internet holds no database password, and its
// file need not be there.
func fill(fields []*field, environ map[string]string, roles []Role) (problems []error) {
	for _, f := range fields {
		if f.elsewhere = !f.neededBy(roles); f.elsewhere {
			continue
		}
		problems = append(problems, flatten(f.fill(environ))...)
	}
	return problems
}

var sinkName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// loadSinks makes the sinks of SINKS and fills their settings.
func (c *Config) loadSinks(environ map[string]string, roles []Role) (problems []error) {
	names := make([]string, len(kinds.Table))
	for i, k := range kinds.Table {
		names[i] = k.Name
	}
	owner := map[string]string{} // of a variable
	for _, entry := range c.SinkNames {
		name, kindName, two := strings.Cut(entry, "=")
		if !two {
			kindName = name
		}
		kind, ok := kinds.Find(kindName)
		switch {
		case !sinkName.MatchString(name):
			problems = append(problems, fmt.Errorf("SINKS has %q: give a name of 1 to 40 lower-case letters, digits and hyphens", entry))
			continue
		case name == "webhook":
			problems = append(problems, errors.New("SINKS has a sink named webhook, whose dead-letter topic is the receiver's: give it another name"))
			continue
		case !ok:
			problems = append(problems, fmt.Errorf("SINKS has %q: there is no kind %q; give one of %s, as %s or crm=%s", entry, kindName, strings.Join(names, ", "), names[0], names[0]))
			continue
		case slices.ContainsFunc(c.Sinks, func(s *Sink) bool { return s.Name == name }):
			problems = append(problems, fmt.Errorf("SINKS has %q twice: give each sink its own name", name))
			continue
		}
		sink := &Sink{Name: name, Kind: kind, Settings: kind.Settings()}
		fields := sink.fields()
		for _, f := range fields {
			if other, taken := owner[f.name]; taken {
				problems = append(problems, fmt.Errorf("SINKS: %s would belong to both %s and %s: give one of them another name", f.name, other, name))
			}
			owner[f.name] = name
		}
		problems = append(problems, fill(fields, environ, roles)...)
		c.fields = append(c.fields, fields...)
		sink.Runner.Name = name
		c.Sinks = append(c.Sinks, sink)
	}
	return problems
}

func (s *Sink) fields() []*field {
	return append(fieldsOf(reflect.ValueOf(s.Settings).Elem(), s.Prefix()), fieldsOf(reflect.ValueOf(&s.Runner).Elem(), s.Prefix())...)
}

// withoutUnread drops what a package says of a variable that could not even be
// read, which is reported already.
func (c *Config) withoutUnread(problems []error) []error {
	return slices.DeleteFunc(problems, func(err error) bool {
		return slices.ContainsFunc(c.fields, func(f *field) bool { return f.problem && mentions(err, f.name) })
	})
}

// explainEmpty tells of variables that are set to nothing, where that is the
// reason of a problem.
func (c *Config) explainEmpty(problems []error) []error {
	for i, err := range problems {
		for _, name := range c.empty {
			if strings.HasPrefix(err.Error(), name+" ") {
				problems[i] = fmt.Errorf("%w (%s is set to nothing, which counts as not set)", err, name)
			}
		}
	}
	return problems
}

// mentions says whether the error is about that variable.
func mentions(err error, name string) bool {
	return slices.Contains(strings.FieldsFunc(err.Error(), func(r rune) bool {
		return r != '_' && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	}), name)
}

// flatten lists what errors.Join has joined.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || errors.Join(joined.Unwrap()...).Error() != err.Error() {
		return []error{err} // it has a text of its own
	}
	var list []error
	for _, e := range joined.Unwrap() {
		list = append(list, flatten(e)...)
	}
	return list
}
