package dev

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"clerkconnect/cmd/internal/console"
)

// reportEvery is the interval of the lines that say what happens.
const reportEvery = 10 * time.Second

// voice speaks to the person at the terminal.
type voice struct {
	*console.Console
	summary io.Writer // the summary as JSON; nil: for people too
	last    counts    // at the last tick
}

func newVoice(o Options) *voice {
	if o.JSON {
		return &voice{Console: console.New(o.Stderr, false), summary: o.Stdout}
	}
	return &voice{Console: console.New(o.Stdout, o.Terminal)}
}

// introduce says what is used, first of all.
func (v *voice) introduce(s *session) {
	clerk, kafka := "the real Clerk", "the Kafka at "+strings.Join(s.cfg.Kafka.Brokers, ", ")
	if s.sim != nil {
		clerk = "a simulated Clerk"
	}
	if s.broker != nil {
		kafka = "an embedded broker at " + s.broker.Address
	}
	v.Line("dev uses %s and %s;\ndata in %s", clerk, kafka, s.options.DataDir)
	if s.sim != nil {
		users, note := s.sim.Stats().Users, ""
		if users != s.options.Users {
			note = " (those of the last run;\n--users and --seed are for a new data folder)"
		}
		v.Line("%g events a second, %s users%s", s.options.Rate, console.Number(users), note)
	}
	v.Line("")
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
	v.Line("Look around (a second terminal):")
	v.Line("  topic     kcat -C -e -b %s -t %s -f '%%k  %%h\\n'", broker, users)
	v.Line("            kafka-console-consumer.sh --bootstrap-server %s \\", broker)
	v.Line("              --topic %s --from-beginning \\", users)
	v.Line("              --isolation-level read_committed \\")
	v.Line("              --property print.key=true --property print.value=false")
	v.Line("  table     sqlite3 %s \\", quoted(s.database()))
	v.Line("            'SELECT id, email FROM %s ORDER BY updated_at DESC LIMIT 5'", table)
	v.Line("  metrics   http://%s/metrics", s.process.AdminAddr())
	v.Line("  health    http://%s/readyz", s.process.AdminAddr())
	webhooks := "http://" + s.process.Receiver.Addr() + s.cfg.Webhook.Path
	v.Line("  webhooks  %s", webhooks)
	if s.sim == nil {
		v.Line("            Clerk has to reach it: open a tunnel to it, and enter the tunnel's")
		v.Line("            address in Clerk's Dashboard under Webhooks")
	}
	v.Line("")
	end := "Ctrl-C ends it in order"
	if s.options.For > 0 {
		end = fmt.Sprintf("It ends after %v", s.options.For)
	}
	v.Line("%s; the same command goes on from there.", end)
	v.Line("rm -r %s removes everything.", quoted(s.options.DataDir))
	v.Line("")
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
	v.Line("%s  %s users known, +%s events, %s applied, lag %d%s", time.Now().Format(time.TimeOnly),
		console.Number(now.knownUsers), console.Number(total), console.Number(applied), now.sequencerLag+now.sinkLag, latency)
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
		names[i] = fmt.Sprintf("%s %s", console.Number(events[name]), name)
	}
	if len(names) == 0 {
		return ""
	}
	return ": " + strings.Join(names, ", ")
}

func (v *voice) draining() {
	v.Line("")
	v.Line("Stopping: what is pending is delivered and written first.\n(Ctrl-C again ends at once.)")
}

// summarize prints the summary, for people or as JSON.
func (v *voice) summarize(s Summary) error {
	if v.summary != nil {
		encoder := json.NewEncoder(v.summary)
		encoder.SetIndent("", "  ")
		return encoder.Encode(s)
	}
	v.Line("")
	if s.UsersInClerk != nil {
		v.Line("  users in Clerk      %8s", console.Number(*s.UsersInClerk))
	}
	v.Line("  users in the topic  %8s", console.Number(s.UsersInTopic))
	v.Line("  rows in the table   %8s", console.Number(s.RowsInTable))
	if s.DeletedUsers != nil {
		v.Line("  deleted users       %8s", console.Number(*s.DeletedUsers))
	}
	total := 0
	for _, n := range s.Events {
		total += n
	}
	v.Line("  events sequenced    %8s%s", console.Number(total), list(s.Events))
	v.Line("  deliveries          %8s, of which %s repeated", console.Number(s.Deliveries), console.Number(s.Repeated))
	if s.LatencyP50 > 0 {
		v.Line("  webhook to row      %5.0f ms or less for half of them, %.0f ms for 99%%", s.LatencyP50, s.LatencyP99)
	}
	v.Line("  time                %6.0f s", s.Duration)
	v.Line("")
	switch {
	case s.Converged && s.UsersInClerk != nil:
		v.Line("Converged: the topic equals Clerk, field by field;\nthe table equals the topic, version by version.")
	case s.Converged:
		v.Line("Converged: the table equals the topic, version by version.")
	case s.SnapshotUnfinished:
		v.Line("The snapshot is not finished; the same command goes on with it.")
	}
	for i, difference := range s.differences {
		if s.SnapshotUnfinished || i == 10 {
			break
		}
		v.Line("  %s", difference)
	}
	return nil
}
