package dev

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"
)

// reportEvery is the interval of the lines that say what happens.
const reportEvery = 10 * time.Second

// clearLine takes away what stands on the terminal's line.
const clearLine = "\r\x1b[K"

// voice speaks to the person at the terminal. Its methods line and draw are
// safe for concurrent use.
type voice struct {
	summary io.Writer // the summary as JSON; nil: for people too
	last    counts    // at the last tick

	mu    sync.Mutex
	out   io.Writer // people
	bar   bool      // out is a terminal
	drawn bool      // a bar is on its line
}

func newVoice(o Options) *voice {
	if o.JSON {
		return &voice{out: o.Stderr, summary: o.Stdout}
	}
	return &voice{out: o.Stdout, bar: o.Terminal}
}

// line writes one line, in place of a bar if there is one. That nobody reads
// it is no reason to stop.
func (v *voice) line(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.drawn {
		format = clearLine + format
		v.drawn = false
	}
	_, _ = fmt.Fprintf(v.out, format+"\n", args...)
}

// draw draws a bar, or reports that there is no terminal for it.
func (v *voice) draw(text string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.bar {
		_, _ = fmt.Fprint(v.out, clearLine, text)
		v.drawn = true
	}
	return v.bar
}

// above returns a writer for logs, which takes the bar away first.
func (v *voice) above(w io.Writer) io.Writer {
	return writer(func(p []byte) (int, error) {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.drawn {
			_, _ = fmt.Fprint(v.out, clearLine)
			v.drawn = false
		}
		return w.Write(p)
	})
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func number(n int) string { return humanize.Comma(int64(n)) }

// introduce says what is used, first of all.
func (v *voice) introduce(s *session) {
	clerk, kafka := "the real Clerk", "the Kafka at "+strings.Join(s.cfg.Kafka.Brokers, ", ")
	if s.sim != nil {
		clerk = "a simulated Clerk"
	}
	if s.broker != nil {
		kafka = "an embedded broker at " + s.broker.Address
	}
	v.line("dev uses %s and %s;\ndata in %s", clerk, kafka, s.options.DataDir)
	if s.sim != nil {
		users, note := s.sim.Stats().Users, ""
		if users != s.options.Users {
			note = " (those of the last run;\n--users and --seed are for a new data folder)"
		}
		v.line("%g events a second, %s users%s", s.options.Rate, number(users), note)
	}
	v.line("")
}

// quoted renders a path for a shell, so that a command that a person copies
// means that path and no other.
func quoted(path string) string {
	plain := func(r rune) bool {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("/._-+", r)
	}
	if strings.TrimLeftFunc(path, plain) == "" && !strings.HasPrefix(path, "-") {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// lookAround says where to look.
func (v *voice) lookAround(s *session) {
	broker := s.cfg.Kafka.Brokers[0]
	users := s.process.Topics.Users()
	v.line("Look around (a second terminal):")
	v.line("  topic     kcat -C -e -b %s -t %s -f '%%k  %%h\\n'", broker, users)
	v.line("            kafka-console-consumer.sh --bootstrap-server %s \\", broker)
	v.line("              --topic %s --from-beginning \\", users)
	v.line("              --isolation-level read_committed \\")
	v.line("              --property print.key=true --property print.value=false")
	v.line("  table     sqlite3 %s \\", quoted(s.database()))
	v.line("            'SELECT id, email FROM %s ORDER BY updated_at DESC LIMIT 5'", table)
	v.line("  metrics   http://%s/metrics", s.process.AdminAddr())
	v.line("  health    http://%s/readyz", s.process.AdminAddr())
	webhooks := "http://" + s.process.Receiver.Addr() + s.cfg.Webhook.Path
	v.line("  webhooks  %s", webhooks)
	if s.sim == nil {
		v.line("            Clerk has to reach it: open a tunnel to it, and enter the tunnel's")
		v.line("            address in Clerk's Dashboard under Webhooks")
	}
	v.line("")
	end := "Ctrl-C ends it in order"
	if s.options.For > 0 {
		end = fmt.Sprintf("It ends after %v", s.options.For)
	}
	v.line("%s; the same command goes on from there.", end)
	v.line("rm -r %s removes everything.", quoted(s.options.DataDir))
	v.line("")
}

// tick says what happened since the last line, in the 80 columns of a narrow
// terminal; what became of every event is in the summary and in the metrics.
func (v *voice) tick(s *session) {
	now := s.counts()
	total := 0
	for outcome, n := range now.events {
		total += n - v.last.events[outcome]
	}
	applied := now.events["applied"] - v.last.events["applied"]
	v.last = now
	latency := ""
	if p50, _, n := s.latency.quantiles(); n > 0 {
		latency = fmt.Sprintf(", to row %v", p50)
	}
	v.line("%s  %s users known, +%s events, %s applied, lag %d%s", time.Now().Format(time.TimeOnly),
		number(now.knownUsers), number(total), number(applied), now.sequencerLag+now.sinkLag, latency)
}

// list renders what is not zero, the most first.
func list(events map[string]int) string {
	names := slices.Collect(maps.Keys(events))
	names = slices.DeleteFunc(names, func(name string) bool { return events[name] == 0 })
	slices.SortFunc(names, func(a, b string) int {
		if events[a] != events[b] {
			return events[b] - events[a]
		}
		return strings.Compare(a, b)
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %s", number(events[name]), name)
	}
	if len(names) == 0 {
		return ""
	}
	return ": " + strings.Join(names, ", ")
}

func (v *voice) draining() {
	v.line("")
	v.line("Stopping: what is pending is delivered and written first.\n(Ctrl-C again ends at once.)")
}

// summarize prints the summary, for people or as JSON.
func (v *voice) summarize(s Summary) error {
	if v.summary != nil {
		encoder := json.NewEncoder(v.summary)
		encoder.SetIndent("", "  ")
		return encoder.Encode(s)
	}
	v.line("")
	if s.UsersInClerk != nil {
		v.line("  users in Clerk      %8s", number(*s.UsersInClerk))
	}
	v.line("  users in the topic  %8s", number(s.UsersInTopic))
	v.line("  rows in the table   %8s", number(s.RowsInTable))
	if s.DeletedUsers != nil {
		v.line("  deleted users       %8s", number(*s.DeletedUsers))
	}
	total := 0
	for _, n := range s.Events {
		total += n
	}
	v.line("  events sequenced    %8s%s", number(total), list(s.Events))
	v.line("  deliveries          %8s, of which %s repeated", number(s.Deliveries), number(s.Repeated))
	if s.LatencyP50 > 0 {
		v.line("  webhook to row      %5.0f ms, 99%% within %.0f ms", s.LatencyP50, s.LatencyP99)
	}
	v.line("  time                %6.0f s", s.Duration)
	v.line("")
	switch {
	case s.Converged && s.UsersInClerk != nil:
		v.line("Converged: the topic equals Clerk, field by field;\nthe table the topic, version by version.")
	case s.Converged:
		v.line("Converged: the table equals the topic, version by version.")
	case s.SnapshotUnfinished:
		v.line("The snapshot is not finished; the same command goes on with it.")
	}
	for i, difference := range s.differences {
		if s.SnapshotUnfinished || i == 10 {
			break
		}
		v.line("  %s", difference)
	}
	return nil
}
