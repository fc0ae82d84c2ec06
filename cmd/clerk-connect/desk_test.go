package main

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/cmd/internal/config"
	"clerkconnect/cmd/internal/control"
	"clerkconnect/cmd/internal/ledger"
	"clerkconnect/connector"
	"clerkconnect/connector/topics"
	"clerkconnect/schemas"
	"clerkconnect/schemas/deadletters"
)

// testDesk is a desk of a deployment where nothing runs.
type testDesk struct {
	*desk
	t    *testing.T
	said *bytes.Buffer
}

func newTestDesk(t *testing.T, configured ...ledger.Sink) *testDesk {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	opts := []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}
	cfg := topics.Config{Prefix: "test", Partitions: 2, ReplicationFactor: -1, Create: true}
	names := make([]string, len(configured))
	for i, sink := range configured {
		names[i] = sink.Name
	}
	if _, err := topics.Ensure(t.Context(), opts, cfg, names, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(append(opts, connector.WriterOptions()...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	d := &testDesk{t: t, said: &bytes.Buffer{}}
	codec := &schemas.Codec{}
	d.desk = &desk{
		cfg: &config.Config{}, client: client, out: d.said, in: strings.NewReader("y\n"),
		writer: connector.NewWriter(client, codec, cfg.Names(), cfg.Partitions),
		Ledger: &ledger.Ledger{Client: opts, Codec: codec, Topics: cfg.Names(), Partitions: cfg.Partitions, Deadline: 28 * 24 * time.Hour, Sinks: configured},
	}
	return d
}

// command is one that was given to a person's shell.
func (d *testDesk) command() *cobra.Command {
	cmd := &cobra.Command{}
	cmd.SetContext(d.t.Context())
	cmd.SetErr(d.said)
	return cmd
}

// write writes a record about a user, and returns its offset.
func (d *testDesk) write(topic, id, key string, value any, headers ...string) int64 {
	d.t.Helper()
	r := &kgo.Record{Topic: topic, Partition: schemas.Partition(id, d.Partitions), Key: []byte(key)}
	for i := 0; i < len(headers); i += 2 {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: headers[i], Value: []byte(headers[i+1])})
	}
	if value != nil {
		var err error
		if r.Value, err = d.Codec.Encode(value); err != nil {
			d.t.Fatal(err)
		}
	}
	if err := d.client.ProduceSync(d.t.Context(), r).FirstErr(); err != nil {
		d.t.Fatal(err)
	}
	return r.Offset
}

// letter writes a dead letter of sink crm.
func (d *testDesk) letter(id string, version int64, headers ...string) int64 {
	d.t.Helper()
	change := &schemas.UserChange{ClerkID: id, Operation: schemas.ChangeUpdate, Epoch: 1, Version: version, Origin: schemas.OriginWebhook}
	change.User.FirstName = new("Ada")
	return d.write(d.Topics.DeadLetters("crm"), id, id, change, append([]string{
		schemas.HeaderEpoch, "1", schemas.HeaderVersion, strconv.FormatInt(version, 10), deadletters.HeaderSink, "crm",
		deadletters.HeaderClass, "permanent", deadletters.HeaderReason, "invalid_record", deadletters.HeaderOrigin, "test.users/0/" + strconv.FormatInt(version, 10),
	}, headers...)...)
}

func (d *testDesk) answer(id string, letter int64, answer deadletters.Answer) {
	d.t.Helper()
	d.write(d.Topics.DeadLetters("crm"), id, id, nil, deadletters.HeaderLetter, strconv.FormatInt(letter, 10), deadletters.HeaderAnswer, string(answer))
}

// erase writes an erasure as the sequencer does.
func (d *testDesk) erase(id string, version int64, asked time.Time, inferred bool) {
	d.t.Helper()
	d.write(d.Topics.Erasures(), id, id, &schemas.Erasure{
		ClerkID: id, Epoch: 1, Version: version, Origin: schemas.OriginWebhook, EventID: "msg_" + id, Inferred: inferred,
		RequestedAt: asked.UnixMilli(), SequencedAt: asked.UnixMilli(),
	})
}

func (d *testDesk) receipt(id string, done time.Time, waived bool) {
	d.t.Helper()
	r := &schemas.Receipt{ClerkID: id, Sink: "crm", Epoch: 1, Version: 7, Outcome: schemas.OutcomeDeleted, DoneAt: done.UnixMilli()}
	if waived {
		r.WaivedAt = new(done.UnixMilli())
	}
	d.write(d.Topics.ErasureReceipts(), id, schemas.ReceiptKey(id, "crm"), r)
}

// records counts what stands in all topics.
func (d *testDesk) records() (n int64) {
	d.t.Helper()
	ends, err := kadm.NewClient(d.client).ListEndOffsets(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) { n += o.Offset })
	return n
}

// states returns the states of the letters about each user, the oldest first.
func (d *testDesk) states() map[string]string {
	d.t.Helper()
	letters, err := d.letters(d.t.Context(), "crm")
	if err != nil {
		d.t.Fatal(err)
	}
	states := map[string]string{}
	for _, m := range letters {
		states[m.ClerkID] = strings.TrimSpace(states[m.ClerkID] + " " + m.state())
	}
	return states
}

func (d *testDesk) expectStates(when string, want map[string]string) {
	d.t.Helper()
	got := d.states()
	for id, state := range want {
		if got[id] != state {
			d.t.Errorf("%s: %s is %q, want %q", when, id, got[id], state)
		}
	}
}

// anyMail takes every letter.
func anyMail() mailFilter { return mailFilter{partition: -1, offset: -1} }

// atOnce does not ask and does not wait.
var atOnce = care{yes: true}

// TestReplay_Chooses: what is open is asked for, what was tried too often on
// demand alone, and what is answered or of an erased user never.
func TestReplay_Chooses(t *testing.T) {
	t.Parallel()
	d := newTestDesk(t, ledger.Sink{Name: "crm", Configured: true})
	now := time.Now()
	d.letter("user_open", 5)
	d.letter("user_parked", 5, deadletters.HeaderParked, "true", deadletters.HeaderReplays, "3")
	d.answer("user_closed", d.letter("user_closed", 5), deadletters.AnswerDiscarded)
	d.letter("user_erased", 5)
	d.erase("user_erased", 6, now, false)
	d.letter("user_final", 9) // whatever its version
	d.erase("user_final", 6, now, false)
	d.letter("user_inferred", 5)
	d.erase("user_inferred", 6, now, true)
	d.letter("user_revived", 7) // by a change after the erasure
	d.erase("user_revived", 6, now, true)
	d.letter("user_withdrawn", 5)
	d.erase("user_withdrawn", 6, now, true)
	d.write(d.Topics.Erasures(), "user_withdrawn", "user_withdrawn", nil)
	before := map[string]string{
		"user_open": "open", "user_parked": "parked", "user_closed": "discarded", "user_erased": "erased", "user_final": "erased",
		"user_inferred": "erased", "user_revived": "open", "user_withdrawn": "open",
	}
	d.expectStates("at first", before)
	if err := d.replay(d.command(), "crm", anyMail(), false, "", atOnce); err != nil {
		t.Fatal(err)
	}
	after := map[string]string{
		"user_open": "asked", "user_parked": "parked", "user_closed": "discarded", "user_erased": "erased", "user_final": "erased",
		"user_inferred": "erased", "user_revived": "asked", "user_withdrawn": "asked",
	}
	d.expectStates("after a replay", after)
	written := d.records()
	if err := d.replay(d.command(), "crm", anyMail(), false, "", atOnce); err != nil || d.records() != written {
		t.Errorf("again: got %v and %d words, want none", err, d.records()-written)
	}
	if err := d.replay(d.command(), "crm", anyMail(), true, "", atOnce); err != nil {
		t.Fatal(err)
	}
	after["user_parked"] = "asked"
	d.expectStates("with those that are parked", after)
	d.erase("user_open", 8, now, false)
	d.expectStates("erased after it was asked for", map[string]string{"user_open": "erased"})
}

// TestDiscard_Chooses: what is open and passes the filters is closed, and
// nothing else is.
func TestDiscard_Chooses(t *testing.T) {
	t.Parallel()
	d := newTestDesk(t, ledger.Sink{Name: "crm", Configured: true})
	d.letter("user_a", 5)
	d.letter("user_b", 5)
	d.answer("user_c", d.letter("user_c", 5), deadletters.AnswerApplied)
	one := anyMail()
	one.clerkID = "user_a"
	if err := d.discard(t.Context(), "crm", one, "a test user", atOnce); err != nil {
		t.Fatal(err)
	}
	d.expectStates("one user's", map[string]string{"user_a": "discarded", "user_b": "open", "user_c": "applied"})
	written := d.records()
	one.clerkID = "user_c"
	if err := d.discard(t.Context(), "crm", one, "", atOnce); err != nil || d.records() != written {
		t.Errorf("a closed one: got %v and %d words, want none", err, d.records()-written)
	}
}

// TestMailFilter: each filter leaves out what it is not for; the start of a
// period is part of it, the end is not.
func TestMailFilter(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)
	m := mail{Letter: &deadletters.Letter{
		ClerkID: "user_1", Reason: "conflict", Class: "retry", HeldBy: "user_2", Partition: 3, Offset: 17, GivenUpAt: at,
	}}
	moment := func(d time.Duration) string { return at.Add(d).Format(time.RFC3339) }
	for name, test := range map[string]struct {
		change func(*mailFilter)
		want   bool
	}{
		"none":                 {func(*mailFilter) {}, true},
		"reason":               {func(f *mailFilter) { f.reasons = []string{"too_large", "conflict"} }, true},
		"another reason":       {func(f *mailFilter) { f.reasons = []string{"too_large"} }, false},
		"class":                {func(f *mailFilter) { f.classes = []string{"retry"} }, true},
		"another class":        {func(f *mailFilter) { f.classes = []string{"permanent"} }, false},
		"since then":           {func(f *mailFilter) { f.since = moment(0) }, true},
		"since later":          {func(f *mailFilter) { f.since = moment(time.Second) }, false},
		"until then":           {func(f *mailFilter) { f.until = moment(0) }, false},
		"until later":          {func(f *mailFilter) { f.until = moment(time.Second) }, true},
		"user":                 {func(f *mailFilter) { f.clerkID = "user_1" }, true},
		"another user":         {func(f *mailFilter) { f.clerkID = "user_2" }, false},
		"held by":              {func(f *mailFilter) { f.heldBy = "user_2" }, true},
		"held by another":      {func(f *mailFilter) { f.heldBy = "user_1" }, false},
		"partition":            {func(f *mailFilter) { f.partition = 3 }, true},
		"another partition":    {func(f *mailFilter) { f.partition = 0 }, false},
		"place":                {func(f *mailFilter) { f.partition, f.offset = 3, 17 }, true},
		"another place":        {func(f *mailFilter) { f.partition, f.offset = 3, 0 }, false},
		"the first partition":  {func(f *mailFilter) { f.partition, f.offset = 0, 0 }, false},
		"reason, another user": {func(f *mailFilter) { f.reasons, f.clerkID = []string{"conflict"}, "user_2" }, false},
	} {
		f := anyMail()
		test.change(&f)
		if err := f.parse(at.Add(time.Hour)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := f.takes(m); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
		if name != "none" && f.empty() {
			t.Errorf("%s: counts as no filter, and discard would ask for --all", name)
		}
	}
	if none := anyMail(); !none.empty() {
		t.Error("no filter counts as one, and discard would not ask for --all")
	}
}

// TestShow_PersonalData: what a letter holds is printed on demand alone, in
// either form.
func TestShow_PersonalData(t *testing.T) {
	t.Parallel()
	d := newTestDesk(t, ledger.Sink{Name: "crm", Configured: true})
	d.letter("user_1", 5)
	letters, err := d.letters(t.Context(), "crm")
	if err != nil {
		t.Fatal(err)
	}
	for _, output := range []string{"text", "json"} {
		for _, personal := range []bool{false, true} {
			d.said.Reset()
			if err := d.show(d.command(), "crm", letters[0], personal, output); err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(d.said.String(), "Ada"); got != personal {
				t.Errorf("%s, --personal-data %v: got\n%s", output, personal, d.said)
			}
		}
	}
}

// TestFind_Place: a place in the dead-letter topic is one letter, an origin the
// latest of its record.
func TestFind_Place(t *testing.T) {
	t.Parallel()
	origin := deadletters.Origin{Topic: "test.users", Partition: 0, Offset: 5}
	letters := []mail{
		{Letter: &deadletters.Letter{Partition: 0, Offset: 1, Origin: origin}},
		{Letter: &deadletters.Letter{Partition: 1, Offset: 1, Origin: deadletters.Origin{Topic: "test.users", Partition: 1, Offset: 5}}},
		{Letter: &deadletters.Letter{Partition: 0, Offset: 2, Origin: origin}},
	}
	for text, want := range map[string]string{"0/1": "0/1", "1/1": "1/1", "test.users/0/5": "0/2", "test.users/1/5": "1/1", "0/5": "", "other/0/5": ""} {
		place, ok := deadletters.ParsePlace(text)
		if !ok {
			t.Fatalf("%s is no place", text)
		}
		got := ""
		if m, ok := find(letters, place); ok {
			got = m.place()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

// TestNothingIsDone has every command that changes something run dry, and
// without a person who could be asked: not a word is written.
func TestNothingIsDone(t *testing.T) {
	t.Parallel()
	d := newTestDesk(t, ledger.Sink{Name: "crm", Configured: true, EraseAfter: 72 * time.Hour})
	now := time.Now()
	d.letter("user_letter", 5)
	d.erase("user_held", 7, now, false)
	d.erase("user_waived", 7, now, false)
	d.receipt("user_waived", now, true)
	d.erase("user_done", 7, now, false)
	d.receipt("user_done", now, false)
	entry := func(id string) (ledger.Entry, ledger.SinkEntry) {
		e, found, _, err := d.Find(t.Context(), id, now)
		if err != nil || !found {
			t.Fatalf("%s: found %v, %v", id, found, err)
		}
		return e, e.Sinks[0]
	}
	held, heldBy := entry("user_held")
	waived, waivedBy := entry("user_waived")
	for name, do := range map[string]func(care) error{
		"replay":   func(c care) error { return d.replay(d.command(), "crm", anyMail(), true, "", c) },
		"discard":  func(c care) error { return d.discard(t.Context(), "crm", anyMail(), "", c) },
		"waive":    func(c care) error { return d.waive(d.command(), held, heldBy, c) },
		"unwaive":  func(c care) error { return d.unwaive(d.command(), waived, waivedBy, c) },
		"reapply":  func(c care) error { return d.reapply(t.Context(), "crm", now.Add(-time.Hour), c) },
		"request":  func(c care) error { return d.request(t.Context(), "user_new", "", false, c) },
		"finalize": func(c care) error { return d.request(t.Context(), "user_held", "", false, c) },
	} {
		before := d.records()
		if err := do(care{dryRun: true, yes: true}); err != nil {
			t.Errorf("%s --dry-run: %v", name, err)
		}
		err := do(care{})
		if asks := name != "finalize"; asks != (err != nil) { // which is final already
			t.Errorf("%s, and nobody to ask: got %v", name, err)
		}
		if n := d.records() - before; n != 0 {
			t.Errorf("%s wrote %d records, want none", name, n)
		}
	}
}

// TestReapply_Chooses: what was done since the time is owed again, that moment
// included; what was done before it, is waived or not done stays as it is.
func TestReapply_Chooses(t *testing.T) {
	t.Parallel()
	d := newTestDesk(t, ledger.Sink{Name: "crm", Configured: true})
	since := time.UnixMilli(1_800_000_000_000)
	for id, done := range map[string]time.Time{"user_before": since.Add(-time.Millisecond), "user_then": since, "user_after": since.Add(time.Hour)} {
		d.erase(id, 7, since.Add(-time.Hour), false)
		d.receipt(id, done, false)
	}
	d.erase("user_waived", 7, since, false)
	d.receipt("user_waived", since.Add(time.Hour), true)
	d.erase("user_owed", 7, since, false)
	if err := d.reapply(t.Context(), "crm", since, atOnce); err != nil {
		t.Fatal(err)
	}
	report, err := d.Report(t.Context(), ledger.Filter{}, since.Add(2*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]ledger.State{}
	for _, e := range report.Erasures {
		got[e.ClerkID] = e.Sinks[0].State
	}
	for id, want := range map[string]ledger.State{
		"user_before": ledger.StateDone, "user_then": ledger.StateOwed, "user_after": ledger.StateOwed,
		"user_waived": ledger.StateWaived, "user_owed": ledger.StateOwed,
	} {
		if got[id] != want {
			t.Errorf("%s: got %s, want %s", id, got[id], want)
		}
	}
	if len(report.Reapplied) != 1 || report.Reapplied[0].Erasures != 2 || !slices.Equal(report.Reapplied[0].Owed, []string{"user_owed"}) {
		t.Errorf("the word: got %+v", report.Reapplied)
	}
	if err := d.reapply(t.Context(), "crmm", since, atOnce); err == nil {
		t.Error("a sink that is none: got nil")
	}
}

// TestWaive_InTime: a sink's part can be waived while it is held back, not
// before a person could know and not when it is done or owed.
func TestWaive_InTime(t *testing.T) {
	t.Parallel()
	d := newTestDesk(t, ledger.Sink{Name: "crm", Configured: true, EraseAfter: time.Hour})
	now := time.Now()
	d.erase("user_held", 7, now, false)
	d.erase("user_owed", 7, now.Add(-2*time.Hour), false)
	d.erase("user_done", 7, now, false)
	d.receipt("user_done", now, false)
	for id, want := range map[string]ledger.State{"user_held": ledger.StateWaived, "user_owed": ledger.StateOwed, "user_done": ledger.StateDone} {
		e, err := d.find(d.command(), id)
		if err != nil {
			t.Fatal(err)
		}
		before := d.records()
		err = d.waive(d.command(), e, e.Sinks[0], atOnce)
		after, findErr := d.sinkEntry(d.command(), id, "crm")
		if findErr != nil {
			t.Fatal(findErr)
		}
		waives := want == ledger.StateWaived
		if (err == nil) != waives || after.State != want || (d.records() > before) != waives {
			t.Errorf("%s: got %v, state %s, %d records; want %s", id, err, after.State, d.records()-before, want)
		}
	}
	e, err := d.find(d.command(), "user_held")
	if err != nil {
		t.Fatal(err)
	}
	before := d.records()
	if err := d.waive(d.command(), e, e.Sinks[0], atOnce); err != nil || d.records() != before {
		t.Errorf("again: got %v and %d records, want none", err, d.records()-before)
	}
	if err := d.unwaive(d.command(), e, e.Sinks[0], atOnce); err != nil {
		t.Error(err)
	}
	if after, err := d.sinkEntry(d.command(), "user_held", "crm"); err != nil || after.State != ledger.StateHeld {
		t.Errorf("taken back: got %s, %v; want held", after.State, err)
	}
}

// TestPause_Followed: a sink that still erases, by an earlier word, has not
// followed a pause that stops erasures too, and the other way round.
func TestPause_Followed(t *testing.T) {
	t.Parallel()
	for _, keepErasing := range []bool{true, false} {
		d := newTestDesk(t, ledger.Sink{Name: "crm", Configured: true})
		for state, want := range map[string]bool{control.StatePaused: !keepErasing, control.StateErasing: keepErasing} {
			status := control.Status{At: time.Now().UnixMilli(), State: state}
			if err := d.writer.StoreState(t.Context(), connector.StateKeyStatusPrefix+"here/crm", status); err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			if !want { // it waits for longer than this
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 3*time.Second)
				defer cancel()
			}
			d.said.Reset()
			err := d.pause(ctx, "crm", connector.Pause{KeepErasing: keepErasing})
			if got := strings.Contains(d.said.String(), "followed"); got != want || (err == nil) != want {
				t.Errorf("keep erasing %v, a sink that is %s: got %v and\n%s\nwant it to have followed: %v", keepErasing, state, err, d.said, want)
			}
		}
	}
}
