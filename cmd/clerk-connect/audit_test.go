package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clerkconnect/sinks/audit"
	"clerkconnect/sinks/sinktest"
)

// TestAudit: the command reads the sink's settings, finds what was done to the
// log, and says so by its exit code.
func TestAudit(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path, kept := filepath.Join(folder, "audit.db"), filepath.Join(folder, "heads.txt")
	fill := func(from, to int64) {
		t.Helper()
		sink, err := audit.New(audit.Config{URL: "sqlite:" + path, CreateTables: true})
		if err != nil {
			t.Fatal(err)
		}
		defer sink.Close()
		if err := sink.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		for version := from; version <= to; version++ {
			sinktest.MustApply(t, sink, sinktest.Change("user_1", version))
		}
	}
	fill(1, 5)
	env := []string{"SINKS=trail=audit,sqlite", "SINK_TRAIL_URL=sqlite:" + path}
	expect := func(code int, want string, args ...string) string {
		t.Helper()
		stdout, stderr, got := run(t, env, append([]string{"audit"}, args...)...)
		if got != code || !strings.Contains(stdout+stderr, want) {
			t.Errorf("audit %s: got exit code %d and\n%s%s\nwant %d and %q", strings.Join(args, " "), got, stdout, stderr, code, want)
		}
		return stdout
	}
	expect(exitOK, "5 rows in 1 chains. The log is intact.", "verify")
	heads := expect(exitOK, "users-0 5 ", "head")
	if err := os.WriteFile(kept, []byte(heads), 0o600); err != nil {
		t.Fatal(err)
	}
	fill(6, 7)
	expect(exitOK, "The log is intact.", "verify", "trail", "--expect", kept)

	tamper(t, path, "DELETE FROM clerk_audit_log WHERE seq >= 5")
	fill(8, 9)
	expect(exitOK, "The log is intact.", "verify") // seen in the log alone, it is
	expect(exitFailure, "users-0: row 5 is not the one that was expected", "verify", "--expect", kept)
	tamper(t, path, "UPDATE clerk_audit_log SET action = 'USER_CREATED' WHERE seq = 2")
	expect(exitFailure, "users-0: row 2 was edited", "verify")
	var result verified
	if err := json.Unmarshal([]byte(expect(exitFailure, `"intact": false`, "verify", "-o", "json")), &result); err != nil {
		t.Fatal(err)
	}
	if result.Sink != "trail" || result.Rows != 6 || len(result.Findings) != 1 || result.Findings[0].Problem != audit.ProblemEdited || result.Findings[0].Seq != 2 {
		t.Errorf("JSON: got %+v", result)
	}
	var said taken
	if err := json.Unmarshal([]byte(expect(exitOK, `"seq": 6`, "head", "-o", "json")), &said); err != nil || len(said.Heads) != 1 {
		t.Errorf("heads: got %+v, %v", said, err)
	}
	if err := os.WriteFile(kept, []byte(fmt.Sprintf(`{"heads": [{"chain": "users-7", "seq": 1, "hash": %q}]}`, said.Heads[0].Hash)), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(exitFailure, "users-7: the chain ends at row 0, row 1 was expected", "verify", "--expect", kept)
}

// tamper does to the log what its triggers refuse.
func tamper(t *testing.T, path string, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, text := range []string{"DROP TRIGGER IF EXISTS clerk_audit_log_no_update", "DROP TRIGGER IF EXISTS clerk_audit_log_no_delete", statement} {
		if _, err := db.Exec(text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
}

func TestAudit_Settings(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	bad := filepath.Join(folder, "bad.txt")
	if err := os.WriteFile(bad, []byte("users-1 x y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := "SINK_A_URL=sqlite:" + filepath.Join(folder, "a.db")
	for _, test := range []struct {
		name string
		env  []string
		args []string
		code int
		want string
	}{
		{"no sink", nil, []string{"verify"}, exitConfiguration, "SINKS has no sink of kind audit"},
		{"two sinks", []string{"SINKS=a=audit,b=audit"}, []string{"verify"}, exitConfiguration, "name one of a, b"},
		{"another kind", []string{"SINKS=sqlite", "SINK_SQLITE_PATH=/x"}, []string{"verify", "sqlite"}, exitConfiguration, "sink sqlite is of kind sqlite"},
		{"no address", []string{"SINKS=a=audit"}, []string{"head"}, exitConfiguration, "SINK_A_URL is empty"},
		{"secret", []string{"SINKS=a=audit", "SINK_A_URL=redis://" + canary}, []string{"head"}, exitConfiguration, "SINK_A_URL does not say which database"},
		{"no database", []string{"SINKS=a=audit", url}, []string{"verify"}, exitConfiguration, "no such file"},
		{"nobody answers", []string{"SINKS=a=audit", "SINK_A_URL=postgres://u:" + canary + "@127.0.0.1:1/x"}, []string{"verify"}, exitFailure, "connect"},
		{"form", []string{"SINKS=a=audit", url}, []string{"verify", "-o", "xml"}, exitConfiguration, "--output is"},
		{"no heads", []string{"SINKS=a=audit", url}, []string{"verify", "--expect", bad}, exitConfiguration, "is no output of audit head"},
		{"two names", []string{"SINKS=a=audit", url}, []string{"verify", "a", "b"}, exitConfiguration, "give the name of one sink"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, code := run(t, test.env, append([]string{"audit"}, test.args...)...)
			if code != test.code || !strings.Contains(stdout+stderr, test.want) {
				t.Errorf("got exit code %d and\n%s%s\nwant %d and %q", code, stdout, stderr, test.code, test.want)
			}
		})
	}
}
