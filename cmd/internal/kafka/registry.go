package kafka

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/sr"

	"clerkconnect/schemas"
)

// RegistryConfig says how to reach a Schema Registry, if there is one. Its
// variables stand behind SCHEMA_REGISTRY_.
type RegistryConfig struct {
	URL      string `env:"URL" doc:"Schema Registry (Confluent's API) to register the schemas with; without it values are Avro single-object encoding."`
	User     string `env:"USER" doc:"User of the Schema Registry, if it asks for one."`
	Password string `env:"PASSWORD" secret:"true" doc:"Password of the Schema Registry."`
}

// Validate reports every problem of the configuration.
func (c RegistryConfig) Validate() error {
	u, err := url.Parse(c.URL)
	if c.URL != "" && (err != nil || u.Host == "" || !slices.Contains([]string{"http", "https"}, u.Scheme)) {
		return errors.New("SCHEMA_REGISTRY_URL cannot be used: give http:// or https://, host and port")
	}
	if err == nil && u.User != nil {
		return errors.New("SCHEMA_REGISTRY_URL holds a user: give it by SCHEMA_REGISTRY_USER and SCHEMA_REGISTRY_PASSWORD")
	}
	return nil
}

// Codec returns the codec of the deployment: with a Schema Registry it
// registers the schemas there first.
func (c RegistryConfig) Codec(ctx context.Context, topics schemas.Topics) (*schemas.Codec, error) {
	if c.URL == "" {
		return &schemas.Codec{}, nil
	}
	options := []sr.ClientOpt{sr.URLs(strings.TrimRight(c.URL, "/")), sr.UserAgent("clerk-connect")}
	if c.User != "" {
		options = append(options, sr.BasicAuth(c.User, c.Password))
	}
	client, err := sr.NewClient(options...)
	if err != nil {
		return nil, fmt.Errorf("schema registry: %w", err)
	}
	return schemas.NewRegistryCodec(ctx, client, topics)
}
