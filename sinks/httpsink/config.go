package httpsink

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	svix "github.com/svix/svix-webhooks/go"

	"clerkconnect/sinks/contact"
)

// Erasure is what the call ERASE does, for the receipt.
type Erasure string

// What an erasure does.
const (
	// Delete says that nothing is left.
	Delete Erasure = "delete"
	// SoftDelete says that a person can bring the user back.
	SoftDelete Erasure = "soft-delete"
	// Anonymize says that what is left names nobody.
	Anonymize Erasure = "anonymize"
)

// Times is the form in which moments are written.
type Times string

// The forms of a moment.
const (
	ISO8601 Times = "iso8601" // 2006-01-02T15:04:05.000Z
	Seconds Times = "seconds" // since 1970, a number
	Millis  Times = "millis"  // since 1970, a number
)

// Config is the configuration of the sink. A call is "METHOD /path", behind
// BASE_URL; its path and its body are templates of text/template, see README.md.
type Config struct {
	contact.Config
	Headers       string `env:"HEADERS" secret:"true" doc:"Headers of every request, as a JSON object of strings: {\"Authorization\":\"Bearer ...\"}."`
	SigningSecret string `env:"SIGNING_SECRET" secret:"true" doc:"Signs every request as Standard Webhooks says, with this secret (whsec_...); two, by a space, while one replaces the other. Without it none is signed."`
	IDHeader      string `env:"ID_HEADER" doc:"Header that carries the message id, which is the same when a call is repeated, as Idempotency-Key. Without it only signed requests have one, webhook-id."`

	Check      string `env:"CHECK" doc:"Call that tells a wrong key from a right one before anything is written, as GET /account. Without it the first user tells."`
	Upsert     string `env:"UPSERT" doc:"Call that writes users by the Clerk ID, there or not, and that is harmless to repeat, as PUT /users/{{path .id}}. In place of CREATE, UPDATE and FIND."`
	UpsertBody string `env:"UPSERT_BODY" envDefault:"{{json .}}" doc:"Body of UPSERT."`
	Batch      int    `env:"BATCH" envDefault:"1" doc:"Most users of one UPSERT, 1 to 1000. With more than 1 its templates see .records, a list; the other calls have one user each."`
	Create     string `env:"CREATE" doc:"Call that creates a user. Its answer must have the id of the service at REMOTE_ID."`
	CreateBody string `env:"CREATE_BODY" doc:"Body of CREATE."`
	Update     string `env:"UPDATE" doc:"Call that changes a user who is there; one of GONE creates him anew."`
	UpdateBody string `env:"UPDATE_BODY" doc:"Body of UPDATE."`
	Find       string `env:"FIND" doc:"Call that looks for a user by the Clerk ID; asked before one is created, so that a crash makes no second, and before an erasure if no id is remembered."`
	FindBody   string `env:"FIND_BODY" doc:"Body of FIND. Without it none."`
	FindID     string `env:"FIND_ID" doc:"Where the id stands in the JSON of FIND's answer, as 0.id; nothing there, or one of GONE: not found. Without it as REMOTE_ID."`
	RemoteID   string `env:"REMOTE_ID" doc:"Where the id of the service stands in the JSON of the answer to CREATE or UPSERT, as id or data.0.id. It is remembered, and .remote_id in templates. UPSERT may do without."`

	Erase       string  `env:"ERASE" doc:"Call that erases a user, as DELETE /users/{{path .id}}; one of GONE: was not there."`
	EraseBody   string  `env:"ERASE_BODY" doc:"Body of ERASE. Without it none."`
	Erasure     Erasure `env:"ERASURE" envDefault:"delete" doc:"What ERASE does there, for the receipt: delete, soft-delete or anonymize."`
	Confirm     string  `env:"CONFIRM" doc:"Call that reads an erasure back; one of GONE: the user is gone. Without it erasures are not confirmed, and the ledger says so."`
	ConfirmBody string  `env:"CONFIRM_BODY" doc:"Body of CONFIRM. Without it none."`
	ConfirmID   string  `env:"CONFIRM_ID" doc:"Where something stands in CONFIRM's answer only if the user is still there, as 0.id. Without it a success says that he is."`

	Success  string `env:"SUCCESS" envDefault:"2xx" doc:"Answers that are a success, by comma: statuses (200), classes of them (2xx), codes of errors. A class has neither 207, of which a part may have failed, nor a web page, with which proxies answer: list their status by its number."`
	FailedAt string `env:"FAILED_AT" doc:"Where something stands in the JSON of an answer with a status of success only if the call has failed, as error.code. RETRY, GONE and CONFLICT may list what it says; else the user is refused. Without it the status alone tells."`
	Retry    string `env:"RETRY" doc:"Answers after which the same is tried again, after Retry-After: statuses or codes of errors, besides 408, 425, 429 and 5xx."`
	Gone     string `env:"GONE" envDefault:"404, 410" doc:"Answers to UPDATE, FIND, ERASE and CONFIRM that say that the user is not there: statuses or codes."`
	Conflict string `env:"CONFLICT" envDefault:"409" doc:"Answers that say that another user holds the address or the key: statuses or codes. Tried again, until MAX_ATTEMPTS."`

	NeedsEmail bool  `env:"NEEDS_EMAIL" envDefault:"false" doc:"Users without an e-mail address are skipped, and counted."`
	Times      Times `env:"TIMES" envDefault:"iso8601" doc:"Form of moments in properties: iso8601, seconds or millis."`
}

// defaults are what any service has of the settings of all tools.
var defaults = contact.Defaults{
	Properties: "email = email, first_name = first_name, last_name = last_name",
	// What widespread services call consent; which others there are, only their users know.
	Consent: []string{"subscribed", "unsubscribed", "emailBlacklisted", "smsBlacklisted", "opt_in", "opt_out", "marketing_consent"},
}

const maxBatch = 1000

func (c Config) withDefaults() Config {
	c.Config = c.Config.WithDefaults(defaults)
	fallback := func(setting *string, value string) {
		if strings.TrimSpace(*setting) == "" {
			*setting = value
		}
	}
	fallback(&c.UpsertBody, "{{json .}}")
	fallback(&c.FindID, c.RemoteID)
	fallback(&c.Success, "2xx")
	fallback(&c.Gone, "404, 410")
	fallback(&c.Conflict, "409")
	if c.Batch == 0 {
		c.Batch = 1
	}
	if c.Erasure == "" {
		c.Erasure = Delete
	}
	if c.Times == "" {
		c.Times = ISO8601
	}
	return c
}

// Confirms reports whether a sink of c reads erasures back.
func (c Config) Confirms() bool { return c.Confirm != "" }

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix. Every template is filled in with made-up users. It
// never quotes a secret.
func (c Config) Validate() error {
	c = c.withDefaults()
	problems := []error{
		c.Config.Validate(defaults), contact.CheckChoice("ERASURE", c.Erasure, Delete, SoftDelete, Anonymize),
		contact.CheckChoice("TIMES", c.Times, ISO8601, Seconds, Millis), c.checkCalls(),
	}
	check := func(ok bool, text string) {
		if !ok {
			problems = append(problems, errors.New(text))
		}
	}
	check(c.Batch >= 1 && c.Batch <= maxBatch, fmt.Sprintf("BATCH is %d: use 1 to %d", c.Batch, maxBatch))
	check(c.Batch == 1 || c.RemoteID == "", "REMOTE_ID is of one user: leave it out, or BATCH")
	check(c.IDHeader == "" || headerNames.MatchString(c.IDHeader), fmt.Sprintf("ID_HEADER is %q: use the name of a header, as Idempotency-Key", c.IDHeader))
	if _, err := parseHeaders(c.Headers); err != nil {
		problems = append(problems, err)
	}
	if _, err := parseSecrets(c.SigningSecret); err != nil {
		problems = append(problems, err)
	}
	_, err := c.parseAnswers()
	problems = append(problems, err)
	calls, err := c.parseCalls()
	if problems = append(problems, err); err == nil {
		problems = append(problems, c.try(calls))
	}
	return errors.Join(problems...)
}

// checkCalls says which calls are missing, or too many.
func (c Config) checkCalls() error {
	var problems []error
	check := func(ok bool, text string) {
		if !ok {
			problems = append(problems, errors.New(text))
		}
	}
	two := c.Create != "" || c.Update != "" || c.Find != ""
	check(c.Upsert != "" || two, "UPSERT is empty: declare the call that writes a user, or CREATE, UPDATE and FIND")
	check(c.Upsert == "" || !two, "UPSERT stands beside CREATE, UPDATE or FIND: use one way")
	check(c.Erase != "", "ERASE is empty: declare the call that erases a user, as DELETE /users/{{path .id}}")
	check(c.ConfirmID == "" || c.Confirm != "", "CONFIRM_ID is set without CONFIRM")
	if c.Upsert == "" && two {
		check(c.Create != "", "CREATE is empty: declare the call that creates a user")
		check(c.Update != "", "UPDATE is empty: declare the call that changes a user")
		check(c.Batch <= 1, "BATCH is for UPSERT alone")
		check(c.RemoteID != "", "REMOTE_ID is empty: say where the id stands in the answer to CREATE, as id")
		check(c.Find != "", "FIND is empty: declare the call that looks for a user, or a crash creates him twice")
		check(c.Find == "" || strings.Contains(c.Find+c.FindBody, ".id"), "FIND does not ask for .id: an address may be that of another user")
	}
	return errors.Join(problems...)
}

var headerNames = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_|~-]+$")

// parseHeaders reads HEADERS.
func parseHeaders(text string) (http.Header, error) {
	headers := http.Header{}
	if strings.TrimSpace(text) == "" {
		return headers, nil
	}
	var pairs map[string]string
	if json.Unmarshal([]byte(text), &pairs) != nil {
		return nil, errors.New(`HEADERS is no JSON object of strings: write {"Authorization":"Bearer ..."}`)
	}
	for name, value := range pairs {
		if !headerNames.MatchString(name) || strings.ContainsAny(value, "\r\n\x00") {
			return nil, errors.New("HEADERS has a name that no header can have, or a value of several lines")
		}
		headers.Set(name, value)
	}
	return headers, nil
}

// parseSecrets reads SIGNING_SECRET.
func parseSecrets(text string) ([]*svix.Webhook, error) {
	var signers []*svix.Webhook
	for _, secret := range strings.Fields(text) {
		signer, err := svix.NewWebhook(secret)
		if err != nil { // which may quote it
			return nil, errors.New("SIGNING_SECRET is no secret of Standard Webhooks: use whsec_ and base64, as `openssl rand -base64 32` makes")
		}
		signers = append(signers, signer)
	}
	return signers, nil
}
