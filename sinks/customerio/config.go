package customerio

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

// Erasure is what an erasure does at Customer.io.
type Erasure string

// What an erasure does.
const (
	// Delete deletes the person. Who is identified again comes back.
	Delete Erasure = "delete"
	// Suppress deletes the person and blocks the id: nothing that anybody sends
	// of it is taken any more.
	Suppress Erasure = "suppress"
)

// Config is the configuration of the sink.
type Config struct {
	contact.Config
	Region       Region  `env:"REGION" envDefault:"us" doc:"Where the workspace is kept: us or eu."`
	SiteID       string  `env:"SITE_ID" doc:"Site ID of the workspace's Track API credentials."`
	APIKey       string  `env:"API_KEY" secret:"true" doc:"API key of the workspace's Track API credentials."`
	AppAPIKey    string  `env:"APP_API_KEY" secret:"true" doc:"Key of the App API, by which erasures are read back, and people looked at before a part of them is written."`
	AppBaseURL   string  `env:"APP_BASE_URL" doc:"Base URL of the App API, without a slash at the end. Without it the vendor's own."`
	NewUserEvent string  `env:"NEW_USER_EVENT" doc:"Name of an event that is sent once for each user who signed up after this sink was first enabled, as signed_up: a campaign can begin there. Without it none is."`
	Erasure      Erasure `env:"ERASURE" envDefault:"delete" doc:"What an erasure does: delete deletes the person; suppress also blocks the id for good, which only a person can take back."`
}

// urls are the two APIs of a region.
var urls = map[Region]struct{ track, app string }{
	US: {"https://track.customer.io", "https://api.customer.io"},
	EU: {"https://track-eu.customer.io", "https://api-eu.customer.io"},
}

// Limits of names and texts, in bytes
// (https://docs.customer.io/journeys/limits/).
const (
	maxAttributeName = 150
	maxEventName     = 100
)

// defaults are what Customer.io has of the settings of all tools.
func (c Config) defaults() contact.Defaults {
	return contact.Defaults{
		BaseURL:    urls[c.Region].track,
		Properties: "email = email, first_name = first_name, last_name = last_name, created_at = created_at",
		Consent:    []string{"unsubscribed", "cio_subscription_preferences"},
		Check:      checkAttribute,
	}
}

func checkAttribute(name string) error {
	switch {
	case name == "id" || name == "cio_id":
		return errors.New("it is an identifier of the person, which the sink sets")
	case len(name) > maxAttributeName:
		return fmt.Errorf("names have at most %d bytes there", maxAttributeName)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Region == "" {
		c.Region = US
	}
	c.Config = c.Config.WithDefaults(c.defaults())
	if c.AppBaseURL == "" {
		c.AppBaseURL = urls[c.Region].app
	}
	if c.Erasure == "" {
		c.Erasure = Delete
	}
	return c
}

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix. It never quotes a key.
func (c Config) Validate() error {
	problems := []error{}
	if c.Region != "" {
		problems = append(problems, contact.CheckChoice("REGION", c.Region, US, EU))
	}
	if _, known := urls[c.Region]; !known {
		c.Region = US // its problem is told; BASE_URL has none
	}
	c = c.withDefaults()
	problems = append(problems, c.Config.Validate(c.defaults()), contact.CheckChoice("ERASURE", c.Erasure, Delete, Suppress))
	check := func(ok bool, text string) {
		if !ok {
			problems = append(problems, errors.New(text))
		}
	}
	check(c.SiteID != "", "SITE_ID is empty: copy it from Settings, API Credentials, Track API Keys")
	check(c.APIKey != "", "API_KEY is empty: copy it from Settings, API Credentials, Track API Keys")
	check(c.AppAPIKey != "", "APP_API_KEY is empty: make a key in Settings, API Credentials, App API Keys")
	check(len(c.NewUserEvent) <= maxEventName, fmt.Sprintf("NEW_USER_EVENT is longer than %d bytes: use a shorter name", maxEventName))
	if err := rest.CheckBaseURL(c.AppBaseURL); err != nil {
		problems = append(problems, fmt.Errorf("APP_BASE_URL: %w", err))
	}
	return errors.Join(problems...)
}
