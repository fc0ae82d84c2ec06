package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const all = "receiver,sequencer,snapshot,sinks"

// bury makes the in-process broker forget the members of the snapshot's group,
// all of which are dead. It begins no session for a member whose connection
// ended while it joined, so that such a one would own the task for ever; Kafka
// begins one for every member, and TestKill_AnyTime waits for its end.
func (s *stack) bury() {
	if s.cluster == nil {
		return
	}
	client, err := kgo.NewClient(s.opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group = s.topics.Prefix + ".snapshot"
	groups, err := kadm.NewClient(client).DescribeGroups(s.t.Context(), leave.Group)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, member := range groups[leave.Group].Members {
		dead := kmsg.NewLeaveGroupRequestMember()
		dead.MemberID = member.MemberID
		leave.Members = append(leave.Members, dead)
	}
	if len(leave.Members) == 0 {
		return
	}
	if _, err := leave.RequestWith(s.t.Context(), client); err != nil {
		s.t.Fatal(err)
	}
}

// kills is how often a process is killed at each point: E2E_KILLS, or a few.
func kills(t *testing.T) int {
	t.Helper()
	if text := os.Getenv("E2E_KILLS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return 3
}

// TestKill_AtEachStep is G1, G2 and G5: the process is killed (kill -9) in the
// middle of each step between the receipt of a webhook and the commit of what
// a sink has applied, under load, and started again. The broker sees the
// steps, so the broker tells when to kill: when a request arrives, before it
// does what the request asks for, which it then does although nobody will hear
// the answer.
func TestKill_AtEachStep(t *testing.T) {
	for name, step := range map[string]struct {
		request kmsg.Request
		often   int64 // how many of them a start sees at least
	}{
		"produce":           {&kmsg.ProduceRequest{}, 30},         // an event, a transaction's record, a checkpoint
		"begin transaction": {&kmsg.InitProducerIDRequest{}, 3},   // a producer starts
		"commit offsets":    {&kmsg.TxnOffsetCommitRequest{}, 10}, // sequencer and sinks: after SQL, before the commit
		"end transaction":   {&kmsg.EndTxnRequest{}, 10},
		"fetch":             {&kmsg.FetchRequest{}, 30},
		"join group":        {&kmsg.JoinGroupRequest{}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStack(t, false, 120)
			var armed atomic.Pointer[process]
			hit := make(chan struct{}, 1)
			var skip atomic.Int64
			s.cluster.ControlKey(step.request.Key(), func(kmsg.Request) (kmsg.Response, error, bool) {
				s.cluster.KeepControl()
				if p := armed.Load(); p != nil && skip.Add(-1) < 0 {
					if armed.CompareAndSwap(p, nil) {
						_ = p.cmd.Process.Kill()
						hit <- struct{}{}
					}
				}
				return nil, nil, false
			})
			stop := s.load()
			address := freeAddress(t)
			for range kills(t) {
				p := s.start("one", all, address)
				skip.Store(rand.Int64N(step.often))
				armed.Store(p)
				select {
				case <-hit:
				case <-time.After(patience):
					t.Fatalf("the step was never reached:\n%s", tail(p.log.String()))
				}
				_ = p.wait(patience)
			}
			s.bury()
			p := s.start("one", all, address)
			eventually(t, patience, "ready", p.ready)
			stop()
			s.settle(patience)
			p.stop()
		})
	}
}

// TestKill_AnyTime kills at random moments, on Kafka.
func TestKill_AnyTime(t *testing.T) {
	t.Parallel()
	s := newStack(t, true, 300)
	stop := s.load()
	address := freeAddress(t)
	for range kills(t) {
		p := s.start("one", all, address)
		time.Sleep(time.Duration(500+rand.IntN(4000)) * time.Millisecond)
		p.kill()
	}
	p := s.start("one", all, address)
	eventually(t, patience, "ready", p.ready)
	stop()
	s.settle(patience)
	p.stop()
}

// TestStop_Drains: a process that is told to stop passes on what it took in,
// and says nothing of an error.
func TestStop_Drains(t *testing.T) {
	t.Parallel()
	s := newStack(t, false, 50)
	stop := s.load()
	address := freeAddress(t)
	for range 3 {
		p := s.start("one", all, address)
		eventually(t, patience, "ready", p.ready)
		time.Sleep(time.Second)
		p.stop()
	}
	p := s.start("one", all, address)
	eventually(t, patience, "ready", p.ready)
	stop()
	s.settle(patience)
	p.stop()
}

// TestStop_WithoutAnAnswer: a process can be stopped although Kafka does not
// answer what is written: events, checkpoints, what a sink's status is.
func TestStop_WithoutAnAnswer(t *testing.T) {
	t.Parallel()
	s := newStack(t, false, 50)
	asked := make(chan struct{}, 1000)
	s.cluster.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		s.cluster.KeepControl()
		if request.(*kmsg.ProduceRequest).TransactionID != nil {
			return nil, nil, false
		}
		select {
		case asked <- struct{}{}:
		default:
		}
		return nil, errors.New("gone"), true // the connection ends: nobody knows whether it was written
	})
	p := s.start("one", all, freeAddress(t))
	for range 3 { // the snapshot and the status of a sink are written at once
		select {
		case <-asked:
		case <-time.After(patience):
			t.Fatalf("nothing is written:\n%s", tail(p.log.String()))
		}
	}
	p.signal(syscall.SIGTERM)
	if err := p.wait(patience); err != nil {
		t.Errorf("got %v, want an end in order:\n%s", err, tail(p.log.String()))
	}
}

// forEachBroker runs a test on the in-process broker and on Kafka.
func forEachBroker(t *testing.T, test func(t *testing.T, kafka bool)) {
	for _, kafka := range []bool{false, true} {
		t.Run(fmt.Sprintf("kafka=%v", kafka), func(t *testing.T) {
			t.Parallel()
			test(t, kafka)
		})
	}
}
