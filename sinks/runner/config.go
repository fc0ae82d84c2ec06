package runner

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// Config is how a sink is run. Every sink has its own, read with the prefix
// SINK_<NAME>_.
type Config struct {
	// Name is the sink's instance name: the consumer group is
	// <prefix>.sink.<name>, and the topics of its state and its dead letters
	// carry it. A new name is a new sink, which starts at the beginning.
	Name string `env:"-"`

	BatchRecords int           `env:"BATCH_RECORDS" envDefault:"1000" doc:"Most records handled between two commits, 1 to 5000."`
	MaxAttempts  int           `env:"MAX_ATTEMPTS" envDefault:"10" doc:"Failed attempts after which a record that fails alone, while others are applied, is dead-lettered."`
	RateLimit    sinks.Limit   `env:"RATE_LIMIT" doc:"Most requests to the destination, as requests/window (100/10s), in place of what its vendor states; shared by all processes that run this sink, each by its part of the partitions. Less, where other programs use the same account."`
	MaxInFlight  int           `env:"MAX_IN_FLIGHT" doc:"Most calls of the destination at once, at most what the sink takes, which is the default."`
	ApplyTimeout time.Duration `env:"APPLY_TIMEOUT" envDefault:"30s" doc:"Longest time for one call of the destination; waits for a turn under RATE_LIMIT, and for a job that the destination does later, do not count."`
	DrainTimeout time.Duration `env:"DRAIN_TIMEOUT" envDefault:"10s" doc:"Time for calls under way to finish at shutdown."`
	BackoffMin   time.Duration `env:"BACKOFF_MIN" envDefault:"200ms" doc:"Longest wait after a first failed call; doubled with each further one. The actual wait is random between 0 and that."`
	BackoffMax   time.Duration `env:"BACKOFF_MAX" envDefault:"30s" doc:"Upper bound of the doubled wait."`
	SlowRetry    time.Duration `env:"SLOW_RETRY" envDefault:"5m" doc:"Wait between attempts at what a person has to mend: a fatal error of the sink, an erasure that the destination refuses."`
	MaxReplays   int           `env:"MAX_REPLAYS" envDefault:"3" doc:"How often clerk-connect dlq replay may try a dead letter again in vain; then it is parked, and tried only with --parked."`
	EraseAfter   time.Duration `env:"ERASE_AFTER" envDefault:"0s" doc:"How long an erasure is held back before this sink does it, for tools where it cannot be undone. Until then clerk-connect erasure waive can stop it."`
}

// DefaultConfig returns the defaults for a sink of that name, for programs
// that do not read them from the environment.
func DefaultConfig(name string) Config {
	return Config{
		Name:         name,
		BatchRecords: 1000,
		MaxAttempts:  10,
		ApplyTimeout: 30 * time.Second,
		DrainTimeout: 10 * time.Second,
		BackoffMin:   200 * time.Millisecond,
		BackoffMax:   30 * time.Second,
		SlowRetry:    5 * time.Minute,
		MaxReplays:   3,
	}
}

// maxBatchRecords bounds a transaction, which must stay short because it holds
// up every read_committed reader.
const maxBatchRecords = 5000

// names are what may stand in a topic name and in an environment variable;
// "webhook" names the dead letters of the receiver.
var names = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,48}[a-z0-9])?$`)

// Validate returns every problem of c.
func (c Config) Validate() error {
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	check(names.MatchString(c.Name) && c.Name != "webhook",
		"sink name %q: use 1 to 50 of a-z, 0-9, - and _, beginning and ending with a letter or digit, and not \"webhook\"", c.Name)
	check(c.BatchRecords >= 1 && c.BatchRecords <= maxBatchRecords, "BATCH_RECORDS is %d: use 1 to %d", c.BatchRecords, maxBatchRecords)
	check(c.MaxAttempts >= 1, "MAX_ATTEMPTS is %d: use 1 or more", c.MaxAttempts)
	check(c.RateLimit.Validate() == nil, "RATE_LIMIT is %d requests in %s: use more than 0, as 100/10s", c.RateLimit.Requests, c.RateLimit.Window)
	check(c.MaxInFlight >= 0, "MAX_IN_FLIGHT is %d: use 1 or more, or leave it out", c.MaxInFlight)
	check(c.ApplyTimeout > 0, "APPLY_TIMEOUT is %s: use more than 0, as 30s", c.ApplyTimeout)
	check(c.DrainTimeout > 0, "DRAIN_TIMEOUT is %s: use more than 0, as 10s", c.DrainTimeout)
	check(c.BackoffMin > 0, "BACKOFF_MIN is %s: use more than 0, as 200ms", c.BackoffMin)
	check(c.BackoffMax >= c.BackoffMin, "BACKOFF_MAX is %s: use BACKOFF_MIN (%s) or more", c.BackoffMax, c.BackoffMin)
	check(c.SlowRetry > 0, "SLOW_RETRY is %s: use more than 0, as 5m", c.SlowRetry)
	check(c.MaxReplays >= 1, "MAX_REPLAYS is %d: use 1 or more", c.MaxReplays)
	check(c.EraseAfter >= 0, "ERASE_AFTER is %s: use 0s or more, as 72h", c.EraseAfter)
	return errors.Join(problems...)
}

// Options are what a runner needs of the program it runs in.
type Options struct {
	// Client names the brokers and the security.
	Client []kgo.Opt
	// Codec reads and writes records; nil means the zero value.
	Codec *schemas.Codec
	// Topics of the deployment.
	Topics schemas.Topics
	// InstanceName tells this process from the others that run the same sink.
	// It must be stable over restarts and unique among live processes.
	InstanceName string
	// Registerer takes the metrics, each with a label sink; nil: none.
	Registerer prometheus.Registerer
	// Logger; nil means slog.Default.
	Logger *slog.Logger
	// Retries bounds the repetitions of all sinks that are given it; nil: the
	// sink has a budget of its own.
	Retries *RetryBudget
	// CommitLock, if set, is held during transactions; see transact.Config.
	CommitLock sync.Locker
	// Pause is what people want at the start; see [Runner.SetPause]. nil: run.
	Pause *Pause
	// SessionTimeout of the consumer group; 0 means 10 s.
	SessionTimeout time.Duration
}

func (o Options) validate() error {
	var problems []error
	if o.Topics.Prefix == "" {
		problems = append(problems, errors.New("options name no topic prefix"))
	}
	if o.InstanceName == "" {
		problems = append(problems, errors.New("options name no instance"))
	}
	return errors.Join(problems...)
}
