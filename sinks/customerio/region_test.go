package customerio

import "testing"

// A workspace in the EU is never spoken to by way of the US.
func TestConfig_Regions(t *testing.T) {
	t.Parallel()
	for region, want := range map[Region][2]string{
		"": {"https://track.customer.io", "https://api.customer.io"}, US: {"https://track.customer.io", "https://api.customer.io"}, EU: {"https://track-eu.customer.io", "https://api-eu.customer.io"},
	} {
		c := Config{Region: region}.withDefaults()
		if got := [2]string{c.BaseURL, c.AppBaseURL}; got != want {
			t.Errorf("%q: got %q, want %q", region, got, want)
		}
	}
}
