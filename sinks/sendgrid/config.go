package sendgrid

import (
	"errors"
	"fmt"
	"slices"

	"clerkconnect/sinks/contact"
)

// Config is the configuration of the sink.
type Config struct {
	contact.Config
	APIKey      string   `env:"API_KEY" secret:"true" doc:"API key with full access to Marketing."`
	KeyField    string   `env:"KEY_FIELD" envDefault:"clerk_user_id" doc:"Name of a custom field of type Text that holds the Clerk ID; init makes it."`
	Lists       []string `env:"LISTS" doc:"IDs of the lists to which every contact is added, by comma. Whom a person takes off a list comes back with his next change."`
	NewUserList string   `env:"NEW_USER_LIST" doc:"ID of a list to which the contacts of users are added who signed up after this sink was first enabled: an automation can begin there. Without it there is none."`
}

// reserved are the fields that every account has, with the most characters that
// SendGrid takes: it would refuse a request for one longer.
// https://www.twilio.com/docs/sendgrid/api-reference/contacts/add-or-update-a-contact
var reserved = map[string]int{
	"first_name": 50, "last_name": 50, "address_line_1": 100, "address_line_2": 100, "city": 60, "state_province_region": 50, "country": 50,
	"postal_code": 60, "unique_name": 50,
}

func isReserved(name string) bool { return reserved[name] > 0 }

// defaults are what SendGrid has of the settings of all tools.
var defaults = contact.Defaults{
	BaseURL:    "https://api.sendgrid.com",
	Properties: "first_name = first_name, last_name = last_name",
	Consent:    []string{"unsubscribed", "is_unsubscribed"},
	Check:      checkField,
}

func checkField(name string) error {
	if slices.Contains([]string{"email", "external_id", "anonymous_id", "phone_number_id", "alternate_emails", "id"}, name) {
		return errors.New("it is what SendGrid knows the contact by: the address is always written, the others never")
	}
	if len(name) > 100 {
		return errors.New("names have at most 100 characters there")
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.Config = c.Config.WithDefaults(defaults)
	if c.KeyField == "" {
		c.KeyField = "clerk_user_id"
	}
	return c
}

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix. It never quotes the key.
func (c Config) Validate() error {
	c = c.withDefaults()
	problems := []error{c.Config.Validate(defaults)}
	if c.APIKey == "" {
		problems = append(problems, errors.New("API_KEY is empty: make one with access to Marketing in Settings, API Keys"))
	}
	if err := checkField(c.KeyField); err != nil || isReserved(c.KeyField) {
		problems = append(problems, fmt.Errorf("KEY_FIELD is %q: name a custom field, as clerk_user_id", c.KeyField))
	}
	return errors.Join(problems...)
}
