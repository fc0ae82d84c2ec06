package clerksim

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	svix "github.com/svix/svix-webhooks/go"
)

// Config says what instance to simulate. The zero value is an empty, silent
// instance in memory with Clerk's production limits.
type Config struct {
	// Users exist before the first delivery. No webhook was ever sent for
	// them. Ignored when StateFile holds an instance already.
	Users int
	// Rate is the number of events per second that Run makes; 0 makes none.
	Rate float64
	// Seed decides users, acts, ids, secrets and disorder. Ignored when
	// StateFile holds an instance already.
	Seed uint64
	// StateFile keeps the instance over restarts; empty keeps it in memory only.
	// One process at a time may use it.
	StateFile string
	// WebhookURL receives the deliveries. While it is empty an event owes no
	// delivery: that is a Clerk whose webhooks are not switched on. See SetWebhookURL.
	WebhookURL string
	// SigningSecret (whsec_ and base64), SecretKey (sk_test_...) and InstanceID
	// (ins_...): where empty they come from the state file, else from Seed.
	SigningSecret, SecretKey, InstanceID string
	// Disorder is what goes wrong between Svix and the receiver; zero is nothing.
	Disorder Disorder
	// RateLimit is the number of API requests that a RateWindow allows; 0 means
	// 1,000 in 10 s (Clerk's production limit; development has 100), below 0
	// means no limit. https://clerk.com/docs/guides/how-clerk-works/system-limits
	RateLimit  int
	RateWindow time.Duration
	// DeletedCursor is the answer to a starting_after that names a deleted user.
	DeletedCursor CursorMode
	// TiedUpdates is the share (0 to 1) of changes that leave updated_at as it
	// was. Otherwise updated_at of one user rises strictly.
	TiedUpdates float64
	// SecondsTimestamps writes the envelope's timestamp in seconds, as Clerk's
	// own examples do, instead of milliseconds.
	SecondsTimestamps bool
	// Workers is the number of deliveries in flight; 0 means 8.
	Workers int
	// RetrySchedule holds the waits between attempts; its last one is repeated.
	// Nil means a schedule compressed to seconds; SvixSchedule is the real one.
	RetrySchedule []time.Duration
	// MaxAttempts ends the attempts of one delivery; 0 means that they never
	// end, so that the receiver's state converges. Svix ends after 8.
	MaxAttempts int
	// AttemptTimeout is the time an attempt may take; 0 means Svix's 15 s.
	AttemptTimeout time.Duration
	// History is the number of messages that Messages, Redeliver and Deliver
	// remember; 0 means 10,000. It is not kept over restarts.
	History int
	// HTTPClient makes the deliveries; nil means a client of the instance's
	// own. Redirects are never followed.
	HTTPClient *http.Client
	// Now tells the time of users and events; nil means time.Now.
	Now func() time.Time
	// Logger is told of failed attempts, at level Debug; nil discards.
	Logger *slog.Logger
}

// Disorder holds the shares (0 to 1) of messages that are delivered twice,
// late (by up to LateBy), or swapped: held back until a newer message of the
// same user has gone out, for LateBy at most. LateBy of 0 means 20 s.
type Disorder struct {
	Duplicate, Late, Swapped float64
	LateBy                   time.Duration
}

// DefaultDisorder is worse than Svix on most days, and shows within a minute
// whether a receiver depends on order.
func DefaultDisorder() Disorder {
	return Disorder{Duplicate: 0.03, Late: 0.03, Swapped: 0.1, LateBy: 20 * time.Second}
}

// CursorMode is the answer to a starting_after that names a deleted user, of
// which Clerk's description says nothing.
type CursorMode int

// The answers to a deleted cursor.
const (
	CursorUnprocessable CursorMode = iota // 422, as for an id that never was
	CursorNotFound                        // 404 resource_not_found
	CursorEmptyPage                       // 200 and [], which looks like the end
	CursorKeepsPlace                      // the users that follow its place
)

// SvixSchedule is the real one: eight attempts over 27 h 35 min.
// https://docs.svix.com/retries
var SvixSchedule = []time.Duration{
	5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 10 * time.Hour,
}

// compressedSchedule is short enough for a person to see a retry.
var compressedSchedule = []time.Duration{
	200 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second,
}

// Validate reports every problem of the configuration.
func (c Config) Validate() error {
	var errs []error
	problem := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	problem(c.Users < 0, "Users is %d: give 0 or more", c.Users)
	problem(!(c.Rate >= 0 && c.Rate <= 1e5), "Rate is %v: give 0 to 100000 events per second", c.Rate)
	for _, s := range []struct {
		name  string
		share float64
	}{
		{"Disorder.Duplicate", c.Disorder.Duplicate}, {"Disorder.Late", c.Disorder.Late},
		{"Disorder.Swapped", c.Disorder.Swapped}, {"TiedUpdates", c.TiedUpdates},
	} {
		problem(!(s.share >= 0 && s.share <= 1), "%s is %v: give a share from 0 to 1", s.name, s.share)
	}
	for _, d := range append([]time.Duration{c.Disorder.LateBy, c.RateWindow, c.AttemptTimeout}, c.RetrySchedule...) {
		problem(d < 0, "a duration is %v: give 0 or more", d)
	}
	problem(c.Workers < 0 || c.MaxAttempts < 0 || c.History < 0, "Workers, MaxAttempts or History is below 0: give 0 or more")
	if c.WebhookURL != "" {
		u, err := url.Parse(c.WebhookURL)
		problem(err != nil || u.Host == "", "WebhookURL is not a URL: give http://host:port/path")
	}
	if c.SigningSecret != "" {
		_, err := svix.NewWebhook(c.SigningSecret)
		problem(err != nil, "SigningSecret cannot be used: give whsec_ and base64 of 1 byte or more")
	}
	return errors.Join(errs...)
}

// withDefaults replaces the zero values that mean something else.
func (c Config) withDefaults() Config {
	orDuration := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	orInt := func(n *int, def int) {
		if *n == 0 {
			*n = def
		}
	}
	orDuration(&c.Disorder.LateBy, 20*time.Second)
	orDuration(&c.RateWindow, 10*time.Second)
	orDuration(&c.AttemptTimeout, 15*time.Second) // https://docs.svix.com/receiving/using-app-portal
	orInt(&c.RateLimit, 1000)
	orInt(&c.Workers, 8)
	orInt(&c.History, 10000)
	if len(c.RetrySchedule) == 0 {
		c.RetrySchedule = compressedSchedule
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}
