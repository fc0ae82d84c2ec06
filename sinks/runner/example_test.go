package runner_test

import (
	"context"
	"os"
	"os/signal"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/sinks/memory"
	"clerkconnect/sinks/runner"
)

// A program of one's own that runs one sink; put yours in place of memory.
func Example() {
	sink, err := memory.New(memory.Config{})
	if err != nil {
		panic(err)
	}
	r, err := runner.New(runner.DefaultConfig("crm"), sink, runner.Options{
		Client:       []kgo.Opt{kgo.SeedBrokers("localhost:9092")},
		Topics:       schemas.Topics{Prefix: "clerk"},
		InstanceName: "crm-0",
	})
	if err != nil {
		panic(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := r.Run(ctx); err != nil {
		panic(err)
	}
}
