package snapshot

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"clerkconnect/connector/clerksim"
)

// TestAsk: only Clerk's own word that there is no such user is believed; a
// person may erase somebody on the strength of it.
func TestAsk(t *testing.T) {
	t.Parallel()
	sim := newSim(t, clerksim.Config{Users: 3})
	there, gone := sim.UserIDs()[0], sim.UserIDs()[1]
	if err := sim.Delete(gone); err != nil {
		t.Fatal(err)
	}
	clerk := httptest.NewServer(sim.Handler())
	t.Cleanup(clerk.Close)
	gateway := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(gateway.Close)
	for _, test := range []struct {
		name, url, key, id string
		found, fails       bool
	}{
		{"there", clerk.URL + "/v1", sim.SecretKey(), there, true, false},
		{"gone", clerk.URL + "/v1", sim.SecretKey(), gone, false, false},
		{"a gateway that knows nothing", gateway.URL, sim.SecretKey(), gone, false, true},
		{"a key that is refused", clerk.URL + "/v1", "sk_test_wrong", there, false, true},
		{"no id", clerk.URL + "/v1", sim.SecretKey(), "../count", false, true},
	} {
		cfg := testConfig()
		cfg.APIURL, cfg.SecretKey = test.url, test.key
		answer, err := Ask(t.Context(), cfg, test.id, slog.New(slog.DiscardHandler))
		if answer.Found != test.found || (err != nil) != test.fails || test.found != (len(answer.User) > 0 && !answer.Date.IsZero()) {
			t.Errorf("%s: got found %v, %v", test.name, answer.Found, err)
		}
		if err != nil && strings.Contains(err.Error(), test.id) {
			t.Errorf("%s: the error names the user: %v", test.name, err)
		}
	}
}
