// Command roster keeps a file equal to clerk.users: a binary of one's own, with
// a sink of one's own and everything else of clerk-connect's.
package main

import (
	"context"
	"flag"
	"log"
	"log/slog"
	"os/signal"
	"strings"
	"syscall"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector/topics"
	"clerkconnect/sinks/runner"

	"example.com/roster/roster"
)

// name of the sink: its group and its topics carry it.
const name = "roster"

func main() {
	brokers := flag.String("brokers", "localhost:9092", "Kafka's addresses, by comma")
	prefix := flag.String("prefix", "clerk", "TOPIC_PREFIX of the deployment")
	partitions := flag.Int("partitions", 12, "TOPIC_PARTITIONS of the deployment")
	path := flag.String("file", "users.roster", "the file to keep")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	client := []kgo.Opt{kgo.SeedBrokers(strings.Split(*brokers, ",")...)}
	deployment := topics.Config{Prefix: *prefix, Partitions: int32(*partitions), ReplicationFactor: -1, Create: true}
	if err := run(ctx, client, deployment, *path); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, client []kgo.Opt, deployment topics.Config, path string) error {
	sink, err := roster.New(roster.Config{Path: path})
	if err != nil {
		return err
	}
	// The topics of what the sink remembers and of what it gives up on.
	if _, err := topics.Ensure(ctx, client, deployment, []string{name}, slog.Default()); err != nil {
		return err
	}
	r, err := runner.New(runner.DefaultConfig(name), sink, runner.Options{
		Client: client, Topics: deployment.Names(), InstanceName: name + "-0",
	})
	if err != nil {
		return err
	}
	return r.Run(ctx)
}
