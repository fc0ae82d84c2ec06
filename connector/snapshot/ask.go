package snapshot

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"clerkconnect/connector/throttle"
)

// askAttempts bounds a question that a person waits for: a few seconds.
const askAttempts = 3

// Answer is what Clerk says of one user.
type Answer struct {
	// Found is false only if Clerk itself says that there is no such user.
	Found bool
	// User is Clerk's user object, minimised by nothing: for the policy alone.
	User json.RawMessage
	// Date is Clerk's clock.
	Date time.Time
}

// Ask reads one user by id, for a person's command. It tries a few times. No
// error quotes the user or the id.
func Ask(ctx context.Context, cfg Config, clerkID string, log *slog.Logger) (Answer, error) {
	cfg.MaxAttempts = askAttempts
	if err := cfg.Validate(); err != nil {
		return Answer{}, err
	}
	if !userID.MatchString(clerkID) {
		return Answer{}, fmt.Errorf("ask Clerk: %s: not the id of a user", endpointUser)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	a := &api{cfg: cfg, transport: transport, limiter: cfg.limiter(), metrics: newMetrics(nil), log: log, retryWait: firstRetryWait,
		warnings: throttle.New(slog.New(slog.DiscardHandler))} // a person is told of the last failure
	raw, date, found, err := a.user(ctx, clerkID)
	if err != nil {
		return Answer{}, fmt.Errorf("ask Clerk: %w", err)
	}
	return Answer{Found: found, User: raw, Date: date}, nil
}
