package e2e

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
)

// operated is a deployment as an operator looks after it: two processes run
// its sink.
type operated struct {
	*stack
	front *process
	sinks map[string]*process
}

func newOperated(t *testing.T) *operated {
	s := newStack(t, true, 20)
	s.schema = "" // SQLite alone
	s.settings = func(string) []string { return []string{"SINK_SQLITE_MAX_REPLAYS=2"} }
	o := &operated{stack: s, sinks: map[string]*process{}}
	o.front = s.start("front", "receiver,sequencer,snapshot", "")
	for _, name := range []string{"left", "right"} {
		o.sinks[name] = s.start(name, "sinks", "")
	}
	for _, p := range []*process{o.front, o.sinks["left"], o.sinks["right"]} {
		eventually(t, patience, "ready", p.ready)
	}
	s.settle(patience)
	return o
}

// command runs clerk-connect with the settings of an operator, who has no
// password of a destination, and wants an exit code.
func (o *operated) command(code int, args ...string) string {
	o.t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "KAFKA_BROKERS=" + strings.Join(o.brokers, ","), "TOPIC_PREFIX=" + o.topics.Prefix}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		o.t.Fatal(err)
	}
	o.t.Logf("$ clerk-connect %s\n%s", strings.Join(args, " "), out)
	if cmd.ProcessState.ExitCode() != code {
		o.t.Fatalf("clerk-connect %s: exit code %d, want %d", strings.Join(args, " "), cmd.ProcessState.ExitCode(), code)
	}
	return string(out)
}

func (o *operated) want(output string, parts ...string) {
	o.t.Helper()
	for _, part := range parts {
		if !strings.Contains(output, part) {
			o.t.Errorf("got\n%s\nwant it to contain %q", output, part)
		}
	}
}

func (o *operated) database() *sql.DB {
	db, err := sql.Open("sqlite", "file:"+o.folder+"/users.db?_pragma=busy_timeout(10000)")
	if err != nil {
		o.t.Fatal(err)
	}
	return db
}

func (o *operated) execute(statement string) {
	o.t.Helper()
	db := o.database()
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		o.t.Fatal(err)
	}
}

// refuse has the database refuse everybody of that name.
func (o *operated) refuse(name string) {
	for _, event := range []string{"INSERT", "UPDATE"} {
		o.execute(fmt.Sprintf(`CREATE TRIGGER refuse_%[1]s BEFORE %[1]s ON clerk_users WHEN NEW.first_name = '%[2]s' BEGIN SELECT RAISE(ABORT, 'refused'); END`, event, name))
	}
}

func (o *operated) mend() { o.execute("DROP TRIGGER refuse_INSERT; DROP TRIGGER refuse_UPDATE") }

// has reports whether the table has a row of a user.
func (o *operated) has(id string) (has bool) {
	o.t.Helper()
	db := o.database()
	defer db.Close()
	if err := db.QueryRow("SELECT EXISTS (SELECT 1 FROM clerk_users WHERE id = ?)", id).Scan(&has); err != nil {
		o.t.Fatal(err)
	}
	return has
}

// firstName is what the table holds of a user, "" if nothing: also of a user
// without a name, so it does not tell whether there is a row.
func (o *operated) firstName(id string) (name string) {
	db := o.database()
	defer db.Close()
	_ = db.QueryRow("SELECT first_name FROM clerk_users WHERE id = ?", id).Scan(&name)
	return name
}

func (o *operated) rename(id, first string) {
	o.t.Helper()
	if err := o.sim.SetProfile(id, first, "User", id+"@example.com"); err != nil {
		o.t.Fatal(err)
	}
	o.deliver()
}

// deliver sends the webhooks that are due.
func (o *operated) deliver() {
	o.t.Helper()
	if err := o.sim.Drain(o.t.Context()); err != nil {
		o.t.Fatal(err)
	}
}

// states returns the state of each letter about a user, the oldest first.
func (o *operated) states(id string) (states []string) {
	o.t.Helper()
	cmd := exec.Command(binary, "dlq", "list", "sqlite", "--all", "--clerk-id", id, "-o", "json")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "KAFKA_BROKERS=" + strings.Join(o.brokers, ","), "TOPIC_PREFIX=" + o.topics.Prefix}
	out, err := cmd.Output()
	var list struct {
		Letters []struct {
			State string `json:"state"`
		} `json:"letters"`
	}
	if err = errors.Join(err, json.Unmarshal(out, &list)); err != nil {
		o.t.Fatalf("dlq list: %v: %s", err, out)
	}
	for _, l := range list.Letters {
		states = append(states, l.State)
	}
	return states
}

func (o *operated) untilStates(id string, want ...string) {
	o.t.Helper()
	eventually(o.t, patience, fmt.Sprintf("letters about %s: %v", id, want), func() bool {
		return strings.Join(o.states(id), " ") == strings.Join(want, " ")
	})
}

// TestOperate_DeadLetters: poison, mended and tried again; what is newer and
// what is erased wins; too many replays park.
func TestOperate_DeadLetters(t *testing.T) {
	o := newOperated(t)
	ids := o.sim.UserIDs()
	mended, overtaken, erased, parked := ids[0], ids[1], ids[2], ids[3]
	o.refuse("Poison")
	for _, id := range []string{mended, overtaken, erased, parked} {
		o.rename(id, "Poison")
		o.untilStates(id, "open")
	}
	list := o.command(0, "dlq", "list", "sqlite", "--reason", "invalid_record", "--since", "1h")
	o.want(list, mended, "4 open")
	for line := range strings.Lines(list) {
		if len(line) > 81 {
			t.Errorf("a line of %d columns: %s", len(line)-1, line)
		}
	}
	place := strings.Fields(strings.Split(list, "\n")[1])[0]
	shown := o.command(0, "dlq", "show", "sqlite", place)
	if o.want(shown, "invalid_record", "refused by a trigger of clerk_users (refuse_INSERT, refuse_UPDATE): SQLite result code 1811", o.topics.Users()+"/"); strings.Contains(shown, "Poison") || strings.Contains(shown, "example.com") {
		t.Errorf("dlq show prints personal data that nobody asked for:\n%s", shown)
	}
	o.want(o.command(0, "dlq", "show", "sqlite", place, "--personal-data"), "Poison", "keep it out of tickets")

	// Something newer, and an erasure, close the letter by themselves.
	o.rename(overtaken, "Newer")
	o.untilStates(overtaken, "superseded")
	if err := o.sim.Delete(erased); err != nil {
		t.Fatal(err)
	}
	o.deliver()
	o.untilStates(erased, "erased")

	// In vain, twice: parked.
	o.want(o.command(1, "dlq", "replay", "sqlite", "--clerk-id", parked, "--yes"), "1 given up again")
	o.want(o.command(1, "dlq", "replay", "sqlite", "--clerk-id", parked, "--yes"), "1 given up again")
	o.untilStates(parked, "dead", "dead", "parked")
	o.want(o.command(0, "dlq", "replay", "sqlite", "--clerk-id", parked, "--yes"), "1 are parked", "Nothing to try again")

	o.mend()
	o.want(o.command(0, "dlq", "replay", "sqlite", "--dry-run"), "1 dead letter of sqlite to try again", "nothing was done")
	o.untilStates(mended, "open")
	o.want(o.command(0, "dlq", "replay", "sqlite", "--yes", "--note", "mended"), "1 applied, 0 superseded")
	if name := o.firstName(mended); name != "Poison" {
		t.Errorf("after the replay: first name %q", name)
	}
	if o.firstName(overtaken) != "Newer" || o.has(erased) {
		t.Errorf("overtaken %q, want Newer; the erased one is there: %v", o.firstName(overtaken), o.has(erased))
	}
	o.want(o.command(0, "dlq", "replay", "sqlite", "--parked", "--yes"), "1 applied")
	o.want(o.command(0, "dlq", "list", "sqlite"), "0 dead letters")
	o.settle(patience)
	o.want(o.command(2, "dlq", "discard", "sqlite"), "--all")
	o.want(o.command(2, "dlq", "replay", "sqlite", "--offset", "1"), "--partition")
	o.want(o.command(2, "dlq", "list", "nosuch"), "sqlite, webhook")
}

// garble sends a signed delivery that nobody can understand.
func (o *operated) garble(message, data string) {
	o.t.Helper()
	body := fmt.Appendf(nil, `{"object":"event","type":"user.updated","timestamp":%d,"instance_id":%q,"data":%s}`, time.Now().UnixMilli(), o.sim.InstanceID(), data)
	request, err := http.NewRequestWithContext(o.t.Context(), http.MethodPost, o.webhook, bytes.NewReader(body))
	if err != nil {
		o.t.Fatal(err)
	}
	request.Header = o.sim.Sign(message, body)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		o.t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		o.t.Fatalf("a delivery that cannot be understood: %s, want 200, since another attempt would be no better", answer.Status)
	}
}

// TestOperate_WebhookLetters: a webhook that could not be understood has its user
// read from Clerk again, and what names no user is left to a person.
func TestOperate_WebhookLetters(t *testing.T) {
	o := newOperated(t)
	id := o.sim.UserIDs()[0]
	o.garble("msg_garbled", fmt.Sprintf(`{"id":%q,"first_name":42}`, id))
	o.garble("msg_nameless", `{"first_name":"Nobody"}`)
	eventually(t, patience, "both given up", func() bool {
		return strings.Contains(o.command(0, "dlq", "list", "webhook"), "2 open")
	})
	o.want(o.command(0, "dlq", "list", "webhook", "--clerk-id", id), id, "1 dead letter of webhook: 1 open")
	// The receiver has asked for a re-read by itself. When that is over, Clerk
	// learns something of which no webhook comes.
	eventually(t, patience, "read again by itself", func() bool {
		return regexp.MustCompile(`clerk_connect_rereads_total\{[^}]*\} [1-9]`).Match(o.front.metrics())
	})
	if err := o.sim.SetProfile(id, "Reread", "User", id+"@example.com"); err != nil {
		t.Fatal(err)
	}
	o.want(o.command(0, "dlq", "replay", "webhook", "--dry-run"), "2 dead letters of webhook", "nothing was done")
	o.want(o.command(1, "dlq", "replay", "webhook", "--yes", "--note", "asked again"), "1 user asked for", "msg_nameless", "send it again", "some need a person")
	eventually(t, patience, "what Clerk says now is in the table", func() bool { return o.firstName(id) == "Reread" })
	list := o.command(0, "dlq", "list", "webhook")
	if o.want(list, "1 open"); strings.Contains(list, id) {
		t.Errorf("the letter of a user who is read again is still open:\n%s", list)
	}
	o.want(o.command(0, "dlq", "list", "webhook", "--all"), id, "reread")
	place := strings.Fields(strings.Split(list, "\n")[1])[0]
	o.want(o.command(0, "dlq", "show", "webhook", place), "msg_nameless", "missing_id")
	o.want(o.command(1, "dlq", "show", "webhook", place, "--personal-data"), "is not kept")
	partition, offset, _ := strings.Cut(place, "/")
	o.want(o.command(0, "dlq", "discard", "webhook", "--partition", partition, "--offset", offset, "--yes"), "Discarded")
	o.want(o.command(0, "dlq", "list", "webhook"), "0 dead letters")
	o.deliver()
	o.settle(patience)
}

// TestOperate_ReceiptLetters: a receipt of another sink that cannot be taken is a
// dead letter of the audit log, and shown as what it is.
func TestOperate_ReceiptLetters(t *testing.T) {
	s := newStack(t, false, 5)
	trail := s.auditTrail()
	s.settings = func(string) []string {
		return []string{"SINKS=sqlite,audit", "SINK_AUDIT_URL=" + trail.url, "SINK_AUDIT_SCHEMA=" + trail.schema}
	}
	s.schema = "" // the other sink is SQLite alone
	s.start("front", "receiver,sequencer,snapshot", "")
	p := s.start("sinks", "sinks", "")
	eventually(t, patience, "ready", p.ready)
	o := &operated{stack: s}
	value, err := (&schemas.Codec{}).Encode(&schemas.Receipt{ClerkID: "user_another", Sink: "crm", Epoch: 1, Version: 1, Outcome: schemas.OutcomeAnonymized})
	if err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	receipt := &kgo.Record{
		Topic: s.topics.ErasureReceipts(), Partition: schemas.Partition("user_one", partitions),
		Key: []byte(schemas.ReceiptKey("user_one", "crm")), Value: value,
	}
	if err := client.ProduceSync(t.Context(), receipt).FirstErr(); err != nil {
		t.Fatal(err)
	}
	var list string
	eventually(t, patience, "given up", func() bool {
		list = o.command(0, "dlq", "list", "audit")
		return strings.Contains(list, "1 open")
	})
	place := strings.Fields(strings.Split(list, "\n")[1])[0]
	shown := o.command(0, "dlq", "show", "audit", place)
	if o.want(shown, "user_one", s.topics.ErasureReceipts()+"/", "the value names another user", "shown with --personal-data"); strings.Contains(shown, "user_another") {
		t.Errorf("dlq show prints what the letter holds, and nobody asked for it:\n%s", shown)
	}
	o.want(o.command(0, "dlq", "show", "audit", place, "--personal-data"), "keep it out of tickets", "user_another", "ANONYMIZED")
	o.want(o.command(0, "dlq", "show", "audit", place, "--personal-data", "-o", "json"), "user_another", "ANONYMIZED")
}

// TestOperate_Pause: a pause holds in every process and over a restart, also
// with erasures, and nothing is lost; the status tells of two processes.
func TestOperate_Pause(t *testing.T) {
	o := newOperated(t)
	ids := o.sim.UserIDs()
	eventually(t, patience, "the status of both", func() bool {
		text := o.command(0, "sink", "status", "sqlite")
		return strings.Contains(text, "left: running") && strings.Contains(text, "right: running") &&
			strings.Contains(text, fmt.Sprintf("%d of %d owned, %d ready", partitions, partitions, partitions)) && strings.Contains(text, "0 records")
	})
	o.want(o.command(0, "sink", "pause", "sqlite", "--reason", "a migration"), "ERASURES WAIT", "All 2 processes have followed")
	before := o.firstName(ids[0])
	o.rename(ids[0], "Paused")
	if err := o.sim.Delete(ids[1]); err != nil {
		t.Fatal(err)
	}
	o.deliver()
	o.sinks["left"].stop() // an orderly end takes back what it has said
	o.sinks["left"] = o.start("left", "sinks", "")
	eventually(t, patience, "ready, though paused", o.sinks["left"].ready)
	eventually(t, patience, "lag in the status", func() bool {
		text := o.command(0, "sink", "status", "sqlite")
		return strings.Contains(text, "left: paused") && strings.Contains(text, "right: paused") && !strings.Contains(text, "lag           0 records") && strings.Contains(text, "a migration")
	})
	for line := range strings.Lines(o.command(0, "sink", "list")) {
		if strings.Contains(line, "sqlite  ") && (!strings.Contains(line, "paused") || len(line) > 81) {
			t.Errorf("sink list: %q", line)
		}
	}
	if name := o.firstName(ids[0]); name != before || !o.has(ids[1]) {
		t.Errorf("the table moved while the sink was paused: %q, want %q; the deleted one is there: %v", name, before, o.has(ids[1]))
	}
	o.want(o.command(0, "sink", "pause", "sqlite", "--keep-erasing"), "Erasures go on")
	eventually(t, patience, "erased, though paused", func() bool { return !o.has(ids[1]) })
	if o.firstName(ids[0]) != before {
		t.Error("a change was applied while only erasures were to go on")
	}
	o.want(o.command(0, "sink", "resume", "sqlite"), "goes on", "followed")
	o.settle(patience)
	if o.firstName(ids[0]) != "Paused" {
		t.Errorf("after the pause: %q", o.firstName(ids[0]))
	}
	o.want(o.command(0, "sink", "restart", "sqlite"), "Asked for")
	eventually(t, patience, "opened anew", func() bool { return strings.Contains(o.sinks["right"].log.String(), "sink is to be opened anew") })
	o.sinks["right"].stop()
	o.sinks["left"].signal(syscall.SIGKILL)
	text := o.command(0, "sink", "status", "sqlite")
	if o.want(text, "left: running"); strings.Contains(text, "right:") { // its end cannot be told yet; right has taken back its word
		t.Errorf("a process that has stopped in order is still told of:\n%s", text)
	}
	o.want(o.command(2, "sink", "pause", "nosuch"), "there is no sink")
}
