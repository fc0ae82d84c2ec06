package schemas_test

import (
	"context"
	"fmt"
	"log"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
)

// Read <prefix>.users in a program that has nothing else of clerk-connect.
// Keep the highest version of each user, forget those with a null value, and
// read committed.
func ExampleCodec_Decode() {
	brokers, stop := exampleTopic()
	defer stop()

	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.ConsumeTopics("clerk.users"),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	var codec schemas.Codec // schemas.NewRegistryCodec where there is a Schema Registry
	for seen := 0; seen < 3; {
		for record := range client.PollFetches(context.Background()).RecordsAll() {
			seen++
			switch {
			case string(record.Key) == schemas.TickKey: // says nothing about a user
			case record.Value == nil:
				fmt.Printf("%s is deleted\n", record.Key)
			default:
				var change schemas.UserChange
				if err := codec.Decode(context.Background(), record.Value, &change); err != nil {
					log.Fatal(err)
				}
				fmt.Printf("%s is %s, version %d\n", change.ClerkID, *change.User.PrimaryEmailAddress, change.Version)
			}
		}
	}
	// Output:
	// user_1 is ada@example.com, version 1
	// user_1 is deleted
}

// exampleTopic stands for a topic that clerk-connect has written.
func exampleTopic() (brokers []string, stop func()) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "clerk.users"))
	if err != nil {
		log.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DefaultProduceTopic("clerk.users"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	email := "ada@example.com"
	value, err := new(schemas.Codec).Encode(&schemas.UserChange{
		ClerkID: "user_1", Operation: schemas.ChangeCreate, Origin: schemas.OriginWebhook, Version: 1,
		User: schemas.User{PrimaryEmailAddress: &email},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range []*kgo.Record{{Key: []byte("user_1"), Value: value}, {Key: []byte(schemas.TickKey)}, {Key: []byte("user_1")}} {
		if err := client.ProduceSync(context.Background(), r).FirstErr(); err != nil {
			log.Fatal(err)
		}
	}
	return cluster.ListenAddrs(), cluster.Close
}
