package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"clerkconnect/cmd/internal/ledger"
)

// LoadSink reads the settings of one sink of SINKS alone, for commands that
// talk to its destination and to nothing else. Whatever is missing or wrong
// about it is in the [Problems] that it returns as the error; what is wrong
// with anything else is not looked at.
func LoadSink(environ map[string]string, name string) (*Sink, error) {
	c := New()
	roles := []Role{RoleSinks}
	fill(c.fields, environ, roles)
	found := c.loadSinks(environ, roles)
	i := slices.IndexFunc(c.Sinks, func(s *Sink) bool { return s.Name == name })
	if i < 0 {
		names := []string{"none"}
		if len(c.Sinks) > 0 {
			names = names[:0]
		}
		for _, s := range c.Sinks {
			names = append(names, s.Name)
		}
		return nil, Problems(append(found, fmt.Errorf("SINKS has no sink %q: it has %s; give one of these, or name another there, as SINKS=postgres or SINKS=crm=hubspot", name, strings.Join(names, ", "))))
	}
	sink := c.Sinks[i]
	fields := sink.fields()
	ours := func(err error) bool {
		return slices.ContainsFunc(fields, func(f *field) bool {
			return mentions(err, f.name) || f.secret && mentions(err, f.fileName())
		})
	}
	problems := slices.DeleteFunc(found, func(err error) bool { return !ours(err) })
	for _, err := range unknown(environ, c.fields) {
		if strings.HasPrefix(err.Error(), sink.Prefix()) {
			problems = append(problems, err)
		}
	}
	var refused []error
	for _, err := range flatten(errors.Join(sink.Settings.Validate(), sink.Runner.Validate())) {
		refused = append(refused, fmt.Errorf("%s%w", sink.Prefix(), err))
	}
	problems = append(problems, c.withoutUnread(refused)...)
	if len(problems) == 0 {
		return sink, nil
	}
	return nil, Problems(problems)
}

// SinksOfKind returns the names of the sinks of SINKS that are of a kind. What
// is wrong with the settings is not looked at.
func SinksOfKind(environ map[string]string, kind string) (names []string) {
	c := New()
	roles := []Role{RoleSinks}
	fill(c.fields, environ, roles)
	c.loadSinks(environ, roles)
	for _, s := range c.Sinks {
		if s.Kind.Name == kind {
			names = append(names, s.Name)
		}
	}
	return names
}

// LedgerSinks are the configured sinks as the erasure ledger knows them.
func (c *Config) LedgerSinks() []ledger.Sink {
	list := make([]ledger.Sink, len(c.Sinks))
	for i, s := range c.Sinks {
		list[i] = ledger.Sink{Name: s.Name, Kind: s.Kind.Name, Configured: true, EraseAfter: s.Runner.EraseAfter, Confirms: s.Kind.Confirms(s.Settings)}
	}
	return list
}
