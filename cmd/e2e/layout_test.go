package e2e

import (
	"os/exec"
	"strings"
	"testing"
)

// TestDependencyRule holds the one rule of the layout (DESIGN, "Layout").
func TestDependencyRule(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "clerkconnect/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		imports := strings.Fields(line)
		from := imports[0]
		for _, to := range imports[1:] {
			if strings.HasPrefix(to, "clerkconnect/") && !allowed(from, to) {
				t.Errorf("%s imports %s", from, to)
			}
			if strings.HasPrefix(to, "github.com/hamba/avro") && from != "clerkconnect/schemas" {
				t.Errorf("%s imports %s: only schemas may", from, to)
			}
		}
	}
}

func allowed(from, to string) bool {
	under := func(path, folder string) bool {
		return path == "clerkconnect/"+folder || strings.HasPrefix(path, "clerkconnect/"+folder+"/")
	}
	switch {
	case under(from, "schemas"):
		return under(to, "schemas")
	case under(from, "connector/clerksim"):
		return under(to, "schemas")
	case under(from, "connector"):
		return under(to, "schemas") || under(to, "connector") && !under(to, "connector/clerksim")
	case from == "clerkconnect/sinks":
		return under(to, "schemas")
	case under(from, "sinks/mapping"):
		return under(to, "schemas")
	case under(from, "sinks/rest"):
		return to == "clerkconnect/sinks" || under(to, "schemas")
	case under(from, "sinks/contact"):
		return under(to, "schemas") || to == "clerkconnect/sinks" || under(to, "sinks/mapping") || under(to, "sinks/rest")
	case under(from, "sinks/resttest"): // for tests
		return false
	case under(from, "sinks/runner/storm"): // for tests
		return under(to, "schemas") || to == "clerkconnect/sinks" || under(to, "sinks/runner") || under(to, "sinks/resttest") || under(to, "sinks/sinktest")
	case under(from, "sinks/usertable/usertabletest"): // for tests
		return under(to, "schemas") || to == "clerkconnect/sinks" || under(to, "sinks/usertable") || under(to, "sinks/sinktest")
	case under(from, "sinks/sinktest"), under(from, "sinks/runner"):
		return under(to, "schemas") || to == "clerkconnect/sinks"
	case under(from, "sinks"): // a sink, or what the SQL sinks share
		return under(to, "schemas") || to == "clerkconnect/sinks" || under(to, "sinks/usertable") || under(to, "sinks/mapping") ||
			under(to, "sinks/contact") || under(to, "sinks/rest")
	}
	return under(from, "cmd")
}
