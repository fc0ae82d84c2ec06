package snapshot

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

// Config says how Clerk's Backend API is read. Its variables have their whole
// names here, because two areas share it.
type Config struct {
	SecretKey      string        `env:"CLERK_SECRET_KEY" doc:"Secret key of the Clerk instance, sk_test_... or sk_live_...; what reads users with it."`
	APIURL         string        `env:"CLERK_API_URL" envDefault:"https://api.clerk.com/v1" doc:"Base address of Clerk's Backend API, with the version."`
	RateShare      float64       `env:"CLERK_RATE_SHARE" envDefault:"0.5" doc:"Share of Clerk's rate limit to use, above 0 up to 1; the application's own backend shares the limit (100 requests in 10 s for sk_test_, 1000 for sk_live_)."`
	PageSize       int           `env:"SNAPSHOT_PAGE_SIZE" envDefault:"500" doc:"Users in one request of a snapshot, 1 to 500."`
	RequestTimeout time.Duration `env:"SNAPSHOT_REQUEST_TIMEOUT" envDefault:"30s" doc:"Time that one request to Clerk may take; a page of 500 users takes seconds."`
	MaxAttempts    int           `env:"SNAPSHOT_MAX_ATTEMPTS" envDefault:"8" doc:"Attempts of one request before the snapshot pauses, 1 or more; answers of 429 do not count."`
	RetryPause     time.Duration `env:"SNAPSHOT_RETRY_PAUSE" envDefault:"1m" doc:"Pause after a snapshot or a re-read has failed, before it goes on from its checkpoint; five times that when Clerk refuses the key."`
}

// Requests in 10 s that Clerk allows an instance, by the kind of its key.
// https://clerk.com/docs/guides/how-clerk-works/system-limits
const (
	limitTest = 100
	limitLive = 1000
	window    = 10 * time.Second
)

// maxPageSize is Clerk's.
const maxPageSize = 500

// Validate reports every problem of the configuration.
func (c Config) Validate() error {
	var errs []error
	problem := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	switch _, known := c.limit(); {
	case c.SecretKey == "":
		problem(true, "CLERK_SECRET_KEY is missing: give the instance's secret key, sk_test_... or sk_live_...")
	default:
		problem(!known, "CLERK_SECRET_KEY does not begin with sk_test_ or sk_live_: give the secret key, not the publishable one")
	}
	u, err := url.Parse(c.APIURL)
	problem(err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"), "CLERK_API_URL is not an address: give https://host/v1")
	problem(!(c.RateShare > 0 && c.RateShare <= 1), "CLERK_RATE_SHARE is %v: give more than 0 and at most 1", c.RateShare)
	problem(c.PageSize < 1 || c.PageSize > maxPageSize, "SNAPSHOT_PAGE_SIZE is %d: give 1 to %d", c.PageSize, maxPageSize)
	problem(c.RequestTimeout <= 0, "SNAPSHOT_REQUEST_TIMEOUT is %v: give more than 0", c.RequestTimeout)
	problem(c.MaxAttempts < 1, "SNAPSHOT_MAX_ATTEMPTS is %d: give 1 or more", c.MaxAttempts)
	problem(c.RetryPause <= 0, "SNAPSHOT_RETRY_PAUSE is %v: give more than 0", c.RetryPause)
	return errors.Join(errs...)
}

func (c Config) limit() (requests float64, known bool) {
	switch {
	case strings.HasPrefix(c.SecretKey, "sk_live_"):
		return limitLive, true
	case strings.HasPrefix(c.SecretKey, "sk_test_"):
		return limitTest, true
	}
	return limitTest, false
}

// limiter allows the share of Clerk's limit in any window of 10 s: nine tenths
// of it evenly, one tenth at once, so that a small instance is read in a moment.
func (c Config) limiter() *rate.Limiter {
	limit, _ := c.limit()
	share := limit * c.RateShare
	return rate.NewLimiter(rate.Limit(share*0.9/window.Seconds()), max(1, int(share*0.1)))
}
