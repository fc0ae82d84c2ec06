package audit

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
)

// TestLog_TellsWhatHappened is the life of one user.
func TestLog_TellsWhatHappened(t *testing.T) {
	everywhere(t, func(t *testing.T, b bed) {
		s := b.open(t)
		at := time.UnixMilli(1_800_000_000_123)
		s.now = func() time.Time { return at }
		waived := receipt("user_1", "crm", 9, schemas.OutcomeNotPresent, 0)
		waived.Receipt.WaivedAt = new(int64(1_700_000_011_000))
		deliver(t, s,
			change("user_1", 1, schemas.ChangeCreate, "Ada"),
			change("user_1", 2, schemas.ChangeUpdate, "Grace"),
			change("user_1", 3, schemas.ChangeUpdate, "Grace"),
			erase("user_1", 9),
			receipt("user_1", "postgres", 9, schemas.OutcomeAnonymized, 0),
			receipt("user_1", "postgres", 9, schemas.OutcomeAnonymized, 1_700_000_012_000),
			receipt("user_1", "sqlite", 9, schemas.OutcomeDeleted, 1_700_000_012_000),
			waived,
		)
		rows := b.rows(t)
		want := []string{
			"user_1/7/9/USER_ANONYMIZED/postgres/1700000010000",
			"user_1/7/9/USER_ERASURE_CONFIRMED/postgres/1700000012000",
			"user_1/7/9/USER_HARD_DELETED/sqlite/1700000010000",
			"user_1/7/9/USER_ERASURE_CONFIRMED/sqlite/1700000012000",
			"user_1/7/9/USER_ERASURE_WAIVED/crm/1700000011000",
			"user_1/7/1/USER_CREATED", "user_1/7/2/USER_UPDATED", "user_1/7/3/USER_UPDATED", "user_1/7/9/USER_DELETION_REQUESTED",
		}
		if got := entriesOf(rows); !slices.Equal(got, want) {
			t.Fatalf("entries: got %q, want %q", got, want)
		}
		first, said, done := rows[5].Row, rows[8].Row, rows[0].Row
		wanted := Row{
			Chain: "users-3", Seq: 1, Format: 1, Entry: "user_1/7/1/USER_CREATED", RecordedAt: at.UnixMilli(), Action: ActionCreated,
			ClerkID: "user_1", Epoch: 7, Version: 1, EventID: new("msg_1"), EventType: new("user.updated"), Origin: new("WEBHOOK"),
			InstanceID: new("ins_1"), TopicOffset: new(int64(101)), OccurredAt: new(int64(1_700_000_000_001)),
			ReceivedAt: new(int64(1_700_000_001_001)), SequencedAt: new(int64(1_700_000_002_001)),
			ChangedFields: new("first_name,primary_email_address"), PolicyHash: new("p1"), ClientHash: first.ClientHash, PrevHash: genesis,
		}
		wanted.Hash = wanted.Digest()
		if first.ClientHash == nil || first.Hash != wanted.Hash {
			t.Errorf("first row: got %+v, want %+v", first, wanted)
		}
		for i, want := range map[int]string{6: "first_name", 7: ""} {
			if got := rows[i].ChangedFields; got == nil || *got != want {
				t.Errorf("changed fields of row %d: got %v, want %q", i, got, want)
			}
		}
		if *said.OccurredAt != 1_700_000_009_000 || *said.EventID != "msg_9" || said.ChangedFields != nil || said.ClientHash != nil {
			t.Errorf("demand: got %+v", said)
		}
		if done.Chain != "receipts-3" || *done.Sink != "postgres" || *done.Reason != "rows of orders refer to it" || *done.OccurredAt != 1_700_000_010_000 {
			t.Errorf("receipt: got %+v", done)
		}
		if report := b.mustBeIntact(t); report.Rows != 9 || report.ClientsRemoved != 3 || len(report.Heads) != 2 {
			t.Errorf("report: got %+v, want 9 rows in 2 chains, the clients of 3 removed", report)
		}
	})
}

// TestLog_TakesEachOnce: whatever is delivered again, by whichever process, one
// row says it.
func TestLog_TakesEachOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, b bed) {
		batch := func() []sinks.Record {
			debt := erase("user_2", 5)
			debt.Source = sinks.Source{Partition: 3, Offset: -1} // comes as no record
			return []sinks.Record{
				change("user_1", 1, schemas.ChangeSnapshot, "Ada"), change("user_1", 1, schemas.ChangeSnapshot, "Ada"), erase("user_2", 5), debt,
				receipt("user_2", "postgres", 5, schemas.OutcomeDeleted, 0), receipt("user_2", "postgres", 5, schemas.OutcomeDeleted, 1_700_000_012_000),
			}
		}
		first, second := b.open(t), b.open(t)
		for _, s := range []*Sink{first, second, first} {
			sinktest.MustApply(t, s, batch()...)
		}
		again := receipt("user_2", "postgres", 5, schemas.OutcomeDeleted, 0) // after a restore of the database
		again.Receipt.DoneAt++
		sinktest.MustApply(t, second, again)
		want := []string{
			"user_2/7/5/USER_HARD_DELETED/postgres/1700000010000", "user_2/7/5/USER_ERASURE_CONFIRMED/postgres/1700000012000",
			"user_2/7/5/USER_HARD_DELETED/postgres/1700000010001", "user_1/7/1/USER_SNAPSHOT", "user_2/7/5/USER_DELETION_REQUESTED",
		}
		if got := entriesOf(b.rows(t)); !slices.Equal(got, want) {
			t.Errorf("entries: got %q, want %q", got, want)
		}
		b.mustBeIntact(t)
	})
}

// TestLog_ErasureRemovesPersonalData, and nothing brings it back: not the
// change delivered again, not one that a paused process has in its hand.
func TestLog_ErasureRemovesPersonalData(t *testing.T) {
	everywhere(t, func(t *testing.T, b bed) {
		zombie, owner := b.open(t), b.open(t)
		sinktest.MustApply(t, zombie, change("user_1", 1, schemas.ChangeCreate, canary), change("user_2", 1, schemas.ChangeCreate, "kept"))
		if !bytes.Contains(b.hands.dump(t), []byte(canary)) {
			t.Fatal("the dump does not show what is there")
		}
		if keys, err := owner.Keys(t.Context(), "", 10); err != nil || !slices.Equal(keys, []string{"user_1", "user_2"}) {
			t.Errorf("Keys: got %q, %v", keys, err)
		}
		erased := erase("user_1", 5)
		sinktest.MustApply(t, owner, erased, erase("user_2", 6))
		if got := erased.Result(); got.Outcome != schemas.OutcomeAnonymized || got.Reason == "" {
			t.Errorf("result of the erasure: got %+v, want anonymized, with the reason", got)
		}
		late := change("user_1", 2, schemas.ChangeUpdate, canary)
		sinktest.MustApply(t, zombie, late, change("user_1", 1, schemas.ChangeCreate, canary))
		never := change("user_1", 9, schemas.ChangeUpdate, canary) // Clerk uses no ID again: whatever says so, it is not to be believed
		sinktest.MustApply(t, zombie, never)
		if got := never.Result(); got.Remembered || !got.Superseded {
			t.Errorf("result of a change behind a final erasure: got %+v, want superseded, and nothing remembered", got)
		}
		if got := late.Result(); got.Remembered || !got.Superseded {
			t.Errorf("result of a late change: got %+v, want superseded, and nothing remembered", got)
		}
		if bytes.Contains(b.hands.dump(t), []byte(canary)) {
			t.Error("personal data of an erased user are still there")
		}
		if gone, err := owner.Confirm(t.Context(), "user_1", nil); err != nil || !gone {
			t.Errorf("Confirm: got %v, %v, want true", gone, err)
		}
		if report := b.mustBeIntact(t); report.Rows != 6 || report.ClientsRemoved != 2 {
			t.Errorf("report: got %+v, want 6 rows, the clients of 2 removed", report)
		}
	})
}

// TestLog_InferredDeletion may be taken back: what came after it stays.
func TestLog_InferredDeletion(t *testing.T) {
	everywhere(t, func(t *testing.T, b bed) {
		s := b.open(t)
		sinktest.MustApply(t, s, change("user_1", 1, schemas.ChangeCreate, "Ada"))
		sinktest.MustApply(t, s, infer("user_1", 2))
		back := change("user_1", 3, schemas.ChangeUpdate, "Ada")
		sinktest.MustApply(t, s, back)
		withdrawn := infer("user_1", 2)
		sinktest.MustApply(t, s, withdrawn)
		if got := withdrawn.Result(); !got.Superseded || got.Outcome != "" {
			t.Errorf("result of a withdrawn deletion: got %+v, want superseded", got)
		}
		if got := back.Result(); got.Superseded || !got.Remembered {
			t.Errorf("result of the change that revives: got %+v", got)
		}
		rows := b.rows(t)
		if got := entriesOf(rows); !slices.Equal(got, []string{"user_1/7/1/USER_CREATED", "user_1/7/2/USER_DELETION_INFERRED", "user_1/7/3/USER_UPDATED"}) {
			t.Errorf("entries: got %q", got)
		}
		if rows[0].client != nil || rows[2].client == nil {
			t.Error("client data: want those before the deletion removed and those after it kept")
		}
		b.mustBeIntact(t)
	})
}

// TestLog_NeverForks: a process that was paused between reading the end of a
// chain and writing behind it is refused, and goes on behind the other.
func TestLog_NeverForks(t *testing.T) {
	for name, at := range map[string]paused{"having read the end": {}, "about to write": {looked: true}} {
		t.Run(name, func(t *testing.T) { neverForks(t, at) })
	}
}

func neverForks(t *testing.T, at paused) {
	everywhere(t, func(t *testing.T, b bed) {
		if strings.HasPrefix(b.cfg.URL, "sqlite") {
			t.Skip("SQLite has one writer at a time: the other cannot even begin")
		}
		zombie, owner := b.open(t), b.open(t)
		sinktest.MustApply(t, zombie, change("user_1", 1, schemas.ChangeCreate, canary))
		once := false
		zombie.between = func(here paused) {
			if !once && here == at {
				once = true
				sinktest.MustApply(t, owner, erase("user_2", 9), change("user_1", 2, schemas.ChangeUpdate, "Ada"))
			}
		}
		late := []sinks.Record{change("user_2", 3, schemas.ChangeUpdate, canary)} // the place alone is taken, no entry
		sinktest.ExpectClass(t, "Apply of the paused process", zombie.Apply(t.Context(), late), sinks.ClassRetry, sinks.ReasonConflict)
		sinktest.MustApply(t, zombie, late...)
		rows := b.rows(t)
		want := []string{"user_1/7/1/USER_CREATED", "user_2/7/9/USER_DELETION_REQUESTED", "user_1/7/2/USER_UPDATED", "user_2/7/3/USER_UPDATED"}
		if got := entriesOf(rows); !slices.Equal(got, want) {
			t.Errorf("entries: got %q, want %q", got, want)
		}
		if keys, err := owner.Keys(t.Context(), "", 10); err != nil || !slices.Equal(keys, []string{"user_1"}) {
			t.Errorf("users of whom there are personal data: got %q, %v, want user_1 alone", keys, err)
		}
		if report := b.mustBeIntact(t); report.Rows != 4 {
			t.Errorf("rows: got %d, want 4", report.Rows)
		}
	})
}

// TestLog_Text that databases do not take is made fit before it is hashed.
func TestLog_Text(t *testing.T) {
	everywhere(t, func(t *testing.T, b bed) {
		s := b.open(t)
		r := change("user_1", 1, schemas.ChangeCreate, "Ada")
		r.Change.UserAgent, r.Change.ClientIP = new("a\x00b\xff\U0001F984 '\"\\"), nil
		r.Change.EventType, r.Change.EventID = "x\x00", strings.Repeat("é", 2000)
		r.Change.OccurredAt, r.Change.ReceivedAt, r.Change.SequencedAt = -5, 1<<62, lastMoment
		sinktest.MustApply(t, s, r)
		b.mustBeIntact(t)
		row := b.rows(t)[0]
		if got := *row.client.userAgent; got != "a\uFFFDb\uFFFD\U0001F984 '\"\\" {
			t.Errorf("user agent: got %q", got)
		}
		if row.OccurredAt != nil || row.ReceivedAt != nil || *row.SequencedAt != lastMoment {
			t.Errorf("times: got %v, %v, %v, want null twice and the last moment", row.OccurredAt, row.ReceivedAt, row.SequencedAt)
		}
	})
}
