// Package kinds is the table of the sinks that the program has. It is the one
// place besides a sink's own folder that adding a sink touches.
package kinds

import (
	"clerkconnect/sinks"
	"clerkconnect/sinks/audit"
	"clerkconnect/sinks/customerio"
	"clerkconnect/sinks/httpsink"
	"clerkconnect/sinks/hubspot"
	"clerkconnect/sinks/intercom"
	"clerkconnect/sinks/mailchimp"
	"clerkconnect/sinks/mongodb"
	"clerkconnect/sinks/mysql"
	"clerkconnect/sinks/postgres"
	"clerkconnect/sinks/resend"
	"clerkconnect/sinks/salesforce"
	"clerkconnect/sinks/segment"
	"clerkconnect/sinks/sendgrid"
	"clerkconnect/sinks/sqlite"
)

// Table lists every kind of sink, by name.
var Table = []Kind{
	kind("audit", audit.New),
	kind("customerio", customerio.New),
	kind("http", httpsink.New),
	kind("hubspot", hubspot.New),
	kind("intercom", intercom.New),
	kind("mailchimp", mailchimp.New),
	kind("mongodb", mongodb.New),
	kind("mysql", mysql.New),
	kind("postgres", postgres.New),
	kind("resend", resend.New),
	kind("salesforce", salesforce.New),
	kind("segment", segment.New),
	kind("sendgrid", sendgrid.New),
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
	// Confirms reports whether a sink of these settings reads erasures back
	// ([sinks.Confirmer]).
	Confirms func(Settings) bool
}

func kind[C Settings, S sinks.Sink](name string, construct func(C) (S, error)) Kind {
	var none S
	_, confirms := any(none).(sinks.Confirmer)
	return Kind{
		Name: name,
		Confirms: func(s Settings) bool {
			declared, ok := s.(interface{ Confirms() bool }) // a kind that can be set up without
			return confirms || ok && declared.Confirms()
		},
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
