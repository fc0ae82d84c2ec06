package kafka

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// canary is the password of these tests; nothing may print it.
const canary = "c4n4ry"

// TestOptions_LogInOverTLS: each mechanism logs in, over TLS with both sides
// known by certificate; a wrong password does not.
func TestOptions_LogInOverTLS(t *testing.T) {
	t.Parallel()
	certFile, keyFile, certificate, pool := selfSigned(t)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(),
		kfake.TLS(&tls.Config{Certificates: []tls.Certificate{certificate}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}),
		kfake.Superuser("PLAIN", "me", canary), kfake.Superuser("SCRAM-SHA-256", "me", canary), kfake.Superuser("SCRAM-SHA-512", "me", canary))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	for _, test := range []struct {
		mechanism, password string
		works               bool
	}{
		{"PLAIN", canary, true}, {"SCRAM-SHA-256", canary, true}, {"SCRAM-SHA-512", canary, true}, {"SCRAM-SHA-512", "wrong", false},
	} {
		t.Run(test.mechanism+"/"+test.password[:2], func(t *testing.T) {
			t.Parallel()
			cfg := Config{
				Brokers: cluster.ListenAddrs(), SASLMechanism: test.mechanism, SASLUser: "me", SASLPassword: test.password,
				TLSCAFile: certFile, TLSCertFile: certFile, TLSKeyFile: keyFile,
			}
			if err := cfg.Validate(); err != nil {
				t.Fatal(err)
			}
			options, err := cfg.Options(nil)
			if err != nil {
				t.Fatal(err)
			}
			client, err := kgo.NewClient(options...)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err = cfg.Reach(ctx, client)
			if (err == nil) != test.works {
				t.Errorf("Reach: got %v, want success %v", err, test.works)
			}
			if err != nil && (!strings.Contains(err.Error(), "KAFKA_SASL_") || strings.Contains(err.Error(), test.password)) {
				t.Errorf("Reach: got %v, want it to name the settings and no password", err)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"no brokers", Config{}, "KAFKA_BROKERS is not set"},
		{"no port", Config{Brokers: []string{"kafka"}}, `KAFKA_BROKERS has "kafka"`},
		{"mechanism", Config{Brokers: []string{"k:1"}, SASLMechanism: "GSSAPI"}, "KAFKA_SASL_MECHANISM is"},
		{"password without mechanism", Config{Brokers: []string{"k:1"}, SASLPassword: canary}, "KAFKA_SASL_MECHANISM is not set"},
		{"mechanism without password", Config{Brokers: []string{"k:1"}, SASLMechanism: "PLAIN", SASLUser: "me"}, "KAFKA_SASL_PASSWORD is not set"},
		{"half a certificate", Config{Brokers: []string{"k:1"}, TLSCertFile: "c.pem"}, "give both or none"},
		{"missing file", Config{Brokers: []string{"k:1"}, TLSCAFile: "/not/there"}, "KAFKA_TLS_CA_FILE: open /not/there"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := test.cfg.Validate()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("Validate: got %v, want %q", err, test.want)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("Validate shows a secret: %v", err)
			}
		})
	}
}

// selfSigned makes a certificate for 127.0.0.1 that is its own authority.
func selfSigned(t *testing.T) (certFile, keyFile string, certificate tls.Certificate, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certFile, keyFile = write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", private)
	if certificate, err = tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(leaf)
	return certFile, keyFile, certificate, pool
}

func TestRegistryConfig_Validate(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"":                                  "",
		"http://registry:8081":              "",
		"registry:8081":                     "SCHEMA_REGISTRY_URL cannot be used",
		"http://me:" + canary + "@registry": "SCHEMA_REGISTRY_URL holds a user",
	} {
		err := RegistryConfig{URL: given}.Validate()
		switch {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %q", given, err, want)
		case err != nil && strings.Contains(err.Error(), canary):
			t.Errorf("%s: the error holds the password", given)
		}
	}
}
