// Package kinds is the table of the sinks that the program has. It is the one
// place besides a sink's own folder that adding a sink touches.
package kinds

import (
	"clerkconnect/sinks"
	"clerkconnect/sinks/mongodb"
	"clerkconnect/sinks/mysql"
	"clerkconnect/sinks/postgres"
	"clerkconnect/sinks/sqlite"
)

// Table lists every kind of sink, by name.
var Table = []Kind{
	kind("mongodb", mongodb.New),
	kind("mysql", mysql.New),
	kind("postgres", postgres.New),
	kind("sqlite", sqlite.New),
}

// Settings are a sink's own: a pointer to its Config.
type Settings interface {
	// Validate reports every problem, each under the name of its variable
	// behind the sink's own prefix.
	Validate() error
}

// Kind is one kind of sink.
type Kind struct {
	// Name is what SINKS calls it.
	Name string
	// Settings returns settings to be filled.
	Settings func() Settings
	// New makes a sink of settings that Settings has returned. It does no I/O.
	New func(Settings) (sinks.Sink, error)
}

func kind[C Settings, S sinks.Sink](name string, construct func(C) (S, error)) Kind {
	return Kind{
		Name:     name,
		Settings: func() Settings { return any(new(C)).(Settings) }, // a pointer has the methods of its value
		New:      func(s Settings) (sinks.Sink, error) { return construct(*any(s).(*C)) },
	}
}

// Find returns the kind of that name.
func Find(name string) (Kind, bool) {
	for _, k := range Table {
		if k.Name == name {
			return k, true
		}
	}
	return Kind{}, false
}
