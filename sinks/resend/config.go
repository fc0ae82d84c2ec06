package resend

import (
	"errors"
	"fmt"
	"regexp"
	"slices"

	"clerkconnect/sinks/contact"
)

// Consent says whether broadcasts are sent to a contact.
type Consent string

// What a new contact is.
const (
	// Unsubscribed contacts are sent no broadcasts.
	Unsubscribed Consent = "unsubscribed"
	// Subscribed contacts are.
	Subscribed Consent = "subscribed"
)

// Config is the configuration of the sink.
type Config struct {
	contact.Config
	Key            string  `env:"API_KEY" secret:"true" doc:"API key of the team with full access: a key that may only send cannot write contacts."`
	KeyProperty    string  `env:"KEY_PROPERTY" envDefault:"clerk_user_id" doc:"Contact property that holds the Clerk ID and says whose a contact is; init declares it."`
	NewContacts    Consent `env:"NEW_CONTACTS" envDefault:"unsubscribed" doc:"What contacts are that the sink creates: unsubscribed are sent no broadcasts, since to sign up is not to agree to them; subscribed are. What a contact is that is there already is never changed."`
	NewUserSegment string  `env:"NEW_USER_SEGMENT" doc:"ID of a segment that contacts of users are added to who signed up after this sink was first enabled. Without it they are to none."`
}

// fields are the members of a contact that are no properties of one's own.
// https://resend.com/docs/dashboard/audiences/properties
var fields = []string{"first_name", "last_name"}

// defaults are what Resend has of the settings of all tools.
var defaults = contact.Defaults{
	BaseURL:    "https://api.resend.com",
	Properties: "first_name = first_name, last_name = last_name",
	Consent:    []string{"unsubscribed", "topics"},
	Check:      checkProperty,
}

// names are what Resend takes as the key of a property.
var names = regexp.MustCompile(`^[A-Za-z0-9_]{1,50}$`)

func checkProperty(name string) error {
	if slices.Contains([]string{"id", "email", "segments", "audience_id", "created_at"}, name) {
		return errors.New("the sink writes that by itself, or nobody does; leave it out")
	}
	if !names.MatchString(name) {
		return errors.New("use the key of a property: at most 50 letters, digits and underscores")
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.Config = c.Config.WithDefaults(defaults)
	if c.KeyProperty == "" {
		c.KeyProperty = "clerk_user_id"
	}
	if c.NewContacts == "" {
		c.NewContacts = Unsubscribed
	}
	return c
}

// segments are what IDs of segments look like.
var segments = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix. It never quotes the key.
func (c Config) Validate() error {
	c = c.withDefaults()
	problems := []error{c.Config.Validate(defaults), contact.CheckChoice("NEW_CONTACTS", c.NewContacts, Unsubscribed, Subscribed)}
	if c.Key == "" {
		problems = append(problems, errors.New("API_KEY is empty: make a key with full access on the API keys page of Resend"))
	}
	if err := checkProperty(c.KeyProperty); err != nil || slices.Contains(fields, c.KeyProperty) {
		problems = append(problems, fmt.Errorf("KEY_PROPERTY is %q: use the key of a property of its own, as clerk_user_id", c.KeyProperty))
	}
	list, err := contact.ParseProperties("PROPERTIES", c.Properties, defaults)
	if err == nil && slices.Contains(contact.NewMapping(list, form).Names(), c.KeyProperty) {
		problems = append(problems, fmt.Errorf("PROPERTIES names %q, which is KEY_PROPERTY: leave it out", c.KeyProperty))
	}
	if c.NewUserSegment != "" && !segments.MatchString(c.NewUserSegment) {
		problems = append(problems, fmt.Errorf("NEW_USER_SEGMENT is %q: use the segment's ID, as 78261eea-8f8b-4381-83c6-79fa7120f1cf", c.NewUserSegment))
	}
	return errors.Join(problems...)
}
