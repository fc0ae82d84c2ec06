package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/clerk/clerk-sdk-go/v2"
	"golang.org/x/time/rate"

	"clerkconnect/connector/throttle"
)

// Bounds of one request and of the waits between attempts.
const (
	maxBodyBytes   = 64 << 20         // 500 users of a few tens of KB each are a quarter of it
	maxRetryAfter  = 5 * time.Minute  // Clerk's window is 10 s; more is a mistake on the way
	firstRetryWait = time.Second      // on average; doubled with each attempt, with full jitter
	maxRetryWait   = 30 * time.Second // on average
)

// Endpoints as errors and metrics name them. A user's id is in neither.
const (
	endpointUsers = "/users"
	endpointCount = "/users/count"
	endpointUser  = "/users/{id}"
)

// api reads Clerk's Backend API through clerk-sdk-go's backend, within the rate
// limit, and retries what can be retried. Safe for concurrent use.
type api struct {
	cfg       Config
	transport http.RoundTripper
	limiter   *rate.Limiter
	metrics   *metrics
	log       *slog.Logger
	warnings  *throttle.Logger // of log; all attempts together can take minutes, in which a person would know nothing
	retryWait time.Duration    // firstRetryWait but in tests
}

// apiError is a request that did not give what was asked for. It never holds
// anything of an answer's body but Clerk's error code and trace id.
type apiError struct {
	endpoint    string
	status      int // 0: no answer; 200: an answer that is not what Clerk describes
	code, trace string
	retryAfter  time.Duration
	err         error
}

func (e *apiError) Error() string {
	text := "GET " + e.endpoint
	if e.status != 0 {
		text += ": " + strconv.Itoa(e.status)
	}
	if e.code != "" {
		text += " " + e.code
	}
	if e.trace != "" {
		text += " (clerk_trace_id " + e.trace + ")"
	}
	if e.err != nil {
		text += ": " + e.err.Error()
	}
	return text + e.advice()
}

// advice names the setting that an answer is most likely about.
func (e *apiError) advice() string {
	switch {
	case unauthorized(e):
		return ": see CLERK_SECRET_KEY"
	case e.status == http.StatusNotFound && e.endpoint != endpointUser:
		return ": see CLERK_API_URL, which ends in the version, as /v1"
	}
	return ""
}

func (e *apiError) Unwrap() error { return e.err }

func statusOf(err error) (status int, ok bool) {
	var e *apiError
	if !errors.As(err, &e) {
		return 0, false
	}
	return e.status, true
}

// unauthorized says that Clerk refuses the key.
func unauthorized(err error) bool {
	status, _ := statusOf(err)
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

func retriable(err error) bool {
	status, ok := statusOf(err)
	return ok && (status == 0 || status == http.StatusOK || status >= 500 ||
		status == http.StatusRequestTimeout || status == http.StatusTooEarly)
}

// get reads one endpoint. decode says whether the answer is what Clerk
// describes; if not, it is a failure like any other and retried.
func (a *api) get(ctx context.Context, endpoint, path string, query url.Values, decode func(body json.RawMessage, date time.Time) error) error {
	wait := &backoff.ExponentialBackOff{InitialInterval: a.retryWait, Multiplier: 2, RandomizationFactor: 1, MaxInterval: maxRetryWait}
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := a.unthrottled(ctx, endpoint, path, query, decode)
		if err != nil && !retriable(err) {
			return struct{}{}, backoff.Permanent(err)
		}
		return struct{}{}, err
	},
		backoff.WithBackOff(wait),
		backoff.WithMaxTries(uint(a.cfg.MaxAttempts)),
		backoff.WithMaxElapsedTime(0),
		backoff.WithNotify(func(err error, wait time.Duration) {
			a.warnings.Warn("request to Clerk failed; trying again", "err", err, "wait_ms", wait.Milliseconds())
		}))
	var permanent *backoff.PermanentError
	if errors.As(err, &permanent) {
		return permanent.Unwrap()
	}
	return err
}

// unthrottled makes an attempt, and another after every 429: those cost time
// but are no failure, since the application's own backend may use the limit up.
func (a *api) unthrottled(ctx context.Context, endpoint, path string, query url.Values, decode func(json.RawMessage, time.Time) error) error {
	for {
		if err := a.limiter.Wait(ctx); err != nil {
			return err
		}
		err := a.once(ctx, endpoint, path, query, decode)
		if status, _ := statusOf(err); status != http.StatusTooManyRequests {
			return err
		}
		var refused *apiError
		errors.As(err, &refused)
		a.log.Debug("clerk's rate limit is used up", "wait_ms", refused.retryAfter.Milliseconds())
		begun := time.Now()
		err = sleep(ctx, refused.retryAfter+rand.N(time.Second)/4) // other clients wait for the same moment
		a.metrics.throttled.Add(time.Since(begun).Seconds())
		if err != nil {
			return err
		}
	}
}

func (a *api) once(ctx context.Context, endpoint, path string, query url.Values, decode func(json.RawMessage, time.Time) error) error {
	seen := &exchange{base: a.transport}
	backend := clerk.NewBackend(&clerk.BackendConfig{
		HTTPClient: &http.Client{
			Transport:     seen,
			Timeout:       a.cfg.RequestTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		URL: &a.cfg.APIURL,
		Key: &a.cfg.SecretKey,
	})
	request := clerk.NewAPIRequest(http.MethodGet, path)
	request.SetParams(params(query))
	var body rawBody
	err := backend.Call(ctx, request, &body)
	a.metrics.requests.WithLabelValues(endpoint, strconv.Itoa(seen.status)).Inc()
	failed := &apiError{endpoint: endpoint, status: seen.status}
	switch {
	case seen.status == 0:
		failed.err = err
		if wrapped := new(url.Error); errors.As(err, &wrapped) {
			failed.err = wrapped.Err // without the address, which names a user
		}
		return failed
	case seen.status != http.StatusOK:
		// err is the whole body if that is not Clerk's: it must not get out.
		if answered := new(clerk.APIErrorResponse); errors.As(err, &answered) {
			failed.describe(answered)
		}
		failed.retryAfter = retryAfter(seen.header)
		return failed
	case err == nil && len(body.raw) == 0:
		err = errors.New("empty answer")
	}
	date, dateErr := http.ParseTime(seen.header.Get("Date"))
	if dateErr != nil {
		err = errors.Join(err, errors.New("answer without a Date header, which tells Clerk's time"))
	}
	if err == nil {
		err = decode(body.raw, date)
	}
	if err != nil {
		failed.err = err
		return failed
	}
	return nil
}

// codePattern is what Clerk's error codes and trace ids look like; anything
// else stays out of logs.
var codePattern = regexp.MustCompile(`^[a-z0-9_]{1,64}$`)

func (e *apiError) describe(answered *clerk.APIErrorResponse) {
	if len(answered.Errors) > 0 && codePattern.MatchString(answered.Errors[0].Code) {
		e.code = answered.Errors[0].Code
	}
	if codePattern.MatchString(answered.TraceID) {
		e.trace = answered.TraceID
	}
}

// retryAfter is the wait that an answer of 429 asks for: seconds, says Clerk;
// without it the whole window.
func retryAfter(header http.Header) time.Duration {
	seconds, err := strconv.ParseInt(header.Get("Retry-After"), 10, 32)
	if err != nil || seconds < 0 {
		return window
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter)
}

// exchange is a transport for one request. It keeps what clerk-sdk-go loses
// when a gateway answers instead of Clerk: the status and the headers. And it
// bounds the body, which clerk-sdk-go reads whatever its size.
type exchange struct {
	base   http.RoundTripper
	status int // 0: no answer
	header http.Header
}

func (x *exchange) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := x.base.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	x.status, x.header = response.StatusCode, response.Header
	response.Body = http.MaxBytesReader(nil, response.Body, maxBodyBytes)
	return response, nil
}

// rawBody is an answer's body as it came: clerk-sdk-go's own types lack fields.
type rawBody struct{ raw json.RawMessage }

func (b *rawBody) Read(response *clerk.APIResponse) { b.raw = response.RawJSON }

// UnmarshalJSON is called after encoding/json has found the body to be JSON.
func (b *rawBody) UnmarshalJSON([]byte) error { return nil }

type params url.Values

func (p params) ToQuery() url.Values { return url.Values(p) }

func (p params) ToMultipart() ([]byte, string, error) {
	return nil, "", fmt.Errorf("multipart: %w", errors.ErrUnsupported)
}

// sleep waits for d, or returns why it did not.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
