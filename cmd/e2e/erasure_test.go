package e2e

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/cmd/internal/ledger"
	"clerkconnect/connector"
	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
)

// erasing is a deployment with a sink that erases at once and one that waits.
type erasing struct {
	*stack
	p *process
	// hold is ERASE_AFTER of the sink held: longer than any test, until the test
	// ends it with release.
	hold string
}

func newErasing(t *testing.T) *erasing {
	s := newStack(t, true, 40)
	e := &erasing{stack: s, hold: "1h"}
	s.settings = func(string) []string {
		return []string{"SINKS=" + s.sinks() + ",held=sqlite", "SINK_HELD_PATH=" + s.file("held"), "SINK_HELD_ERASE_AFTER=" + e.hold}
	}
	e.run()
	s.settle(patience)
	eventually(t, patience, "the sink held is filled", func() bool { return e.rows("held") == 40 })
	return e
}

const everyRole = "receiver,sequencer,snapshot,sinks"

func (e *erasing) run() {
	e.p = e.start("one", everyRole, "")
	eventually(e.t, patience, "ready", e.p.ready)
}

// release ends the hold of all that was asked for so far.
func (e *erasing) release() {
	e.p.stop()
	e.hold = "1ms"
	e.run()
}

func (s *stack) file(sink string) string {
	return filepath.Join(s.folder, map[string]string{"sqlite": "users", "held": "held"}[sink]+".db")
}

// query asks a database of SQLite; 0 if that is not there.
func (e *erasing) query(sink, statement string, args ...any) (n int) {
	db, err := sql.Open("sqlite", "file:"+e.file(sink)+"?mode=ro")
	if err != nil {
		e.t.Fatal(err)
	}
	defer db.Close()
	_ = db.QueryRow(statement, args...).Scan(&n)
	return n
}

func (e *erasing) rows(sink string) int { return e.query(sink, "SELECT count(*) FROM clerk_users") }

func (e *erasing) has(sink, id string) bool {
	return e.query(sink, "SELECT count(*) FROM clerk_users WHERE id = ?", id) == 1
}

// command runs clerk-connect as an operator does, and wants an exit code.
func (e *erasing) command(code int, args ...string) string {
	e.t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "KAFKA_BROKERS=" + strings.Join(e.brokers, ","), "TOPIC_PREFIX=" + e.topics.Prefix,
		"SINKS=sqlite,held=sqlite", "SINK_HELD_ERASE_AFTER=" + e.hold,
		"CLERK_SECRET_KEY=" + e.sim.SecretKey(), "CLERK_API_URL=" + e.api.URL + "/v1",
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		e.t.Fatal(err)
	}
	if cmd.ProcessState.ExitCode() != code {
		e.t.Fatalf("clerk-connect %s: exit code %d, want %d:\n%s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), code, out)
	}
	e.t.Logf("$ clerk-connect %s\n%s", strings.Join(args, " "), out)
	return string(out)
}

func (e *erasing) want(output string, parts ...string) {
	e.t.Helper()
	for _, part := range parts {
		if !strings.Contains(output, part) {
			e.t.Errorf("got %q, want it to contain %q", output, part)
		}
	}
}

// show returns what erasure show says, by sink; nil if no erasure stands.
func (e *erasing) show(id string) (ledger.Entry, map[string]ledger.SinkEntry) {
	e.t.Helper()
	cmd := exec.Command(binary, "erasure", "show", id, "-o", "json")
	cmd.Env = []string{
		"KAFKA_BROKERS=" + strings.Join(e.brokers, ","), "TOPIC_PREFIX=" + e.topics.Prefix,
		"SINKS=sqlite,held=sqlite", "SINK_HELD_ERASE_AFTER=" + e.hold,
	}
	out, err := cmd.Output()
	if err != nil {
		return ledger.Entry{}, nil
	}
	var entry ledger.Entry
	if err := json.Unmarshal(out, &entry); err != nil {
		e.t.Fatalf("%v in %s", err, out)
	}
	by := map[string]ledger.SinkEntry{}
	for _, s := range entry.Sinks {
		by[s.Sink] = s
	}
	return entry, by
}

func (e *erasing) becomes(id, sink string, state ledger.State) {
	e.t.Helper()
	eventually(e.t, patience, fmt.Sprintf("%s of %s is %s", id, sink, state), func() bool {
		_, sinks := e.show(id)
		return sinks[sink].State == state
	})
}

// TestErasure_Commands is what people do with the ledger: ask for an erasure,
// waive it for a sink that holds it back, and file a report.
func TestErasure_Commands(t *testing.T) {
	t.Parallel()
	e := newErasing(t)
	users := e.sim.UserIDs()
	asked, kept, present := users[3], users[4], users[5]
	var secret bytes.Buffer // what nobody may find in the ledger
	for _, id := range []string{asked, kept} {
		secret.Write(e.sim.Truth()[id])
	}
	e.sim.SetWebhookURL("") // deleted while nobody listens
	for _, id := range []string{asked, kept} {
		if err := e.sim.Delete(id); err != nil {
			t.Fatal(err)
		}
	}

	e.want(e.command(1, "erasure", "request", present, "--yes"), present+" is still at Clerk")
	e.want(e.command(2, "erasure", "request", asked), "give --yes")
	e.want(e.command(0, "erasure", "request", asked, "--dry-run"), "Clerk does not have "+asked, "held (after 1h)", "nothing was done")
	if _, sinks := e.show(asked); sinks != nil {
		t.Error("a dry run has written something")
	}
	for _, id := range []string{asked, kept} {
		e.want(e.command(0, "erasure", "request", id, "--yes", "--reason", "ticket DSR-118"), "Done: the erasure stands")
		if _, sinks := e.show(id); sinks["held"].State != ledger.StateHeld {
			t.Fatalf("held: got %+v", sinks["held"])
		}
	}
	e.want(e.command(0, "erasure", "waive", kept, "--sink", "held", "--yes"), "Done: held keeps the user")
	e.want(e.command(0, "erasure", "waive", kept, "--sink", "held", "--yes", "--undo"), "holds the erasure back until")
	e.want(e.command(0, "erasure", "waive", kept, "--sink", "held", "--yes"), "Done: held keeps the user")
	e.becomes(asked, "sqlite", ledger.StateConfirmed)
	e.becomes(kept, "sqlite", ledger.StateConfirmed)
	if e.has("sqlite", asked) || !e.has("held", asked) {
		t.Errorf("%s: in sqlite %v, in held %v, want only there", asked, e.has("sqlite", asked), e.has("held", asked))
	}
	e.release()
	e.becomes(asked, "held", ledger.StateConfirmed)
	if e.has("held", asked) || !e.has("held", kept) {
		t.Errorf("after the hold: %s is there: %v; %s, which was waived: %v", asked, e.has("held", asked), kept, e.has("held", kept))
	}
	e.want(e.command(1, "erasure", "waive", asked, "--sink", "held", "--yes"), "too late: held has erased")
	e.want(e.command(0, "erasure", "request", asked, "--yes"), "that is final")
	e.want(e.command(1, "erasure", "revoke", asked, "--yes"), "is final")
	e.want(e.command(0, "erasure", "waive", kept, "--sink", "held", "--yes", "--undo"), "Done: held has answered for all 1.")
	if e.has("held", kept) {
		t.Error("the waiver was taken back, and the user is still there")
	}

	page := filepath.Join(t.TempDir(), "report.html")
	e.want(e.command(0, "erasure", "report", "--since", "1h", "--write", page), "2 erasures, 2 complete (0 late)")
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	list := e.command(0, "erasure", "list", "--since", "1h", "-o", "json") + e.command(0, "erasure", "show", asked)
	e.want(string(text), asked, kept, "ticket DSR-118", e.topics.Prefix+".user-events", "15d")
	for _, word := range regexp.MustCompile(`"([^"]*@[^"]*)"`).FindAllStringSubmatch(secret.String(), -1) {
		if strings.Contains(string(text)+list, word[1]) {
			t.Errorf("the ledger shows %q", word[1])
		}
	}
	e.want(e.command(0, "erasure", "list", "--overdue"), "0 erasures")
}

// TestErasure_Reapply: a backup brings the erased back, and one command has
// them erased again.
func TestErasure_Reapply(t *testing.T) {
	t.Parallel()
	e := newErasing(t)
	erased := e.sim.UserIDs()[:3]
	e.p.stop()
	backup, err := os.ReadFile(e.file("sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	taken := time.Now()
	e.run()
	for _, id := range erased {
		if err := e.sim.Delete(id); err != nil {
			t.Fatal(err)
		}
	}
	e.settle(patience)
	for _, id := range erased {
		e.becomes(id, "sqlite", ledger.StateConfirmed)
	}
	e.p.stop()
	if err := errors.Join(os.Remove(e.file("sqlite")), os.WriteFile(e.file("sqlite"), backup, 0o600)); err != nil {
		t.Fatal(err)
	}
	since := taken.Format(time.RFC3339)
	e.want(e.command(1, "erasure", "reapply", "sqlite", "--since", since, "--yes", "--timeout", "2s"),
		"3 are not done yet", "no process runs sink sqlite")
	e.run()
	for _, id := range erased {
		eventually(t, patience, id+" is erased again", func() bool { return !e.has("sqlite", id) })
		e.becomes(id, "sqlite", ledger.StateConfirmed)
	}
	// And while the sink runs.
	e.want(e.command(0, "erasure", "reapply", "sqlite", "--since", since, "--yes"), "Done: sqlite has answered for all 3.")
	entry, sinks := e.show(erased[0])
	if sinks["sqlite"].Repeated == nil || entry.Late {
		t.Errorf("got %+v, late %v, want it marked as repeated", sinks["sqlite"], entry.Late)
	}
	if n := e.rows("sqlite"); n != 37 {
		t.Errorf("got %d rows, want 37", n)
	}
	e.want(e.command(0, "erasure", "reapply", "sqlite", "--since", time.Now().Add(time.Hour).Format(time.RFC3339), "--yes"), "has done 0 erasures")
}

// TestErasure_Revoke: an inferred deletion is taken back when Clerk shows the
// user again, and only then.
func TestErasure_Revoke(t *testing.T) {
	t.Parallel()
	e := newErasing(t)
	e.sim.SetWebhookURL("")
	back, gone := e.sim.UserIDs()[0], e.sim.UserIDs()[1]
	if err := e.sim.Delete(gone); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(append(e.opts, connector.WriterOptions()...)...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	writer := connector.NewWriter(client, &schemas.Codec{}, e.topics, partitions)
	for _, id := range []string{back, gone} {
		version, now := e.version(id), time.Now().UnixMilli()
		err := writer.Write(t.Context(), connector.SourceRecord{Event: &schemas.UserEvent{
			ClerkID: id, Operation: schemas.EventInferredDelete, Origin: schemas.OriginReconcile, EventID: "reconcile/" + id,
			StatedAt: now, OccurredAt: now, ReceivedAt: now, IfVersion: &version,
		}})
		if err != nil {
			t.Fatal(err)
		}
		e.becomes(id, "sqlite", ledger.StateConfirmed)
	}
	if e.has("sqlite", back) {
		t.Fatal("the inferred deletion was not applied")
	}
	e.want(e.command(1, "erasure", "revoke", gone, "--yes"), gone+" is not at Clerk: the erasure is right")
	e.want(e.command(0, "erasure", "revoke", back, "--yes"), "Done: the user is back")
	eventually(t, patience, "the user is back", func() bool { return e.has("sqlite", back) && e.has("held", back) })
	e.want(e.command(1, "erasure", "revoke", back, "--yes"), "an earlier one was taken back, after", "sqlite")
	e.want(e.command(0, "erasure", "request", gone, "--yes"), "becomes final")
	e.want(e.command(1, "erasure", "revoke", gone, "--yes"), "is final")
	e.settle(patience)
}

// version reads the version of a user's state in the topic.
func (e *erasing) version(id string) (version int64) {
	e.t.Helper()
	err := compacted.Read(e.t.Context(), e.opts, e.topics.Users(), schemas.Partition(id, partitions), func(r *kgo.Record) error {
		if string(r.Key) != id {
			return nil
		}
		headers, err := schemas.ParseChangeHeaders(r.Headers)
		version = headers.Version.Number
		return err
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return version
}

// TestErasure_NobodyRuns: commands say so, and what they wrote is done later;
// the ledger is measured without any sink.
func TestErasure_NobodyRuns(t *testing.T) {
	t.Parallel()
	e := newErasing(t)
	id := e.sim.UserIDs()[0]
	e.sim.SetWebhookURL("")
	if err := e.sim.Delete(id); err != nil {
		t.Fatal(err)
	}
	e.p.stop()
	e.want(e.command(1, "erasure", "request", id, "--yes", "--timeout", "2s"), "no process runs the sequencer", "will be done")
	alone := e.start("alone", "sequencer", "")
	eventually(t, patience, "the demand is taken up", func() bool { _, sinks := e.show(id); return sinks["sqlite"].State == ledger.StateOwed })
	alone.stop()
	alone = e.start("alone", "sequencer", "") // which looks at the ledger at once
	var metrics []byte
	open := regexp.MustCompile(`(?m)^clerk_connect_erasure_open\{sink="sqlite"\} 1$`)
	eventually(t, patience, "the process without sinks measures what they owe", func() bool {
		response, err := http.Get("http://" + alone.admin + "/metrics")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		metrics, err = io.ReadAll(response.Body)
		return err == nil && open.Match(metrics)
	})
	alone.stop()
	e.want(e.command(0, "erasure", "list", "--open", "--sink", "sqlite"), id, "0/1 sqlite owed")
}

// TestRetention_RefusesTheStart: a topic that keeps the erased for too long
// stops run before anything runs, whatever we once wished for it.
func TestRetention_RefusesTheStart(t *testing.T) {
	t.Parallel()
	s := newStack(t, true, 5)
	p := s.start("one", everyRole, "")
	eventually(t, patience, "ready", p.ready)
	p.stop()
	client, err := kgo.NewClient(s.opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	set := func(topic, name, value string) {
		t.Helper()
		answers, err := admin.AlterTopicConfigs(context.Background(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: name, Value: &value}}, topic)
		if err != nil || answers[0].Err != nil {
			t.Fatal(err, answers)
		}
		eventually(t, patience, "every broker knows of it", func() bool {
			described, err := admin.DescribeTopicConfigs(context.Background(), topic)
			return err == nil && slices.ContainsFunc(described[0].Configs, func(c kadm.Config) bool { return c.Key == name && c.MaybeValue() == value })
		})
	}
	set(s.topics.UserEvents(), "retention.ms", "-1")
	set(s.topics.SinkState("sqlite"), "max.compaction.lag.ms", "9223372036854775807")
	refused := s.start("one", everyRole, "")
	var exit *exec.ExitError
	if err := refused.wait(patience); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("got %v, want exit code 2", err)
	}
	for _, want := range []string{
		"2 problem(s)", s.topics.UserEvents() + " may keep an erased user for ever: retention.ms is -1",
		s.topics.SinkState("sqlite") + " may keep an erased user for ever",
	} {
		if !strings.Contains(refused.log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, tail(refused.log.String()))
		}
	}
}
