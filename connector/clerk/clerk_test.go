package clerk_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"clerkconnect/connector/clerk"
)

// shared returns a file of the folder that CLERK_CONNECT_SHARED names, by
// default ../shared beside the repository. Without it the test is skipped,
// except where CI=true.
func shared(t testing.TB, elements ...string) string {
	t.Helper()
	root := os.Getenv("CLERK_CONNECT_SHARED")
	if root == "" {
		_, file, _, _ := runtime.Caller(0)
		root = filepath.Join(filepath.Dir(file), "..", "..", "..", "shared")
	}
	path := filepath.Join(append([]string{root}, elements...)...)
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("fixtures are missing: %v; set CLERK_CONNECT_SHARED", err)
		}
		t.Skipf("fixtures are missing: %v; set CLERK_CONNECT_SHARED to run this test", err)
	}
	return path
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(shared(t, "fixtures", name))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func policy(t testing.TB, include ...string) *clerk.Policy {
	t.Helper()
	p, err := clerk.NewPolicy(clerk.PolicyConfig{Include: include})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var receivedAt = time.UnixMilli(1_764_300_000_000)

func TestSmoke(t *testing.T) {
	names, _ := filepath.Glob(shared(t, "fixtures") + "/*.json")
	for _, path := range names {
		name := filepath.Base(path)
		if strings.Contains(name, "v1_") || strings.Contains(name, "bapi") {
			continue
		}
		env, err := clerk.DecodeEnvelope(fixture(t, name))
		if err != nil {
			t.Fatal(err)
		}
		event, err := policy(t, clerk.FieldNames()...).Event(env, "msg_1", receivedAt)
		text, _ := json.Marshal(event)
		t.Log(name, clerk.IsSample(env), err, string(text))
	}
	_, err := clerk.NewPolicy(clerk.PolicyConfig{Include: []string{"phone", "emial_addresses", "profile_image_url", "metadata", "zzzzzzzz", "Banned"}, Exclude: []string{"id", "updated_at", "sacm"}})
	t.Log(err)
}
