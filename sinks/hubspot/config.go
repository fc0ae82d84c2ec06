package hubspot

import (
	"errors"
	"fmt"
	"regexp"

	"clerkconnect/sinks/contact"
)

// Erasure is what an erasure does at HubSpot.
type Erasure string

// What an erasure does.
const (
	// Archive puts the contact into HubSpot's recycle bin, from which a person
	// can restore it for 90 days.
	Archive Erasure = "archive"
	// GDPRDelete deletes the contact for ever.
	GDPRDelete Erasure = "gdpr-delete"
)

// Config is the configuration of the sink.
type Config struct {
	contact.Config
	Token             string  `env:"TOKEN" secret:"true" doc:"Access token of a private app with the scopes crm.objects.contacts.read and .write, and crm.schemas.contacts.read (and .write for init)."`
	APIVersion        string  `env:"API_VERSION" envDefault:"v3" doc:"Version of the API: v3, or one with a date, as 2026-03."`
	KeyProperty       string  `env:"KEY_PROPERTY" envDefault:"clerk_user_id" doc:"Property of contacts that holds the Clerk ID. It must have unique values; init creates it."`
	NewUserProperties string  `env:"NEW_USER_PROPERTIES" doc:"Like PROPERTIES, for what is written once, to the contacts of users who signed up after this sink was first enabled, as lifecyclestage = 'lead': a workflow can begin there."`
	NewUserList       string  `env:"NEW_USER_LIST" doc:"Number of a static list to which the contacts of such users are added (ILS list id)."`
	Erasure           Erasure `env:"ERASURE" envDefault:"archive" doc:"What an erasure does: archive puts the contact into the recycle bin, for 90 days; gdpr-delete deletes it for ever, which cannot be undone."`
}

// Defaults of settings that are zero, for programs that do not fill Config from
// its tags.
const (
	defaultAPIVersion  = "v3"
	defaultKeyProperty = "clerk_user_id"
)

// defaults are what HubSpot has of the settings of all tools.
var defaults = contact.Defaults{
	BaseURL:    "https://api.hubapi.com",
	Properties: "email = email, firstname = first_name, lastname = last_name",
	Consent: []string{
		"hs_email_optout", "hs_marketable_status", "hs_marketable_until_renewal", "hs_legal_basis", "hs_email_is_ineligible", "hs_emailconfirmationstatus",
	},
	Check: checkProperty,
}

var (
	propertyNames = regexp.MustCompile(`^[a-z][a-z0-9_]{0,99}$`)
	apiVersions   = regexp.MustCompile(`^(v3|20[0-9]{2}-[0-9]{2})$`)
	listNumbers   = regexp.MustCompile(`^[1-9][0-9]{0,18}$`)
)

func checkProperty(name string) error {
	if !propertyNames.MatchString(name) {
		return errors.New("HubSpot's internal names are a-z, 0-9 and _, beginning with a letter")
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.Config = c.Config.WithDefaults(defaults)
	if c.APIVersion == "" {
		c.APIVersion = defaultAPIVersion
	}
	if c.KeyProperty == "" {
		c.KeyProperty = defaultKeyProperty
	}
	if c.Erasure == "" {
		c.Erasure = Archive
	}
	return c
}

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix. It never quotes the token.
func (c Config) Validate() error {
	c = c.withDefaults()
	problems := []error{c.Config.Validate(defaults), contact.CheckChoice("ERASURE", c.Erasure, Archive, GDPRDelete)}
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	check(c.Token != "", "TOKEN is empty: use the access token of a private app")
	check(apiVersions.MatchString(c.APIVersion), "API_VERSION is %q: use v3, or a date as 2026-03", c.APIVersion)
	check(c.NewUserList == "" || listNumbers.MatchString(c.NewUserList), "NEW_USER_LIST is %q: use the number of a list", c.NewUserList)
	if err := checkProperty(c.KeyProperty); err != nil {
		problems = append(problems, fmt.Errorf("KEY_PROPERTY is %q: %w", c.KeyProperty, err))
	}
	_, err := contact.ParseProperties("NEW_USER_PROPERTIES", c.NewUserProperties, defaults)
	problems = append(problems, err)
	for _, setting := range []struct{ variable, text string }{{"PROPERTIES", c.Properties}, {"NEW_USER_PROPERTIES", c.NewUserProperties}} {
		list, err := contact.ParseProperties(setting.variable, setting.text, defaults)
		for _, a := range list {
			check(err != nil || a.Target != c.KeyProperty, "%s names %q, which is KEY_PROPERTY: leave it out", setting.variable, a.Target)
		}
	}
	return errors.Join(problems...)
}
