package salesforce

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"clerkconnect/sinks"
	"clerkconnect/sinks/rest"
)

// login keeps the access token. Safe for concurrent use.
type login struct {
	client *rest.Client
	cfg    Config

	mu       sync.Mutex
	token    string // "": none
	instance string // base URL that goes with it
}

func newLogin(cfg Config) (*login, error) {
	client, err := cfg.Client(rest.Config{
		// invalid_client and its kin come as 400 or 401: a person has to mend either.
		Classify: func(f rest.Failure) error {
			if f.Status == http.StatusBadRequest || f.Status == http.StatusUnauthorized {
				return sinks.Fatal(sinks.ReasonUnauthorized, f.Err())
			}
			return nil
		},
	})
	return &login{client: client, cfg: cfg}, err
}

// session returns the token and the base URL that goes with it, and logs in if
// there is none.
func (l *login) session(ctx context.Context) (token, instance string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token != "" {
		return l.token, l.instance, nil
	}
	answer, err := l.client.Do(ctx, rest.Request{
		Name: "log in", Method: http.MethodPost, Path: "/services/oauth2/token",
		Body: rest.Form{"grant_type": {"client_credentials"}, "client_id": {l.cfg.ClientID}, "client_secret": {l.cfg.ClientSecret}},
	})
	if err != nil {
		return "", "", err
	}
	var grant struct {
		AccessToken string `json:"access_token"`
		InstanceURL string `json:"instance_url"`
	}
	if err := answer.Decode(&grant); err != nil {
		return "", "", err
	}
	if grant.AccessToken == "" || rest.CheckBaseURL(grant.InstanceURL) != nil {
		return "", "", sinks.RetryAfter(sinks.ReasonUnavailable, 0, errors.New("log in: the answer has no token, or no address to use it at"))
	}
	l.token, l.instance = grant.AccessToken, grant.InstanceURL
	return l.token, l.instance, nil
}

// authorize is that of the client of records.
func (l *login) authorize(ctx context.Context, header http.Header) error {
	token, _, err := l.session(ctx)
	if err == nil {
		header.Set("Authorization", "Bearer "+token)
	}
	return err
}

// forget drops a token that has expired, unless another has logged in since.
func (l *login) forget(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token == token {
		l.token = ""
	}
}

// do makes a request where the org is kept, and once more after a new login if
// the token has expired.
func (s *Sink) do(ctx context.Context, r rest.Request) (rest.Answer, error) {
	for attempt := 1; ; attempt++ {
		token, instance, err := s.login.session(ctx)
		if err != nil {
			return rest.Answer{}, err
		}
		r.BaseURL = instance
		answer, err := s.client.Do(ctx, r)
		if answer.Status != http.StatusUnauthorized {
			return answer, err
		}
		s.login.forget(token)
		if attempt > 1 {
			return answer, err
		}
	}
}
