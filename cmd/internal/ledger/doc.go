// Package ledger reads the erasure ledger, and writes into it what people
// decide. The ledger is two topics: <prefix>.erasures, where the sequencer says
// who is to be erased, and <prefix>.erasure-receipts, where each sink says how
// and when it has done it. Nothing else knows more, and no process has to run.
//
//   - judge.go says what an erasure comes to beside the receipts, a pure function;
//   - read.go reads and joins the two topics, sinks.go finds who has to answer;
//   - words.go writes what people decide, follow.go waits for what comes of it;
//   - report.go and page.go make what can be filed;
//   - watch.go measures, also when no sink runs.
//
// The shape of the JSON is in README.md.
package ledger

import (
	"fmt"
	"time"
)

// Config says by when an erasure has to be done. Its variables stand behind
// ERASURE_.
type Config struct {
	// Deadline: Art. 12(3) GDPR gives one month from the request. Counted as
	// law counts it (Regulation 1182/71, Art. 3) a month that begins on the
	// 31st of January ends on the last of February, 28 days later: the shortest
	// month is the one that is never too long.
	Deadline time.Duration `env:"DEADLINE" envDefault:"672h" doc:"Time from the request within which every sink and every topic must have lost an erased user: the ledger calls what takes longer overdue, and run refuses topics that keep users for longer. 672h is 28 days, the shortest month, since Art. 12(3) GDPR gives one month."`
}

// Validate reports every problem of the configuration.
func (c Config) Validate() error {
	if c.Deadline <= 0 {
		return fmt.Errorf("ERASURE_DEADLINE is %s: give more than 0, as 672h", c.Deadline)
	}
	return nil
}
