package salesforce

import (
	"errors"
	"fmt"
	"regexp"

	"clerkconnect/sinks/contact"
)

// Erasure is what an erasure does at Salesforce.
type Erasure string

// What an erasure does.
const (
	// Delete moves the record into the recycle bin, which Salesforce empties after
	// 15 days.
	Delete Erasure = "delete"
	// Scrub overwrites every field of the mapping before, so that the recycle bin
	// holds nothing of the person.
	Scrub Erasure = "scrub"
)

// Config is the configuration of the sink. BaseURL is required: the address of My
// Domain.
type Config struct {
	contact.Config
	ClientID          string  `env:"CLIENT_ID" doc:"Consumer key of a connected app with the client credentials flow, run as a user who may write the object."`
	ClientSecret      string  `env:"CLIENT_SECRET" secret:"true" doc:"Consumer secret of the connected app."`
	APIVersion        string  `env:"API_VERSION" envDefault:"v61.0" doc:"Version of the REST API, v46.0 or later."`
	Object            string  `env:"OBJECT" envDefault:"Contact" doc:"API name of the object: Contact, Lead, or one of your own."`
	KeyField          string  `env:"KEY_FIELD" envDefault:"Clerk_ID__c" doc:"API name of the object's field that holds the Clerk ID: text, external id, unique and case sensitive."`
	EmailField        string  `env:"EMAIL_FIELD" envDefault:"Email" doc:"API name of the field by which a record that duplicate rules have found is adopted."`
	NewUserProperties string  `env:"NEW_USER_PROPERTIES" doc:"Like PROPERTIES, for what is written once, to the records of users who signed up after this sink was first enabled, as LeadSource = 'Clerk': a flow can begin there."`
	Erasure           Erasure `env:"ERASURE" envDefault:"delete" doc:"What an erasure does: delete moves the record into the recycle bin, for 15 days; scrub overwrites the fields of the mapping before, which cannot be undone."`
}

// defaults are what Salesforce has of the settings of all tools. A contact must
// have a last name.
var defaults = contact.Defaults{
	Properties: "Email = email, FirstName = first_name, LastName = last_name ?? username ?? '(unknown)'",
	Consent:    []string{"HasOptedOutOfEmail", "HasOptedOutOfFax", "DoNotCall", "IndividualId"},
	Check:      checkName,
}

// names are API names of objects and fields. They are put into queries.
var (
	names    = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,79}$`)
	versions = regexp.MustCompile(`^v[1-9][0-9]{1,2}\.0$`)
)

func checkName(name string) error {
	if !names.MatchString(name) {
		return errors.New("API names are letters, digits and _, beginning with a letter, as Clerk_ID__c")
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.Config = c.Config.WithDefaults(defaults)
	for setting, preset := range map[*string]string{
		&c.APIVersion: "v61.0", &c.Object: "Contact", &c.KeyField: "Clerk_ID__c", &c.EmailField: "Email",
	} {
		if *setting == "" {
			*setting = preset
		}
	}
	if c.Erasure == "" {
		c.Erasure = Delete
	}
	return c
}

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix. It never quotes the secret.
func (c Config) Validate() error {
	c = c.withDefaults()
	problems := []error{contact.CheckChoice("ERASURE", c.Erasure, Delete, Scrub)}
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	if c.BaseURL == "" {
		problems = append(problems, errors.New("BASE_URL is empty: use the address of My Domain, as https://acme.my.salesforce.com"))
		c.BaseURL = "https://login.salesforce.com" // the problem is told
	}
	problems = append(problems, c.Config.Validate(defaults))
	check(c.ClientID != "", "CLIENT_ID is empty: copy the connected app's consumer key")
	check(c.ClientSecret != "", "CLIENT_SECRET is empty: copy the connected app's consumer secret")
	check(versions.MatchString(c.APIVersion), "API_VERSION is %q: use one as v61.0", c.APIVersion)
	for variable, name := range map[string]string{"OBJECT": c.Object, "KEY_FIELD": c.KeyField, "EMAIL_FIELD": c.EmailField} {
		if err := checkName(name); err != nil {
			problems = append(problems, fmt.Errorf("%s is %q: %w", variable, name, err))
		}
	}
	for _, setting := range []struct{ variable, text string }{{"PROPERTIES", c.Properties}, {"NEW_USER_PROPERTIES", c.NewUserProperties}} {
		list, err := contact.ParseProperties(setting.variable, setting.text, defaults)
		if setting.variable == "NEW_USER_PROPERTIES" { // the other is checked by all tools
			problems = append(problems, err)
		}
		for _, a := range list {
			check(a.Target != c.KeyField && a.Target != "Id", "%s names %q, which the sink sets itself: leave it out", setting.variable, a.Target)
		}
	}
	return errors.Join(problems...)
}
