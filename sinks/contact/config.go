package contact

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/rest"
)

// Config are the settings that all tools have in common. A tool's own Config
// embeds it and adds its key, ERASURE and what else is particular to it.
type Config struct {
	BaseURL      string        `env:"BASE_URL" doc:"Base URL of the tool's API, without a slash at the end. Without it the vendor's own."`
	Timeout      time.Duration `env:"TIMEOUT" envDefault:"20s" doc:"Longest time for one request, 100ms or more."`
	Properties   string        `env:"PROPERTIES" doc:"What to write where: property = expression, by comma, as email = email, plan = public_metadata.plan, source = 'Clerk'. Without it what the tool's README lists. Only these are ever written."`
	ConfirmAfter time.Duration `env:"CONFIRM_AFTER" envDefault:"15m" doc:"How long after an erasure it is read back; 0s reads back at once and repeats what is not confirmed."`
	// Clock tells the time by which dates in answers are understood; nil:
	// [time.Now]. For tests.
	Clock func() time.Time `env:"-"`
}

// Defaults are a tool's own.
type Defaults struct {
	// BaseURL of the vendor's API.
	BaseURL string
	// Properties is the mapping without PROPERTIES.
	Properties string
	// Consent names properties that say what the person has agreed to, as
	// hs_email_optout: Clerk knows nothing of that, and no mapping may write
	// them. Compared without regard to case.
	Consent []string
	// Check, if set, returns what is wrong with a property's name.
	Check func(property string) error
}

// Defaults of settings that are zero, for programs that do not fill Config from
// its tags. ConfirmAfter has none: there 0 means something.
const (
	defaultTimeout = 20 * time.Second
	minTimeout     = 100 * time.Millisecond
)

// WithDefaults returns c with the defaults of settings that are empty.
func (c Config) WithDefaults(d Defaults) Config {
	if c.BaseURL == "" {
		c.BaseURL = d.BaseURL
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if strings.TrimSpace(c.Properties) == "" {
		c.Properties = d.Properties
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	return c
}

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix.
func (c Config) Validate(d Defaults) error {
	c = c.WithDefaults(d)
	var problems []error
	if err := rest.CheckBaseURL(c.BaseURL); err != nil {
		problems = append(problems, fmt.Errorf("BASE_URL: %w", err))
	}
	if c.Timeout < minTimeout {
		problems = append(problems, fmt.Errorf("TIMEOUT is %s: use %s or more", c.Timeout, minTimeout))
	}
	if c.ConfirmAfter < 0 {
		problems = append(problems, fmt.Errorf("CONFIRM_AFTER is %s: use 0s or more", c.ConfirmAfter))
	}
	_, err := ParseProperties("PROPERTIES", c.Properties, d)
	return errors.Join(append(problems, err)...)
}

// Client returns a client of the tool's API with the settings that all tools have
// and with what the tool adds in extra.
func (c Config) Client(extra rest.Config) (*rest.Client, error) {
	extra.BaseURL, extra.Timeout, extra.Clock = c.BaseURL, c.Timeout, c.Clock
	return rest.New(extra)
}

// Mapping returns what a person has mapped, and by which variable.
func (c Config) Mapping() (variable string, list []mapping.Assignment) {
	list, _ = mapping.ParseAssignments(c.Properties) // Validate tells what is wrong with it
	return "PROPERTIES", list
}

// ParseProperties reads the mapping in a setting. The error names the setting.
func ParseProperties(variable, text string, d Defaults) ([]mapping.Assignment, error) {
	list, err := mapping.ParseAssignments(text)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", variable, err)
	}
	var problems []error
	for _, a := range list {
		if slices.ContainsFunc(d.Consent, func(name string) bool { return strings.EqualFold(name, a.Target) }) {
			problems = append(problems, fmt.Errorf("%s names %q, which says what the person has agreed to: Clerk does not know; leave it out", variable, a.Target))
		}
		if d.Check != nil {
			if err := d.Check(a.Target); err != nil {
				problems = append(problems, fmt.Errorf("%s names %q: %w", variable, a.Target, err))
			}
		}
	}
	return list, errors.Join(problems...)
}

// CheckChoice returns what is wrong with a setting that takes one of a few
// words, as ERASURE.
func CheckChoice[T ~string](variable string, value T, choices ...T) error {
	if slices.Contains(choices, value) {
		return nil
	}
	words := make([]string, len(choices))
	for i, choice := range choices {
		words[i] = string(choice)
	}
	return fmt.Errorf("%s is %q: use %s", variable, value, strings.Join(words, " or "))
}
