package mailchimp

import (
	"errors"
	"fmt"
	"regexp"
	"slices"

	"clerkconnect/sinks/contact"
)

// Erasure is what an erasure does at Mailchimp.
type Erasure string

// What an erasure does.
const (
	// Archive moves the member into the archive, from which a person can bring him
	// back.
	Archive Erasure = "archive"
	// DeletePermanent deletes him and all that is known of him for ever, and keeps
	// his address from ever being added again but by himself.
	DeletePermanent Erasure = "delete-permanent"
)

// Status is what a member has agreed to.
type Status string

// What a new member is.
const (
	// Transactional members, non-subscribed ones, are sent no campaigns.
	Transactional Status = "transactional"
	// Unsubscribed members have said that they want none.
	Unsubscribed Status = "unsubscribed"
	// Pending members are sent a mail in which they can agree.
	Pending Status = "pending"
	// Subscribed members are sent campaigns.
	Subscribed Status = "subscribed"
)

// Config is the configuration of the sink.
type Config struct {
	contact.Config
	Key        string  `env:"API_KEY" secret:"true" doc:"API key of the account, with the data center at its end, as -us14, which says where BASE_URL is."`
	Audience   string  `env:"AUDIENCE_ID" doc:"ID of the audience (list), from its settings, as a36b032126."`
	KeyField   string  `env:"KEY_FIELD" envDefault:"CLERK_ID" doc:"Tag of the merge field that holds the Clerk ID and says whose a member is; init adds it."`
	NewMembers Status  `env:"NEW_MEMBERS" envDefault:"transactional" doc:"What members are that the sink creates: transactional (Mailchimp shows non-subscribed) are sent no campaigns, since to sign up is not to agree to them; unsubscribed neither; pending are sent a mail in which they can agree; subscribed are sent campaigns. What a member is who is there already is never changed."`
	NewUserTag string  `env:"NEW_USER_TAG" doc:"Tag that is put on the members of users who signed up after this sink was first enabled, as new-user. Without it none is."`
	Erasure    Erasure `env:"ERASURE" envDefault:"archive" doc:"What an erasure does: archive moves the member into the archive, from which a person can bring him back; delete-permanent deletes him for ever, and Mailchimp lets nobody but the person himself add his address again."`
}

// defaults are what Mailchimp has of the settings of all tools, without the URL,
// which is in the key.
var defaults = contact.Defaults{
	Properties: "FNAME = first_name, LNAME = last_name",
	Consent:    []string{"status", "status_if_new", "marketing_permissions"},
	Check:      checkTag,
}

// tags are what Mailchimp takes as the tag of a merge field.
// https://mailchimp.com/developer/marketing/docs/merge-fields/
var tags = regexp.MustCompile(`^[A-Z0-9_]{1,10}$`)

func checkTag(tag string) error {
	if slices.Contains([]string{"EMAIL", "MERGE0"}, tag) {
		return errors.New("the sink writes the address by itself; leave it out")
	}
	if !tags.MatchString(tag) {
		return errors.New("use the tag of a merge field: at most 10 capital letters, digits and underscores")
	}
	return nil
}

var (
	centers   = regexp.MustCompile(`-([a-z]{2,4}[0-9]{1,3})$`)
	audiences = regexp.MustCompile(`^[0-9A-Za-z]{4,32}$`)
)

// ofKey returns the defaults with the URL of the account's data center.
func ofKey(key string) contact.Defaults {
	d := defaults
	if found := centers.FindStringSubmatch(key); found != nil {
		d.BaseURL = "https://" + found[1] + ".api.mailchimp.com"
	}
	return d
}

func (c Config) withDefaults() Config {
	c.Config = c.Config.WithDefaults(ofKey(c.Key))
	if c.KeyField == "" {
		c.KeyField = "CLERK_ID"
	}
	if c.NewMembers == "" {
		c.NewMembers = Transactional
	}
	if c.Erasure == "" {
		c.Erasure = Archive
	}
	return c
}

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix. It never quotes the key.
func (c Config) Validate() error {
	c = c.withDefaults()
	problems := []error{
		contact.CheckChoice("NEW_MEMBERS", c.NewMembers, Transactional, Unsubscribed, Pending, Subscribed),
		contact.CheckChoice("ERASURE", c.Erasure, Archive, DeletePermanent),
	}
	switch {
	case c.Key == "":
		problems = append(problems, errors.New("API_KEY is empty: make a key in the account's extras"))
	case c.BaseURL == "":
		problems = append(problems, errors.New("API_KEY has no data center at its end, as -us14: copy all of it, or set BASE_URL"))
	}
	common := c.Config
	if common.BaseURL == "" { // told above
		common.BaseURL = "https://api.mailchimp.com"
	}
	problems = append(problems, common.Validate(defaults))
	if !audiences.MatchString(c.Audience) {
		problems = append(problems, fmt.Errorf("AUDIENCE_ID is %q: use the ID in the audience's settings, as a36b032126", c.Audience))
	}
	if checkTag(c.KeyField) != nil {
		problems = append(problems, fmt.Errorf("KEY_FIELD is %q: use the tag of a merge field of its own, as CLERK_ID", c.KeyField))
	}
	list, err := contact.ParseProperties("PROPERTIES", c.Properties, defaults)
	if err == nil && slices.Contains(contact.NewMapping(list, form).Names(), c.KeyField) {
		problems = append(problems, fmt.Errorf("PROPERTIES names %q, which is KEY_FIELD: leave it out", c.KeyField))
	}
	return errors.Join(problems...)
}
