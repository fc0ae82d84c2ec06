package intercom

import (
	"errors"
	"fmt"
	"regexp"
	"slices"

	"clerkconnect/sinks/contact"
)

// Erasure is what an erasure does at Intercom.
type Erasure string

// What an erasure does.
const (
	// Delete overwrites what the sink has written and deletes the contact for ever.
	Delete Erasure = "delete"
	// Archive hides the contact; a person can bring it back.
	Archive Erasure = "archive"
)

// Config is the configuration of the sink.
type Config struct {
	contact.Config
	Token      string  `env:"TOKEN" secret:"true" doc:"Access token of an app of the workspace with the permissions to read and write users, tags and data attributes."`
	APIVersion string  `env:"API_VERSION" envDefault:"2.14" doc:"Version of the API that answers are asked for in."`
	NewUserTag string  `env:"NEW_USER_TAG" doc:"Name of a tag that is put on the contacts of users who signed up after this sink was first enabled, as new-user; it must be there, and init makes it. Without it none is."`
	Erasure    Erasure `env:"ERASURE" envDefault:"delete" doc:"What an erasure does: delete removes the contact for ever, with its conversations after a grace of 7 days; archive hides it until a person brings it back."`
}

// fields are the members of a contact that are no custom attributes.
// https://developers.intercom.com/docs/references/rest-api/api.intercom.io/contacts
var fields = []string{"email", "phone", "name", "avatar", "signed_up_at", "last_seen_at"}

// defaults are what Intercom has of the settings of all tools.
var defaults = contact.Defaults{
	BaseURL:    "https://api.intercom.io",
	Properties: "email = email, name = full_name, avatar = image_url, signed_up_at = created_at",
	Consent:    []string{"unsubscribed_from_emails", "marked_email_as_spam"},
	Check:      checkAttribute,
}

func checkAttribute(name string) error {
	if slices.Contains([]string{"id", "external_id", "role", "workspace_id", "owner_id", "custom_attributes"}, name) {
		return errors.New("the sink does not write that: use " + fmt.Sprint(fields) + " or the name of a custom attribute")
	}
	if len(name) > 190 {
		return errors.New("names have at most 190 characters there")
	}
	return nil
}

var apiVersions = regexp.MustCompile(`^2\.[0-9]{1,2}$`)

func (c Config) withDefaults() Config {
	c.Config = c.Config.WithDefaults(defaults)
	if c.APIVersion == "" {
		c.APIVersion = "2.14"
	}
	if c.Erasure == "" {
		c.Erasure = Delete
	}
	return c
}

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix. It never quotes the token.
func (c Config) Validate() error {
	c = c.withDefaults()
	problems := []error{c.Config.Validate(defaults), contact.CheckChoice("ERASURE", c.Erasure, Delete, Archive)}
	if c.Token == "" {
		problems = append(problems, errors.New("TOKEN is empty: copy the access token from the app's Authentication page in the Developer Hub"))
	}
	if !apiVersions.MatchString(c.APIVersion) {
		problems = append(problems, fmt.Errorf("API_VERSION is %q: use one as 2.14", c.APIVersion))
	}
	return errors.Join(problems...)
}
