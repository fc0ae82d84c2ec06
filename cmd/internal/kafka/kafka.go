// Package kafka turns the KAFKA_* settings into client options, and the
// SCHEMA_REGISTRY_* settings into a codec.
package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// Config says how to reach Kafka. Its variables stand behind KAFKA_.
type Config struct {
	Brokers       []string `env:"BROKERS" doc:"Addresses to start from, as kafka-1:9092,kafka-2:9092."`
	SASLMechanism string   `env:"SASL_MECHANISM" doc:"PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; without it no login."`
	SASLUser      string   `env:"SASL_USER" doc:"User of the login."`
	SASLPassword  string   `env:"SASL_PASSWORD" secret:"true" doc:"Password of the login."`
	TLS           bool     `env:"TLS" envDefault:"false" doc:"Whether connections are encrypted; implied by each of the three files."`
	TLSCAFile     string   `env:"TLS_CA_FILE" doc:"PEM file of the authorities to trust; without it the system's."`
	TLSCertFile   string   `env:"TLS_CERT_FILE" doc:"PEM file of the client's certificate, with KAFKA_TLS_KEY_FILE."`
	TLSKeyFile    string   `env:"TLS_KEY_FILE" doc:"PEM file of the client's key, with KAFKA_TLS_CERT_FILE."`
}

var mechanisms = map[string]func(user, password string) sasl.Mechanism{
	"PLAIN": func(user, password string) sasl.Mechanism {
		return plain.Auth{User: user, Pass: password}.AsMechanism()
	},
	"SCRAM-SHA-256": func(user, password string) sasl.Mechanism {
		return scram.Auth{User: user, Pass: password}.AsSha256Mechanism()
	},
	"SCRAM-SHA-512": func(user, password string) sasl.Mechanism {
		return scram.Auth{User: user, Pass: password}.AsSha512Mechanism()
	},
}

// Validate reports every problem of the configuration, files included.
func (c Config) Validate() error {
	var errs []error
	problem := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Brokers) == 0 {
		problem("KAFKA_BROKERS is not set: give the addresses of Kafka brokers, as kafka-1:9092,kafka-2:9092")
	}
	for _, broker := range c.Brokers {
		if host, port, err := net.SplitHostPort(broker); err != nil || host == "" || port == "" {
			problem("KAFKA_BROKERS has %q: give host:port", broker)
		}
	}
	if _, ok := mechanisms[c.SASLMechanism]; !ok && c.SASLMechanism != "" {
		problem("KAFKA_SASL_MECHANISM is %q: give PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", c.SASLMechanism)
	}
	if login := c.SASLUser != "" || c.SASLPassword != ""; login && c.SASLMechanism == "" {
		problem("KAFKA_SASL_MECHANISM is not set, but a user or a password is: give PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
	}
	if c.SASLMechanism != "" && (c.SASLUser == "" || c.SASLPassword == "") {
		problem("KAFKA_SASL_USER or KAFKA_SASL_PASSWORD is not set, but KAFKA_SASL_MECHANISM is: give both")
	}
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		problem("KAFKA_TLS_CERT_FILE and KAFKA_TLS_KEY_FILE: give both or none")
	} else if _, err := c.tls(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Reach returns nil if a broker answers client, else an error that names the
// setting where it is about the login: a broker that refuses one says little,
// or closes the connection.
func (c Config) Reach(ctx context.Context, client *kgo.Client) error {
	err := client.Ping(ctx)
	var first *kgo.ErrFirstReadEOF // which has advice of its own
	refused := errors.Is(err, io.EOF) && !errors.As(err, &first) || errors.Is(err, kerr.IllegalSaslState) ||
		errors.Is(err, kerr.SaslAuthenticationFailed) || errors.Is(err, kerr.UnsupportedSaslMechanism)
	if c.SASLMechanism != "" && refused {
		return fmt.Errorf("%w: see KAFKA_SASL_*, and whether this listener wants a login", err)
	}
	return err
}

// tls returns nil if connections are not encrypted.
func (c Config) tls() (*tls.Config, error) {
	if !c.TLS && c.TLSCAFile == "" && c.TLSCertFile == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLSCAFile != "" {
		pem, err := os.ReadFile(c.TLSCAFile)
		if err != nil {
			return nil, fmt.Errorf("KAFKA_TLS_CA_FILE: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("KAFKA_TLS_CA_FILE is %s: give a PEM file with certificates", c.TLSCAFile)
		}
	}
	if c.TLSCertFile != "" {
		certificate, err := tls.LoadX509KeyPair(c.TLSCertFile, c.TLSKeyFile)
		if err != nil {
			return nil, fmt.Errorf("KAFKA_TLS_CERT_FILE and KAFKA_TLS_KEY_FILE: %w", err)
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	return config, nil
}

// Options name the brokers and the security; every client of the process is
// made with them. logger may be nil.
func (c Config) Options(logger kgo.Logger) ([]kgo.Opt, error) {
	options := []kgo.Opt{kgo.SeedBrokers(c.Brokers...)}
	if logger != nil {
		options = append(options, kgo.WithLogger(logger))
	}
	if mechanism, ok := mechanisms[c.SASLMechanism]; ok {
		options = append(options, kgo.SASL(mechanism(c.SASLUser, c.SASLPassword)))
	}
	security, err := c.tls()
	if err != nil {
		return nil, err
	}
	if security != nil {
		options = append(options, kgo.DialTLSConfig(security))
	}
	return options, nil
}
