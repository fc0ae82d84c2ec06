package dev

import (
	"errors"

	"clerkconnect/cmd/internal/config"
)

// kind of a source, as the summary names it.
type kind string

const (
	simulated kind = "simulated" // Clerk
	inProcess kind = "embedded"  // Kafka
	real      kind = "real"
)

// sources are what a session uses.
type sources struct{ clerk, kafka kind }

// choose decides which of the real things are used. Simulated users never
// reach an outside broker: a real Kafka needs a real Clerk.
func choose(o Options) (sources, error) {
	if !o.Real {
		return sources{simulated, inProcess}, nil
	}
	given := func(name string) bool { return o.Environment[name] != "" || o.Environment[name+"_FILE"] != "" }
	key, secret, kafka := given("CLERK_SECRET_KEY"), given("CLERK_WEBHOOK_SIGNING_SECRET"), given("KAFKA_BROKERS")
	var problems config.Problems
	if !key {
		problems = append(problems, errors.New("CLERK_SECRET_KEY is not set: --real reads the users of your Clerk instance with it; give sk_test_... of a development instance"))
	}
	if !secret {
		problems = append(problems, errors.New("CLERK_WEBHOOK_SIGNING_SECRET is not set: --real verifies Clerk's webhooks with it; give whsec_... of the endpoint"))
	}
	if len(problems) > 0 && kafka {
		problems = append(problems, errors.New("KAFKA_BROKERS is set, but simulated users never go to an outside Kafka: give Clerk's keys too, or leave --real out"))
	}
	if len(problems) > 0 {
		return sources{}, problems
	}
	if kafka {
		return sources{real, real}, nil
	}
	return sources{real, inProcess}, nil
}
