package segment

import (
	"errors"
	"fmt"

	"clerkconnect/sinks/contact"
	"clerkconnect/sinks/rest"
)

// Region is where a workspace is kept.
type Region string

// The regions.
const (
	US Region = "us"
	EU Region = "eu"
)

// Erasure is what an erasure does at Segment. Either is final.
type Erasure string

// What an erasure does.
const (
	// Delete deletes what Segment, the workspace's warehouses and the
	// destinations that support it hold of the user.
	Delete Erasure = "delete"
	// Suppress does the same, and drops whatever is sent of the user later.
	Suppress Erasure = "suppress"
)

// regulations are the types of the Public API.
var regulations = map[Erasure]string{Delete: "DELETE_ONLY", Suppress: "SUPPRESS_WITH_DELETE"}

// Config is the configuration of the sink.
type Config struct {
	contact.Config
	Region         Region  `env:"REGION" envDefault:"us" doc:"Where the workspace is kept: us or eu."`
	WriteKey       string  `env:"WRITE_KEY" secret:"true" doc:"Write key of an HTTP API source of the workspace."`
	PublicAPIToken string  `env:"PUBLIC_API_TOKEN" secret:"true" doc:"Token of the Public API, which erasures need; the workspace needs a plan that has it."`
	PublicBaseURL  string  `env:"PUBLIC_BASE_URL" doc:"Base URL of the Public API, without a slash at the end. Without it the vendor's own."`
	NewUserEvent   string  `env:"NEW_USER_EVENT" doc:"Name of a track event that is sent once for each user who signed up after this sink was first enabled, as Signed Up. Without it none is."`
	Erasure        Erasure `env:"ERASURE" envDefault:"delete" doc:"What an erasure does: delete removes the user from Segment and, where they support it, from warehouses and destinations; suppress also drops what is sent of the user from then on."`
}

// urls are the two APIs of a region.
var urls = map[Region]struct{ tracking, public string }{
	US: {"https://api.segment.io", "https://api.segmentapis.com"},
	EU: {"https://events.eu1.segmentapis.com", "https://eu1.api.segmentapis.com"},
}

// defaults are what Segment has of the settings of all tools. The traits are
// those that its specification reserves.
func (c Config) defaults() contact.Defaults {
	return contact.Defaults{
		BaseURL: urls[c.Region].tracking,
		Properties: "email = email, firstName = first_name, lastName = last_name, username = username, " +
			"avatar = image_url, createdAt = created_at",
		Consent: []string{"unsubscribed", "consent"},
	}
}

func (c Config) withDefaults() Config {
	if c.Region == "" {
		c.Region = US
	}
	c.Config = c.Config.WithDefaults(c.defaults())
	if c.PublicBaseURL == "" {
		c.PublicBaseURL = urls[c.Region].public
	}
	if c.Erasure == "" {
		c.Erasure = Delete
	}
	return c
}

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix. It never quotes a key.
func (c Config) Validate() error {
	var problems []error
	if _, known := urls[c.Region]; !known && c.Region != "" {
		problems = append(problems, contact.CheckChoice("REGION", c.Region, US, EU))
		c.Region = US // its problem is told; BASE_URL has none
	}
	c = c.withDefaults()
	problems = append(problems, c.Config.Validate(c.defaults()), contact.CheckChoice("ERASURE", c.Erasure, Delete, Suppress))
	if c.WriteKey == "" {
		problems = append(problems, errors.New("WRITE_KEY is empty: copy it from the source's Settings, API Keys"))
	}
	if c.PublicAPIToken == "" {
		problems = append(problems, errors.New("PUBLIC_API_TOKEN is empty: make a token in Settings, Access Management, Tokens; without it nobody can be erased"))
	}
	if err := rest.CheckBaseURL(c.PublicBaseURL); err != nil {
		problems = append(problems, fmt.Errorf("PUBLIC_BASE_URL: %w", err))
	}
	return errors.Join(problems...)
}
