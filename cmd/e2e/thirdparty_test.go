package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"clerkconnect/schemas"
)

// TestThirdParty: a module that is not ours imports the seam, the contract and
// the runner, passes the contract with a sink of its own, and keeps its
// destination equal to Clerk beside a deployment of ours.
func TestThirdParty(t *testing.T) {
	t.Parallel()
	folder := thirdParty(t)
	if out, err := goCommand(folder, "vet", "./...").CombinedOutput(); err != nil {
		t.Fatalf("go vet: %v\n%s", err, out)
	}
	if out, err := goCommand(folder, "test", "./...").CombinedOutput(); err != nil {
		t.Fatalf("go test: %v\n%s", err, out)
	}
	roster := filepath.Join(folder, "roster-binary")
	if out, err := goCommand(folder, "build", "-o", roster, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}

	s := newStack(t, false, 50)
	p := s.start("one", all, "")
	file := filepath.Join(folder, "users.roster")
	log := &lockedBuffer{}
	cmd := exec.Command(roster, "-brokers", strings.Join(s.brokers, ","), "-prefix", s.topics.Prefix, "-partitions", fmt.Sprint(partitions), "-file", file)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	eventually(t, patience, "ready", p.ready)
	stop := s.load()
	time.Sleep(2 * time.Second) // of changes and deletions
	stop()
	s.settle(patience)
	want := s.readTopic()
	eventually(t, patience, "the roster equals the topic", func() bool { return reflect.DeepEqual(readRoster(t, file), want) })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the other program ended with %v:\n%s", err, tail(log.String()))
	}
	p.stop()
}

// thirdParty returns a copy of testdata/thirdparty that finds our sources, and
// whose dependencies are the ones that are here already.
func thirdParty(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS("testdata/thirdparty")); err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "go.sum"), sums, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := goCommand(folder, "mod", "edit", "-replace", "clerkconnect="+root).CombinedOutput(); err != nil {
		t.Fatalf("go mod edit: %v\n%s", err, out)
	}
	return folder
}

func goCommand(folder string, args ...string) *exec.Cmd {
	cmd := exec.Command("go", args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
	return cmd
}

func readRoster(t *testing.T, file string) map[string]row {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	rows := map[string]row{}
	for line := range strings.Lines(string(text)) {
		id, value, _ := strings.Cut(line, "\t")
		var entry struct{ User *schemas.User }
		if err := json.Unmarshal([]byte(value), &entry); err != nil {
			t.Fatal(err)
		}
		if entry.User != nil {
			rows[id] = rowOf(entry.User)
		}
	}
	return rows
}
