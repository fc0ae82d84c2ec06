package segment

import "testing"

// A workspace in the EU is never spoken to by way of the US.
func TestConfig_Regions(t *testing.T) {
	t.Parallel()
	for region, want := range map[Region][2]string{
		"": {"https://api.segment.io", "https://api.segmentapis.com"}, US: {"https://api.segment.io", "https://api.segmentapis.com"}, EU: {"https://events.eu1.segmentapis.com", "https://eu1.api.segmentapis.com"},
	} {
		c := Config{Region: region}.withDefaults()
		if got := [2]string{c.BaseURL, c.PublicBaseURL}; got != want {
			t.Errorf("%q: got %q, want %q", region, got, want)
		}
	}
}
