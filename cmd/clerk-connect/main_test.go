package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"clerkconnect/cmd/internal/dev"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "clerk-connect")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(folder, "clerk-connect")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Stderr = os.Stderr
	code := 1
	if build.Run() == nil {
		code = m.Run()
	}
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// canary is part of every secret of these tests; nothing may print it.
const canary = "c4n4ryc4n4ryc4n4ryc4n4ry"

// run runs the program with nothing in its environment but env.
func run(t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // a loaded machine is slow
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append([]string{"PATH=/nowhere"}, env...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if strings.Contains(out.String()+problems.String(), canary) {
		t.Errorf("clerk-connect %s prints a secret:\n%s%s", args, out.String(), problems.String())
	}
	return out.String(), problems.String(), cmd.ProcessState.ExitCode()
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	used := filepath.Join(folder, "used")
	for _, test := range []struct {
		name string
		env  []string
		args []string
		code int
		want string // in what is printed
	}{
		{"help", nil, nil, exitOK, "clerk-connect dev"},
		{"version", nil, []string{"version"}, exitOK, "clerk-connect "},
		{"version by flag", nil, []string{"--version"}, exitOK, "clerk-connect "},
		{"reference", nil, []string{"config", "reference"}, exitOK, "`SINK_<NAME>_DSN`<br>`SINK_<NAME>_DSN_FILE`"},
		{"unknown command", nil, []string{"runn"}, exitConfiguration, "did you mean run?"},
		{"unknown command of a group", nil, []string{"sink", "statsu"}, exitConfiguration, "did you mean status?"},
		{"snapshot without a broker", []string{"KAFKA_BROKERS=127.0.0.1:1", "CLERK_SECRET_KEY=sk_test_" + canary}, []string{"snapshot"}, exitFailure, "reach Kafka at 127.0.0.1:1"},
		{"unknown flag", nil, []string{"dev", "--user"}, exitConfiguration, "see clerk-connect dev --help"},
		{"flags out of range", nil, []string{"dev", "--users", "-1", "-o", "xml"}, exitConfiguration, "--output is"},
		{"unknown role", nil, []string{"run", "--roles", "sender"}, exitConfiguration, "--roles has"},
		{"run without settings", nil, []string{"run"}, exitConfiguration, "KAFKA_BROKERS is not set"},
		{"all problems at once", nil, []string{"run"}, exitConfiguration, "SINKS is empty"},
		{"config with a bad secret", []string{"CLERK_SECRET_KEY=" + canary}, []string{"config"}, exitConfiguration, "CLERK_SECRET_KEY does not begin"},
		{"report without a period", nil, []string{"erasure", "report"}, exitConfiguration, "--since is missing"},
		{"report of a period that ends before it begins", nil, []string{"erasure", "report", "--since", "2026-11-02", "--until", "2026-11-01"}, exitConfiguration, "--until is not after --since"},
		{"report in an unknown form", nil, []string{"erasure", "report", "--since", "30d", "--format", "pdf"}, exitConfiguration, "--format is"},
		{"report into a file of an unknown form", nil, []string{"erasure", "report", "--since", "30d", "--write", filepath.Join(folder, "november.pdf")}, exitConfiguration, "ends in .html or .json"},
		{"a time that is none", nil, []string{"erasure", "list", "--since", "yesterday"}, exitConfiguration, "--since is \"yesterday\""},
		{"an e-mail address for an id", nil, []string{"erasure", "show", "jane@example.com"}, exitConfiguration, "not a Clerk user ID"},
		{"a user name for an id", nil, []string{"erasure", "request", "jane_doe", "--yes"}, exitConfiguration, "not a Clerk user ID"},
		{"a reason that names a person", nil, []string{"erasure", "request", "user_1", "--reason", "jane@example.com"}, exitConfiguration, "--reason cannot be kept"},
		{"waive without a sink", nil, []string{"erasure", "waive", "user_1"}, exitConfiguration, "--sink is missing"},
		{"reapply without a time", nil, []string{"erasure", "reapply", "postgres"}, exitConfiguration, "--since is missing"},
		{"the ledger needs Kafka alone", nil, []string{"erasure", "list"}, exitConfiguration, "has 1 problem(s):\n  - KAFKA_BROKERS is not set"},
		{"a deadline of nothing", []string{"KAFKA_BROKERS=kafka:9092", "ERASURE_DEADLINE=0s"}, []string{"erasure", "list"}, exitConfiguration, "ERASURE_DEADLINE is 0s"},
		{"init of a sink that is none", []string{"SINKS=sqlite,crm=mongodb"}, []string{"sink", "init", "postgres"}, exitConfiguration, "it has sqlite, crm"},
		{"init without a name", nil, []string{"sink", "init"}, exitConfiguration, "give the name of one sink"},
		{"init looks at its own sink alone", []string{"SINKS=crm=mongodb,postgres", "SINK_CRM_URI=mongodb://nowhere.invalid", "SINK_CRM_TABEL=x"}, []string{"sink", "init", "crm", "--dry-run"}, exitConfiguration, "has 2 problem(s):\n  - SINK_CRM_TABEL is not a setting"},
		{"init prints what it would do, and connects to nothing", []string{"SINKS=crm=mongodb,postgres", "SINK_CRM_URI=mongodb://u:" + canary + "@nowhere.invalid", "SINK_CRM_DATABASE=shop"}, []string{"sink", "init", "crm", "--dry-run"}, exitOK, `getSiblingDB("shop")`},
		{"real without keys", nil, []string{"dev", "--real", "--data-dir", used}, exitConfiguration, "CLERK_WEBHOOK_SIGNING_SECRET is not set"},
		{"simulated users to an outside Kafka", []string{"KAFKA_BROKERS=kafka:9092"}, []string{"dev", "--real", "--data-dir", used}, exitConfiguration, "simulated users never go to an outside Kafka"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, code := run(t, test.env, test.args...)
			if code != test.code {
				t.Errorf("exit code: got %d, want %d", code, test.code)
			}
			if !strings.Contains(stdout+stderr, test.want) {
				t.Errorf("got\n%s%s\nwant it to contain %q", stdout, stderr, test.want)
			}
		})
	}
}

// TestDev is the main job: one command fills the topic and the table, whatever
// the environment says, and the same command goes on from there.
func TestDev(t *testing.T) {
	t.Parallel()
	outside, connections := untouchable(t)
	env := []string{
		"KAFKA_BROKERS=" + outside, "CLERK_API_URL=http://" + outside + "/v1", "CLERK_SECRET_KEY=sk_live_" + canary,
		"CLERK_WEBHOOK_SIGNING_SECRET=whsec_" + canary, "SCHEMA_REGISTRY_URL=http://" + outside, "TOPIC_PREFIX=other",
		"SINKS=postgres", "SINK_POSTGRES_DSN=postgres://user:" + canary + "@" + outside + "/db",
	}
	args := []string{"dev", "--data-dir", filepath.Join(t.TempDir(), "data"), "--users", "300", "--rate", "40", "--for", "3s", "-o", "json"}

	first := summary(t, env, args...)
	if first.SnapshotRows < 300 {
		t.Errorf("first run: got %d rows of the snapshot, want 300 or more", first.SnapshotRows)
	}
	second := summary(t, env, args...)
	if second.SnapshotRows != 0 {
		t.Errorf("second run: got %d rows of a snapshot, want none: it goes on where the first has stopped", second.SnapshotRows)
	}
	for i, s := range []dev.Summary{first, second} {
		if !s.Converged || *s.UsersInClerk != s.UsersInTopic || s.UsersInTopic != s.RowsInTable || s.UsersInTopic == 0 {
			t.Errorf("run %d: users in Clerk, the topic and the table: got %d, %d, %d, converged %v", i+1, *s.UsersInClerk, s.UsersInTopic, s.RowsInTable, s.Converged)
		}
		if s.Deliveries < s.EventsCreated || s.EventsCreated == 0 {
			t.Errorf("run %d: got %d deliveries of %d events", i+1, s.Deliveries, s.EventsCreated)
		}
	}
	if *second.DeletedUsers < *first.DeletedUsers || second.UsersInTopic == first.UsersInTopic && second.Events["applied"] == 0 {
		t.Error("the second run did not go on with the instance of the first")
	}
	if n := connections.Load(); n != 0 {
		t.Errorf("dev without --real made %d connections to what the environment names", n)
	}
	_, stderr, code := run(t, []string{"CLERK_SECRET_KEY=sk_test_" + canary, "CLERK_WEBHOOK_SIGNING_SECRET=whsec_" + canary},
		"dev", "--real", "--data-dir", args[2])
	if code != exitFailure || !strings.Contains(stderr, "give another --data-dir") {
		t.Errorf("--real in a folder of simulated users: got exit code %d and %q, want a refusal", code, stderr)
	}
}

// TestDev_GoesOnAfterAKill: what was acknowledged is there after a
// kill at a random moment, and the rest comes again.
func TestDev_GoesOnAfterAKill(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	args := []string{"dev", "--data-dir", dir, "--users", "300", "--rate", "60", "-o", "json"}
	for range 2 {
		cmd := exec.Command(binary, args...)
		cmd.Env = []string{"PATH=/nowhere"}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond) // a moment under load, whichever
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	if s := summary(t, nil, append(args, "--for", "1s")...); !s.Converged || s.UsersInTopic == 0 {
		t.Errorf("after two kills: %+v", s)
	}
}

// TestDev_InterruptedInOrder: Ctrl-C drains and prints the summary.
func TestDev_InterruptedInOrder(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(binary, "dev", "--users", "100", "--rate", "40")
	cmd.Dir = t.TempDir() // the default folder is a relative one
	cmd.Env = []string{"PATH=/nowhere"}
	output := &watched{want: "Snapshot complete", seen: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-output.seen:
	case <-time.After(3 * time.Minute):
		t.Error("the snapshot did not end within three minutes")
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
	text := output.String()
	if !strings.Contains(text, "Converged: the topic equals Clerk") {
		t.Errorf("no word of convergence in:\n%s", text)
	}
	if first, _, _ := strings.Cut(text, "\n"); !strings.Contains(first, "a simulated Clerk") || !strings.Contains(first, "an embedded broker at 127.0.0.1:") {
		t.Errorf("the first line does not say what is used: %q", first)
	}
}

// TestSnapshot_IsTakenByTheRunningProcess: the command asks, the process that
// has the snapshot task does the walk, and the command sees its end.
func TestSnapshot_IsTakenByTheRunningProcess(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(binary, "dev", "--users", "100", "--rate", "0")
	cmd.Dir = t.TempDir()
	output := &watched{want: "Snapshot complete", seen: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	select {
	case <-output.seen:
	case <-time.After(3 * time.Minute):
		t.Fatal("the first snapshot did not end within three minutes")
	}
	broker := regexp.MustCompile(`an embedded broker at ([0-9.:]+);`).FindStringSubmatch(output.String())[1]
	stdout, stderr, code := run(t, []string{"KAFKA_BROKERS=" + broker, "CLERK_SECRET_KEY=sk_test_" + canary, "LOG_LEVEL=warn"}, "snapshot")
	if code != exitOK || !strings.Contains(stdout, "Snapshot complete: 100 users in ") {
		t.Errorf("snapshot: got exit code %d and %q, %q", code, stdout, stderr)
	}
}

// TestSnapshot_Interrupted: a script must not take an interrupted snapshot for
// a complete one. Clerk answers nothing here.
func TestSnapshot_Interrupted(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	cmd := exec.Command(binary, "snapshot")
	cmd.Env = []string{
		"KAFKA_BROKERS=" + cluster.ListenAddrs()[0], "CLERK_SECRET_KEY=sk_test_" + canary,
		"CLERK_API_URL=http://" + silent.Addr().String() + "/v1",
	}
	output := &watched{want: "the snapshot is not complete", seen: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	asked, err := silent.Accept() // of a request for the first page: the command is at work
	if err != nil {
		t.Fatal(err)
	}
	defer asked.Close()
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitFailure || !strings.Contains(output.String(), "the snapshot is not complete") {
		t.Errorf("got exit code %d and %q, want 1 and that the snapshot is not complete", code, output.String())
	}
}

// TestLedger_OfNoDeployment: a Kafka of somebody else's, or another prefix.
func TestLedger_OfNoDeployment(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	_, stderr, code := run(t, []string{"KAFKA_BROKERS=" + cluster.ListenAddrs()[0]}, "erasure", "list")
	if code != exitFailure || !strings.HasPrefix(stderr, "Error: there is no deployment with topics clerk.*") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("got exit code %d and %q, want 1 and one line that names the prefix", code, stderr)
	}
}

// TestTell_AnInterruptionHidesNothing: sink test may have to leave its user.
func TestTell_AnInterruptionHidesNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stderr bytes.Buffer
	if code := tell(ctx, errors.Join(context.Canceled, errors.New("remove user_x by hand")), &stderr); code != exitFailure || !strings.Contains(stderr.String(), "by hand") {
		t.Errorf("got exit code %d and %q, want 1 and what is to be done by hand", code, stderr.String())
	}
	stderr.Reset()
	if tell(ctx, errors.Join(context.Canceled, nil), &stderr); stderr.String() != "Interrupted.\n" {
		t.Errorf("got %q, want that it is interrupted and no more", stderr.String())
	}
}

// TestInterrupted: a script must not take what a signal has ended for done,
// unless it is what runs until then.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"run", "--roles", "sequencer"}, exitOK, "stopped"},
		{[]string{"erasure", "list"}, exitFailure, "Interrupted."},
		{[]string{"dlq", "replay", "postgres", "--yes"}, exitFailure, "Interrupted."},
		{[]string{"snapshot"}, exitFailure, "Interrupted."},
	} {
		t.Run(test.args[0], func(t *testing.T) {
			t.Parallel()
			silent, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer silent.Close()
			cmd := exec.Command(binary, test.args...)
			cmd.Env = []string{"KAFKA_BROKERS=" + silent.Addr().String(), "CLERK_SECRET_KEY=sk_test_" + canary, "ADMIN_ADDR=127.0.0.1:0"}
			var output bytes.Buffer
			cmd.Stdout, cmd.Stderr = &output, &output
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			asked, err := silent.Accept() // the command waits for a broker that says nothing
			if err != nil {
				t.Fatal(err)
			}
			defer asked.Close()
			_ = cmd.Process.Signal(os.Interrupt)
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != test.code || !strings.Contains(output.String(), test.want) {
				t.Errorf("got exit code %d and %q, want %d and %q", code, output.String(), test.code, test.want)
			}
		})
	}
}

// watched collects output and tells when it has seen a text. The child's two
// streams are one, so nothing else writes to it.
type watched struct {
	mu   sync.Mutex
	text bytes.Buffer
	want string
	seen chan struct{}
	done bool
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.text.Write(p)
	if !w.done && strings.Contains(w.text.String(), w.want) {
		w.done = true
		close(w.seen)
	}
	return n, err
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func summary(t *testing.T, env []string, args ...string) dev.Summary {
	t.Helper()
	stdout, stderr, code := run(t, env, args...)
	if code != exitOK {
		t.Fatalf("exit code %d:\n%s%s", code, stdout, stderr)
	}
	var s dev.Summary
	if err := json.Unmarshal([]byte(stdout), &s); err != nil {
		t.Fatalf("summary: %v in %q", err, stdout)
	}
	return s
}

// untouchable is an address that counts the connections made to it.
func untouchable(t *testing.T) (address string, connections *atomic.Int32) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	connections = new(atomic.Int32)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			_ = conn.Close()
		}
	}()
	return listener.Addr().String(), connections
}
