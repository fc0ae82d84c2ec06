package clerksim

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func isGone(i *Instance, id string) bool { _, is := i.goneIDs[id]; return is }

func equal(a, b json.RawMessage) bool { return bytes.Equal(a, b) }

// TestStateFile_SurvivesKill copies the state file while the instance runs, as
// a kill would leave it, goes on from the copy, and compares with what the
// receiver had been told by then: nothing it knew may be forgotten.
func TestStateFile_SurvivesKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := Config{Users: 100, Seed: 12, Rate: 300, StateFile: filepath.Join(dir, "a"), Disorder: DefaultDisorder(), RetrySchedule: quick}
	i := newInstance(t, cfg)
	fail := func(n int, _ http.ResponseWriter) int {
		if n%5 == 0 {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	}
	r := newReceiver(t, i.SigningSecret(), fail)
	i.SetWebhookURL(r.URL)
	ctx, cancel := context.WithCancel(bounded(t))
	done := make(chan error, 1)
	go func() { done <- i.Run(ctx) }()
	for i.Stats().Deliveries < 150 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	r.mu.Lock() // what the receiver knows now, it knew before the kill
	known := maps.Clone(r.updated)
	gone := maps.Clone(r.gone)
	seen := maps.Clone(r.seen)
	r.mu.Unlock()
	state, err := os.ReadFile(cfg.StateFile)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	cfg.StateFile, cfg.Users, cfg.Seed, cfg.Rate = filepath.Join(dir, "b"), 0, 0, 0
	torn := append(state, `{"message":{"id":"msg_`...) // the kill came in the middle of a line
	if err := os.WriteFile(cfg.StateFile, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	j := newInstance(t, cfg)
	if j.InstanceID() != i.InstanceID() || j.SecretKey() != i.SecretKey() || j.SigningSecret() != i.SigningSecret() {
		t.Error("the instance has another name or other secrets")
	}
	for id, at := range known {
		if u := j.users[id]; !gone[id] && !isGone(j, id) && (u == nil || u.Updated < at) {
			t.Errorf("user %s: the receiver knew a state that is lost", id)
		}
	}
	for id := range gone {
		if !isGone(j, id) {
			t.Errorf("user %s: the receiver knew a deletion that is lost", id)
		}
	}
	s := newReceiver(t, j.SigningSecret(), fail)
	s.seen, s.updated, s.gone = seen, known, gone
	j.SetWebhookURL(s.URL)
	act(t, j, 50)
	if err := j.Drain(bounded(t)); err != nil {
		t.Fatal(err)
	}
	agree(t, j, s)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if k := newInstance(t, cfg); !slices.Equal(k.UserIDs(), j.UserIDs()) || k.Stats().Pending != 0 {
		t.Errorf("after another restart: %d users and %d pending, want %d and none", len(k.order), k.Stats().Pending, len(j.order))
	}
}

func TestStateFile_CompactsAndKeepsEverything(t *testing.T) {
	t.Parallel()
	cfg := Config{Users: 3, Seed: 1, Now: newVirtual().now, StateFile: filepath.Join(t.TempDir(), "state"), WebhookURL: "http://127.0.0.1:1"}
	i := newInstance(t, cfg)
	_ = i.Delete(i.UserIDs()[0])
	act(t, i, 20)
	i.SetWebhookURL("")
	id := i.UserIDs()[0]
	for range 5_100 {
		_ = i.SignIn(id)
	}
	if i.journal.lines > 4_000 {
		t.Errorf("state file: %d lines, want it compacted", i.journal.lines)
	}
	truth, gone, pending := i.Truth(), i.Deleted(), i.Stats().Pending
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // as it was left, and as it was loaded and left
		j := newInstance(t, cfg)
		if !maps.EqualFunc(truth, j.Truth(), equal) || !slices.Equal(gone, j.Deleted()) || j.Stats().Pending != pending || pending < 20 {
			t.Errorf("after a restart: %d users, %d deleted, %d pending, want %d, %d, %d",
				len(j.Truth()), len(j.Deleted()), j.Stats().Pending, len(truth), len(gone), pending)
		}
		if err := j.Save(); err != nil {
			t.Error(err)
		}
		_ = j.Close()
	}
}

// TestStateFile_CompactionKeepsTheActThatCausedIt kills right after the act
// whose line made the file wasteful.
func TestStateFile_CompactionKeepsTheActThatCausedIt(t *testing.T) {
	t.Parallel()
	cfg := Config{Users: 1, StateFile: filepath.Join(t.TempDir(), "state")}
	i := newInstance(t, cfg)
	id := i.UserIDs()[0]
	for before := 0; i.journal.lines >= before; {
		before = i.journal.lines
		_ = i.SetMetadata(id, json.RawMessage(`{"n":`+string(rune('0'+before%10))+`}`), nil)
	}
	cfg.StateFile += ".copy"
	state, err := os.ReadFile(i.cfg.StateFile)
	if err != nil || os.WriteFile(cfg.StateFile, state, 0o600) != nil {
		t.Fatal(err)
	}
	j := newInstance(t, cfg)
	if !bytes.Equal(i.Truth()[id], j.Truth()[id]) {
		t.Errorf("after the restart: %s, want %s", j.Truth()[id], i.Truth()[id])
	}
}

func TestStateFile_RefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{}\n", "{\"user\":1}\n", "{\"instance\":{\"version\":99}}\n", "junk\n{}\n"} {
		file := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{StateFile: file}); err == nil {
			t.Errorf("New with state %q: nil, want an error", text)
		}
	}
	_, err := New(Config{Users: -1, Rate: -2, WebhookURL: "x", SigningSecret: "whsec_", Disorder: Disorder{Late: 2}})
	if err == nil || bytes.Count([]byte(err.Error()), []byte("\n")) != 4 {
		t.Errorf("New: %v, want five problems", err)
	}
}

// BenchmarkLargeInstance shows that 200,000 users are no burden.
func BenchmarkLargeInstance(b *testing.B) {
	i, err := New(Config{Users: 200_000, Seed: 1, RateLimit: -1})
	if err != nil {
		b.Fatal(err)
	}
	ids := i.UserIDs()
	b.Run("page=500", func(b *testing.B) {
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			q := query{limit: 500, order: "created_at", after: ids[n*7919%len(ids)]}
			users, _ := i.page(q)
			_ = array(users, func(u *user) []byte { return u.json(0) })
		}
	})
	b.Run("act", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = i.Act()
		}
	})
}
