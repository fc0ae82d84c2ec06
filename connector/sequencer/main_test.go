package sequencer

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain gives the property tests more histories than rapid's 100, and finds
// goroutines that outlive their test.
func TestMain(m *testing.M) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "rapid.checks" })
	if !chosen {
		if err := flag.Set("rapid.checks", "2000"); err != nil {
			os.Exit(2)
		}
	}
	goleak.VerifyTestMain(m)
}
