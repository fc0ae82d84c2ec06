package e2e

import (
	"syscall"
	"testing"
	"time"
)

// pauseFor is longer than the session and transaction timeouts of 10 s, so
// that another process takes over while the first is paused.
const pauseFor = 16 * time.Second

// TestPause_WakesUpLate is G3 and G5 against zombies: a process that owns
// partitions, of the sequencer and of the sinks, is paused (SIGSTOP) under
// load for so long that another takes over, and then wakes up with old work
// in its hand.
func TestPause_WakesUpLate(t *testing.T) {
	for _, roles := range []string{"sequencer", "sinks"} {
		t.Run(roles, func(t *testing.T) {
			forEachBroker(t, func(t *testing.T, kafka bool) {
				s := newStack(t, kafka, 200)
				front := s.start("front", "receiver,snapshot", "")
				rest := map[string]string{"sequencer": "sinks", "sinks": "sequencer"}[roles]
				others := s.start("others", rest, "")
				first := s.start("first", roles, "")
				stop := s.load()
				for _, p := range []*process{front, others, first} {
					eventually(t, patience, "ready", p.ready)
				}
				first.signal(syscall.SIGSTOP)
				second := s.start("second", roles, "")
				time.Sleep(pauseFor)
				first.signal(syscall.SIGCONT)
				time.Sleep(2 * time.Second)
				stop()
				s.settle(patience)
				for _, p := range []*process{first, second, others, front} {
					p.stop()
				}
			})
		})
	}
}

// TestTwoOfEach runs two processes of each role, which come and go under load.
func TestTwoOfEach(t *testing.T) {
	forEachBroker(t, func(t *testing.T, kafka bool) {
		s := newStack(t, kafka, 300)
		stop := s.load()
		var running []*process
		for _, roles := range []string{"receiver", "sequencer", "snapshot", "sinks"} {
			running = append(running, s.start(roles+"-a", roles, ""), s.start(roles+"-b", roles, ""))
		}
		for i, roles := range []string{"receiver", "sequencer", "snapshot", "sinks"} {
			time.Sleep(1500 * time.Millisecond)
			running[2*i].stop() // the a of each goes, and comes again
			running[2*i] = s.start(roles+"-a", roles, "")
		}
		for _, p := range running {
			eventually(t, patience, "ready", p.ready)
		}
		stop()
		s.settle(patience)
		for _, p := range running {
			p.stop()
		}
	})
}
