package e2e

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestPause_Erasure is G3 on a database of every kind at once: a process is
// paused while changes of users are on their way from it to each database.
// Another process takes over and erases these users. Then the first wakes up,
// finishes what it had begun, and hears from Kafka only afterwards that it owns
// nothing any more. Nobody comes back.
func TestPause_Erasure(t *testing.T) {
	t.Parallel()
	required(t, "TEST_POSTGRES_DSN")
	s, kafka := newStack(t, false, 30), newNetwork()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ListenFn(kafka.Listen))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	s.cluster, s.brokers = cluster, cluster.ListenAddrs()
	s.opts = []kgo.Opt{kgo.SeedBrokers(s.brokers...)}
	databases := s.databases()
	networks := map[string]*network{} // of the first process
	for _, d := range databases {
		networks[d.name()] = newNetwork()
	}
	s.use(databases, func(process string, d database) *network {
		if process == "first" {
			return networks[d.name()]
		}
		return nil
	})
	settings := s.settings
	s.settings = func(process string) []string {
		all := settings(process)
		for _, d := range []string{"SQLITE", "POSTGRES", "MYSQL", "MONGODB"} {
			all = append(all, "SINK_"+d+"_APPLY_TIMEOUT=5m") // whoever wakes up goes on
		}
		return append(all, "SINK_SQLITE_BUSY_TIMEOUT=5m")
	}
	front := s.start("front", "receiver,snapshot,sequencer", "")
	first := s.start("first", "sinks", "")
	ids := s.sim.UserIDs()
	const erased, there = 12, 16 // users with canaries, the first of whom are erased
	for user := range there {
		s.plant(ids[user], user)
	}
	s.deliver()
	eventually(t, patience, "every user in every database", func() bool { return s.hold(databases, canaryOf("first", there)...) })

	// Changes that will not arrive yet.
	unlock := s.lockSQLite()
	var mends []func()
	for _, d := range databases[1:] {
		mends = append(mends, networks[d.name()].swallow())
	}
	for user := range erased {
		if err := s.sim.SetMetadata(ids[user], fmt.Appendf(nil, `{"late":"%s"}`, canary("late", user)), nil); err != nil {
			t.Fatal(err)
		}
	}
	s.deliver()
	eventually(t, patience, "changes on their way to every database", func() bool {
		for _, d := range databases[1:] {
			if networks[d.name()].held.Load() == 0 {
				return false
			}
		}
		return bytes.Contains(s.readTopics()[s.topics.Users()], []byte(canary("late", erased-1)))
	})
	before := map[string]int{}
	for _, d := range databases {
		before[d.name()] = first.applied(d)
	}
	first.signal(syscall.SIGSTOP)
	unlock()
	second := s.start("second", "sinks", "")
	for user := range erased {
		if err := s.sim.Delete(ids[user]); err != nil {
			t.Fatal(err)
		}
	}
	s.deliver()
	gone := func() bool {
		return !s.holdAny(databases, append(canaryOf("first", erased), canaryOf("late", erased)...)...)
	}
	eventually(t, patience, "the users erased in every database", gone)

	// It wakes up and, while Kafka says nothing, finishes.
	reconnect := kafka.swallow()
	for _, mend := range mends {
		mend()
	}
	first.signal(syscall.SIGCONT)
	for _, d := range databases {
		eventually(t, patience, "what was on its way to "+d.name(), func() bool { return first.applied(d) > before[d.name()] })
	}
	reconnect()
	eventually(t, patience, "the first process owns partitions again", first.ready)
	for _, p := range []*process{first, second, front} {
		p.stop()
	}
	if !gone() {
		for _, d := range databases {
			if s.holdAny([]database{d}, append(canaryOf("first", erased), canaryOf("late", erased)...)...) {
				t.Errorf("%s: erased users are back", d.name())
			}
		}
	}
	for _, d := range databases {
		for user := erased; user < there; user++ {
			if !bytes.Contains(d.dump(), []byte(canary("first", user))) {
				t.Errorf("%s: a user who was not erased is gone", d.name())
			}
		}
	}
}

// applied returns how many calls of a sink have ended.
func (p *process) applied(d database) int {
	prefix := fmt.Sprintf("clerk_connect_sink_apply_duration_seconds_count{sink=%q} ", d.name())
	for line := range strings.Lines(string(p.metrics())) {
		if count, ok := strings.CutPrefix(line, prefix); ok {
			n, err := strconv.Atoi(strings.TrimSpace(count))
			if err == nil {
				return n
			}
		}
	}
	p.t.Fatalf("no metric begins with %s", prefix)
	return 0
}

// deliver has everything that Clerk has to tell arrive.
func (s *stack) deliver() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.sim.Drain(ctx); err != nil {
		s.t.Fatalf("deliveries: %v", err)
	}
}

// canaryOf returns the canaries of one part of the first users.
func canaryOf(part string, users int) (list []string) {
	for user := range users {
		list = append(list, canary(part, user))
	}
	return list
}

// hold reports whether every database holds every one of texts, and holdAny
// whether one holds one.
func (s *stack) hold(databases []database, texts ...string) bool {
	for _, d := range databases {
		dump := d.dump()
		for _, text := range texts {
			if !bytes.Contains(dump, []byte(text)) {
				return false
			}
		}
	}
	return true
}

func (s *stack) holdAny(databases []database, texts ...string) bool {
	for _, d := range databases {
		dump := d.dump()
		for _, text := range texts {
			if bytes.Contains(dump, []byte(text)) {
				return true
			}
		}
	}
	return false
}

// lockSQLite keeps the sink of kind sqlite waiting for its file.
func (s *stack) lockSQLite() (unlock func()) {
	s.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.folder, "users.db")+"?_txlock=immediate&_pragma=busy_timeout(10000)")
	if err != nil {
		s.t.Fatal(err)
	}
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	unlock = sync.OnceFunc(func() {
		_ = tx.Rollback()
		db.Close()
	})
	s.t.Cleanup(unlock)
	return unlock
}
