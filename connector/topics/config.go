// Package topics guarantees that a process starts only on topics as the design
// wants them: it creates what is missing, compares what is there, and pins what
// must never change under a running deployment (the number of partitions, the
// topics' ids, the epoch, Clerk's instance id) in <prefix>.connect-state.
package topics

import (
	"errors"
	"fmt"
	"regexp"

	"clerkconnect/schemas"
)

// Config says which topics a deployment has. Its variables stand behind TOPIC_.
type Config struct {
	Prefix            string `env:"PREFIX" envDefault:"clerk" doc:"What the name of every topic begins with, followed by a dot: 1 to 100 letters, digits, dots, underscores and hyphens; one Clerk instance, one prefix."`
	Partitions        int32  `env:"PARTITIONS" envDefault:"12" doc:"Partitions of every topic but connect-state, 1 to 1000; pinned when the topics are created, it cannot be changed afterwards."`
	ReplicationFactor int16  `env:"REPLICATION_FACTOR" envDefault:"-1" doc:"Copies of each partition of a topic that is created; -1 takes the broker's default."`
	Create            bool   `env:"CREATE" envDefault:"true" doc:"Whether missing topics are created; if false a missing topic is an error."`
}

var prefixPattern = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,100}$`)

// Validate reports every problem of the configuration.
func (c Config) Validate() error {
	var errs []error
	if !prefixPattern.MatchString(c.Prefix) {
		errs = append(errs, fmt.Errorf("TOPIC_PREFIX is %q: give 1 to 100 letters, digits, dots, underscores or hyphens", c.Prefix))
	}
	if c.Partitions < 1 || c.Partitions > 1000 {
		errs = append(errs, fmt.Errorf("TOPIC_PARTITIONS is %d: give 1 to 1000", c.Partitions))
	}
	if c.ReplicationFactor < 1 && c.ReplicationFactor != -1 {
		errs = append(errs, fmt.Errorf("TOPIC_REPLICATION_FACTOR is %d: give 1 or more, or -1 for the broker's default", c.ReplicationFactor))
	}
	return errors.Join(errs...)
}

// Names are the names of the deployment's topics.
func (c Config) Names() schemas.Topics { return schemas.Topics{Prefix: c.Prefix} }
