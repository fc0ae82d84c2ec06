package e2e

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestAudit_TellsOfAnErasure: an audit log beside a database sink shows what
// happened to a user, that he was to be erased, and what the other sink did
// about it; through a kill under load, and intact for a verifier.
func TestAudit_TellsOfAnErasure(t *testing.T) {
	s := newStack(t, false, 40)
	trail := s.auditTrail()
	s.settings = func(string) []string {
		return []string{"POLICY_INCLUDE=client_ip,user_agent", "SINKS=sqlite,audit", "SINK_AUDIT_URL=" + trail.url, "SINK_AUDIT_SCHEMA=" + trail.schema}
	}
	s.schema = "" // the other sink is SQLite alone
	address := freeAddress(t)
	p := s.start("all", all, address)
	stop := s.load()
	eventually(t, patience, "rows of sign-ups and of erasures", func() bool {
		return trail.count("action = 'USER_CREATED'") > 5 && trail.count("action = 'USER_HARD_DELETED'") > 0
	})
	p.kill()
	s.bury()
	killed := p
	p = s.start("all", all, address)
	stop() // from here on nobody but this test does anything
	eventually(t, patience, "the end of the snapshot, which might tell of the sign-up first", func() bool {
		return strings.Contains(killed.log.String()+p.log.String(), "snapshot is complete")
	})
	id := s.sim.SignUp()
	s.settle(patience)
	eventually(t, patience, "the sign-up's row", func() bool { return trail.count("action = 'USER_CREATED' AND clerk_id = '"+id+"'") == 1 })
	if err := s.sim.UpdateProfile(id); err != nil {
		t.Fatal(err)
	}
	s.settle(patience)
	eventually(t, patience, "the change's row", func() bool { return trail.count("action = 'USER_UPDATED' AND clerk_id = '"+id+"'") == 1 })
	if err := s.sim.Delete(id); err != nil {
		t.Fatal(err)
	}
	s.settle(patience)
	eventually(t, patience, "a receipt and a confirmation for each erasure", func() bool {
		asked := trail.count("action = 'USER_DELETION_REQUESTED'")
		return asked > 1 && trail.count("action IN ('USER_HARD_DELETED', 'USER_NOT_PRESENT') AND sink = 'sqlite'") == asked &&
			trail.count("action = 'USER_ERASURE_CONFIRMED' AND sink = 'sqlite'") == asked
	})
	p.stop()

	if got := trail.actions(id); !slices.Equal(got, []string{"USER_CREATED", "USER_UPDATED", "USER_DELETION_REQUESTED", "USER_HARD_DELETED sqlite", "USER_ERASURE_CONFIRMED sqlite"}) {
		t.Errorf("of the erased user: got %q", got)
	}
	for user := range s.readTopic() {
		if trail.count("clerk_id = '"+user+"' AND action <> 'USER_DELETION_REQUESTED'") == 0 {
			t.Errorf("the log knows nothing of %s", user)
		}
	}
	if n := trail.clients("clerk_id NOT IN (SELECT clerk_id FROM " + trail.table + " WHERE action = 'USER_DELETION_REQUESTED')"); n == 0 {
		t.Error("no client data of anybody who is there: the policy asks for them")
	}
	if n := trail.clients("clerk_id IN (SELECT clerk_id FROM " + trail.table + " WHERE action = 'USER_DELETION_REQUESTED')"); n != 0 {
		t.Errorf("client data of erased users: got %d rows, want none", n)
	}
	s.verifyAudit(trail)
}

// TestAudit_AwayWhileAnErasureIsAskedFor: the log misses nothing of a user who
// changed, and was deleted, while the audit sink was stopped, or paused but for
// its erasures, and has it in order.
func TestAudit_AwayWhileAnErasureIsAskedFor(t *testing.T) {
	for _, way := range []string{"stopped", "paused"} {
		t.Run(way, func(t *testing.T) {
			s := newStack(t, false, 10)
			trail := s.auditTrail()
			s.settings = func(string) []string {
				return []string{"SINKS=sqlite,audit", "SINK_AUDIT_URL=" + trail.url, "SINK_AUDIT_SCHEMA=" + trail.schema}
			}
			s.schema = "" // the other sink is SQLite alone
			front := s.start("front", "receiver,sequencer,snapshot", "")
			p := s.start("sinks", "sinks", "")
			eventually(t, patience, "the end of the snapshot", func() bool { return strings.Contains(front.log.String(), "snapshot is complete") })
			id := s.sim.SignUp()
			s.deliver()
			eventually(t, patience, "the sign-up's row", func() bool { return trail.count("action = 'USER_CREATED' AND clerk_id = '"+id+"'") == 1 })
			operator := &operated{stack: s}
			if way == "paused" {
				operator.want(operator.command(0, "sink", "pause", "audit", "--keep-erasing"), "Erasures go on")
			} else {
				p.stop()
			}
			for range 3 {
				if err := s.sim.UpdateProfile(id); err != nil {
					t.Fatal(err)
				}
				s.deliver()
			}
			if err := s.sim.Delete(id); err != nil {
				t.Fatal(err)
			}
			s.deliver()
			eventually(t, patience, "the tombstone", func() bool { _, there := s.readTopic()[id]; return !there })
			asked := func() bool { return trail.count("action = 'USER_DELETION_REQUESTED' AND clerk_id = '"+id+"'") == 1 }
			if way == "paused" {
				eventually(t, patience, "the erasure's row, in the pause", asked)
				operator.want(operator.command(0, "sink", "resume", "audit"), "goes on")
			} else {
				p = s.start("sinks", "sinks", "")
			}
			eventually(t, patience, "the last row of the user", func() bool {
				return asked() && trail.count("action = 'USER_ERASURE_CONFIRMED' AND clerk_id = '"+id+"'") == 1
			})
			p.stop()
			front.stop()
			if got := trail.actions(id); !slices.Equal(got, []string{"USER_CREATED", "USER_UPDATED", "USER_UPDATED", "USER_UPDATED", "USER_DELETION_REQUESTED", "USER_HARD_DELETED sqlite", "USER_ERASURE_CONFIRMED sqlite"}) {
				t.Errorf("of the erased user: got %q", got)
			}
			s.verifyAudit(trail)
		})
	}
}

// auditTrail is the log as others see it.
type auditTrail struct {
	s                  *stack
	url, schema, table string
	db                 *sql.DB
}

// auditTrail is in PostgreSQL, where there is one, else in SQLite.
func (s *stack) auditTrail() auditTrail {
	trail := auditTrail{s: s, schema: s.schema, table: "clerk_audit_log"}
	driver, dsn := "pgx", os.Getenv("TEST_POSTGRES_DSN")
	trail.url = dsn
	if s.schema == "" {
		path := filepath.Join(s.folder, "audit.db")
		driver, dsn = "sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: "_pragma=busy_timeout(5000)"}).String()
		trail.url = "sqlite:" + path
	} else {
		trail.table = s.schema + "." + trail.table
	}
	var err error
	if trail.db, err = sql.Open(driver, dsn); err != nil {
		s.t.Fatal(err)
	}
	trail.db.SetMaxOpenConns(1)
	s.t.Cleanup(func() { trail.db.Close() })
	return trail
}

func (a auditTrail) count(where string) int { return a.number(a.table, where) }

func (a auditTrail) clients(where string) int { return a.number(a.table+"_client", where) }

func (a auditTrail) number(table, where string) (n int) {
	if err := a.db.QueryRow("SELECT count(*) FROM " + table + " WHERE " + where).Scan(&n); err != nil {
		return 0 // not created yet
	}
	return n
}

// actions are those of a user, in order, with the sink.
func (a auditTrail) actions(id string) (list []string) {
	rows, err := a.db.Query("SELECT action || coalesce(' ' || sink, '') FROM " + a.table + " WHERE clerk_id = '" + id + "' ORDER BY chain DESC, seq")
	if err != nil {
		a.s.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var action string
		if err := rows.Scan(&action); err != nil {
			a.s.t.Fatal(err)
		}
		list = append(list, action)
	}
	return list
}

// verifyAudit runs the verifier over the log, and once more after a row was
// edited in spite of the triggers.
func (s *stack) verifyAudit(trail auditTrail) {
	s.t.Helper()
	verify := func() (intact bool, rows int) {
		cmd := exec.Command(binary, "audit", "verify", "-o", "json")
		cmd.Env = []string{"SINKS=sqlite,audit", "SINK_AUDIT_URL=" + trail.url, "SINK_AUDIT_SCHEMA=" + trail.schema}
		var problems bytes.Buffer
		cmd.Stderr = &problems
		out, err := cmd.Output()
		var report struct {
			Intact bool
			Rows   int
		}
		if json.Unmarshal(out, &report) != nil || report.Intact != (err == nil) {
			s.t.Fatalf("audit verify: %v, %s%s", err, out, problems.String())
		}
		return report.Intact, report.Rows
	}
	if intact, rows := verify(); !intact || rows != trail.count("1 = 1") {
		s.t.Errorf("audit verify: got intact %v, %d rows", intact, rows)
	}
	edit := "UPDATE " + trail.table + " SET clerk_id = 'user_somebody_else' WHERE seq = 2 AND chain LIKE 'users%'"
	if _, err := trail.db.Exec(edit); err == nil {
		s.t.Error("the database let a row be edited")
	}
	disarm := []string{"ALTER TABLE " + trail.table + " DISABLE TRIGGER ALL"}
	if trail.schema == "" {
		disarm = []string{"DROP TRIGGER clerk_audit_log_no_update"}
	}
	for _, statement := range append(disarm, edit) {
		if _, err := trail.db.Exec(statement); err != nil {
			s.t.Fatal(fmt.Errorf("%s: %w", statement, err))
		}
	}
	if intact, _ := verify(); intact {
		s.t.Error("audit verify: an edited row was not found")
	}
}
