package e2e

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestRunbook_Names holds the pages for operators to the program: the metrics,
// with their labels, and the settings that they name are there.
func TestRunbook_Names(t *testing.T) {
	s := newStack(t, false, 10)
	p := s.start("all", "receiver,sequencer,snapshot,sinks", "")
	var scraped []byte
	eventually(t, patience, "ready, and Clerk asked for users", func() bool {
		response, err := http.Get("http://" + p.admin + "/metrics")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		scraped, err = io.ReadAll(response.Body)
		return err == nil && p.ready() && strings.Contains(string(scraped), "clerk_connect_clerk_requests_total{")
	})
	p.stop()
	reference, err := exec.Command(binary, "config", "reference").Output()
	if err != nil {
		t.Fatal(err)
	}
	metric := regexp.MustCompile("`(?:clerk_connect_)?((?:webhook|sequencer|snapshot|sink|clerk|rereads|erasure)_[a-z_]*[a-z])(?:\\{([a-z]+=\"[^\"]*\")\\})?`")
	setting := regexp.MustCompile("`((?:KAFKA|SCHEMA|TOPIC|CLERK|WEBHOOK|SNAPSHOT|POLICY|ERASURE|SINKS?|ADMIN|LOG|INSTANCE)_[A-Z_<>]*[A-Z])`")
	found := 0
	for _, page := range []string{"deployments/README.md", "DESIGN.md"} {
		text, err := os.ReadFile("../../" + page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range metric.FindAllStringSubmatch(string(text), -1) {
			found++
			sample := regexp.MustCompile(`(?m)^clerk_connect_` + m[1] + `(\{[^}]*` + regexp.QuoteMeta(m[2]) + `[^}]*\}| )`)
			if !sample.Match(scraped) {
				t.Errorf("%s names the metric %s, which no process has", page, m[0])
			}
		}
		for _, m := range setting.FindAllStringSubmatch(string(text), -1) {
			found++
			if !strings.Contains(string(reference), "`"+m[1]+"`") {
				t.Errorf("%s names the setting %s, which there is not", page, m[1])
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d names found in the pages", found)
	}
}

// TestReady_NotBeforeTheRoles: a process that has not made its roles yet is
// not ready, however well it reaches Kafka.
func TestReady_NotBeforeTheRoles(t *testing.T) {
	s := newStack(t, false, 10)
	p := s.start("all", "receiver,sequencer,snapshot,sinks", "")
	var answer string
	eventually(t, patience, "ready", func() bool {
		response, err := http.Get("http://" + p.admin + "/readyz")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		answer = string(text)
		return err == nil && response.StatusCode == http.StatusOK
	})
	for _, part := range []string{"kafka", "receiver", "sequencer", "snapshot", "sink_sqlite"} {
		if !strings.Contains(answer, `"`+part+`"`) {
			t.Errorf("ready without %s: %s", part, answer)
		}
	}
	p.stop()
}
