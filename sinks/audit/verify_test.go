package audit

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
)

// filled is a log of five rows in users-3 and one in receipts-3.
func filled(t testing.TB, b bed) *Sink {
	t.Helper()
	s := b.open(t)
	deliver(t, s, change("user_1", 1, schemas.ChangeCreate, "Ada"), change("user_2", 1, schemas.ChangeCreate, "Grace"),
		change("user_1", 2, schemas.ChangeUpdate, "Ada L."), change("user_2", 2, schemas.ChangeUpdate, "Grace H."), change("user_3", 1, schemas.ChangeSnapshot, "Joan"),
		receipt("user_4", "postgres", 1, schemas.OutcomeDeleted, 0))
	if report := b.mustBeIntact(t); report.Rows != 6 {
		t.Fatalf("rows: got %d, want 6", report.Rows)
	}
	return s
}

func problems(findings []Finding) []string {
	list := make([]string, len(findings))
	for i, f := range findings {
		list[i] = fmt.Sprintf("%s %d %s", f.Chain, f.Seq, f.Problem)
		if f.To > 0 {
			list[i] = fmt.Sprintf("%s %d-%d %s", f.Chain, f.Seq, f.To, f.Problem)
		}
	}
	return list
}

// TestVerify_EachColumn: there is none that can be edited unseen.
func TestVerify_EachColumn(t *testing.T) {
	everywhere(t, func(t *testing.T, b bed) {
		filled(t, b)
		b.hands.unprotect(t)
		for _, c := range columns {
			var value any = map[kind]any{number: int64(999), text: "x", name: "x", label: "users-9", digest: strings.Repeat("f", 64)}[c.kind]
			if c.kind == moment {
				value = time.UnixMilli(1_600_000_000_000).UTC()
				if strings.HasPrefix(b.cfg.URL, "mongodb") {
					value = bson.DateTime(1_600_000_000_000)
				}
			}
			seq := int64(2)
			before := b.rows(t)
			b.hands.set(t, false, "users-3", seq, c.name, value)
			_, findings := b.verify(t)
			if len(findings) == 0 {
				t.Errorf("%s was edited and nothing was found", c.name)
			}
			if c.name == "format" && !strings.Contains(fmt.Sprint(findings), "has format 999: this program knows 1") {
				t.Errorf("a format of another program's: got %v", findings)
			}
			chain := "users-3"
			switch c.name { // where the row is now
			case "chain":
				chain = "users-9"
			case "seq":
				seq = 999
			}
			i := slices.IndexFunc(before, func(row stored) bool { return row.Chain == "users-3" && row.Seq == 2 })
			b.hands.set(t, false, chain, seq, c.name, b.value(c, &before[i].Row))
			b.mustBeIntact(t)
		}
		for _, column := range []string{"salt", "client_ip", "user_agent", "clerk_id", "entry"} {
			before := b.rows(t)[2].client
			old := map[string]string{"salt": before.salt, "client_ip": deref(before.ip), "user_agent": deref(before.userAgent), "entry": before.entry, "clerk_id": before.clerkID}[column]
			b.hands.set(t, true, "users-3", 2, column, "x")
			if column == "entry" { // it cannot be found by it any more
				_, findings := b.verify(t)
				if !slices.Equal(problems(findings), []string{"users-3 2 client"}) {
					t.Errorf("client data moved: got %q", problems(findings))
				}
				continue
			}
			if _, findings := b.verify(t); !slices.Equal(problems(findings), []string{"users-3 2 client"}) {
				t.Errorf("%s of client data was edited: got %q", column, problems(findings))
			}
			b.hands.set(t, true, "users-3", 2, column, old)
		}
	})
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// value is a column of a row as the hands take it.
func (b bed) value(c column, row *Row) any {
	var millis *int64
	switch v := c.field(row).(type) {
	case *string:
		return *v
	case **string:
		if *v == nil {
			return nil
		}
		return **v
	case *int64:
		millis = v
	case **int64:
		millis = *v
	}
	switch {
	case millis == nil:
		return nil
	case c.kind != moment:
		return *millis
	case strings.HasPrefix(b.cfg.URL, "mongodb"):
		return bson.DateTime(*millis)
	}
	return time.UnixMilli(*millis).UTC()
}

// TestVerify_Rows: removed, moved, replaced and cut off.
func TestVerify_Rows(t *testing.T) {
	for _, test := range []struct {
		name   string
		tamper func(t testing.TB, b bed)
		want   []string // with all heads expected
		alone  []string // without, if that is less
	}{
		{name: "nothing"},
		{name: "a row removed", tamper: func(t testing.TB, b bed) { b.hands.remove(t, "users-3", 3) }, want: []string{"users-3 3 missing"}},
		{name: "the first rows removed", tamper: func(t testing.TB, b bed) {
			b.hands.remove(t, "users-3", 1)
			b.hands.remove(t, "users-3", 2)
		}, want: []string{"users-3 1-2 missing"}},
		{name: "two rows change places", tamper: func(t testing.TB, b bed) {
			b.hands.set(t, false, "users-3", 2, "seq", int64(99))
			b.hands.set(t, false, "users-3", 3, "seq", int64(2))
			b.hands.set(t, false, "users-3", 99, "seq", int64(3))
		}, want: []string{"users-3 2 moved", "users-3 2 edited", "users-3 3 moved", "users-3 3 edited", "users-3 4 moved"}},
		{name: "a row before the first", tamper: func(t testing.TB, b bed) { b.hands.set(t, false, "users-3", 5, "seq", int64(-1)) },
			want: []string{"users-3 -1 moved", "users-3 5 truncated"}, alone: []string{"users-3 -1 moved"}},
		{name: "a row edited, and its hash too", tamper: func(t testing.TB, b bed) { forge(t, b, 3) }, want: []string{"users-3 4 moved"}},
		{name: "the last row edited, and its hash too", tamper: func(t testing.TB, b bed) { forge(t, b, 5) },
			want: []string{"users-3 5 replaced"}, alone: []string{}},
		{name: "the end cut off", tamper: func(t testing.TB, b bed) {
			b.hands.remove(t, "users-3", 5)
			b.hands.remove(t, "users-3", 4)
		}, want: []string{"users-3 5 truncated"}, alone: []string{}},
		{name: "a chain removed", tamper: func(t testing.TB, b bed) { b.hands.remove(t, "receipts-3", 1) },
			want: []string{"receipts-3 1 truncated"}, alone: []string{}},
		{name: "cut off, and appended to by a new process", tamper: func(t testing.TB, b bed) {
			b.hands.remove(t, "users-3", 5)
			s := b.sink(t, func(c *Config) { c.CreateTables = false })
			appendAs(t, s, change("user_9", 1, schemas.ChangeCreate, "Eve"))
		}, want: []string{"users-3 5 replaced"}, alone: []string{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, b bed) {
				filled(t, b)
				heads, err := b.read(t).Heads(t.Context())
				if err != nil || len(heads) != 2 || heads[1].Seq != 5 {
					t.Fatalf("heads: got %+v, %v", heads, err)
				}
				if test.tamper != nil {
					b.hands.unprotect(t)
					test.tamper(t, b)
				}
				alone := test.alone
				if alone == nil {
					alone = test.want
				}
				if _, findings := b.verify(t); !slices.Equal(problems(findings), alone) {
					t.Errorf("found: got %q, want %q", problems(findings), alone)
				}
				if _, findings := b.verify(t, heads...); !slices.Equal(problems(findings), test.want) {
					t.Errorf("found with heads: got %q, want %q", problems(findings), test.want)
				}
			})
		})
	}
}

// appendAs applies a record without asking whether the log is protected.
func appendAs(t testing.TB, s *Sink, r sinks.Record) {
	t.Helper()
	if err := s.store.connect(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	defer s.store.close() //nolint:errcheck // nothing is written any more
	s.open, s.written = true, map[string]Head{}
	sinktest.MustApply(t, s, r)
}

// forge edits a row and makes its hash right again.
func forge(t testing.TB, b bed, seq int64) {
	t.Helper()
	for _, row := range b.rows(t) {
		if row.Chain == "users-3" && row.Seq == seq {
			row.Action = ActionSnapshot
			b.hands.set(t, false, "users-3", seq, "action", ActionSnapshot+"S")
			row.Action += "S"
			b.hands.set(t, false, "users-3", seq, "hash", row.Digest())
		}
	}
}

// TestVerify_CutOffUnderARunningProcess: it goes on from what it has written,
// so that the gap is seen without a head kept elsewhere.
func TestVerify_CutOffUnderARunningProcess(t *testing.T) {
	everywhere(t, func(t *testing.T, b bed) {
		s := filled(t, b)
		b.hands.unprotect(t)
		b.hands.remove(t, "users-3", 5)
		b.hands.remove(t, "users-3", 4)
		sinktest.MustApply(t, s, change("user_9", 1, schemas.ChangeCreate, "Joan"))
		if _, findings := b.verify(t); !slices.Equal(problems(findings), []string{"users-3 4-5 missing"}) {
			t.Errorf("found: got %q, want the gap", problems(findings))
		}
	})
}

// TestVerify_ManyRows reads by pages, and says how far it is.
func TestVerify_ManyRows(t *testing.T) {
	t.Parallel()
	b := sqliteBed(t)
	s := b.open(t)
	const rows = 2*page + 7
	for from := int64(0); from < rows; from += maxBatch {
		var batch []sinks.Record
		for i := from; i < min(from+maxBatch, rows); i++ {
			batch = append(batch, change("user_1", 1+i, schemas.ChangeUpdate, "Ada"))
		}
		sinktest.MustApply(t, s, batch...)
	}
	var seen []int64
	report, err := b.read(t).Verify(t.Context(), VerifyOptions{Progress: func(_ string, rows int64) { seen = append(seen, rows) }})
	if err != nil || !report.Intact || report.Rows != rows {
		t.Errorf("report: got %+v, %v, want %d rows, intact", report, err, rows)
	}
	if want := []int64{page, 2 * page, rows}; !slices.Equal(seen, want) {
		t.Errorf("progress: got %v, want %v", seen, want)
	}
	b.hands.unprotect(t)
	b.hands.remove(t, "users-3", page+1) // the first of a page
	if _, findings := b.verify(t); !slices.Equal(problems(findings), []string{fmt.Sprintf("users-3 %d missing", page+1)}) {
		t.Errorf("found: got %q", problems(findings))
	}
}
