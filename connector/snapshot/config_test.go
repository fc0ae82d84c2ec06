package snapshot

import (
	"strings"
	"testing"
)

func TestConfig_ValidateNamesEveryVariable(t *testing.T) {
	t.Parallel()
	if err := testConfig().Validate(); err != nil {
		t.Errorf("Validate: got %v, want nil", err)
	}
	err := Config{SecretKey: "pk_live_oops", APIURL: "api.clerk.com", RateShare: 1.5}.Validate()
	for _, name := range []string{"CLERK_SECRET_KEY", "CLERK_API_URL", "CLERK_RATE_SHARE", "SNAPSHOT_PAGE_SIZE", "SNAPSHOT_REQUEST_TIMEOUT", "SNAPSHOT_MAX_ATTEMPTS", "SNAPSHOT_RETRY_PAUSE"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Validate: got %v, want it to name %s", err, name)
		}
	}
	if strings.Contains(err.Error(), "oops") {
		t.Errorf("Validate: got %v, want it not to hold the key", err)
	}
}

// TestConfig_LimiterKeepsToTheShare adds up what any window of 10 s may hold.
func TestConfig_LimiterKeepsToTheShare(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		key   string
		share float64
		most  float64
	}{{"sk_test_x", 0.5, 50}, {"sk_test_x", 1, 100}, {"sk_live_x", 0.5, 500}, {"sk_live_x", 0.1, 100}} {
		cfg := testConfig()
		cfg.SecretKey, cfg.RateShare = test.key, test.share
		limiter := cfg.limiter()
		got := float64(limiter.Limit())*window.Seconds() + float64(limiter.Burst())
		if got > test.most+1e-6 || got < 0.9*test.most {
			t.Errorf("%s at %v: got up to %v requests in 10 s, want nearly %v and not more", test.key, test.share, got, test.most)
		}
	}
}
